"""The demo: what it refuses before it writes, what it announces, and both its ways as a whole."""

import json
import re
import subprocess
import sys

import pytest
import SimpleITK as sitk
from pipeline import environment, write_cohort

from rectal_nnformer import cli
from rectal_nnformer.demo import run as demo
from rectal_nnformer.demo.run import Demo, run_demo
from rectal_nnformer.errors import RectalError

OUTLINE = [
    {"z": 1, "center_xy": [48, 55], "radii_xy": [16, 14]},
    {"z": 14, "center_xy": [48, 50], "radii_xy": [16, 14]},
]


def run_cli(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["demo", *map(str, arguments)])
    return exit_.value.code, capsys.readouterr().err


def test_a_folder_with_content_is_refused_and_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("precious")
    code, error = run_cli(["-o", tmp_path], capsys)
    assert code == 2 and str(tmp_path) in error
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run_cli(["-o", tmp_path / "file"], capsys)[0] == 2
    code, error = run_cli(["-o", tmp_path / "file" / "below"], capsys)
    assert code == 2 and "Traceback" not in error


@pytest.mark.parametrize(
    "arguments",
    [
        ["--dicom", "missing"],
        ["--rectum", "missing.json"],
        ["--dicom", "missing", "--rectum", "missing.json"],
        ["--seed", "-1"],
    ],
)
def test_a_mistaken_argument_leaves_the_folder_usable(arguments, tmp_path, capsys):
    output = tmp_path / "demo"
    code, error = run_cli(["-o", output, *arguments], capsys)
    assert code == 2 and error
    assert not output.exists() or not list(output.iterdir())


