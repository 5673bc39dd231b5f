"""The report: what it says, what it survives, how big it gets; the browser's view of it is tested elsewhere."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib import metadata
from itertools import pairwise

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError
from report_runs import CASES, DATASET, FAR, NEAR, SMALL, Ball, attention, plans, reuse, write_run
from scipy import ndimage

from rectal_nnformer import cli
from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.detection import Lesion
from rectal_nnformer.reporting.analyses import reuse_over_folds
from rectal_nnformer.reporting.charts import Series, profile_chart
from rectal_nnformer.reporting.gallery import (
    Clip,
    Picture,
    Subject,
    draw_clips,
    fit_to_budget,
    spread_evenly,
    subjects_of,
)
from rectal_nnformer.reporting.pages import ENVIRONMENT, render
from rectal_nnformer.reporting.report_page import report_page
from rectal_nnformer.reporting.results import read_results
from rectal_nnformer.reporting.tables import Table
from rectal_nnformer.reporting.writing import try_report, write_report

HOSTILE = "<img src=x onerror=alert(1)>&\"'"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A trained model with two folds, five tumours of which three were detected, and one false positive."""
    return write_run(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(model):
    return write_report(model).read_text(encoding="utf-8")


class Outline(HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def all(self, name):
        return [attributes for tag, attributes in self.elements if tag == name]

    def values(self, attribute):
        return [attributes[attribute] for _, attributes in self.elements if attribute in attributes]


# --- templates -------------------------------------------------------------------------------------------------------

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs", "Zs", "Cc"], exclude_characters="\u2028\u2029"), min_size=1)


@given(ANY_TEXT)
def test_whatever_text_goes_into_a_table_or_a_chart_comes_out_of_it_as_text(text):
    macros = ENVIRONMENT.get_template("macros.html").module
    outline = Outline(str(macros.table(Table((text, text), [(text, text)], text))))
    assert [name for name, _ in outline.elements].count("td") == 1
    assert [frame["aria-label"] for frame in outline.all("div")] == [text]
    assert "".join(outline.text.split()) == 5 * text
    chart = Outline(str(profile_chart("id", text, text, [text], [Series("name", [1.0])], text)))
    assert {name for name, _ in chart.elements} == {"svg", "title", "desc", "line", "circle", "text", "polyline"}
    assert chart.text.count(text) >= 4


def test_names_of_damaged_encoding_can_be_written(model):
    results = read_results(model)
    damaged = replace(results, folder=replace(results.folder, trainer="trainer_\udcff"))
    assert "trainer_?" in Outline(report_page(damaged, [], "today").encode("utf-8").decode()).text


def test_a_template_that_asks_for_what_it_is_not_given_fails():
    with pytest.raises(UndefinedError):
        render("report.html")


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_headline_counts_tumours_with_their_interval(page):
    text = Outline(page).text
    assert "3 of 5 tumours detected" in text
    # Wilson's interval of 3 in 5, from statsmodels.
    assert "23.1-88.2 %" in text
    assert "1 (0.25 per case)" in text and "4 from 4 patients" in text
    assert "5-10no tumour--" in text and "5-10 cm³: no tumour" in text


def test_where_everything_is_detected_no_interval_claims_to_be_sure(tmp_path):
    cases = {name: ([FAR], [FAR]) for name in ("one", "two", "three")}
    text = Outline(write_report(write_run(tmp_path, cases)).read_text(encoding="utf-8")).text
    assert "3 of 3 tumours detected" in text
    # By hand: the lower bound of n in n is n / (n + 1.96²).
    assert "43.9-100.0 %" in text and "none: no two patients differ" in text and "100.0-100.0" not in text


def test_missed_tumours_come_first_in_the_pictures(page):
    headings = [text for text in ("Missed tumours (2)", "Detected tumours (3)", "False positives (1)") if text in page]
    assert len(headings) == 3 and page.index(headings[0]) < page.index(headings[1]) < page.index(headings[2])


def test_every_case_stands_in_the_table_with_what_was_found(page):
    names = [row["data-name"] for row in Outline(page).all("tr") if "data-name" in row]
    assert sorted(names) == sorted(CASES)
    outcomes = {row["data-name"]: row["data-outcome"] for row in Outline(page).all("tr") if "data-name" in row}
    assert outcomes == {
        "found": "clean",
        "half_found": "missed",
        "invented": "false-positive",
        "silent": "missed noted",
    }


def test_the_page_asks_the_network_for_nothing_and_forbids_it(page):
    outline = Outline(page)
    sources = outline.values("src") + [link["href"] for link in outline.all("link")]
    assert sources and all(source.startswith("data:") for source in sources)
    assert not re.search(r"https?://|url\(|@import", page)
    (policy,) = [meta["content"] for meta in outline.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy


def test_the_page_is_sound_for_screen_readers(page):
    outline = Outline(page)
    ids = outline.values("id")
    assert len(ids) == len(set(ids))
    references = " ".join(outline.values("aria-labelledby") + outline.values("aria-describedby")).split()
    assert references and set(references) <= set(ids)
    assert {link["href"] for link in outline.all("a")} <= {f"#{ident}" for ident in ids}
    assert all(image["alt"] for image in outline.all("img"))
    assert all(header["scope"] in ("col", "row") for header in outline.all("th"))
    assert page.count("<table") == page.count("<caption")
    assert outline.all("html") == [{"lang": "en"}]
    levels = [int(name[1]) for name, _ in outline.elements if re.fullmatch(r"h\d", name)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    charts = [attributes for attributes in outline.all("svg") if attributes.get("role") == "img"]
    assert len(charts) == 6 and all("aria-labelledby" in chart for chart in charts)


def test_slices_are_told_in_words(page):
    alternatives = [image["alt"] for image in Outline(page).all("img")]
    assert "Slice 9 of 20: reference and prediction outlined" in alternatives
    assert "Slice 15 of 20: reference outlined" in alternatives


def test_attention_stands_beside_uniform_attention_and_the_padded_baseline(page):
    text = Outline(page).text
    assert all(words in text for words in ("this model", "uniform attention, same tiles", "padded baseline, uniform"))
    # 0.02 and 0.03 in the two folds, their mean, and the range.
    assert all(
        words in text for words in ("00.0200.010", "10.0300.015", "mean over the folds0.0250.013", "0.020-0.030")
    )
    cube = plans()["rectal_nnformer"]["patch_sizes"]["3d_fullres_cubic"]["uniform_adi"]
    assert f"padded baseline, uniform: {', '.join(f'{value:.3f}' for value in cube)}" in text


def test_attention_without_any_padding_is_explained(page, tmp_path):
    assert "nothing to dilute" not in page
    folder = write_run(tmp_path)
    for path in folder.glob("fold_*/validation/attention_dilution.json"):
        content = json.loads(path.read_text())
        stages = [{**stage, "adi": 0.0, "uniform_adi": 0.0} for stage in content["stages"]]
        path.write_text(json.dumps({**content, "stages": stages}))
    assert "nothing to dilute" in write_report(folder).read_text(encoding="utf-8")


def test_attention_in_training_is_shown_where_it_was_followed(page, tmp_path):
    assert "during training" not in page
    folder = write_run(tmp_path)
    for fold in (0, 1):
        records = [
            {"epoch": epoch, "stages": attention(0.08 / (epoch + 1) + 0.02 * fold)["stages"]} for epoch in (0, 1, 3)
        ]
        (folder / f"fold_{fold}/attention_epochs.json").write_text(json.dumps(records))
    text = Outline(write_report(folder).read_text(encoding="utf-8")).text
    assert "ADI during training, on one crop of each fold: stage 0: 0.090 to 0.030; stage 1: 0.045 to 0.015" in text
    (folder / "fold_1/attention_epochs.json").write_text("[{}]")
    with pytest.raises(RectalError, match=r"fold_1/attention_epochs\.json cannot be used"):
        write_report(folder)


def test_feature_reuse_stands_by_fold_and_over_the_folds(page):
    text = Outline(page).text
    # Means of the diagonals 0.69 and 0.64, each with the interval of its drift.
    assert all(
        words in text
        for words in (
            "fold 0340.6900.3100.270 to 0.350",
            "fold 1340.6400.3600.320 to 0.400",
            "mean over the folds0.6650.335",
        )
    )


def test_the_plan_settings_and_versions_are_there_and_no_computer_is_named(page):
    text = Outline(page).text
    assert "128 x 128 x 64 voxels, 128 x 128 x 64 mm" in text
    assert "+ 128 x 128 x 128  0.45  0.453 0.469 0.500 0.500  0.043 0.083 0.125 0.250" in text
    assert "model_smit_ct10k.pth" in text and "500" in text
    assert metadata.version("torch") in text and "nnUNetTrainerSMIT_ACT" in text
    assert "secret_host" not in page


def test_names_of_cases_cannot_become_markup(tmp_path):
    cases = {HOSTILE: ([NEAR], [FAR]), "<script>alert(1)": ([SMALL], None)}
    page = write_report(write_run(tmp_path, cases)).read_text(encoding="utf-8")
    outline = Outline(page)
    assert len(outline.all("script")) == 1
    assert {image.get("onerror") for image in outline.all("img")} == {None}
    assert HOSTILE in {row.get("data-name") for row in outline.all("tr")}


@pytest.mark.parametrize("content", ["[1]", "3", "null", "{"])
def test_packages_without_metadata_and_a_damaged_debug_file_are_left_out(tmp_path, monkeypatch, content):
    folder = write_run(tmp_path)
    (folder / "fold_0/debug.json").write_text(content)
    version = metadata.version

    def of_installed(name):
        if name == "monai":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", of_installed)
    text = Outline(write_report(folder).read_text(encoding="utf-8")).text
    assert version("torch") in text and "monai" not in text and "learning rate" not in text


def test_shared_patients_and_missing_predictions_are_cautioned_about(tmp_path):
    cases = {**CASES, "lost": ([FAR], None)}
    page = write_report(write_run(tmp_path, cases, patients=dict.fromkeys(CASES, "one patient")))
    text = Outline(page.read_text(encoding="utf-8")).text
    assert "These rates are optimistic: folds share 1 patient" in text
    assert "1 prediction file missing" in text


def test_scans_that_lie_in_two_folds_are_cautioned_about(tmp_path):
    folder = write_run(tmp_path)
    in_fold_0, in_fold_1 = (read_results(folder).folds[fold].cases for fold in (0, 1))
    alike = {in_fold_0[0].case: "1", in_fold_1[0].case: "1"}
    (folder / "image_digests.json").write_text(json.dumps({**alike, in_fold_0[1].case: "2"}))
    text = Outline(write_report(folder).read_text(encoding="utf-8")).text
    assert f"The images of {' and '.join(sorted(alike))} hold the same voxels, in different folds" in text


def test_a_trial_and_unfinished_folds_are_cautioned_about(tmp_path):
    folder = write_run(tmp_path)
    content = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**content, "numTraining": 20}))
    trial = folder.rename(folder.with_name(folder.name.replace("SMIT_ACT", "SMIT_CPU")))
    text = Outline(write_report(trial).read_text(encoding="utf-8")).text
    assert "A trial: a small network" in text
    assert "Not all folds: 4 of 20 training cases, those of folds 0, 1" in text


def test_without_images_and_analyses_the_page_says_what_is_missing_and_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    folder = write_run(tmp_path, analysed=False)
    (tmp_path / "nnUNet_raw").rename(tmp_path / "elsewhere")
    text = Outline(write_report(folder).read_text(encoding="utf-8")).text
    assert "6 of 6 cards have no picture" in text and "there is no file" in text
    assert "rectal_nnformer attention -d Dataset501_Rectal -tr nnUNetTrainerSMIT_ACT" in text
    assert f"rectal_nnformer feature_reuse $nnUNet_results/{DATASET}/{folder.name}/fold_0 PRETRAINED_FILE" in text
    assert "there is no file found_0000.nii.gz" in text and str(tmp_path) not in text
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "elsewhere"))
    assert "have no picture" not in write_report(folder).read_text(encoding="utf-8")


