"""What attention dilution would be with uniform attention, from the token accounting of the plans."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rectal_nnformer.geometry import shrunk_window, token_masks, window_partition_mask
from rectal_nnformer.planning.backbones import Backbone, resolve_backbone
from rectal_nnformer.planning.planner import RECORD_KEY


def planned_uniform_adi(plans: Mapping[str, Any], configuration: str) -> list[float] | None:
    """Return the attention dilution index of each stage if every query attended equally to all keys of its window.

    For a patch of the configuration with the share of image that the plans expect per axis, lying in its middle. With
    uniform attention a real query's entropy is spread evenly over its window, so the index is the mean over real
    queries of the share of padding keys in their windows; shifted and unshifted blocks count alike.

    Returns:
        One value per stage; None for plans that were not made by this package or lack the configuration.
    """
    record = plans.get(RECORD_KEY, {}).get("patch_sizes", {}).get(configuration)
    if record is None:
        return None
    network = next(
        settings["architecture"]["arch_kwargs"]
        for settings in plans["configurations"].values()
        if "architecture" in settings
    )
    backbone = resolve_backbone(network["backbone"], network["backbone_kwargs"])
    real = _box_in_the_middle(record["patch_size"], record["real_voxel_share"])
    return [_stage_adi(tokens, backbone) for tokens in token_masks(real, num_stages=backbone.num_stages)]


def _box_in_the_middle(patch_size: list[int], shares: list[float]) -> NDArray[np.bool_]:
    real = np.zeros(patch_size, dtype=bool)
    extents = [max(round(size * share), 1) for size, share in zip(patch_size, shares, strict=True)]
    starts = [(size - extent) // 2 for size, extent in zip(patch_size, extents, strict=True)]
    real[tuple(slice(start, start + extent) for start, extent in zip(starts, extents, strict=True))] = True
    return real


def _stage_adi(tokens: NDArray[np.bool_], backbone: Backbone) -> float:
    half = backbone.window // 2
    window, shift = (backbone.window,) * 3, (half,) * 3
    if backbone.shrink_window:
        window, shift = shrunk_window(tokens.shape, backbone.window, half)
    return float(np.mean([_uniform(window_partition_mask(tokens, window, by)) for by in (0, shift)]))


def _uniform(windows: NDArray[np.bool_]) -> float:
    """Return the mean over real queries of the share of padding keys, for windows (windows, keys)."""
    real = windows.sum(axis=1)
    return float((real * (windows.shape[1] - real)).sum() / (windows.shape[1] * real.sum()))
