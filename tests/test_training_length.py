"""Trainers of another length, by the end of their names."""

import numpy as np
import pytest
import torch

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.find_trainer import find_trainer
from rectal_nnformer.nnunet.names import Length, split_length
from rectal_nnformer.nnunet.preflight import check_trainer, is_of_user, pretrained_network
from rectal_nnformer.training.length import trainer_of_length

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "length"),
    [
        ("T_20epochs", Length(20)),
        ("T_1epoch_1iteration", Length(1, 1)),
        ("T_50iterations", Length(None, 50)),
        ("T_4epochs_20iterations_seed0", Length(4, 20, 0)),
        ("T", Length()),
    ],
)
def test_names_hold_lengths(name, length):
    assert split_length(name) == ("T", length) and length.name("T") == name


@pytest.fixture
def user_trainers(tmp_path, monkeypatch):
    """Trainers of a user's that build nothing, one of which is called as if it had a length."""
    (tmp_path / "mine.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        "import numpy as np\n"
        "class Plain(nnUNetTrainer):\n"
        "    def __init__(self, plans, configuration, fold, dataset_json, device=None):\n"
        "        self.num_epochs, self.warmup_epochs, self.local_rank = 500, 50, plans['rank']\n"
        "        self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 250, 50\n"
        "        self.current_epoch = plans.get('epoch', 0)\n"
        "    def on_epoch_start(self):\n"
        "        pass\n"
        "class Plain_7epochs(Plain):\n"
        "    pass\n"
    )
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))


def test_a_length_changes_epochs_iterations_and_keeps_the_share_of_the_warmup(user_trainers):
    def made(name, rank=0):
        trainer = find_trainer(name)({"rank": rank}, "3d_fullres", 0, {}, CPU)
        return trainer, torch.rand(1).item(), np.random.uniform()

    trainer, *drawn = made("Plain_20epochs_100iterations_seed4")
    assert (trainer.num_epochs, trainer.warmup_epochs) == (20, 2)
    assert (trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch) == (100, 20)
    assert type(trainer).__name__ == "Plain_20epochs_100iterations_seed4"
    assert made("Plain_20epochs_100iterations_seed4")[1:] == tuple(drawn)
    assert not set(made("Plain_20epochs_100iterations_seed4", rank=1)[1:]) & set(drawn)
    assert made("Plain_1epoch")[0].warmup_epochs == 1


def test_a_seeded_training_that_goes_on_draws_what_it_would_have(user_trainers):
    seeded = find_trainer("Plain_20epochs_seed4")

    def drawn(epoch, first):
        """Train from an epoch to another, and return what the last one draws."""
        trainer = seeded({"rank": 0, "epoch": first}, "3d_fullres", 0, {}, CPU)
        for trainer.current_epoch in range(first, epoch + 1):
            np.random.uniform(size=trainer.current_epoch + first)  # as loaders do at the start
            trainer.on_epoch_start()
            values = torch.rand(1).item(), np.random.uniform()
        return values

    assert drawn(3, 0) == drawn(3, 2) == drawn(3, 3)
    assert not set(drawn(3, 0)) & set(drawn(2, 0)) and not set(drawn(1, 0)) & set(drawn(0, 0))


def test_a_class_that_is_written_under_such_a_name_goes_first(user_trainers):
    assert find_trainer("Plain_7epochs").__module__ == "mine"
    assert trainer_of_length("Plain_7epochs") is None is trainer_of_length("Plain")
    assert find_trainer("nnUNetTrainer_10epochs").__module__.startswith("nnunetv2.")


def test_what_a_trainer_needs_is_told_by_the_name_before_its_length(user_trainers):
    assert pretrained_network("nnUNetTrainerSMIT_ACT_20epochs") == "smit"
    assert pretrained_network("nnUNetTrainerSMIT_ACT_Scratch_20epochs_seed0") is None
    assert is_of_user("Plain_3epochs") and not is_of_user("nnUNetTrainer_3epochs_5iterations")
    check_trainer("nnUNet_Primus_M_Trainer_5epochs")
    with pytest.raises(RectalError, match="no trainer called nnUNetTrainerSMIT_ATC_5epochs"):
        check_trainer("nnUNetTrainerSMIT_ATC_5epochs")