def test_folds_without_analysis_are_named_beside_those_with_one(tmp_path):
    folder = write_run(tmp_path)
    text = Outline(write_report(folder).read_text(encoding="utf-8")).text
    assert "Without fold" not in text
    for name in ("attention_dilution.json", "feature_reuse.json"):
        (folder / "fold_1/validation" / name).unlink()
    text = Outline(write_report(folder).read_text(encoding="utf-8")).text
    assert re.search("Without fold 1. To measure it now: rectal_nnformer attention .* -f 1", text)
    assert re.search("Without fold 1. To compare with one now: .*/fold_1 PRETRAINED_FILE", text)


def test_a_cubic_model_of_the_same_plans_is_shown_as_measured(tmp_path):
    folder = write_run(tmp_path)
    write_run(tmp_path, trainer="nnUNetTrainerSMIT_Base", configuration="3d_fullres_cubic")
    assert "SMIT_Base, cubic, measured" in write_report(folder).read_text(encoding="utf-8")


def test_models_of_other_plans_and_trainers_are_reported_too(tmp_path):
    folder = write_run(tmp_path, trainer="nnUNetTrainer", analysed=False)
    (folder / "plans.json").write_text(json.dumps({k: v for k, v in plans().items() if k != "rectal_nnformer"}))
    (folder / "fold_0/debug.json").unlink()
    assert "were not made by rectal_nnformer" in write_report(folder).read_text(encoding="utf-8")
    (folder / "plans.json").write_text(json.dumps({**plans(), "rectal_nnformer": {"version": "0.0.1"}}))
    assert "Another version of rectal_nnformer made these plans" in write_report(folder).read_text(encoding="utf-8")


