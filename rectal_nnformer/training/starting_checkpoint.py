"""A checkpoint of other classes as the start of a training, as nnU-Net allows for its own networks."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from rectal_nnformer.analysis.loaded_fold import load_fold
from rectal_nnformer.errors import RectalError
from rectal_nnformer.networks.checkpoint_file import read_checkpoint
from rectal_nnformer.nnunet.layout import FoldFolder, PreprocessedDataset, find_plans
from rectal_nnformer.nnunet.plans import Plans
from rectal_nnformer.utils.files import writing
from rectal_nnformer.utils.text import plural

LAST_LAYER = "backbone.out."
"""How the names of the weights begin that the number of classes shapes."""


@contextmanager
def fitted_checkpoint(path: Path, fold: FoldFolder) -> Iterator[Path]:
    """Yield a checkpoint that nnU-Net's -pretrained_weights takes for a fold.

    It is `path` itself, or where that was trained for another number of classes a copy whose last layer has random
    weights; that is said. Nothing in the file is executed.

    Raises:
        RectalError: It is no checkpoint, or differs in more than its last layer.
    """
    content = read_checkpoint(path)
    weights = content.get("network_weights") if isinstance(content, Mapping) else None
    if not isinstance(weights, Mapping):
        raise RectalError(f"{path} is no checkpoint that nnU-Net wrote: it has no network_weights.")
    plans = Plans.read(find_plans(PreprocessedDataset.find(fold.model.dataset).path, fold.model.plans))
    if plans.configuration(fold.model.configuration).network is None:
        yield path  # a network of nnU-Net's, which does the same for itself
        return
    network = load_fold(fold).network("random")[1].state_dict()
    others = [name for name, value in network.items() if name in weights and weights[name].shape != value.shape]
    missing = sorted(network.keys() - weights.keys())
    wrong = [name for name in others if not name.startswith(LAST_LAYER)] + missing
    if wrong:
        raise RectalError(
            f"{path} does not fit the network of {fold.model.trainer}: {plural(len(wrong), 'weight')} missing or of "
            f"another shape, such as {wrong[0]}. Take a checkpoint of the same backbone and number of channels."
        )
    if not others:
        yield path
        return
    classes, wanted = (values[others[0]].shape[0] for values in (weights, network))
    print(
        f"{path} was trained for {classes} classes, and this dataset has {wanted}: everything is loaded but the last "
        f"layer ({', '.join(others)}), which starts with random weights."
    )
    with tempfile.TemporaryDirectory(prefix="rectal_nnformer_") as folder:
        fitted = Path(folder) / path.name
        fitting = {**weights, **{name: network[name] for name in others}}
        with writing(fitted):
            torch.save({**content, "network_weights": fitting}, fitted)
        yield fitted
