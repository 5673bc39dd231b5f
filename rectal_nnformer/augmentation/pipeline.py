"""Where the project's transforms stand among nnU-Net's own."""

from collections.abc import Sequence

from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform

from rectal_nnformer.augmentation.padding import CarryPaddingTransform, RecordPaddingTransform, RestorePaddingTransform
from rectal_nnformer.augmentation.settings import TumorAugmentation, published_augmentation
from rectal_nnformer.augmentation.tumor_intensity import TumorIntensityTransform
from rectal_nnformer.augmentation.window import ClampToWindowTransform, Window

TUMOR_PROBABILITY = 0.3


def extend_training_transforms(
    stock: ComposeTransforms,
    intensity_window: Window,
    tumor_labels: Sequence[int] | None,
    settings: TumorAugmentation | None = None,
) -> ComposeTransforms:
    """Return nnU-Net's training transforms with window, padding and tumour-aware augmentation added.

    The order is: nnU-Net's spatial transform, with a mask of the padding; note the padding; clamp to the window; change
    the tumour's intensities with probability 0.3; nnU-Net's intensity transforms; restore the padding; nnU-Net's
    mirroring and label handling.

    Args:
        stock: What `nnUNetTrainer.get_training_transforms` returns.
        intensity_window: One (low, high) per channel, in the units of the preprocessed data.
        tumor_labels: Labels that are tumour; None leaves the tumour-aware augmentation out.
        settings: Its ranges, and whether lesions are drawn for one by one; None is as published.
    """
    after_geometry = 1 + max(
        index for index, t in enumerate(stock.transforms) if isinstance(t, SpatialTransform | Convert2DTo3DTransform)
    )
    after_intensities = min(
        index for index, t in enumerate(stock.transforms) if isinstance(t, MirrorTransform | RemoveLabelTansform)
    )
    entry: list[BasicTransform] = [RecordPaddingTransform(), ClampToWindowTransform(intensity_window)]
    if tumor_labels is not None:
        settings = settings or published_augmentation(len(intensity_window))
        tumor_transform = TumorIntensityTransform(
            intensity_window, tumor_labels, settings.scale, settings.shift, settings.lesion_wise
        )
        entry.append(RandomTransform(tumor_transform, apply_probability=TUMOR_PROBABILITY))
    return ComposeTransforms(
        [
            CarryPaddingTransform(),
            *stock.transforms[:after_geometry],
            *entry,
            *stock.transforms[after_geometry:after_intensities],
            RestorePaddingTransform(),
            *stock.transforms[after_intensities:],
        ]
    )
