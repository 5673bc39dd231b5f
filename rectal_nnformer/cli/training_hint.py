"""How to train on an imported dataset: the trainer that fits each of its plans."""

import shlex
from pathlib import Path

from rectal_nnformer.nnunet.names import FULLRES, PLANNED_NETWORK, TRAINER_FAMILIES
from rectal_nnformer.sharing.schema import PlansJson
from rectal_nnformer.utils.json_records import load_json_file, make_record


def training_commands(folder: Path) -> list[str]:
    """Return a command for each plans in the folder of an imported dataset, to be completed by the number of a fold."""
    commands = []
    for path in sorted(folder.glob("*.json")):
        content = load_json_file(path)
        if isinstance(content, dict) and "configurations" in content:
            plans = make_record(PlansJson, content, path.name)
            present = [name for name, data in plans.data_folders().items() if (folder / data).is_dir()]
            configuration = FULLRES if FULLRES in present else next(iter(present), None)
            if configuration is not None:
                commands.append(_command(folder.name, path.stem, configuration, trainer_for(plans)))
    return commands


def trainer_for(plans: PlansJson) -> str | None:
    """Return the trainer that fits plans, with the whole recipe where there is a choice; None for nnU-Net's own."""
    networks = [configuration.architecture for configuration in plans.configurations.values()]
    ours = [network.arch_kwargs for network in networks if network and network.network_class_name == PLANNED_NETWORK]
    family = TRAINER_FAMILIES.get(str(ours[0].get("backbone"))) if ours else None
    if family is None:
        return None
    options = ours[0].get("backbone_kwargs")
    # Pretrained weights fit to no other width; SMIT of another one is planned for trials on a CPU.
    is_small = family == TRAINER_FAMILIES["smit"] and isinstance(options, dict) and "embed_dim" in options
    return f"{family}_CPU" if is_small else f"{family}_ACT"


def _command(dataset: str, plans: str, configuration: str, trainer: str | None) -> str:
    arguments = f"{dataset} {configuration} FOLD -p {shlex.quote(plans)}"
    if trainer is None:
        return f"nnUNetv2_train {arguments}"
    device = " -device cpu" if trainer.endswith("_CPU") else ""
    return f"rectal_nnformer train {arguments} -tr {trainer}{device}"
