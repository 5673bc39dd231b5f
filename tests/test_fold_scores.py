"""nnU-Net's scores of a validation folder, by nnU-Net's function and by the one that starts fewer processes."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder, save_summary_json
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from rectal_nnformer.training.validation import score_masks


def write_masks(folder, seed, empty=()):
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for number in range(9):
        mask = rng.integers(0, 4, (4, 6, 5), dtype=np.uint8) * (number not in empty)
        sitk.WriteImage(sitk.GetImageFromArray(mask), str(folder / f"case{number}.nii.gz"))


@pytest.mark.parametrize(
    ("labels", "ignored", "empty"),
    [([1, 2, 3], None, ()), ([(1, 2), (2,)], 3, (4,)), ([1], None, range(9))],
    ids=["labels", "regions and an ignored label", "no label anywhere"],
)
@pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning")
def test_they_are_the_same(tmp_path, labels, ignored, empty):
    write_masks(tmp_path / "references", 0, empty)
    write_masks(tmp_path / "masks", 1, empty)
    folders = str(tmp_path / "references"), str(tmp_path / "masks")
    reader = SimpleITKIO()
    compute_metrics_on_folder(*folders, str(tmp_path / "theirs.json"), reader, ".nii.gz", labels, ignored, 1)
    masks = sorted((tmp_path / "masks").iterdir())
    found = score_masks(masks, tmp_path / "references", reader, labels, ignored)
    save_summary_json(found, str(tmp_path / "ours.json"))
    ours, theirs = (json.loads((tmp_path / name).read_text()) for name in ("ours.json", "theirs.json"))
    np.testing.assert_equal(ours, theirs)  # to which NaN is NaN
