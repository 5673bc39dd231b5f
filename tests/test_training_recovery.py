"""A training that goes wrong, is stopped, or finds a damaged checkpoint: what it goes back to and what is kept."""

import errno
import multiprocessing
import os
import re
import signal
import time
import tracemalloc
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from checkpoints import write_checkpoint
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint
from pipeline import train_here

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.checkpoints import checkpoint_problem
from rectal_nnformer.nnunet.layout import FoldFolder
from rectal_nnformer.training.learning_rate import warmup_cosine
from rectal_nnformer.training.recovery import StopSignal, describe_not_finite, read_recoveries
from rectal_nnformer.training.starting_checkpoint import fitted_checkpoint

torch.set_num_threads(1)
CPU = torch.device("cpu")
EPOCHS = 3
TRAINER = "nnUNetTrainerSMIT_ACT"


@pytest.fixture
def new_trainer(small_dataset, tmp_path, monkeypatch):
    """Make trainers of one fold of three epochs, of one iteration each; a checkpoint after every epoch."""
    train_here(monkeypatch, small_dataset[0], tmp_path)

    def make():
        trainer = get_trainer_from_args(
            "Dataset007_Small", "3d_fullres", 0, "ShortSMIT_CPU", "nnUNetRectalSMITSmallPlans", device=CPU
        )
        trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.save_every = EPOCHS, 1, 1
        trainer.configuration_manager.configuration["patch_size"] = [16, 16, 16]
        trainer.logger.plot_progress_png = lambda _: None  # seconds each, and not what is tested
        return trainer

    return make


def before_step(trainer, action):
    """Call `action` before every training step."""
    step = trainer.train_step

    def stepped(batch):
        action()
        return step(batch)

    trainer.train_step = stepped


def poison(trainer, epochs):
    """Make a weight infinite in these epochs, each time that they are trained up to the number given for each."""

    def act():
        if epochs.get(trainer.current_epoch, 0):
            epochs[trainer.current_epoch] -= 1
            with torch.no_grad():
                next(trainer.network.parameters()).fill_(torch.inf)

    before_step(trainer, act)


def log_of(trainer):
    return Path(trainer.log_file).read_text(encoding="utf-8")


def path_of(trainer):
    return Path(trainer.output_folder)


def resumed(new_trainer):
    """Return a new trainer that goes on from the newest checkpoint."""
    trainer = new_trainer()
    maybe_load_checkpoint(trainer, continue_training=True, validation_only=False)
    return trainer


def fold_of(trainer):
    return FoldFolder.from_path(path_of(trainer))


def is_finite(path):
    weights = torch.load(path, weights_only=False)["network_weights"].values()
    return all(bool(value.isfinite().all()) for value in weights if value.is_floating_point())


def test_weights_that_are_not_finite_send_a_training_back_to_its_last_checkpoint(new_trainer):
    trainer = new_trainer()
    peak = trainer.initial_lr
    poison(trainer, {1: 1})
    trainer.run_training()
    (recovery,) = read_recoveries(path_of(trainer))
    assert (recovery.epoch, recovery.back_to) == (1, 1)
    assert recovery.peak == pytest.approx(peak / 2)
    assert "goes back to epoch 1 (checkpoint_" in log_of(trainer) and "half the learning rate" in log_of(trainer)
    assert len(trainer.logger.get_value("train_losses", step=None)) == EPOCHS
    last = warmup_cosine(EPOCHS - 1, EPOCHS, trainer.warmup_epochs, peak / 2)
    assert trainer.logger.get_value("lrs", step=-1) == pytest.approx(last)
    assert fold_of(trainer).is_trained and is_finite(fold_of(trainer).checkpoint_final)


def test_without_a_checkpoint_it_goes_back_to_its_start(new_trainer):
    trainer = new_trainer()
    trainer.initialize()
    started = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    seen = []
    poison(trainer, {0: 1})
    before_step(trainer, lambda: seen.append({n: v.clone() for n, v in trainer.network.state_dict().items()}))
    trainer.run_training()
    assert [(r.epoch, r.back_to) for r in read_recoveries(path_of(trainer))] == [(0, 0)]
    assert all(torch.equal(seen[1][name], value) for name, value in started.items())