def test_folds_of_too_few_cases_for_feature_reuse_are_left_out_and_say_why(tmp_path):
    folder = write_run(tmp_path)
    few = {**reuse(0.9), "debiased": None, "note": "The debiased estimator needs at least 4 cases; there are 2."}
    path = folder / "fold_0/validation/feature_reuse.json"
    path.write_text(json.dumps(few))
    assert reuse_over_folds(read_results(folder).reuse).folds.keys() == {1}
    assert "CKA along the diagonal, 1 fold" in write_report(folder).read_text(encoding="utf-8")
    single = {**reuse(0.9)["debiased"], "null": None, "intervals": None}
    path.write_text(json.dumps({**few, "debiased": single}))
    (folder / "fold_1/validation/feature_reuse.json").unlink()
    assert reuse_over_folds(read_results(folder).reuse).intervals[0] is None
    path.write_text(json.dumps(few))
    assert "needs at least 4 cases; there are 2" in write_report(folder).read_text(encoding="utf-8")


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_damaged_analysis_is_named_and_an_older_report_stays(tmp_path):
    folder = write_run(tmp_path)
    (folder / "report.html").write_text("older")
    (folder / "fold_1/validation/feature_reuse.json").write_text("{")
    with pytest.raises(RectalError, match=r"fold_1/validation/feature_reuse\.json cannot be read as JSON"):
        write_report(folder)
    assert (folder / "report.html").read_text() == "older"
    note = try_report(folder)
    assert "feature_reuse.json" in note and f"rectal_nnformer report {folder}" in note


