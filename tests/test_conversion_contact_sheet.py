"""The contact sheet: the right slice, the right way round, one tile per case, legible for a large cohort."""

import matplotlib.image
import numpy as np
import pytest
import SimpleITK as sitk
from conversion_inputs import SIZE, as_image, scan, tumor, write_cohort

from rectal_nnformer.dataset_conversion import raw_dataset
from rectal_nnformer.dataset_conversion.contact_sheet import DPI, TILE, CaseTile, draw_contact_sheet, make_tile
from rectal_nnformer.dataset_conversion.nifti import convert_nifti


def _colored(path):
    picture = matplotlib.image.imread(path)[..., :3]
    return picture.max(axis=-1) - picture.min(axis=-1) > 0.3


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "SPR", "AIL"])
def test_tile_shows_the_slice_with_most_tumour_right_to_left_and_anterior_up(orientation):
    array = np.full(SIZE[::-1], 100, np.int16)
    array[4, 0, :] = 200  # anterior row of the slice
    array[4, :, 0] = 0  # the patient's right column
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[3, 4:6, 4:6] = 1
    mask[4, 4:8, 4:8] = 1
    mask[5, 4:6, 4:6] = 1
    image, outline = (sitk.DICOMOrient(as_image(a), orientation) for a in (array, mask))
    tile = make_tile("case", image, outline)
    assert (tile.grey[0, 1:] == 255).all() and (tile.grey[1:, 0] == 0).all()
    assert np.array_equal(tile.outline, mask[4] != 0)
    assert tile.aspect == pytest.approx(0.75 / 0.5)
    assert tile.caption == "case\n0.0 cm³"


def test_caption_gives_the_volume_and_breaks_long_names():
    mask = sitk.Expand(tumor(), (8, 8, 8), sitk.sitkNearestNeighbor)
    mask.SetSpacing((1.0, 1.0, 1.0))
    caption = make_tile("1.2.840." * 7, mask, mask).caption.splitlines()
    assert caption[-1] == "13.8 cm³"
    assert "".join(caption[:-1]) == "1.2.840." * 7 and max(map(len, caption)) <= 26


def test_without_a_mask_the_middle_slice_is_shown_and_nothing_outlined():
    array = np.zeros(SIZE[::-1], np.int16)
    array[4] = np.tri(*SIZE[1::-1])  # the other slices are black
    tile = make_tile("case", as_image(array), None)
    assert np.array_equal(tile.grey, 255 * array[4])
    assert not tile.outline.any()
    assert tile.caption == "case"


def test_the_sheet_of_a_converted_dataset_shows_every_outline(tmp_path):
    folder = convert_nifti(*write_cohort(tmp_path), 501, "Rectal", raw=tmp_path / "raw")
    colored = _colored(folder / "contact_sheet.png")
    size = int(TILE * DPI)
    rows = [colored[top : top + size] for top in (0, colored.shape[0] // 2)]
    outlined = [[part[:, left : left + size].sum() > 20 for left in range(0, 4 * size, size)] for part in rows]
    assert outlined == [[True] * 4, [True, True, False, False]]


def test_rounding_of_a_tilt_near_45_degrees_does_not_turn_the_mask(tmp_path, monkeypatch):
    images, masks = write_cohort(tmp_path)
    for path, sign in ((images / "case_a_0000.nii.gz", 1), (masks / "case_a.nii.gz", -1)):
        angle = np.pi / 4 + sign * 1e-4
        tilt = [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
        sitk.WriteImage(scan(0, tilt) if sign > 0 else tumor(tilt), str(path))
    sheet = []
    monkeypatch.setattr(raw_dataset, "draw_contact_sheet", lambda tiles, *_: sheet.extend(tiles))
    convert_nifti(images, masks, 501, "Rectal", raw=tmp_path / "raw")
    assert sheet[0].grey.shape == sheet[0].outline.shape
    assert sheet[0].outline.sum() == 9


def test_every_case_gets_a_tile_with_its_outline(tmp_path):
    outline = np.zeros((40, 40), bool)
    outline[10:30, 10:30] = True
    tiles = [CaseTile(f"case_{i}", np.full((40, 40), 128, np.uint8), outline, 1.0) for i in range(30)]
    draw_contact_sheet(tiles, tmp_path / "sheet.png", "Dataset501_$1$")
    colored = _colored(tmp_path / "sheet.png")
    assert colored.shape[1] == pytest.approx(6 * TILE * DPI, abs=1)
    columns = np.add.reduceat(colored.any(axis=0), np.arange(0, colored.shape[1], int(TILE * DPI))[:6])
    assert (columns > 50).all()
    starts = np.flatnonzero(np.diff(colored.any(axis=1).astype(int)) == 1)
    assert len(starts) == 5