def test_after_three_recoveries_it_stops_with_a_report_and_a_new_training_forgets_them(new_trainer):
    trainer = new_trainer()
    peak = trainer.initial_lr
    poison(trainer, {2: 9})
    with pytest.raises(RectalError, match=r"stopped after epoch 2.*tensors? of the network.*back to epoch 2") as failed:
        trainer.run_training()
    assert str(path_of(trainer)) in str(failed.value)
    assert len(read_recoveries(path_of(trainer))) == 3
    assert not fold_of(trainer).is_trained
    again = resumed(new_trainer)
    again.run_training()
    assert again.initial_lr == pytest.approx(peak / 8)
    assert fold_of(again).is_trained
    fresh = new_trainer()
    fresh.num_epochs = 1
    fresh.run_training()
    assert read_recoveries(path_of(fresh)) == [] and fresh.initial_lr == peak


def test_a_lost_loss_alone_is_only_told(new_trainer):
    """With half precision nnU-Net skips a step whose gradients overflow: the weights stay as they were."""
    trainer = new_trainer()
    trainer.initialize()
    trainer.on_train_epoch_end([{"loss": float("nan")}, {"loss": 0.5}])
    assert "The loss of 1 iteration was not finite" in log_of(trainer)
    optimizer = SimpleNamespace(state={})
    assert "all 2 iterations" in describe_not_finite(trainer.network, optimizer, 2, 2)


def test_sigterm_saves_the_epoch_under_way_and_the_training_goes_on_with_it(new_trainer):
    trainer = new_trainer()
    before_step(trainer, lambda: trainer.current_epoch == 1 and os.kill(os.getpid(), signal.SIGTERM))
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        trainer.run_training()
    assert stopped.value.code == 143 and signal.getsignal(signal.SIGTERM) == handler
    saved = torch.load(path_of(trainer) / "checkpoint_latest.pth", weights_only=False)
    assert saved["current_epoch"] == 1
    weights = trainer.network.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in saved["network_weights"].items())
    again = resumed(new_trainer)
    assert again.current_epoch == 1
    again.run_training()
    assert len(again.logger.get_value("lrs", step=None)) == EPOCHS
    assert fold_of(again).is_trained


def test_processes_forked_meanwhile_end_by_sigterm():
    signal_ = StopSignal()
    signal_.install()
    try:
        parent, child = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=lambda: child.send(True) or time.sleep(60))
        process.start()
        parent.recv()  # it forgets signals that come while it starts
        process.terminate()
        process.join(10)
        assert process.exitcode == -signal.SIGTERM and not signal_.came
    finally:
        process.kill()
        signal_.remove()


def test_a_disk_that_cannot_hold_the_checkpoints_is_told_before_the_first_epoch(new_trainer, monkeypatch):
    trainer = new_trainer()
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(RectalError, match=r"The checkpoints of a fold need at least \d+ MB. The disk of .*fold_0"):
        trainer.run_training()
    assert not list(path_of(trainer).glob("*.pth"))


@pytest.fixture
def interrupted(new_trainer):
    """A trainer whose training was ended after its second epoch."""
    trainer = new_trainer()
    trainer.num_epochs = 2
    trainer.on_train_end = lambda: None
    trainer.run_training()
    assert len(fold_of(trainer).checkpoints()) == 2 or (path_of(trainer) / "checkpoint_best.pth").is_file()
    return trainer


def test_an_empty_checkpoint_falls_back_to_another_and_names_it(interrupted, new_trainer):
    latest, best = (path_of(interrupted) / f"checkpoint_{name}.pth" for name in ("latest", "best"))
    latest.write_bytes(b"")
    trainer = resumed(new_trainer)
    assert "checkpoint_latest.pth is empty. The training goes on from checkpoint_best.pth" in log_of(trainer)
    best.write_bytes(best.read_bytes()[:1000])
    with pytest.raises(RectalError, match=r"checkpoint_latest.pth is empty, and its folder holds no other"):
        resumed(new_trainer)


def test_a_damaged_final_checkpoint_is_not_validated_by_another(interrupted, new_trainer):
    (path_of(interrupted) / "checkpoint_final.pth").write_bytes(b"")
    trainer = new_trainer()
    maybe_load_checkpoint(trainer, continue_training=False, validation_only=True)
    with pytest.raises(RectalError, match=r"checkpoint_final.pth is damaged; nothing was validated"):
        trainer.perform_actual_validation()