@pytest.mark.parametrize(
    ("inside", "message"),
    [("fold_0", "Did you mean"), ("nowhere", "There is no folder"), ("..", "not the folder of a trained model")],
)
def test_what_is_no_model_folder_is_refused_with_a_hint(model, inside, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["report", str(model / inside)])
    assert exit_.value.code == 2 and message in capsys.readouterr().err


def test_a_model_without_an_evaluated_fold_is_refused_with_the_remedy(tmp_path):
    folder = write_run(tmp_path)
    for fold in (0, 1):
        (folder / f"fold_{fold}/validation/lesion_detection.json").unlink()
    with pytest.raises(RectalError, match="rectal_nnformer crossval"):
        write_report(folder)


@pytest.mark.parametrize("processes", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_the_command_writes_where_it_is_told(processes, model, tmp_path, capsys):
    cli.main(["report", str(model), "-o", str(tmp_path / "new/page.html"), "-np", processes])
    assert str(tmp_path / "new/page.html") in capsys.readouterr().out
    assert (tmp_path / "new/page.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


# --- pictures --------------------------------------------------------------------------------------------------------


def test_outlines_enclose_the_masks_of_their_slice(model):
    """Filling the path of an outline gives the area of the mask back."""
    run = read_results(model)
    clips = {(clip.subject.case, clip.subject.kind): clip for clip in draw_clips(run)}
    clip = clips["found", "detected"]
    (picture,) = [picture for picture in clip.pictures if picture.number == clip.largest]
    reference, prediction = picture.outlines["reference"], picture.outlines["prediction"]
    assert clip.largest == 9
    assert (clip.width_mm, clip.slice_mm) == (64, 3)  # the image is 72 x 64 mm: the largest square in it
    assert clip.shape == (64, 64)
    assert polygon_area(reference) == pytest.approx(np.pi * 9**2, rel=0.05)
    # The prediction is the same ball, one voxel further to the patient's left.
    assert polygon_center(prediction) - polygon_center(reference) == pytest.approx([1, 0], abs=0.05)
    assert "reference other" not in picture.outlines
    assert any("reference other" in picture.outlines for picture in clips["half_found", "missed"].pictures)


def points_of(path):
    assert path.count("M") == 1
    return np.array([float(number) for number in re.findall(r"[-\d.]+", path)]).reshape(-1, 2)


def polygon_area(path):
    x, y = points_of(path).T
    return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2


def polygon_center(path):
    points = points_of(path)
    return (points.min(axis=0) + points.max(axis=0)) / 2


@pytest.mark.parametrize("turned", ["prediction", "reference", "image"])
def test_files_stored_in_another_order_give_the_same_pictures(tmp_path, turned):
    folder = write_run(tmp_path)
    before = draw_clips(read_results(folder))
    run = read_results(folder)
    files = {"prediction": run.prediction(0, "found"), "reference": run.reference("found"), "image": run.image("found")}
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(files[turned])), "RAS"), str(files[turned]))
    assert draw_clips(read_results(folder)) == before


