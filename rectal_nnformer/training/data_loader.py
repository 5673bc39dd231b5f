"""nnU-Net's data loader with crops that stay within the padded volume."""

from typing import Any

import numpy as np
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

from rectal_nnformer.geometry import last_crop_start


class BoundedDataLoader(nnUNetDataLoader):
    """Keeps foreground crops from reaching beyond the end of the padded volume.

    nnU-Net bounds a crop around a foreground voxel below, but not above. For a tumour in the upper slices of a thin
    volume nearly half of the crop would then be padding.
    """

    def get_bbox(self, data_shape: Any, *args: Any, **kwargs: Any) -> tuple[list[int], list[int]]:
        """Return the lower and upper corner of a crop, in voxels; see the class for what differs from nnU-Net."""
        lower, _ = super().get_bbox(data_shape, *args, **kwargs)
        last = last_crop_start(data_shape, self.patch_size, self.need_to_pad)
        lower = [int(start) for start in np.minimum(lower, last)]
        return lower, [start + int(size) for start, size in zip(lower, self.patch_size, strict=True)]


def start_augmenters(training: nnUNetDataLoader, validation: nnUNetDataLoader, pin_memory: bool) -> tuple[Any, Any]:
    """Start nnU-Net's background workers for both loaders and wait for the first batch of each.

    The number of workers is nnU-Net's (`nnUNet_n_proc_DA`), half as many for validation; 0 loads in this process.
    """
    num_workers = get_allowed_n_proc_DA()
    augmenters: tuple[Any, Any]
    if num_workers == 0:
        augmenters = SingleThreadedAugmenter(training, None), SingleThreadedAugmenter(validation, None)
    else:
        workers = ((training, num_workers, 6), (validation, max(1, num_workers // 2), 3))
        augmenters = tuple(
            NonDetMultiThreadedAugmenter(
                loader, None, n, num_cached=max(cached, n // 2), pin_memory=pin_memory, wait_time=0.002
            )
            for loader, n, cached in workers
        )
    for augmenter in augmenters:
        next(augmenter)
    return augmenters
