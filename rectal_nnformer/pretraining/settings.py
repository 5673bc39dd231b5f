"""What a pretraining depends on: of plans, or by the planner's rules, and noted beside what comes out."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rectal_nnformer.errors import RectalError
from rectal_nnformer.networks.pretrained_files import PRETRAINED_FILES, md5_of
from rectal_nnformer.nnunet.layout import PreprocessedDataset, find_dataset, find_plans
from rectal_nnformer.nnunet.names import FULLRES
from rectal_nnformer.nnunet.plans import Configuration, PlannedBackbone, Plans
from rectal_nnformer.planning.backbones import BACKBONES, resolve_backbone
from rectal_nnformer.planning.intensity_window import Window, normalization_scheme
from rectal_nnformer.planning.rules import choose_patch_size
from rectal_nnformer.pretraining.scans import Mm, Scans, StoredScan, find_scans, store_scans, target_spacing, window_of
from rectal_nnformer.utils.files import is_there, read_json, write_json
from rectal_nnformer.utils.text import plural

SETTINGS_FILE = "pretraining.json"
TOLD = {"scans_digest": "other names, sizes or times of the scans' files", "start": "another file to go on from"}
"""How settings are told that differ, where their values say nothing."""


@dataclass(frozen=True)
class Settings:
    """All that decides what comes out, as it is noted in `SETTINGS_FILE`.

    Attributes:
        dataset: DatasetXXX_Name.
        scans: Number of scans.
        scans_digest: Of their names, sizes and times.
        backbone: "smit", "swin_unetr" or "swin_unetr_v2".
        backbone_kwargs: Arguments of its constructor.
        spacing: mm (x, y, z).
        intensity_window: [low, high] per channel.
        view: Voxels (x, y, z) of a view.
        epochs: Number of epochs.
        batch_size: Scans in a step, two views of each.
        start: MD5 of the file that it goes on from; None from random weights.
    """

    dataset: str
    scans: int
    scans_digest: str
    backbone: str
    backbone_kwargs: dict[str, Any]
    spacing: Mm
    intensity_window: Window
    view: tuple[int, ...]
    epochs: int
    batch_size: int
    start: str | None

    @property
    def steps_per_epoch(self) -> int:
        """Batches that the scans fill."""
        return self.scans // self.batch_size

    @property
    def steps(self) -> int:
        """Batches of the whole pretraining."""
        return self.epochs * self.steps_per_epoch

    @property
    def weights_name(self) -> str:
        """Name under which trainers look for a file of this backbone."""
        return next(file.name for file in PRETRAINED_FILES if file.backbone == self.backbone)

    def claim(self, folder: Path) -> None:
        """Note these settings in a folder, or see that they are those noted there.

        Raises:
            RectalError: Others are; names them.
        """
        path = folder / SETTINGS_FILE
        ours = json.loads(json.dumps(asdict(self)))
        if not is_there(path):
            write_json(path, ours)
            return
        theirs = read_json(path, remedy=f"Move {folder} away to begin anew.")
        different = [name for name in ours if theirs.get(name) != ours[name]]
        if different:
            told = [TOLD.get(name, f"{name} {theirs.get(name)}, not {ours[name]}") for name in different]
            raise RectalError(
                f"{folder} holds a pretraining with other settings: {'; '.join(told)}. Name another folder with "
                "-o, or move it away."
            )


def settle(
    dataset: str,
    backbone: str | None,
    plans: str | None,
    start: Path | None,
    epochs: int,
    batch_size: int,
    num_processes: int,
) -> tuple[Settings, list[StoredScan]]:
    """Prepare the scans of a raw dataset and return all that a pretraining on them depends on.

    Args:
        dataset: Id or name.
        backbone: A key of `BACKBONES`; may be None where plans are given.
        plans: Name of plans of this dataset, or the file of plans of another one. Network, spacing, intensity window
            and size of views are theirs. Without plans they come from the scans by the planner's rules.
        start: A file to go on from.
        epochs: Number of epochs.
        batch_size: At most as many scans in a step.
        num_processes: At most, to prepare scans.

    Raises:
        RectalError: Scans, plans or the file cannot be used, or do not fit each other.
    """
    scans = find_scans(dataset)
    if plans is not None:
        configuration, network = _planned(scans, plans, backbone)
        prepared = tuple(name == normalization_scheme(True).__name__ for name in configuration.normalization_schemes)
        if len(prepared) != len(scans.prepared):
            raise RectalError(
                f"{plans} is for {plural(len(prepared), 'channel')}, {scans.dataset} has {len(scans.prepared)}. Fix -p "
                "or -d."
            )
        scans = replace(scans, prepared=prepared)
        x, y, z = (configuration.spacing[axis] for axis in network.spatial_axes)
        spacing: Mm = (x, y, z)
        name, kwargs = network.backbone, network.backbone_kwargs
    else:
        chosen = resolve_backbone(str(backbone))
        spacing, name, kwargs = target_spacing(scans), chosen.network, dict(chosen.kwargs)
    folder = PreprocessedDataset.at(scans.dataset).path / f"pretraining_{'x'.join(map(str, spacing))}mm"
    stored = store_scans(scans, spacing, folder, num_processes)
    if plans is not None:
        window = [list(bounds) for bounds in network.intensity_window]
        view = tuple(configuration.patch_size[axis] for axis in network.spatial_axes)
    else:
        window = window_of(stored, scans.prepared)
        view = choose_patch_size(np.array([scan.shape[::-1] for scan in stored]), chosen)
    settings = Settings(
        dataset=scans.dataset,
        scans=len(stored),
        scans_digest=_digest(scans),
        backbone=name,
        backbone_kwargs=kwargs,
        spacing=spacing,
        intensity_window=window,
        view=view,
        epochs=epochs,
        batch_size=min(batch_size, len(stored)),
        start=None if start is None else md5_of(start),
    )
    return settings, stored


def _planned(scans: Scans, plans: str, backbone: str | None) -> tuple[Configuration, PlannedBackbone]:
    """Return the planned configuration, and its network."""
    path = Path(plans)
    if path.suffix != ".json":
        path = find_plans(find_dataset("nnUNet_preprocessed", scans.dataset), plans)
    configuration = Plans.read(path).configuration(FULLRES)
    network = configuration.network
    if network is None:
        raise RectalError(f"{path} plans a network of nnU-Net's own, not one of {', '.join(BACKBONES)}. Fix -p.")
    if backbone is not None and resolve_backbone(backbone).network != network.backbone:
        raise RectalError(f"{path} plans the network '{network.backbone}', not '{backbone}'. Leave -b out, or fix -p.")
    return configuration, network


def _digest(scans: Scans) -> str:
    states = [(path.name, path.stat()) for files in scans.images.values() for path in map(Path, files)]
    content = [[name, state.st_size, state.st_mtime_ns] for name, state in states]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
