"""The evidence: claims and verdicts from made outcomes, its page, made cohorts, going on; slow: a small one whole."""

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from rectal_nnformer.demo.cohort.appearance import CONTRAST_CT, MRI, MUCINOUS_MRI
from rectal_nnformer.demo.cohort.phantom import synthesize_case
from rectal_nnformer.errors import RectalError
from rectal_nnformer.evidence import run as evidence_run
from rectal_nnformer.evidence.outcome import CLAIMS, Claim, SeedOutcome, findings_of, verdict_of
from rectal_nnformer.evidence.page import Results, write_page
from rectal_nnformer.evidence.preset import BACKBONE, PRESETS, RECIPES, EvidenceRun
from rectal_nnformer.evidence.results import restoration
from rectal_nnformer.evidence.reuse import KeptFeatures, feature_findings, kept_over_seeds
from rectal_nnformer.evidence.run import run_evidence
from rectal_nnformer.evidence.seeds import steps_of_seed, study_of_seed, study_text
from rectal_nnformer.planning.backbones import resolve_backbone
from rectal_nnformer.study.record import read_study

NAMES = [f"case_{number}" for number in range(8)]


def outcome(found=0.5, dice=0.5, invented=0, adi=0.0, external=None):
    """What a recipe came to: of two tumours of each case the share that was found, alike in all cases but a few."""

    def cases(share):
        number = round(2 * share * len(NAMES))
        detected = np.arange(2 * len(NAMES)).reshape(len(NAMES), 2) < number
        return [
            SimpleNamespace(
                case=name,
                patient=name,
                dice=dice + 0.01 * index,
                n_false_positive=invented,
                lesions=[SimpleNamespace(detected=bool(one)) for one in found_here],
            )
            for index, (name, found_here) in enumerate(zip(NAMES, detected, strict=True))
        ]

    of_cases = {name: adi + (0.01 * index if adi else 0) for index, name in enumerate(NAMES)}
    cohorts = {"internal": cases(found), "external": cases(found if external is None else external)}
    return SeedOutcome(cohorts=cohorts, adi=of_cases, stage_adi=(adi, adi), a_rp=adi)


def verdicts(claims, **recipes):
    return [finding.verdict for finding in findings_of(recipes, claims)]


def test_a_verdict_follows_the_interval_and_the_side_that_a_claim_takes():
    more, less = Claim("more", "one", "two", "detection"), Claim("less", "one", "two", "detection", sign=-1)
    better, worse = [outcome(1.0)], [outcome(0.25)]
    assert verdicts([more], one=better, two=worse) == verdicts([less], one=worse, two=better) == ["shown"]
    assert verdicts([less], one=better, two=worse) == verdicts([more], one=worse, two=better) == ["opposite"]
    there = Claim("more there", "one", "two", "detection", "external")
    assert verdicts([there], one=[outcome(0.5, external=1.0)], two=[outcome(0.5)]) == ["suggested"]  # 4 cases differ
    padding = Claim("dilution", "one", "two", "ADI")
    assert verdicts([padding], one=[outcome(adi=0.2)], two=[outcome()]) == ["shown"]


def test_of_many_claims_an_interval_alone_suggests():
    """Of eight cases six differ: p is 2 / 2^6, which no longer is below 0.05 after two tests."""
    more, less = Claim("more", "one", "two", "detection"), Claim("less", "one", "two", "detection", sign=-1)
    found = findings_of({"one": [outcome(1.0)], "two": [outcome(0.25)]}, [more, less])
    assert [one.verdict for one in found] == ["suggested", "opposite suggested"]
    assert found[0].p_holm == pytest.approx(2 * 2 / 2**6) and found[0].difference.patient_bootstrap_95[0] > 0


@pytest.mark.parametrize(
    ("interval", "p", "verdict"),
    [
        ((0.1, 0.2), 0.04, "shown"),
        ((0.1, 0.2), 0.05, "suggested"),
        ((-0.1, 0.2), 0.01, "not shown"),
        ((0.0, 0.2), 0.01, "not shown"),
        ((-0.2, -0.1), 0.05, "opposite suggested"),
        ((-0.2, -0.1), 0.04, "opposite"),
        ((0.1, 0.2), None, "shown"),  # of a claim without a test
        (None, 1.0, "not measured"),
        ((float("nan"), float("nan")), None, "not measured"),
    ],
)
def test_a_verdict_needs_interval_and_p(interval, p, verdict):
    other_side = interval and (-interval[1], -interval[0])
    assert verdict_of(interval, 1, p) == verdict_of(other_side, -1, p) == verdict


def test_where_no_case_differs_nothing_is_measured():
    same = [outcome(0.5)]
    assert verdicts([Claim("more", "one", "two", "detection")], one=same, two=same) == ["not measured"]


