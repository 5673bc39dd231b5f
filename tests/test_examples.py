"""The examples in docstrings of the public functions run and show what they show."""

import doctest
from importlib import import_module

import pytest
from report_runs import write_run

MODULES = (
    "analysis.attention",
    "analysis.cka",
    "augmentation.tumor_intensity",
    "evaluation.detection",
    "geometry",
    "networks.foreign",
    "networks.pretrained",
    "networks.pretrained_files",
    "networks.smit",
    "networks.swin_unetr",
    "reporting.writing",
)


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module, tmp_path, monkeypatch):
    """What users have, a model and pretrained files, is given."""
    (tmp_path / "model_smit_ct10k.pth").touch()
    monkeypatch.setenv("RECTAL_NNFORMER_WEIGHTS", str(tmp_path))
    given = {"model_folder": write_run(tmp_path)} if module.startswith("reporting") else {}
    result = doctest.testmod(import_module(f"rectal_nnformer.{module}"), extraglobs=given)
    assert result.attempted and not result.failed
