"""Warn about datasets that the method is not made for, and about plans that fall short of its rules."""

from collections.abc import Iterator, Sequence

from rectal_nnformer.imaging.reading import by
from rectal_nnformer.nnunet.names import NUM_FOLDS
from rectal_nnformer.planning import rules
from rectal_nnformer.planning.dataset import TrainingDataset
from rectal_nnformer.planning.memory import MIN_BATCH_SIZE, MemoryTarget
from rectal_nnformer.planning.patch_choice import PatchChoice, needed_voxels
from rectal_nnformer.planning.record import LargestLesion

FEW_CASES = 20
ISOTROPIC_RATIO = 1.5
"""Below this ratio of the largest to the smallest median spacing a dataset counts as isotropic."""


def dataset_warnings(dataset: TrainingDataset, median_spacing: Sequence[float]) -> Iterator[str]:
    """Warn where a dataset is not thick-sliced MRI of some tens of patients; `median_spacing` is mm, in any order."""
    number = len(dataset.cases)
    has_folds = dataset.raw.splits.is_file() or dataset.preprocessed.splits.is_file()
    if number < NUM_FOLDS and not has_folds:
        yield (
            f"{number} training cases and no splits_final.json: nnU-Net cannot make its {NUM_FOLDS} folds. Train "
            "'-f all', or put a splits_final.json of fewer folds into the raw dataset."
        )
    if number < FEW_CASES:
        yield f"{number} training cases are few: spacing, patch and window follow from them, and folds test little."
    if any(name.upper() == "CT" for name in dataset.channel_names):
        yield (
            "dataset.json calls a channel CT. The method is for MRI; the channel is z-scored volume by volume, and "
            "Hounsfield units are lost."
        )
    if max(median_spacing) < ISOTROPIC_RATIO * min(median_spacing):
        yield (
            f"The images are nearly isotropic ({by(median_spacing, '.2f')} mm). The method is for thick slices, where "
            "cubic patches would hold much padding; here it has little to gain."
        )
    if not dataset.is_reoriented:
        yield (
            f"Images are read by {dataset.reader.__name__}, which does not reorient them. Pretrained weights know "
            'directions: they hold only if dataset.json says "overwrite_image_reader_writer": '
            '"SimpleITKIOWithReorient".'
        )


def lesion_warnings(choice: PatchChoice, lesion: LargestLesion | None, spacing: Sequence[float]) -> Iterator[str]:
    """Warn where the patch that the images fill is too short for the largest lesion; `spacing` is mm, (x, y, z)."""
    if lesion is None:
        yield "No training case has a lesion of at least 11 voxels."
        return
    for axis, needed in enumerate(needed_voxels(lesion, spacing)):
        if choice.fitting[axis] >= needed:
            continue
        before, after = (size[axis] * spacing[axis] for size in (choice.fitting, choice.patch_size))
        extent = f"the largest lesion is {lesion.extent_mm[axis]:.0f} mm long along {'xyz'[axis]}"
        extent += f" (case {lesion.cases[axis]}), and {rules.LESION_MARGIN:.0f} mm of surroundings belong to it"
        if choice.patch_size[axis] >= needed:
            yield f"The patch is {after:.0f} mm instead of {before:.0f} mm along {'xyz'[axis]}: {extent}."
        else:
            yield f"The patch has only {after:.0f} mm along {'xyz'[axis]}: {extent}. Check the case's mask."


def memory_warnings(choice: PatchChoice, memory: MemoryTarget) -> Iterator[str]:
    """Warn about patches that do not fit the GPU."""
    if choice.fitting != choice.filled:
        yield (
            f"The images would fill a patch of {by(choice.filled)} voxels, whose training takes "
            f"{memory.required(choice.filled, MIN_BATCH_SIZE):.1f} GB; {by(choice.fitting)} fits "
            f"{memory.gigabytes:g} GB."
        )
    if not memory.fits(choice.cubic):
        yield (
            f"3d_fullres_cubic does not fit {memory.gigabytes:g} GB: its training takes "
            f"{memory.required(choice.cubic, MIN_BATCH_SIZE):.1f} GB."
        )
