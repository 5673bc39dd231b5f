"""The experiment planner: nnU-Net's plans for a CT-pretrained transformer, decided from the dataset's fingerprint."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape, resample_data_or_seg_to_shape
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from numpy.typing import NDArray

from rectal_nnformer import __version__
from rectal_nnformer.augmentation.settings import AUGMENTATION_KEY, PUBLISHED
from rectal_nnformer.errors import RectalError
from rectal_nnformer.geometry import Size
from rectal_nnformer.nnunet.names import CUBIC, FULLRES, PLANNED_NETWORK, RECORD_KEY
from rectal_nnformer.nnunet.plans import Plans
from rectal_nnformer.nnunet.splits import settle_folds
from rectal_nnformer.planning import accounting, rules
from rectal_nnformer.planning.backbones import Backbone, resolve_backbone
from rectal_nnformer.planning.dataset import open_raw_dataset
from rectal_nnformer.planning.explanation import describe_plans, explanation_file
from rectal_nnformer.planning.fingerprint import describe_outliers, load_tumor_fingerprint, plan_augmentation
from rectal_nnformer.planning.intensity_window import load_intensity_window, normalization_scheme
from rectal_nnformer.planning.memory import MIN_BATCH_SIZE, memory_target
from rectal_nnformer.planning.outdated import outdated_warnings, print_warning
from rectal_nnformer.planning.patch_choice import PatchChoice, choose_patch_and_batch, largest_lesion
from rectal_nnformer.planning.plan_warnings import dataset_warnings, lesion_warnings, memory_warnings
from rectal_nnformer.planning.preprocessing import copy_descriptions
from rectal_nnformer.planning.record import CandidatePatch, LargestLesion, PlannedPatch, PlanningRecord
from rectal_nnformer.utils.files import write_json, write_text

LINEAR = {"order": 1, "order_z": 1, "force_separate_z": False}
"""Resampling of the published method: linear on all axes at once, where nnU-Net's default repeats thick slices."""


def configuration_settings(
    network: Mapping[str, Any], normalization_schemes: Sequence[str], **settings: Any
) -> dict[str, Any]:
    """Return a configuration of plans with everything that nnU-Net reads of it.

    Args:
        network: Arguments of `rectal_nnformer.networks.adapter.PlannedNetwork` by their names.
        normalization_schemes: Names of nnU-Net's classes, one per channel; they see whole volumes.
        settings: The others by nnU-Net's names; sizes are in the order in which arrays are stored.
    """
    resampling = resample_data_or_seg_to_shape.__name__
    return {
        **settings,
        "normalization_schemes": list(normalization_schemes),
        "use_mask_for_norm": [False] * len(normalization_schemes),
        "resampling_fn_data": resampling,
        "resampling_fn_seg": resampling,
        "resampling_fn_data_kwargs": {"is_seg": False, **LINEAR},
        "resampling_fn_seg_kwargs": {"is_seg": True, **LINEAR},
        "resampling_fn_probabilities": resampling,
        "resampling_fn_probabilities_kwargs": {"is_seg": False, **LINEAR},
        "architecture": {"network_class_name": PLANNED_NETWORK, "arch_kwargs": network, "_kw_requires_import": []},
        "batch_dice": False,
    }


