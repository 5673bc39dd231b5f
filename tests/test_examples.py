"""The examples in docstrings of the public functions run and show what they show."""

import doctest
from importlib import import_module

import pytest

MODULES = (
    "analysis.attention",
    "analysis.cka",
    "augmentation.tumor_intensity",
    "evaluation.detection",
    "geometry",
    "networks.pretrained",
    "networks.smit",
    "networks.swin_unetr",
)


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module):
    result = doctest.testmod(import_module(f"rectal_nnformer.{module}"))
    assert result.attempted and not result.failed