def test_subjects_are_ordered_by_what_matters(model):
    subjects = subjects_of(read_results(model))
    assert [subject.kind for subject in subjects] == ["missed"] * 2 + ["detected"] * 3 + ["false positive"]
    assert subjects[0].component.volume_cm3 > subjects[1].component.volume_cm3
    assert subjects[2].component.iou <= subjects[3].component.iou <= subjects[4].component.iou


def test_a_tumor_longer_than_the_image_is_wide_is_shown_whole(tmp_path):
    long = Ball((36, 32, 10), 35.5)
    run = read_results(write_run(tmp_path, {"long": ([long], [long]), "other": ([NEAR], [])}))
    (clip,) = [clip for clip in draw_clips(run) if clip.subject.case == "long"]
    assert clip.width_mm == 71 and clip.shape == (71, 71)  # the image is 72 x 64
    (picture,) = [picture for picture in clip.pictures if picture.number == clip.largest]
    points = points_of(picture.outlines["reference"])
    assert points.max(axis=0) - points.min(axis=0) == pytest.approx([71, 64], abs=1)
    assert points.min(axis=0) == pytest.approx([0, 3.5], abs=1)  # rows above the image are black


def test_lesions_that_were_scored_together_are_told_so(tmp_path):
    across = Ball((37, 32, 9), 21)
    folder = write_run(tmp_path, {"bridged": ([NEAR, FAR], [across]), "other": ([NEAR], [NEAR])})
    together = {s.component.label: s.together for s in subjects_of(read_results(folder)) if s.case == "bridged"}
    assert {label: others for label, others in together.items() if others} == {1: (2,), 2: (1,)}
    text = Outline(write_report(folder).read_text(encoding="utf-8")).text
    assert "together with tumour 2 IoU" in text and text.count("together with") == 2


