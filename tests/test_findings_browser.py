"""The page of findings in a real browser: narrow and wide, light and dark, its table and its sliders."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from browser import check_looks, needs_chromium, opened
from report_runs import DATASET, FAR, NEAR, SMALL, SPACING_XYZ, mask_of
from test_report_browser import HOSTILE, choose, find, texts

from rectal_nnformer.evaluation.findings import Slices, find_lesions
from rectal_nnformer.nnunet.layout import ModelFolder
from rectal_nnformer.reporting.findings import PredictingModel, ScanFindings
from rectal_nnformer.reporting.gallery import draw_found
from rectal_nnformer.reporting.writing import write_findings

pytestmark = needs_chromium


def found(scan, *balls):
    mask = mask_of(balls)
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(300, 25, mask.shape) - 110 * mask)
    image.SetSpacing(SPACING_XYZ)
    slices = Slices(0, range(1, len(mask) + 1))
    labels, lesions = find_lesions(mask, image, slices)
    lesions = [replace(lesion, confidence=0.9 - lesion.label / 10) for lesion in lesions]
    others = [replace(lesions[0], confidence=0.55, removed=True), replace(lesions[0], confidence=0.2)]
    clips = draw_found(scan, image, labels, lesions, slices)
    return ScanFindings(scan, lesions, clips=clips, others=others, entropy=0.3, disagreement=0.05)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("findings")
    scans = [
        found("series_0123456789ab", NEAR, FAR),
        found(HOSTILE, SMALL),
        ScanFindings("series_ba9876543210", note="4 voxels in parts of fewer than 11 are no lesion"),
        ScanFindings("gone", problem=f"cannot be read: {HOSTILE}"),
    ]
    model = ModelFolder(folder, DATASET, "nnUNetTrainerSMIT_ACT", "nnUNetRectalSMITPlans", "3d_fullres")
    write_findings(scans, PredictingModel(model, ["0", "1"], "checkpoint_final.pth", "0123456789abcdef" * 4), folder)
    return (folder / "findings.html").as_uri()


@pytest.fixture
def page(browser, address):
    """The page on a large screen; whatever it writes to the console fails the test."""
    with opened(browser, address, 1400) as page:
        yield page


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_nothing_overflows_and_all_text_can_be_read(page, width, dark):
    check_looks(page, width, dark, fewest_texts=100)


def test_rows_can_be_chosen_and_sorted_and_lead_to_pictures(page):
    def rows():
        return texts(page, "#case-table tbody tr > :last-child")

    assert len(rows()) == 5 and rows()[-1].startswith("not predicted: cannot be read: <img")
    choose(find(page, "#case-outcome"), "nothing-found")
    assert rows() == ["nothing found: 4 voxels in parts of fewer than 11 are no lesion"]
    assert find(page, "#case-count").text == "1 of 5 rows"
    choose(find(page, "#case-outcome"), "")
    page.find_elements("css selector", "#case-table th button")[3].click()
    assert texts(page, "#case-table tbody td:nth-child(4)")[:3] == sorted(
        texts(page, "#case-table tbody td:nth-child(4)")[:3], key=float
    )
    find(page, "#case-table tbody a").click()
    assert page.execute_script("return document.querySelector(':target .case-name').textContent") == HOSTILE


def test_what_is_no_lesion_and_what_to_look_at_first_are_told(page):
    kinds = texts(page, "#others tbody td:nth-child(2)")
    assert sorted(kinds) == ["below the threshold"] * 2 + ["removed"] * 2
    assert texts(page, "#first tbody td:nth-child(3)") == ["0.80", "0.80"]


def test_each_lesion_has_its_slices(page):
    assert texts(page, ".card .tag") == ["lesion 1", "lesion 2", "lesion 1"]
    drawn = page.execute_script(
        "return [...document.querySelectorAll('.card')]"
        ".map((card) => card.querySelectorAll('[data-largest] path.prediction:not(.other)').length)"
    )
    assert drawn == [1, 1, 1] and len(page.find_elements("css selector", ".slider")) == 3
