"""Trained models as the report and the comparison find them, made without a training: small scans, masks, analyses."""

import json
from dataclasses import asdict, dataclass
from functools import cache

import numpy as np
import SimpleITK as sitk

from rectal_nnformer.evaluation.candidates import find_candidates, write_candidates
from rectal_nnformer.evaluation.fold import evaluate_fold
from rectal_nnformer.evaluation.folder import evaluate_folder
from rectal_nnformer.evaluation.log_odds import count_case, from_sparse, write_counts
from rectal_nnformer.planning.accounting import tile_account
from rectal_nnformer.planning.backbones import resolve_backbone

DATASET = "Dataset501_Rectal"
DATASET_JSON = {
    "labels": {"background": 0, "tumor": 1},
    "file_ending": ".nii.gz",
    "channel_names": {"0": "T2w"},
    "numTraining": 4,
}
SIZE_XYZ = (72, 64, 20)
SPACING_XYZ = (1.0, 1.0, 3.0)
BLOCKS = [f"stage {stage} block {block}" for stage in range(4) for block in range(2)]


@dataclass(frozen=True)
class Ball:
    """A ball of tumour: centre (x, y, z) in voxels, radius in mm."""

    center: tuple[float, float, float]
    radius: float

    def draw(self, mask):
        z, y, x = np.indices(mask.shape)
        squares = ((axis - c) * s for axis, c, s in zip((x, y, z), self.center, SPACING_XYZ, strict=True))
        mask |= sum(np.square(square) for square in squares) < self.radius**2


NEAR, FAR, SMALL = Ball((24, 30, 8), 9), Ball((50, 34, 11), 7), Ball((40, 48, 14), 5)
CASES = {
    "found": ([NEAR], [Ball((25, 30, 8), 9)]),
    "half_found": ([NEAR, FAR], [NEAR]),
    "invented": ([FAR], [FAR, SMALL]),
    "silent": ([SMALL], []),
}
"""Reference and predicted tumours of four cases: 5 lesions, 3 detected, 1 false positive."""


def mask_of(balls):
    mask = np.zeros(SIZE_XYZ[::-1], dtype=bool)
    for ball in balls:
        ball.draw(mask)
    return mask


def with_spacing(array):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_XYZ)
    return image


