"""What the report tells of how sure a model is."""

from dataclasses import replace

import numpy as np
import pytest
from confidence_cases import random_cases
from report_runs import write_run
from test_report import Outline

from rectal_nnformer.evaluation.fold import write_evaluation
from rectal_nnformer.evaluation.log_odds import count_log_odds, near_tumor, write_counts
from rectal_nnformer.evaluation.operating_point import nested_point, write_point
from rectal_nnformer.evaluation.summary import summarize_cases
from rectal_nnformer.evaluation.wish import parse_wish
from rectal_nnformer.reporting.report_page import report_page
from rectal_nnformer.reporting.results import read_results
from rectal_nnformer.reporting.writing import write_report


def with_confidence(folder, cases, num_folds=2):
    """Replace the scored cases of a made model by others, whose confidence is known, and count voxels."""
    generator = np.random.default_rng(0)
    for fold in range(num_folds):
        validation = folder / f"fold_{fold}/validation"
        write_evaluation(summarize_cases(cases[fold::num_folds]), validation)
        log_odds = generator.normal(-2, 3, (6, 20, 20)).astype(np.float32)
        reference = generator.random(log_odds.shape) < 1 / (1 + np.exp(-log_odds / 2))
        near = near_tumor(reference, log_odds > 0, (3.0, 1.0, 1.0), 1.0)
        write_counts(count_log_odds(log_odds, reference, near), validation)
    return folder


@pytest.fixture(scope="module")
def sure_model(tmp_path_factory):
    return with_confidence(write_run(tmp_path_factory.mktemp("sure")), random_cases(24, seed=3, patients=20)[0])


@pytest.fixture(scope="module")
def page(sure_model):
    return Outline(write_report(sure_model).read_text(encoding="utf-8"))


def test_the_page_tells_how_sure_the_model_is(page):
    titles = {attributes.get("id") for tag, attributes in page.elements if tag == "svg" or tag == "title"}
    assert {"froc-name", "reliability-name", "volumes-name"} <= titles
    text = " ".join(page.text.split())
    for words in (
        "average precision",
        "masks as they are",
        "at the operating point (f1), nested",
        "Temperature of all folds",
        "all voxels, after temperature",
        "confidence of the surest lesion",
        "ICC(A,1)",
        "None was chosen: predict counts every lesion of the mask",
    ):
        assert words in text, words


def test_the_chosen_operating_point_is_told(sure_model, tmp_path):
    results = read_results(sure_model)
    point = point_of(results, "fp-per-case=0.25")
    write_point(point, sure_model)
    try:
        text = " ".join(Outline(report_page(results, [], "today")).text.split())
    finally:
        write_point(None, sure_model)
    assert "chosen for fp-per-case=0.25 on all folds: a confidence of at least" in text
    assert "at the operating point (fp-per-case=0.25), nested" in text


def point_of(results, wish):
    return nested_point({fold: result.cases for fold, result in results.folds.items()}, parse_wish(wish)).chosen


def test_where_nothing_is_known_the_page_says_how_to_know_it(tmp_path):
    text = " ".join(Outline(write_report(write_run(tmp_path)).read_text(encoding="utf-8")).text.split())
    assert "How sure the model is, is not known: 4 cases without known confidence" in text
    assert "Voxels were not counted by their probability" in text


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("kind", ["one case", "no tumour", "all missed", "no candidate"])
def test_every_section_is_defined(tmp_path, kind):
    folder = write_run(tmp_path, num_folds=1)
    cases, _ = random_cases(6, seed=5)
    if kind == "one case":
        cases = [case for case in cases if case.n_reference and case.candidates][:1]
    elif kind == "no tumour":
        cases = [one for one in random_cases(60, seed=1)[0] if not one.n_reference][:4]
        assert cases
    elif kind == "all missed":
        cases = [replace(c, candidates=(), n_detected=0, n_missed=c.n_reference, lesions=missed(c)) for c in cases]
    else:
        cases = [replace(case, candidates=()) for case in cases]
    write_evaluation(summarize_cases(cases), folder / "fold_0/validation")
    text = Outline(write_report(folder).read_text(encoding="utf-8")).text
    assert "nan" not in text.lower().replace("nnunet", "").split()
    why = "no case has a candidate" if kind in ("all missed", "no candidate") else "there is one fold only"
    assert why in " ".join(text.split())


def missed(case):
    lost = {"group": None, "iou": 0.0, "detected": False, "detected_strict": False}
    nothing = dict.fromkeys(("dice", "hd95_mm", "surface_dice_2mm", "volume_ratio"))
    return tuple(replace(lesion, **lost, **nothing) for lesion in case.lesions)