def test_seeds_are_averaged_per_tumour_and_told_one_by_one():
    claim = Claim("more", "one", "two", "detection")
    (found,) = findings_of({"one": [outcome(1.0), outcome(0.5)], "two": [outcome(0.5), outcome(0.5)]}, [claim])
    assert found.of_seeds == pytest.approx((0.5, 0))
    assert found.difference.count == 16 and found.difference.value == pytest.approx(0.25)
    assert found.p_holm == pytest.approx(2 / 2**4)  # four of eight patients differ, all to the same side


def test_claims_on_recipes_that_were_not_trained_are_left_out():
    found = findings_of({"Base": [outcome(adi=0.2)], "Crop": [outcome()]})
    assert {(one.claim.first, one.claim.second) for one in found} == {("Base", "Crop"), ("Crop", "Base")}


def test_features_are_compared_draw_by_draw():
    steps = np.linspace(0, 1, 101)
    base = kept_over_seeds([(0.8, 0.1, list(0.75 + 0.1 * steps)), (0.6, 0.3, list(0.55 + 0.1 * steps))])
    assert (base.value, base.chance) == pytest.approx((0.7, 0.2))
    assert base.interval == pytest.approx((0.6525, 0.7475))
    lower = KeptFeatures(0.6, 0.2, tuple(value - 0.1 for value in base.draws))
    kept, changed = feature_findings({"Base": base, "TA": lower})
    assert (kept.verdict, changed.verdict) == ("shown", "shown")
    assert changed.interval == pytest.approx((-0.1, -0.1))
    assert feature_findings({"Base": lower, "TA": base})[1].verdict == "opposite"


def test_the_page_tells_every_claim_and_the_numbers_are_beside_it(tmp_path):
    preset = PRESETS["page"]
    outcomes = {recipe.name: [outcome(adi=0.2 * ("cubic" in recipe.configuration))] * 3 for recipe in RECIPES}
    kept = {name: KeptFeatures(0.5, 0.1, (0.4, 0.5, 0.6)) for name in ("Base", "TA", "Crop", "ACT")}
    results = Results("page", preset, "cpu", outcomes, kept, (0.05, 0.1), "seed = 0\n", {"pretraining": 60.0})
    page = write_page(results, tmp_path)
    text = page.read_text(encoding="utf-8")
    numbers = json.loads((tmp_path / "evidence.json").read_text())
    assert all(f"| {claim.text} |" in text for claim in CLAIMS)
    assert numbers["claims"][0]["verdict"] == "suggested"  # that padding takes attention; of eight cases, 30 claims
    assert "](pretraining/restored.png)" in text
    assert "34 claims: 1 shown, 1 suggested, 3 not shown, 29 not measured." in text
    assert "adjusted by Holm for the 30 claims\nthat have one" in text and "no p-value: 4 verdicts by" in text
    assert "](study.toml)" in text and (tmp_path / "study.toml").read_text() == "seed = 0\n"
    assert numbers["recipes"]["Base"]["internal"]["detection_rate"]["mean"] == pytest.approx(0.5)
    assert numbers["preset"]["seeds"] == [0, 1, 2] and numbers["versions"]["rectal_nnformer"]


def test_restoration_is_that_of_the_last_epoch(tmp_path):
    (tmp_path / "log.csv").write_text("epoch,restoration,restoration_by_mean\n0,0.3,0.2\n1,0.1,0.2\n")
    assert restoration(tmp_path / "log.csv") == (0.1, 0.2)


@pytest.fixture(scope="module")
def looks():
    """A case of each kind on coarse voxels: scan, tumour."""
    cases = {}
    for name, look in (("mri", MRI), ("external", MUCINOUS_MRI), ("ct", CONTRAST_CT)):
        coarse = replace(look, spacing=(look.spacing[0], 3.0, 3.0), matrix=64)
        case = synthesize_case(np.random.default_rng(3), coarse)
        cases[name] = sitk.GetArrayFromImage(case.image).astype(float), sitk.GetArrayFromImage(case.mask) > 0, case
    return cases


def test_ct_is_in_hounsfield_units_and_covers_more_of_the_body(looks):
    scan, tumor, case = looks["ct"]
    assert 44 <= len(scan) <= 52 and np.isclose(np.percentile(scan[:, :2], 20), -1000, atol=60)
    assert -130 < np.median(scan) < 80 and scan.max() > 400
    fat = (scan > -140) & (scan < -60)
    assert 0.2 < fat.mean() < 0.8
    assert 0 < scan[tumor].mean() < 60
    assert case.image.GetPixelID() == sitk.sitkInt16


def test_tumours_of_the_other_site_are_brighter_in_thicker_slices(looks):
    (scan, tumor, _), (other, other_tumor, case) = looks["mri"], looks["external"]
    fat, other_fat = np.percentile(scan, 75), np.percentile(other, 75)
    assert other[other_tumor].mean() / other_fat > scan[tumor].mean() / fat + 0.05
    assert case.image.GetSpacing()[2] == pytest.approx(5) and 12 <= len(other) <= 15