def test_masks_that_changed_since_the_evaluation_are_not_shown_as_if_they_were_scored(tmp_path):
    folder = write_run(tmp_path)
    path = f"nnUNet_preprocessed/{DATASET}/gt_segmentations/silent.nii.gz"
    (tmp_path / path).write_bytes((tmp_path / path.replace("silent", "found")).read_bytes())
    (clip,) = [clip for clip in draw_clips(read_results(folder)) if clip.subject.case == "silent"]
    assert not clip.pictures and "changed since" in clip.problem


@given(st.integers(0, 50), st.integers(0, 60), st.integers(1, 40), st.data())
def test_slices_are_spread_evenly_and_keep_the_largest(first, length, most, data):
    last = first + length
    kept = data.draw(st.integers(first, last))
    chosen = spread_evenly(first, last, most, kept)
    assert len(chosen) == min(most, length + 1) and chosen == sorted(set(chosen))
    assert kept in chosen and first <= chosen[0] and chosen[-1] <= last


def lesion(detected, volume=1.0):
    return Lesion(1, 20, volume, (1.0, 2.0, 3.0), "0-5", None, 0.5, detected, detected)


def clip_of(number, num_pictures, size, kind="detected"):
    subject = Subject(kind, 0, f"case_{number}", lesion(kind == "detected"))
    pictures = tuple(Picture(z + 1, bytes(size), {"reference": "M0 0 1 0 1 1Z"}) for z in range(num_pictures))
    return Clip(subject, pictures, num_pictures, (10, 10), (10, 10), 80, 3, largest=num_pictures // 2 + 1)


@given(st.lists(st.integers(1, 9), max_size=8), st.integers(0, 60_000))
def test_pictures_fit_the_budget_and_the_first_clips_keep_theirs(lengths, budget):
    clips = [clip_of(number, length, 1000) for number, length in enumerate(lengths)]
    fitted = fit_to_budget(clips, budget)
    assert sum(picture.size for clip in fitted for picture in clip.pictures) <= budget
    shown = [bool(clip.pictures) for clip in fitted]
    assert shown == sorted(shown, reverse=True)
    for clip in fitted:
        assert clip.problem or clip.largest in {picture.number for picture in clip.pictures}


def test_all_clips_lose_slices_before_one_loses_all():
    whole = fit_to_budget([clip_of(number, 4, 1000) for number in range(3)], 10**6)
    assert [len(clip.pictures) for clip in whole] == [4, 4, 4]
    half = sum(picture.size for clip in whole for picture in clip.pictures) // 2
    assert [len(clip.pictures) for clip in fit_to_budget(whole, half)] == [2, 2, 2]


@pytest.mark.slow
def test_a_page_of_250_cases_stays_under_25_mb(tmp_path):
    """With three tumours a case and more and larger pictures than the page can hold."""
    cases = {f"case_{number:03d}": ([], []) for number in range(250)}
    run = read_results(write_run(tmp_path, cases, num_folds=5))
    clips = [clip_of(f"{number % 250:03d}", 20, 9000, "missed" if number < 80 else "detected") for number in range(750)]
    page = report_page(run, fit_to_budget(clips, 18_000_000), "today")
    assert 15_000_000 < len(page.encode()) < 25_000_000
    assert page.count("left out to keep this page small") == 0 or "Missed tumours (80)" in page


def test_components_are_numbered_alike_in_a_crop_and_in_the_whole():
    """The pictures number components of whole volumes, the evaluation those of a crop."""
    volume = np.random.default_rng(0).random((12, 14, 16)) > 0.8
    whole, _ = ndimage.label(np.pad(volume, 3), structure=np.ones((3, 3, 3)))
    crop, _ = ndimage.label(volume, structure=np.ones((3, 3, 3)))
    assert np.array_equal(whole[3:-3, 3:-3, 3:-3], crop)
