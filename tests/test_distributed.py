"""Several processes on one training: two on the CPU, each on half a batch, do what one does on the whole batch.

nnU-Net's own command distributes over GPUs alone; here its processes talk through gloo.
"""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch
import torch.distributed as dist
from nnunetv2.run.run_training import find_free_network_port, get_trainer_from_args, run_training
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as stock
from pipeline import train_here

torch.set_num_threads(1)
CPU = torch.device("cpu")
BATCH_DICE = (True, False)
MODEL = ("Dataset007_Small", "3d_fullres", 0, "ShortSMIT_CPU_1epoch_1iteration_seed3", "nnUNetRectalSMITSmallPlans")


@pytest.fixture
def folders(small_dataset, tmp_path, monkeypatch):
    """Variables for trainings of a small dataset in this process, tracked by TensorBoard."""
    train_here(monkeypatch, small_dataset[0], tmp_path)
    monkeypatch.setenv("RECTAL_NNFORMER_TRACKING", "tensorboard")


def step(batch_dice, half=None):
    """Train one step on a fixed batch, or a half of it; return loss, gradients, and what tells ranks apart."""
    trainer = get_trainer_from_args(*MODEL, device=CPU)
    draw = float(np.random.uniform())
    trainer.device = CPU  # where it is distributed, nnU-Net takes GPUs for given
    trainer.configuration_manager.configuration["batch_dice"] = batch_dice
    torch.set_default_dtype(torch.float64)  # so that rounding is far below what is compared
    try:
        return *loss_and_gradients(trainer, half), told_of(trainer, draw)
    finally:
        torch.set_default_dtype(torch.float32)


def told_of(trainer, draw):
    return {"batch_size": trainer.batch_size, "draw": draw, "trackers": len(trainer.logger.loggers)}


def loss_and_gradients(trainer, half):
    trainer.initialize()
    network = trainer._bare_network().eval()  # without stochastic depth
    draw_weights(network)
    data, target = fixed_batch(trainer.configuration_manager.patch_size)
    chosen = slice(None) if half is None else slice(half, half + 1)
    loss = trainer.loss(trainer.network(data[chosen]), target[chosen])
    loss.backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in network.named_parameters()}
    if half is not None:
        loss = loss.detach() / dist.get_world_size()
        dist.all_reduce(loss)
    return float(loss.detach()), gradients


def draw_weights(network):
    with torch.no_grad():
        torch.manual_seed(5)
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)


def fixed_batch(patch_size):
    """Return two samples of noise and their targets, of which one has much more tumour."""
    generator = torch.Generator().manual_seed(1)
    data = torch.randn((2, 1, *patch_size), generator=generator)
    target = torch.rand(data.shape, generator=generator) > torch.tensor([0.9, 0.4]).view(2, 1, 1, 1, 1)
    return data, target.float()


def one_of_two(rank, port):
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    stock.DDP = lambda network, device_ids: torch.nn.parallel.DistributedDataParallel(network)  # no GPU of that number
    answers = [step(batch_dice, rank) for batch_dice in BATCH_DICE]
    dist.barrier()
    dist.destroy_process_group()
    return answers


@pytest.mark.slow
def test_two_processes_on_half_a_batch_do_what_one_does_on_the_whole(folders):
    port = find_free_network_port()
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
        ranks = [pool.submit(one_of_two, rank, port) for rank in (0, 1)]
        answers = zip(*(rank.result(timeout=120) for rank in ranks), strict=True)
    for batch_dice, ((loss, gradients, told), (other_loss, others, other_told)) in zip(
        BATCH_DICE, answers, strict=True
    ):
        whole_loss, whole, _ = step(batch_dice)
        assert loss == other_loss == pytest.approx(whole_loss, abs=1e-7)
        largest = max(np.abs(gradient).max() for gradient in whole.values())
        assert largest > 1e-3
        for name, gradient in whole.items():
            np.testing.assert_array_equal(gradients[name], others[name])
            np.testing.assert_allclose(gradients[name], gradient, rtol=0, atol=1e-6 * largest, err_msg=name)
        # Each has its share of the batch and draws by itself; rank 0 alone logs.
        assert (told["batch_size"], other_told["batch_size"]) == (1, 1)
        assert told["draw"] != other_told["draw"]
        assert (told["trackers"], other_told["trackers"]) == (1, 0)


def test_nnunets_command_does_not_distribute_on_a_cpu():
    with pytest.raises(AssertionError, match="only implemented for cuda devices"):
        run_training("Dataset007_Small", "3d_fullres", 0, num_gpus=2, device=CPU)


LOGGED = {
    "train_losses": [0.5, 0.375],
    "dice_per_class_or_region/class_1": [0.25, 0.25],
    "summary/detection_rate": [0.75],
}


def log_once_with_pause(tmp_path):
    """Log one epoch, and the next one after a training was cut off and goes on; return the folder of the fold."""
    for epoch, loss in enumerate(LOGGED["train_losses"]):
        trainer = get_trainer_from_args(*MODEL, device=CPU)
        trainer.logger.log("train_losses", np.float32(loss), epoch)
        trainer.logger.log("dice_per_class_or_region", [0.25], epoch)
    trainer.logger.log_summary("detection_rate", 0.75)
    (fold,) = tmp_path.glob("*/*/fold_0")
    return fold


def test_what_is_logged_becomes_files_of_tensorboard(folders, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(log_once_with_pause(tmp_path) / "tensorboard")).Reload()
    assert {key: [event.value for event in read.Scalars(key)] for key in read.Tags()["scalars"]} == LOGGED
    assert not list(tmp_path.glob("*/mlruns"))


def test_what_is_logged_becomes_one_run_of_mlflow(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("RECTAL_NNFORMER_TRACKING", "mlflow")
    fold = log_once_with_pause(tmp_path)
    from mlflow.tracking import MlflowClient

    client = MlflowClient((fold.parents[1] / "mlruns").as_uri())
    experiment = client.get_experiment_by_name(fold.parent.name)
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "fold_0"
    history = {key: [m.value for m in client.get_metric_history(run.info.run_id, key)] for key in run.data.metrics}
    assert history == LOGGED
    assert not list(fold.glob("tensorboard"))


@pytest.mark.parametrize("value", ["off", ""])
def test_nothing_is_tracked_by_default(folders, monkeypatch, value):
    monkeypatch.setenv("RECTAL_NNFORMER_TRACKING", value)
    assert not get_trainer_from_args(*MODEL, device=CPU).logger.loggers