class FakeStep:
    """A step that leaves a file."""

    def __init__(self, path):
        self.path, self.name, self.runs = path, path.name, 0

    def is_done(self):
        return self.path.is_file()

    def run(self):
        self.runs += 1
        self.path.touch()


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    steps = [FakeStep(tmp_path / f"step_{number}") for number in range(2)]
    run = EvidenceRun(tmp_path / "evidence", "smallest", PRESETS["smallest"], "cpu", 1)
    monkeypatch.setattr(evidence_run, "_prepare", lambda _: None)
    monkeypatch.setattr("rectal_nnformer.evidence.seeds.steps_of_seed", lambda *_: steps)
    monkeypatch.setattr("rectal_nnformer.study.jobs.run_here", lambda _, steps: [step.run() for step in steps])
    monkeypatch.setattr("rectal_nnformer.evidence.results.write_results", lambda run: run.folder / "README.md")
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, "/elsewhere")
    for name in ("nnUNet_n_proc_DA", "nnUNet_def_n_proc", "RECTAL_NNFORMER_WEIGHTS"):
        monkeypatch.setenv(name, "1")
    for _ in range(2):
        assert run_evidence(run) == run.folder / "README.md"
    assert [step.runs for step in steps] == [1, 1]
    with pytest.raises(RectalError, match="another preset"):
        run_evidence(replace(run, name="page", preset=PRESETS["page"]))


@pytest.mark.parametrize("name", PRESETS)
def test_the_cube_of_a_preset_can_be_planned_and_is_about_half_filled(name):
    preset = PRESETS[name]
    assert resolve_backbone(BACKBONE, preset.network, preset.patch).largest == preset.patch
    assert 0.4 < np.mean(MRI.slices) * MRI.spacing[0] / (preset.patch * preset.spacing) < 0.6


def test_a_seed_trains_and_scores_every_recipe_on_the_same_fold(tmp_path, monkeypatch):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path))
    run = EvidenceRun(tmp_path, "page", PRESETS["page"], "cpu", 1)
    steps = steps_of_seed(run, 2)
    assert [step.name for step in steps[:2]] == ["train Base 0", "external Base"]
    assert len(steps) == 2 * len(RECIPES)
    assert all(step.model.trainer.endswith("_6epochs_50iterations_seed2") for step in steps)


def test_the_study_file_of_a_seed_is_read_as_that_study_and_names_no_place_of_a_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    run = EvidenceRun(tmp_path, "page", PRESETS["page"], "cpu", 1)
    (tmp_path / "study.toml").write_text(study_text(run, 2))
    assert str(tmp_path) not in study_text(run, 2)
    monkeypatch.chdir(tmp_path)
    study = study_of_seed(run, 2)
    assert read_study(tmp_path) == study.model_copy(update={"folder": tmp_path})


SMALL_EVIDENCE = """
from dataclasses import replace
from pathlib import Path
from rectal_nnformer.evidence.preset import PRESETS, RECIPES, EvidenceRun
from rectal_nnformer.evidence.run import run_evidence

cut = replace(PRESETS["smallest"], ct_scans=4, training_cases=4, held_out_cases=5, external_cases=3)
cut = replace(cut, pretraining_epochs=2, epochs=1, iterations=10)
run_evidence(EvidenceRun(Path("evidence").resolve(), "smallest", cut, "cpu", 2, (RECIPES[0], RECIPES[2])))
"""


@pytest.mark.slow
def test_a_small_evidence_ends_in_its_page_and_goes_on(tmp_path):
    """Two recipes from one seed; then once more, which trains and scores nothing."""

    def run_whole():
        subprocess.run([sys.executable, "-c", SMALL_EVIDENCE], cwd=tmp_path, check=True)
        times = json.loads((tmp_path / "evidence/times.json").read_text())
        return {name: seconds for name, seconds in times.items() if name.startswith("seed")}

    first = run_whole()
    assert list(first) == ["seed 0"]
    done = {path.stem for path in (tmp_path / "evidence/seed_0/jobs").glob("*.json")}
    assert done == {"train-Base-0", "external-Base", "train-Crop-0", "external-Crop"}
    numbers = json.loads((tmp_path / "evidence/evidence.json").read_text())
    dilution = numbers["claims"][0]
    # Of five cases no p is below 0.05.
    assert dilution["verdict"] == "suggested" and dilution["difference"]["count"] == 5
    assert numbers["recipes"]["Crop"]["cka"]["value"] <= 1
    assert "Padding takes attention" in (tmp_path / "evidence/README.md").read_text()
    assert (tmp_path / "evidence/study.toml").is_file()
    assert run_whole() == first
