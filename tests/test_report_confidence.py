"""What the report tells of how sure a model is, and the operating point that a cross-validation chooses."""

import json
from dataclasses import replace

import numpy as np
import pytest
from confidence_cases import random_cases
from report_runs import write_run
from test_crossval import COMMAND, MODEL, preprocessed, trained_by_nnunet  # noqa: F401
from test_report import Outline

from rectal_nnformer import cli
from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.fold import read_evaluation, write_evaluation
from rectal_nnformer.evaluation.log_odds import count_log_odds, near_tumor, write_counts
from rectal_nnformer.evaluation.operating_point import nested_point, parse_wish, read_point, write_point
from rectal_nnformer.evaluation.summary import summarize_cases
from rectal_nnformer.reporting.report_page import report_page
from rectal_nnformer.reporting.results import read_results
from rectal_nnformer.reporting.writing import write_report
from rectal_nnformer.training import crossval
from rectal_nnformer.training.crossval import cross_validate


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
    assert "there is one fold only" in " ".join(text.split())


def missed(case):
    lost = {"group": None, "iou": 0.0, "detected": False, "detected_strict": False}
    nothing = dict.fromkeys(("dice", "hd95_mm", "surface_dice_2mm", "volume_ratio"))
    return tuple(replace(lesion, **lost, **nothing) for lesion in case.lesions)


# The command


@pytest.fixture
def scored(preprocessed, trained_by_nnunet, monkeypatch):  # noqa: F811
    """A model whose five folds are finished, of cases whose confidence is known; return its folder."""
    folder, _ = cross_validate("501", **MODEL)
    cases = random_cases(40, seed=2)[0]
    known = [case for case in cases if case.n_reference == 1 and case.candidates][:5]
    for fold in range(5):
        validation = folder / f"fold_{fold}/validation"
        (case,) = read_evaluation(validation).cases
        write_evaluation(summarize_cases([replace(known[fold], case=case.case, patient=case.patient)]), validation)
    return folder


def test_crossval_chooses_the_point_keeps_the_wish_and_takes_it_back(scored, capsys):
    cross_validate("501", **MODEL, operating_point="fp-per-case=0.5")
    told = capsys.readouterr().out
    assert "Operating point for fp-per-case=0.5: a confidence of at least" in told
    assert "masks as they are: sensitivity" in told and "nested: sensitivity" in told
    chosen = read_point(scored)
    assert chosen.wish == "fp-per-case=0.5" and chosen.n_false_positive <= 0.5 * chosen.n_cases
    cross_validate("501", **MODEL)
    assert read_point(scored) == chosen
    cross_validate("501", **MODEL, operating_point="none")
    assert read_point(scored) is None


def test_a_wish_that_is_none_is_refused_before_anything_is_trained(preprocessed, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(crossval, "train_folds", lambda *_: pytest.fail("trained"))
    with pytest.raises(RectalError, match="'f2' is no wish for an operating point"):
        cross_validate("501", **MODEL, operating_point="f2")
    with pytest.raises(SystemExit):
        cli.main([*COMMAND, "--operating-point", "sensitivity=2"])
    assert "no wish for an operating point" in capsys.readouterr().err


def test_without_known_confidence_there_is_no_point_and_that_is_told(preprocessed, trained_by_nnunet, capsys):  # noqa: F811
    folder, _ = cross_validate("501", **MODEL, operating_point="f1")
    assert "No operating point for f1: 5 cases without known confidence" in capsys.readouterr().out
    assert not (folder / "operating_point.json").exists()
    assert json.loads((folder / "crossval_summary.json").read_text())["n_detected"] == 5