def write_series(folder, image):
    """Write a volume as one DICOM file a slice."""
    folder.mkdir(parents=True)
    image = sitk.Cast(image, sitk.sitkInt16)
    direction = image.GetDirection()
    for z in range(image.GetSize()[2]):
        slice_ = image[:, :, z]
        position = image.TransformIndexToPhysicalPoint((0, 0, z))
        tags = {
            "0008|0060": "MR",
            "0008|0016": "1.2.840.10008.5.1.4.1.1.4",
            "0020|000e": f"1.2.3.{abs(hash(folder.name)) % 10**8}",
            "0020|000d": "1.2.3.1",
            "0010|0020": folder.name,
            "0020|0032": "\\".join(map(str, position)),
            "0020|0037": "\\".join(str(direction[i]) for i in (0, 3, 6, 1, 4, 7)),
            "0020|0013": str(z),
        }
        for tag, value in tags.items():
            slice_.SetMetaData(tag, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{z:02d}.dcm"))
        writer.Execute(slice_)


def test_series_are_matched_to_outlines_by_folder_and_the_others_are_named(tmp_path, capsys):
    write_cohort(tmp_path / "cohort", 2)
    for number, name in enumerate(("scan (1)", "scan 2")):
        write_series(
            tmp_path / "dicom" / name, sitk.ReadImage(str(tmp_path / f"cohort/images/case_{number:02d}.nii.gz"))
        )
    rectum = tmp_path / "rectum.json"
    rectum.write_text(json.dumps({"scan (1)": OUTLINE}))
    scans = demo._outlined_scans(tmp_path / "dicom", rectum)
    assert list(scans) == ["scan (1)"]
    assert "scan 2" in capsys.readouterr().out
    rectum.write_text(json.dumps({"elsewhere": OUTLINE}))
    with pytest.raises(RectalError, match="elsewhere"):
        demo._outlined_scans(tmp_path / "dicom", rectum)


def test_a_gpu_that_is_not_there_is_said_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(RectalError, match="-device cpu"):
        run_demo(Demo(tmp_path / "demo", device="cuda"))
    assert not (tmp_path / "demo").exists()


def test_steps_run_in_order_and_the_end_tells_what_was_found(tmp_path, monkeypatch, capsys):
    """With the work left out: the announcement, the steps, the caution for shared patients, where things lie."""
    calls = []
    summary = type("Summary", (), {"pooled": None, "picture_note": ""})()
    monkeypatch.setattr(demo, "_make_cohort", lambda _: calls.append("cohort") or 2)
    monkeypatch.setattr(demo, "_set_environment", lambda _: calls.append("environment"))
    monkeypatch.setattr(demo, "_convert", lambda _, split_by_case: calls.append(f"convert {split_by_case}"))
    monkeypatch.setattr(demo, "_plan", lambda _: calls.append("plan"))
    output = tmp_path / "demo"
    model = output / "nnUNet_results/D/model"
    model.mkdir(parents=True)
    (model / "crossval_summary.md").write_text("")
    monkeypatch.setattr(demo, "_train", lambda _: calls.append("train") or (model, summary))
    monkeypatch.setattr(
        "rectal_nnformer.reporting.writing.try_report", lambda model, output: f"The report of {model} is {output}"
    )
    monkeypatch.setattr("rectal_nnformer.evaluation.summary.detection_line", lambda _: "Detected 3 of 4 lesions")
    monkeypatch.setattr(demo, "_check", lambda _: None)
    run_demo(Demo(output))
    printed = capsys.readouterr().out
    assert calls == ["cohort", "environment", "convert True", "plan", "train"]
    assert printed.index("This demo runs every step") < printed.index("[1/4]") < printed.index("Detected 3 of 4")
    assert "optimistic" in printed and "1. nnUNet_results/D/model/crossval_summary.md" in printed
    assert f"The report of {model} is {output / 'report.html'}" in printed
    guide = (output / "README.txt").read_text(encoding="utf-8")
    assert f'eval "$(rectal_nnformer env --base {output})"' in printed
    assert guide.split("\n", 1)[1].strip() in printed and "planning_log.txt" in guide
    # What is not there is not listed.
    assert "progress.png" not in guide


SMALL_DEMO = """
import sys
from pathlib import Path
from rectal_nnformer.demo import run as demo

if __name__ == "__main__":
    demo.NUM_CASES, demo.TRAINER = 5, "ShortSMIT_CPU"
    dicom, rectum = (Path(a) for a in sys.argv[2:]) if len(sys.argv) > 2 else (None, None)
    demo.run_demo(demo.Demo(Path(sys.argv[1]), dicom, rectum))
"""


@pytest.mark.slow
@pytest.mark.parametrize("source", ["synthetic", "dicom"])
def test_the_whole_demo_on_five_cases_with_a_short_training(source, tmp_path):
    variables = environment(tmp_path)
    arguments = []
    if source == "dicom":
        write_cohort(tmp_path / "cohort", 1)
        write_series(tmp_path / "dicom/scan", sitk.ReadImage(str(tmp_path / "cohort/images/case_00.nii.gz")))
        (tmp_path / "rectum.json").write_text(json.dumps({"scan": OUTLINE}))
        arguments = [tmp_path / "dicom", tmp_path / "rectum.json"]
    (tmp_path / "small_demo.py").write_text(SMALL_DEMO)
    output = tmp_path / "demo"
    result = subprocess.run(
        [sys.executable, tmp_path / "small_demo.py", output, *arguments],
        env=variables,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    (model,) = (output / "nnUNet_results/Dataset501_RectalDemo").glob("ShortSMIT_CPU__*")
    summary = json.loads((model / "crossval_summary.json").read_text())
    assert summary["n_cases"] == 5 and summary["n_reference"] >= 5
    assert f"of {summary['n_reference']} lesions" in result.stdout
    assert ("optimistic" in result.stdout.split("[4/4]")[1]) == (source == "dicom")
    assert (model / "crossval_summary.png").is_file()
    report = (output / "report.html").read_text(encoding="utf-8")
    assert f"of {summary['n_reference']} tumour" in report and str(output / "report.html") in result.stdout
    assert "have no picture" not in report
    guide = (output / "README.txt").read_text(encoding="utf-8")
    for entry in output.iterdir():
        assert f"  {entry.name}{'/' if entry.is_dir() else ''} " in guide or f". {entry.name}\n" in guide
    listed = re.findall(r"^  \d\. (.*)$", guide, flags=re.MULTILINE)
    assert listed[0] == "report.html" and len(listed) == 6 and all((output / path).is_file() for path in listed)