def write_volume(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(with_spacing(array), str(path))


def write_scan(base, case, reference, seed=0):
    """Write image and reference of a case where nnU-Net keeps them."""
    image, mask = scan_of(reference, seed)
    write_volume(base / f"nnUNet_raw/{DATASET}/imagesTr/{case}_0000.nii.gz", image)
    write_volume(base / f"nnUNet_preprocessed/{DATASET}/gt_segmentations/{case}.nii.gz", mask)


def scan_of(reference, seed):
    """Return the image of a case and its mask."""
    mask = mask_of(reference)
    noise = np.random.default_rng(seed).normal(300, 25, mask.shape)
    _, y, x = np.indices(mask.shape)
    width, height, _ = SIZE_XYZ
    body = np.square(2 * x / width - 1) + np.square(2 * y / height - 1) < 0.85
    image = np.where(body, noise - 110 * mask, 20).clip(0)
    return image.astype(np.int16), mask.astype(np.uint8)


def write_prediction(path, reference, balls, sure=False):
    """Write a mask of balls; if asked for, with candidates: the balls, and faintly what is missed of the reference.

    A later ball is surer. Return the counts of the voxels by their log-odds, or None.
    """
    mask = mask_of(balls)
    write_volume(path, mask.astype(np.uint8))
    if not sure:
        return None
    log_odds = np.where(mask_of(reference), np.float32(-3), np.float32(-7))
    for place, ball in enumerate(balls):
        log_odds[mask_of([ball])] = 1 + 0.5 * place + ball.radius / 20
    numbers, found = find_candidates(log_odds, mask)
    write_candidates(path, found, lambda name: sitk.WriteImage(with_spacing(numbers), name))
    labels = mask_of(reference).astype(np.uint8)
    return count_case(log_odds, labels, mask, (1,), None, SPACING_XYZ[::-1])


def write_test_set(base, cases=CASES, patients=None, sure=False):
    """Write images, references and predictions of a test set, score them, and return the folder of the predictions."""
    raw, predictions = base / "nnUNet_raw/Dataset502_External", base / "predictions"
    for number, (case, (reference, prediction)) in enumerate(cases.items()):
        image, mask = scan_of(reference, number)
        write_volume(raw / f"imagesTs/{case}_0000.nii.gz", image)
        write_volume(raw / f"labelsTs/{case}.nii.gz", mask)
        write_prediction(predictions / f"{case}.nii.gz", reference, prediction, sure)
    (raw / "dataset.json").write_text(json.dumps(DATASET_JSON))
    if patients:
        rows = "".join(f"{case},{patient}\n" for case, patient in patients.items())
        (raw / "patients.csv").write_text(f"case,patient\n{rows}")
    evaluate_folder(predictions, raw / "labelsTs", None, predictions, 1)
    return predictions


def plans(name="nnUNetRectalSMITPlans", network="smit"):
    """Return plans as the planner writes them, for an axial series padded to a half along z by the cubic patch."""
    kwargs = dict(resolve_backbone(network).kwargs)
    network_kwargs = {
        "backbone": network,
        "backbone_kwargs": kwargs,
        "intensity_window": [[-1.3, 2.4]],
        "spatial_axes": [2, 1, 0],
    }
    accounts = {
        "3d_fullres": account((128, 128, 64), network, (0.091, 0.05, 0.0, 0.0)),
        "3d_fullres_cubic": account((128, 128, 128), network, (0.545, 0.525, 0.5, 0.5)),
    }
    return {
        "plans_name": name,
        "dataset_name": DATASET,
        "configurations": {
            "3d_fullres": {
                "patch_size": [64, 128, 128],
                "spacing": [1.0, 1.0, 1.0],
                "batch_size": 2,
                "normalization_schemes": ["ZScoreNormalization"],
                "architecture": {"arch_kwargs": network_kwargs},
                "data_identifier": "nnUNetRectalPlans_3d_fullres_1.0x1.0x1.0mm",
            },
            "3d_fullres_cubic": {"inherits_from": "3d_fullres"},
        },
        "rectal_nnformer": {
            "version": "0.1.0",
            "num_cases": 4,
            "median_spacing": [0.5, 0.5, 3.0],
            "geometric_mean_spacing": 0.909,
            "target_spacing": [1.0, 1.0, 1.0],
            "target_spacing_overwritten": False,
            "median_extent": [192, 192, 57],
            "filled_patch_size": [128, 128, 64],
            "fitting_patch_size": [128, 128, 64],
            "largest_lesion": None,
            "gpu_memory_target": 24,
            "batch_size": 2,
            "batch_size_limits": [4, 2],
            "patch_sizes": accounts,
            "alternatives": [],
            "warnings": [],
        },
    }


@cache
def account(patch_size, network, scattered):
    """Return what the planner notes of a patch size for images of 192 x 192 x 57 voxels."""
    expected = asdict(tile_account(patch_size, [(192, 192, 57)], resolve_backbone(network)))
    return {
        "patch_size": list(patch_size),
        "field_of_view_mm": [float(size) for size in patch_size],
        "real_voxel_share": [1.0, 1.0, min(1.0, 57 / patch_size[2])],
        **expected,
        "training": expected,
        "scattered_padding_share": list(scattered),
        "memory_gb": 7.0,
        "batch_memory_gb": 7.0,
    }


def write_run(
    base,
    cases=CASES,
    trainer="nnUNetTrainerSMIT_ACT",
    configuration="3d_fullres",
    num_folds=2,
    patients=None,
    analysed=True,
    sure=False,
):
    """Write a model folder with evaluated folds; cases go to the folds in turn. Return the folder.

    With `sure` it is known how sure the network is of lesions and voxels.
    """
    folder = base / f"nnUNet_results/{DATASET}/{trainer}__nnUNetRectalSMITPlans__{configuration}"
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(DATASET_JSON))
    (folder / "plans.json").write_text(json.dumps(plans()))
    counted = {fold: [] for fold in range(num_folds)}
    for number, (case, (reference, prediction)) in enumerate(cases.items()):
        write_scan(base, case, reference, seed=number)
        validation = folder / f"fold_{number % num_folds}/validation"
        validation.mkdir(parents=True, exist_ok=True)
        if prediction is not None:
            counts = write_prediction(validation / f"{case}.nii.gz", reference, prediction, sure)
            counted[number % num_folds] += [counts] if counts else []
    for fold in range(num_folds):
        validation = folder / f"fold_{fold}/validation"
        references = base / f"nnUNet_preprocessed/{DATASET}/gt_segmentations"
        if counted[fold]:
            write_counts(sum(counted[fold], from_sparse([], [])), validation)
        evaluate_fold(validation, references, DATASET_JSON, list(cases)[fold::num_folds], patients)
        if analysed:
            (validation / "attention_dilution.json").write_text(json.dumps(attention(0.02 + 0.01 * fold)))
            (validation / "feature_reuse.json").write_text(json.dumps(reuse(0.9 - 0.05 * fold)))
    debug = {"num_epochs": "500", "initial_lr": "0.0003", "torch_version": "2.6.0", "hostname": "secret_host"}
    (folder / "fold_0/debug.json").write_text(json.dumps(debug))
    return folder