def test_what_is_wrong_with_a_checkpoint(tmp_path):
    path = write_checkpoint(tmp_path / "checkpoint_final.pth", TRAINER)
    whole = path.read_bytes()
    assert checkpoint_problem(path) == checkpoint_problem(path, TRAINER) == ""
    assert checkpoint_problem(path, "nnUNetTrainer") == "is of nnUNetTrainerSMIT_ACT and not of nnUNetTrainer"
    middle = len(whole) // 2
    for content, problem in (
        (b"", "is empty"),
        (whole[: len(whole) // 2], "is cut off or damaged"),
        (b"text", "is cut off or damaged"),
        (whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :], "is damaged inside"),
    ):
        path.write_bytes(content)
        assert checkpoint_problem(path) == problem
    path.unlink()
    os.mkfifo(path)
    assert checkpoint_problem(path) == "is no file"


def test_a_checkpoint_that_would_fill_the_memory_is_not_unpacked(tmp_path):
    path = tmp_path / "checkpoint_final.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(20 << 20))
    tracemalloc.start()
    try:
        assert re.fullmatch(r"would unpack to 20971520 bytes, more than the \d+ it has, .*", checkpoint_problem(path))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_fold_with_a_damaged_or_foreign_checkpoint_is_not_trained(tmp_path):
    folder = tmp_path / "Dataset001_A/nnUNetTrainerSMIT_ACT__P__3d_fullres/fold_0"
    folder.mkdir(parents=True)
    fold = FoldFolder.from_path(folder)
    whole = write_checkpoint(fold.checkpoint_final, TRAINER).read_bytes()
    assert fold.is_trained
    fold.checkpoint_final.write_bytes(whole[:-100])
    assert not fold.is_trained
    write_checkpoint(fold.checkpoint_final, "nnUNetTrainer")
    assert not fold.is_trained


@pytest.fixture
def fine_tuned(new_trainer, tmp_path):
    """A checkpoint of the same network that was trained for four classes, and the fold that it is to start."""
    trainer = new_trainer()
    trainer.initialize()
    trainer.save_checkpoint(str(tmp_path / "checkpoint_final.pth"))
    content = torch.load(tmp_path / "checkpoint_final.pth", weights_only=False)
    weights = content["network_weights"]
    for name in [name for name in weights if name.startswith("backbone.out.")]:
        weights[name] = torch.cat([weights[name]] * 2)
    torch.save(content, tmp_path / "checkpoint_final.pth")
    return tmp_path / "checkpoint_final.pth", fold_of(trainer), content


def test_a_checkpoint_of_other_classes_starts_a_training_with_all_but_its_last_layer(fine_tuned, new_trainer, capsys):
    path, fold, content = fine_tuned
    trainer = new_trainer()
    with fitted_checkpoint(path, fold) as fitted:
        maybe_load_checkpoint(trainer, False, False, str(fitted))
    assert "was trained for 4 classes, and this dataset has 2" in capsys.readouterr().out
    for name, value in trainer.network.state_dict().items():
        assert name.startswith("backbone.out.") or torch.equal(value, content["network_weights"][name])
    trainer.save_checkpoint(str(path))
    with fitted_checkpoint(path, fold) as fitted:
        assert fitted == path


def test_a_checkpoint_of_another_network_is_refused(fine_tuned):
    path, fold, content = fine_tuned
    name = next(iter(content["network_weights"]))
    del content["network_weights"][name]
    torch.save(content, path)
    with pytest.raises(RectalError, match=rf"1 weight missing or of another shape, such as {name}"):
        fitted_checkpoint(path, fold).__enter__()


def fill_up():
    """Stand in for writing on a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_plot_that_fills_the_disk_is_named_and_not_left_half_drawn(new_trainer):
    trainer = new_trainer()
    plot = path_of(trainer) / "progress.png"
    trainer.logger.plot_progress_png = lambda _: (plot.write_text("half"), fill_up())
    with pytest.raises(OSError, match=r"No space left on device: '.*fold_0/progress.png'"):
        trainer.run_training()
    assert not plot.exists() and not checkpoint_problem(path_of(trainer) / "checkpoint_latest.pth")


def test_what_nnunet_cannot_write_is_named_by_the_fold(new_trainer):
    trainer = new_trainer()
    trainer._save_debug_information = fill_up
    with pytest.raises(OSError, match=r"No space left on device: '.*fold_0'"):
        trainer.run_training()
