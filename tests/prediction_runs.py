"""Predictions without a network: a model as nnU-Net leaves it, and a stand-in for nnUNetv2_predict."""

import itertools
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from checkpoints import write_checkpoint

from rectal_nnformer import cli, prediction
from rectal_nnformer.evaluation.candidates import find_candidates, write_candidates

MODEL = ["-c", "3d_fullres", "-tr", "Trainer", "-p", "Plans"]


def write_model(results):
    """Write a model of one channel with folds 0 and 2; return its folder."""
    folder = results / "Dataset501_Rectal/Trainer__Plans__3d_fullres"
    for fold in (0, 2):
        (folder / f"fold_{fold}").mkdir(parents=True)
        write_checkpoint(folder / f"fold_{fold}/checkpoint_final.pth", "Trainer")
    description = {"channel_names": {"0": "T2w"}, "labels": {"background": 0, "tumor": 1}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(description))
    plans = {"plans_name": "Plans", "dataset_name": "Dataset501_Rectal", "configurations": {}}
    (folder / "plans.json").write_text(json.dumps(plans))
    return folder


def write_scan(path, size=(20, 16, 8), number=0):
    path.parent.mkdir(exist_ok=True)
    values = np.random.default_rng(number).integers(0, 1000, size[::-1]).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))
    return path


def stand_in_for_nnunet(monkeypatch, tumor=np.zeros_like, log_odds=None):
    """Let predictions be made by a function of the image's array, on a machine with a GPU; so may their log-odds.

    Returns:
        The images of each call of the predictor and its arguments; what is called later is added.
    """
    calls = []

    def predict_folder(model, arguments):
        given = dict(itertools.pairwise(arguments))  # of several values the last, as argparse takes it
        images = sorted(Path(given["-i"]).iterdir())
        calls.append(([path.name for path in images], arguments))
        for path in images:
            mask = Path(given["-o"]) / path.name.replace("_0000", "")
            mask.parent.mkdir(exist_ok=True)
            if not ("--continue_prediction" in arguments and mask.exists()):
                image = sitk.ReadImage(str(path))
                predicted = sitk.GetImageFromArray(tumor(sitk.GetArrayFromImage(image)).astype(np.uint8))
                predicted.CopyInformation(image)
                sitk.WriteImage(predicted, str(mask))
                if log_odds:
                    write_candidates_of(mask, image, log_odds(sitk.GetArrayFromImage(image)))
        return 0

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    predictor = SimpleNamespace(predict_folder=predict_folder)
    monkeypatch.setitem(sys.modules, "rectal_nnformer.prediction.predictor", predictor)
    monkeypatch.setattr(prediction, "predictor", predictor, raising=False)
    return calls


def write_candidates_of(mask, image, log_odds):
    """Write the candidates that are seen in log-odds on the grid of an image, beside a mask."""
    numbers, found = find_candidates(log_odds, log_odds > 0)
    numbered = sitk.GetImageFromArray(numbers)
    numbered.CopyInformation(image)
    write_candidates(mask, found, lambda path: sitk.WriteImage(numbered, path))


def predict(*arguments):
    """Run the command; return its exit code."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(["predict", *map(str, arguments)])
    return exit_.value.code