def attention(adi, factor=1.3):
    """Return what an analysis of attention writes; deeper stages hold less padding."""
    stages = [
        {
            "stage": stage,
            "adi": adi / (stage + 1),
            "a_rr": 0.95,
            "a_rp": 0.05,
            "a_pr": 0.4,
            "a_pp": 0.6,
            "uniform_adi": factor * adi / (stage + 1),
            "tumor_adi": None if stage == 3 else 0.5 * adi,
            "tumor_a_rp": None,
            "scattered_padding_share": 0.09 / (stage + 1),
            "real_token_fraction": 0.91,
        }
        for stage in range(4)
    ]
    return {
        "backbone": "smit",
        "patch_size": [128, 128, 64],
        "window_reverse": "published",
        "mask_padding": False,
        "weights": "checkpoint_final.pth",
        "configuration": "3d_fullres",
        "blocks": [],
        "stages": stages,
        "cases": [],
        "settings": {"num_cases": 2},
    }


def reuse(first, decay=0.06):
    """Return what an analysis of feature reuse writes: the deeper a block, the further from pretraining."""
    diagonal = [first - decay * i for i in range(len(BLOCKS))]
    matrix = [[max(d - 0.1 * abs(i - j), 0.0) for j in range(len(BLOCKS))] for i, d in enumerate(diagonal)]
    mean = float(np.mean(diagonal))
    debiased = {
        "matrix": matrix,
        "diagonal": diagonal,
        "mean_diagonal": mean,
        "drift": 1 - mean,
        "best_match_distance": 0.25,
        "null": {"mean": [0.0] * len(BLOCKS), "p95": [0.08] * len(BLOCKS)},
        "intervals": {
            "diagonal": [[d - 0.04, d + 0.03] for d in diagonal],
            "drift": [1 - mean - 0.04, 1 - mean + 0.04],
        },
    }
    return {
        "first": "checkpoint_final.pth",
        "second": "model_smit_ct10k.pth",
        "backbone": "smit",
        "second_backbone": "smit",
        "blocks": BLOCKS,
        "stages": [int(name.split()[1]) for name in BLOCKS],
        "num_crops": 34,
        "num_cases": 34,
        "debiased": debiased,
        "biased": debiased,
        "note": "",
        "settings": {},
    }