class RectalExperimentPlanner(ExperimentPlanner):
    """Plans `3d_fullres` on the patch that suits the dataset and `3d_fullres_cubic` on the pretraining input.

    Everything that nnU-Net looks up by name in preprocessing is one of its own classes, so its commands work from these
    plans without this package; only the network is ours. The rules are in `rectal_nnformer.planning.rules`.

    It runs wherever nnU-Net takes a planner class, `plan_experiment_dataset(..., experiment_planner_class=...)`, and
    needs the files that `rectal_nnformer plan` writes before: both fingerprints and the intensity window. Arguments by
    position are those of nnU-Net's planner: None is 24 for `gpu_memory_target_in_gb`, `overwrite_target_spacing` is mm
    in the order of nnU-Net's arrays (z, y, x), and `plans_name` is by default the backbone's. The others are those of
    `rectal_nnformer.planning.plan_dataset`, `max_patch_size` voxels on every axis.

    Raises:
        RectalError: The dataset is unknown, incomplete, two-dimensional or without fingerprint or window; or an option
            cannot be met.
    """

    def __init__(
        self,
        dataset_name_or_id: str | int,
        gpu_memory_target_in_gb: float | None = None,
        preprocessor_name: str = "DefaultPreprocessor",
        plans_name: str | None = None,
        overwrite_target_spacing: Sequence[float] | None = None,
        suppress_transpose: bool = False,
        *,
        backbone: str = "smit",
        backbone_kwargs: Mapping[str, Any] | None = None,
        max_patch_size: int | None = None,
        tumor_augmentation: str = PUBLISHED,
        lesion_wise: bool = False,
    ) -> None:
        self.backbone: Backbone = resolve_backbone(backbone, backbone_kwargs, max_patch_size)
        self.raw = open_raw_dataset(dataset_name_or_id)
        window, fingerprint = load_intensity_window(self.raw), load_tumor_fingerprint(self.raw)
        if window is None or fingerprint is None:
            raise RectalError(
                f"{self.raw.name} has no intensity window or tumour fingerprint, or its raw data have changed since. "
                f"Run 'rectal_nnformer plan -d {self.raw.dataset_id} --backbone ...'."
            )
        self.intensity_window, self.tumor_fingerprint = window, fingerprint
        self.augmentation = plan_augmentation(self.tumor_fingerprint, tumor_augmentation, lesion_wise)
        labels = LabelManager(self.raw.dataset_json["labels"], self.raw.dataset_json.get("regions_class_order"))
        self.memory = memory_target(
            gpu_memory_target_in_gb, self.backbone, len(self.raw.channel_names), labels.num_segmentation_heads
        )
        for note in settle_folds(self.raw.preprocessed, self.raw.cases, planning=True):
            print(f"Note: {note}")
        super().__init__(
            self.raw.name,
            preprocessor_name=preprocessor_name,
            plans_name=plans_name or self.backbone.plans_name,
            overwrite_target_spacing=_checked_spacing(overwrite_target_spacing),
            suppress_transpose=suppress_transpose,
        )

    def plan_experiment(self) -> dict[str, Any]:
        """Plan, write dataset.json and the plans into the preprocessed dataset, and return the plans."""
        plans = self.make_plans()
        self.save_plans(plans)
        self.plans = plans.content
        return self.plans

    def save_plans(self, plans: Plans, warn: Callable[[str], None] = print_warning) -> None:
        """Write dataset.json, the plans and what explains them; unlike nnU-Net, keep nothing of older plans.

        `warn` is called with each warning about plans, data and folds that the new plans make outdated.
        """
        warnings = list(outdated_warnings(self.raw, plans))
        copy_descriptions(self.raw)
        plans_file = self.raw.preprocessed.plans_file(self.plans_identifier)
        write_text(explanation_file(plans_file), describe_plans(plans) + "\n")
        write_json(plans_file, plans.content)
        print(f"Plans were saved to {plans_file}")
        for warning in warnings:
            warn(warning)

    def make_plans(self) -> Plans:
        """Return the plans without writing anything."""
        forward, backward = ([int(axis) for axis in axes] for axes in self.determine_transpose())
        spacings = np.asarray(self.dataset_fingerprint["spacings"], dtype=float)
        shapes = np.asarray(self.dataset_fingerprint["shapes_after_crop"])
        if np.median(shapes, axis=0).min() <= 1:
            raise RectalError(f"{self.raw.name} is two-dimensional; the networks planned here need volumes.")
        target = self.determine_fullres_target_spacing()
        # Voxels per axis (x, y, z) of each case at the target spacing.
        extents = np.array([compute_new_shape(*case, target)[::-1] for case in zip(shapes, spacings, strict=True)])
        spacing = target[::-1].tolist()
        lesion = largest_lesion(self.tumor_fingerprint)
        choice = choose_patch_and_batch(extents, self.backbone, self.memory, lesion, spacing)
        content = {
            "dataset_name": self.raw.name,
            "plans_name": self.plans_identifier,
            "original_median_spacing_after_transp": np.median(spacings, axis=0)[forward].tolist(),
            "original_median_shape_after_transp": np.median(shapes, axis=0)[forward].round().astype(int).tolist(),
            "image_reader_writer": self.raw.reader.__name__,
            "transpose_forward": forward,
            "transpose_backward": backward,
            "configurations": {
                FULLRES: self._fullres_configuration(choice, extents, forward),
                CUBIC: {"inherits_from": FULLRES, "patch_size": list(choice.cubic)},
            },
            "experiment_planner_used": type(self).__name__,
            "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": self.dataset_fingerprint[
                "foreground_intensity_properties_per_channel"
            ],
            RECORD_KEY: self._record(choice, lesion, extents),
        }
        return Plans.of(content)

    def _fullres_configuration(
        self, choice: PatchChoice, extents: NDArray[np.int_], forward: list[int]
    ) -> dict[str, Any]:
        """Return the configuration `3d_fullres`; sizes (x, y, z) go into the order in which arrays are stored."""
        return configuration_settings(
            {
                "backbone": self.backbone.network,
                "backbone_kwargs": dict(self.backbone.kwargs),
                "intensity_window": self.intensity_window,
                "spatial_axes": rules.spatial_axes(forward),
            },
            [normalization_scheme(prepared).__name__ for prepared in self.raw.prepared_channels],
            data_identifier=self.generate_data_identifier(FULLRES),
            preprocessor_name=self.preprocessor_name,
            batch_size=choice.batch_size,
            patch_size=[choice.patch_size[::-1][axis] for axis in forward],
            median_image_size_in_voxels=np.median(extents, axis=0)[::-1][forward].tolist(),
            spacing=self.determine_fullres_target_spacing()[forward].tolist(),
        )

    def _record(self, choice: PatchChoice, lesion: LargestLesion | None, extents: NDArray[np.int_]) -> dict[str, Any]:
        """Return why the plans are as they are; all sizes and spacings in the order (x, y, z)."""
        spacings = np.asarray(self.dataset_fingerprint["spacings"], dtype=float)
        spacing = self.determine_fullres_target_spacing()[::-1].tolist()
        median_spacing = np.median(spacings, axis=0)[::-1].tolist()
        record = PlanningRecord(
            num_cases=len(extents),
            median_spacing=median_spacing,
            geometric_mean_spacing=rules.geometric_mean_spacing(spacings),
            target_spacing=spacing,
            target_spacing_overwritten=self.overwrite_target_spacing is not None,
            median_extent=np.median(extents, axis=0).tolist(),
            gpu_memory_target=self.memory.gigabytes,
            filled_patch_size=choice.filled,
            fitting_patch_size=choice.fitting,
            batch_size=choice.batch_size,
            batch_size_limits=choice.batch_limits,
            largest_lesion=lesion,
            patch_sizes={
                name: PlannedPatch(
                    **self._account(size, extents),
                    batch_memory_gb=self.memory.required(size, choice.batch_size),
                    scattered_padding_share=accounting.expected_scattered_shares(size, extents, self.backbone),
                    training=accounting.training_account(size, extents, self.backbone),
                )
                for name, size in ((FULLRES, choice.patch_size), (CUBIC, choice.cubic))
            },
            alternatives=[
                CandidatePatch(**self._account(size, extents)) for size in rules.candidate_patch_sizes(self.backbone)
            ],
            warnings=[
                *dataset_warnings(self.raw, median_spacing),
                *describe_outliers(self.tumor_fingerprint),
                *memory_warnings(choice, self.memory),
                *lesion_warnings(choice, lesion, spacing),
            ],
        )
        return {"version": __version__, AUGMENTATION_KEY: self.augmentation, **record.content()}

    def _account(self, patch_size: Size, extents: NDArray[np.int_]) -> dict[str, Any]:
        """Return the arguments of `CandidatePatch`."""
        spacing = self.determine_fullres_target_spacing()[::-1]
        return {
            "patch_size": patch_size,
            "field_of_view_mm": (np.array(patch_size) * spacing).tolist(),
            "real_voxel_share": [rules.expected_real_share(extents[:, i], patch_size[i]) for i in range(3)],
            **vars(accounting.tile_account(patch_size, extents, self.backbone)),
            "memory_gb": self.memory.required(patch_size, MIN_BATCH_SIZE),
        }

    def determine_fullres_target_spacing(self) -> NDArray[np.float64]:
        """Return the target spacing (z, y, x) in mm."""
        if self.overwrite_target_spacing is not None:
            return np.array(self.overwrite_target_spacing, dtype=float)
        return np.full(3, rules.isotropic_target_spacing(self.dataset_fingerprint["spacings"]))

    def generate_data_identifier(self, configuration_name: str) -> str:
        """Return the name of the folder of preprocessed data.

        It names what the data depend on and not the plans, so that backbones share data, and so that preprocessing for
        another spacing cannot replace data that other plans refer to.
        """
        spacing = "x".join(str(float(s)) for s in self.determine_fullres_target_spacing()[::-1])
        transpose, _ = self.determine_transpose()
        suffix = "" if list(transpose) == [0, 1, 2] else "_axes" + "".join(str(axis) for axis in transpose)
        return f"nnUNetRectalPlans_{configuration_name}_{spacing}mm{suffix}"


def _checked_spacing(spacing: Sequence[float] | None) -> list[float] | None:
    """Return the spacing as floats, as nnU-Net's planner insists."""
    if spacing is None:
        return None
    values = [float(value) for value in spacing]
    if len(values) != 3 or not all(0 < value < np.inf for value in values):
        raise RectalError(f"The target spacing must be three positive numbers in mm, z y x; got {values}.")
    return values
