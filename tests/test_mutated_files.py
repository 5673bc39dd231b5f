"""Two thousand mutated files for each reader of files from elsewhere: right or refused, at once, in bounded memory."""

import json
import random
import resource
import time
import zipfile

import pytest
import SimpleITK as sitk
from checkpoints import write_checkpoint
from conversion_inputs import scan, write_series
from sharing_inputs import write_dataset

from rectal_nnformer.dicom.series import find_series
from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.masks import label_values, tumor_labels
from rectal_nnformer.imaging.volumes import VolumeCheck, check_volume
from rectal_nnformer.nnunet.checkpoints import checkpoint_problem
from rectal_nnformer.nnunet.dataset_json import read_dataset_json
from rectal_nnformer.nnunet.plans import Plans
from rectal_nnformer.nnunet.splits import inspect_folds, read_splits
from rectal_nnformer.sharing.dataset import export_dataset
from rectal_nnformer.sharing.inspection import inspect_file

NUMBER, SAMPLE, SECONDS, GIBIBYTES = 2000, 25, 10, 2
STRANGE = (
    b"null",
    b"-1",
    b"1e400",
    b"[]",
    b"{}",
    b'"\\ud800"',
    b"true",
    b"9" * 400,
    b'"../x"',
    b"NaN",
    b'"' + b"x" * 5000 + b'"',
)


def mutate(content, rng, head):
    """Return bytes with a few changed, cut off, doubled or left out, most of them among the first `head`."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        place = rng.randrange(min(len(content), head if rng.random() < 0.8 else len(content)) or 1)
        kind = rng.randrange(6)
        if kind == 0:
            del content[place:]
        elif kind == 1:
            content[place:place] = content[place : place + rng.randrange(1, 40)]
        elif kind == 2:
            del content[place : place + rng.randrange(1, 40)]
        elif kind == 3:
            content[place : place + 2] = rng.choice((b"\xff\xff", b"\x00\x00", b"\xff\x7f", b"\x00\x80"))
        elif place < len(content):
            content[place] = rng.randrange(256)
    return bytes(content)


def mutate_json(content, rng, head):
    """Return JSON text with a value exchanged for a strange one, or with changed bytes."""
    if rng.random() < 0.4:
        return mutate(content, rng, head)
    value = json.loads(content)
    parents = [value]
    for parent in parents:
        children = parent.values() if isinstance(parent, dict) else parent
        parents += [child for child in children if isinstance(child, dict | list) and child]
    parent = rng.choice(parents)
    key = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
    parent[key] = "@"
    return json.dumps(value).encode().replace(b'"@"', rng.choice(STRANGE), 1)


def volume(name, compressed=False):
    def make(tmp_path):
        sitk.WriteImage(scan(), str(tmp_path / name), useCompression=compressed)
        return tmp_path / name, check_volume, lambda found: isinstance(found, VolumeCheck)

    return make


def dicom(tmp_path):
    write_series(tmp_path / "series", scan(), "1.2.3")

    def read(path):
        return [series.read() for series in find_series(path.parent).series]

    return sorted((tmp_path / "series").iterdir())[2], read, lambda found: all(s.GetDimension() == 3 for s in found)


def checkpoint(tmp_path):
    path = write_checkpoint(tmp_path / "checkpoint_final.pth", "Trainer")
    return path, lambda path: checkpoint_problem(path, "Trainer"), lambda found: isinstance(found, str)


def of_dataset(name, read):
    def make(tmp_path):
        folder = write_dataset(tmp_path)
        return folder / name, read, lambda found: found is not None

    return make


def plans(tmp_path):
    settings = {
        "data_identifier": "data",
        "patch_size": [16, 32, 32],
        "spacing": [3.0, 1.0, 1.0],
        "batch_size": 2,
        "normalization_schemes": ["ZScoreNormalization"],
        "architecture": {
            "arch_kwargs": {
                "backbone": "smit",
                "backbone_kwargs": {"depths": [2, 2]},
                "intensity_window": [[-1.5, 2.5]],
                "spatial_axes": [2, 1, 0],
            }
        },
    }
    configurations = {"3d_fullres": settings, "3d_fullres_cubic": {"inherits_from": "3d_fullres", "batch_size": 1}}
    path = tmp_path / "Plans.json"
    path.write_text(json.dumps({"plans_name": "P", "dataset_name": "D", "configurations": configurations}))
    return path, Plans.read, lambda found: isinstance(found, Plans)


def read_labels(path):
    content = read_dataset_json(path, "Restore it.")
    return label_values(content, str(path)), tumor_labels(content)


def manifest(tmp_path):
    folder = write_dataset(tmp_path / "nnUNet_preprocessed")
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in ("nnUNet_raw", "nnUNet_preprocessed"):
            monkeypatch.setenv(name, str(tmp_path / name))
        export_dataset(folder.name, tmp_path / "whole.zip")
    with zipfile.ZipFile(tmp_path / "whole.zip") as archive:
        files = {entry: archive.read(entry) for entry in archive.namelist()}
    path = tmp_path / "manifest.json"
    path.write_bytes(files["manifest.json"])

    def read(changed):
        with zipfile.ZipFile(tmp_path / "changed.zip", "w") as archive:
            for name, content in files.items():
                archive.writestr(name, changed.read_bytes() if name == "manifest.json" else content)
        return inspect_file(tmp_path / "changed.zip")

    return path, read, lambda found: isinstance(found, str)


READERS = {
    "NIfTI": (volume("scan.nii"), mutate, 352),
    "compressed NIfTI": (volume("scan.nii.gz"), mutate, 200),
    "NRRD": (volume("scan.nrrd"), mutate, 350),
    "compressed NRRD": (volume("scan.nrrd", compressed=True), mutate, 350),
    "NRRD with data beside it": (volume("scan.nhdr"), mutate, 350),
    "MetaImage": (volume("scan.mha"), mutate, 350),
    "compressed MetaImage": (volume("scan.mha", compressed=True), mutate, 350),
    "MetaImage with data beside it": (volume("scan.mhd"), mutate, 350),
    "DICOM": (dicom, mutate, 1500),
    "checkpoint": (checkpoint, mutate, 400),
    "plans": (plans, mutate_json, 2000),
    "dataset.json": (of_dataset("dataset.json", read_labels), mutate_json, 500),
    "splits": (of_dataset("splits_final.json", lambda p: inspect_folds(read_splits(p), None, {})), mutate_json, 500),
    "manifest": (manifest, mutate_json, 2000),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_mutated_file_is_read_right_or_refused(name, tmp_path):
    mutate_and_read(name, tmp_path, NUMBER)


@pytest.mark.parametrize("name", READERS)
def test_a_sample_of_mutated_files_is_read_right_or_refused(name, tmp_path):
    mutate_and_read(name, tmp_path, SAMPLE)


def mutate_and_read(name, tmp_path, number_of_files):
    make, change, head = READERS[name]
    path, read, is_right = make(tmp_path)
    whole, rng = path.read_bytes(), random.Random(name)
    assert is_right(read(path))
    before, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for number in range(number_of_files):
        path.write_bytes(change(whole, rng, head))
        start = time.monotonic()
        try:
            assert is_right(read(path)), number
        except RectalError as error:
            refused += 1
            assert str(error), number
        assert time.monotonic() - start < SECONDS, number
    told_otherwise = read is check_volume or name == "checkpoint"
    assert refused > 0 or told_otherwise or number_of_files < NUMBER
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20 < GIBIBYTES
