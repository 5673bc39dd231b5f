"""What the planner must know of each backbone: window, admissible patch sizes, plans name, network arguments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rectal_nnformer.errors import RectalError

SMALL_SMIT: dict[str, Any] = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4]}
"""Arguments of the SMIT that `smit_small` plans."""


@dataclass(frozen=True)
class Backbone:
    """A network as the planner sees it.

    Attributes:
        network: Name of the network in the plans, "smit", "swin_unetr" or "swin_unetr_v2".
        plans_name: Name of the plans unless the user gives another.
        multiple: A patch size is a multiple of this many voxels on every axis.
        largest: The largest patch size on an axis, by default that of pretraining.
        window: Tokens per axis of an attention window.
        shrink_window: Whether windows shrink to grids smaller than they are.
        depths: Blocks of each stage, every second one with shifted windows.
        scatters: Whether windows are put back scattered, as SMIT's published code does.
        kwargs: Arguments of the network's constructor that differ from its defaults.
    """

    network: str
    plans_name: str
    multiple: int
    largest: int
    window: int
    shrink_window: bool
    depths: tuple[int, ...] = (2, 2, 2, 2)
    scatters: bool = False
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_stages(self) -> int:
        """Stages of the encoder; the deepest map has 2**(num_stages + 1) voxels per axis and position."""
        return len(self.depths)

    @property
    def sizes(self) -> list[int]:
        """The admissible patch sizes of an axis, ascending."""
        return list(range(self.multiple, self.largest + 1, self.multiple))

    def is_admissible(self, patch_size: Sequence[int]) -> bool:
        """Whether the deepest feature map has more than one position, without which instance normalization fails."""
        return any(size > 2 ** (self.num_stages + 1) for size in patch_size)


BACKBONES = {
    # Windows of 4 tokens hold no padding at any of the stages if 2 * 4 * 2**3 = 64 divides the patch size.
    "smit": Backbone("smit", "nnUNetRectalSMITPlans", 64, 128, 4, False, depths=(2, 2, 12, 2), scatters=True),
    "swin_unetr": Backbone("swin_unetr", "nnUNetRectalSwinUNETRPlans", 32, 96, 7, True),
    "swin_unetr_v2": Backbone("swin_unetr_v2", "nnUNetRectalSwinUNETRV2Plans", 32, 96, 7, True),
    "smit_small": Backbone(
        "smit",
        "nnUNetRectalSMITSmallPlans",
        16,
        48,
        4,
        False,
        depths=tuple(SMALL_SMIT["depths"]),
        scatters=True,
        kwargs=SMALL_SMIT,
    ),
}
"""What can be planned for, by its name: each network, and a SMIT small enough for a CPU."""


def resolve_backbone(
    name: str, backbone_kwargs: Mapping[str, Any] | None = None, max_patch_size: int | None = None
) -> Backbone:
    """Return one of `BACKBONES` with other arguments of its network and an upper limit in voxels on every axis.

    Raises:
        RectalError: Unknown backbone, or no patch size is admissible.
    """
    if name not in BACKBONES:
        raise RectalError(f"There is no backbone '{name}'; choose one of {', '.join(BACKBONES)}.")
    kwargs = {**BACKBONES[name].kwargs, **(backbone_kwargs or {})}
    backbone = replace(BACKBONES[name], kwargs=kwargs, depths=tuple(kwargs.get("depths", BACKBONES[name].depths)))
    if backbone.network == "smit":
        window = int(kwargs.get("window_size", 4))
        multiple = 2 * window * 2 ** (backbone.num_stages - 1)
        backbone = replace(
            backbone,
            window=window,
            multiple=multiple,
            largest=max(multiple, backbone.largest // multiple * multiple),
            scatters=kwargs.get("window_reverse", "published") == "published",
        )
    if max_patch_size is not None:
        limit = max_patch_size // backbone.multiple * backbone.multiple
        backbone = replace(backbone, largest=min(backbone.largest, limit))
    if not backbone.is_admissible([backbone.largest]):
        raise RectalError(
            f"No patch of at most {max_patch_size} voxels per axis suits {name}: sizes are multiples of "
            f"{backbone.multiple}, one axis longer than {2 ** (backbone.num_stages + 1)}. Allow larger patches."
        )
    return backbone
