"""A pretrained training through nnU-Net: interrupted, resumed, validated, predicted, shared, passed on."""

import math
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.model_sharing.model_export import export_pretrained_model
from nnunetv2.model_sharing.model_import import install_model_from_zip_file
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint

from rectal_nnformer.cli import main
from rectal_nnformer.errors import RectalError
from rectal_nnformer.networks import SMIT
from rectal_nnformer.paths import trainers_folder
from rectal_nnformer.planning import plan_dataset
from rectal_nnformer.planning.backbones import SMALL_SMIT
from rectal_nnformer.training.learning_rate import warmup_cosine

torch.set_num_threads(1)
CPU = torch.device("cpu")
TRAINER, PLANS = "ShortMaskedSMIT", "nnUNetRectalSMITSmallPlans"
EPOCHS, WARMUP, INTERRUPTED_AFTER = 4, 1, 3
RATES = [warmup_cosine(epoch, EPOCHS, WARMUP, 3e-4) for epoch in range(EPOCHS)]


def new_trainer():
    trainer = get_trainer_from_args("Dataset007_Small", "3d_fullres", 0, TRAINER, PLANS, device=CPU)
    trainer.num_epochs, trainer.warmup_epochs, trainer.num_iterations_per_epoch, trainer.save_every = (
        EPOCHS,
        WARMUP,
        1,
        1,
    )
    return trainer


def logits(network):
    """Logits of one patch, half of it padding."""
    generator = torch.Generator().manual_seed(0)
    patch = torch.randn(1, 1, 16, 48, 48, generator=generator)
    patch[:, :, 8:] = 0
    with torch.no_grad():
        return network.eval()(patch)


def rates(trainer):
    return trainer.logger.get_value("lrs", step=None)


@pytest.fixture(scope="module")
def environment(small_dataset, tmp_path_factory):
    """nnU-Net's variables in this process; loading and augmenting happen in it as well."""
    variables, _ = small_dataset
    folder = tmp_path_factory.mktemp("training_state")
    names = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_def_n_proc")
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in names:
            monkeypatch.setenv(name, variables[name])
        monkeypatch.setenv("nnUNet_results", str(folder / "results"))
        monkeypatch.setenv("nnUNet_n_proc_DA", "0")
        both = os.pathsep.join([str(trainers_folder()), variables["nnUNet_extTrainer"]])
        monkeypatch.setenv("nnUNet_extTrainer", both)
        yield monkeypatch, folder


@pytest.fixture(scope="module")
def trained(environment):
    """An uninterrupted training from a pretrained file; then the file is gone."""
    monkeypatch, folder = environment
    weights = folder / "weights"
    weights.mkdir()
    torch.manual_seed(1)
    encoder = SMIT(**SMALL_SMIT).transformer.state_dict()
    torch.save({"student": encoder}, weights / "model_smit_ct10k.pth")
    monkeypatch.setenv("RECTAL_NNFORMER_WEIGHTS", str(weights))
    trainer = new_trainer()
    interrupted = folder / "interrupted.pth"
    save = trainer.save_checkpoint

    def save_and_keep(filename):
        save(filename)
        if trainer.current_epoch + 1 == INTERRUPTED_AFTER and filename.endswith("latest.pth"):
            shutil.copy(filename, interrupted)

    trainer.save_checkpoint = save_and_keep
    trainer.on_train_start()
    first = {name: value.clone() for name, value in trainer.network.backbone.transformer.named_parameters()}
    started_from_file = all(torch.equal(encoder[name], value) for name, value in first.items())
    trainer.run_training()
    monkeypatch.delenv("RECTAL_NNFORMER_WEIGHTS")
    return SimpleNamespace(trainer=trainer, interrupted=interrupted, started_from_file=started_from_file)


def test_a_training_starts_from_the_pretrained_file(trained):
    assert trained.started_from_file
    assert rates(trained.trainer) == pytest.approx(RATES)


def test_a_resumed_training_has_the_learning_rates_of_an_uninterrupted_one_and_reads_no_weights(trained, tmp_path):
    folder = trained.trainer.output_folder
    resumed = new_trainer()
    resumed.output_folder = str(tmp_path)
    shutil.copy(trained.interrupted, tmp_path / "checkpoint_latest.pth")
    maybe_load_checkpoint(resumed, continue_training=True, validation_only=False)
    stored = torch.load(trained.interrupted, weights_only=False)
    # What is done at the start of a training alone would put the window of the plans in its place.
    with torch.no_grad():
        resumed.network.window_low -= 5
        stored["network_weights"]["window_low"] -= 5
    resumed.on_train_start()
    assert resumed.current_epoch == INTERRUPTED_AFTER
    assert all(torch.equal(stored["network_weights"][k], v) for k, v in resumed.network.state_dict().items())
    resumed.run_training()
    assert rates(resumed) == rates(trained.trainer)
    assert resumed.optimizer.param_groups[0]["lr"] == pytest.approx(RATES[-1])
    assert folder != resumed.output_folder


def test_weights_are_read_at_epoch_0_alone(trained, tmp_path):
    """Even by a network in its initial state, as one that a loaded checkpoint has not changed."""
    trainer = new_trainer()
    trainer.output_folder = str(tmp_path)
    trainer.initialize()
    trainer.current_epoch = 1
    trainer.on_train_start()
    trainer.current_epoch = 0
    with pytest.raises(RectalError, match="RECTAL_NNFORMER_WEIGHTS is not set"):
        trainer.on_train_start()


@pytest.fixture(scope="module")
def validated(trained):
    """As `--val`: a new trainer loads the final checkpoint and validates."""
    trainer = new_trainer()
    maybe_load_checkpoint(trainer, continue_training=False, validation_only=True)
    trainer.perform_actual_validation()
    return trainer


def test_logits_survive_checkpoint_validation_and_model_zip(trained, validated, environment, tmp_path):
    monkeypatch, _ = environment
    expected = logits(trained.trainer.network)
    torch.testing.assert_close(logits(validated.network), expected, atol=1e-5, rtol=0)
    here = predictor(validated.output_folder_base)
    torch.testing.assert_close(logits(here.network), expected, atol=1e-5, rtol=0)
    export_pretrained_model(7, str(tmp_path / "model.zip"), ("3d_fullres",), TRAINER, PLANS, folds=(0,))
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("nnUNet_results", str(tmp_path / "results"))
        install_model_from_zip_file(str(tmp_path / "model.zip"))
        there = predictor(tmp_path / f"results/Dataset007_Small/{TRAINER}__{PLANS}__3d_fullres")
    torch.testing.assert_close(logits(there.network), expected, atol=1e-5, rtol=0)
    assert there.network.backbone.mask_padding


def predictor(folder):
    made = nnUNetPredictor(device=CPU, allow_tqdm=False)
    made.initialize_from_trained_model_folder(str(folder), (0,))
    return made


def test_weights_of_another_model_start_a_training_with_this_datasets_window(trained, tmp_path):
    content = torch.load(trained.interrupted, weights_only=False)
    content["network_weights"]["window_low"] -= 5
    torch.save(content, tmp_path / "checkpoint_final.pth")
    trainer = new_trainer()
    maybe_load_checkpoint(trainer, False, False, str(tmp_path / "checkpoint_final.pth"))
    trainer.on_train_start()
    found = trainer.network.state_dict()
    assert torch.equal(found.pop("window_low"), trained.trainer.network.window_low)
    assert all(torch.equal(content["network_weights"][name], value) for name, value in found.items())


@pytest.mark.slow
def test_an_imported_fine_tuned_checkpoint_starts_a_training(environment, tmp_path):
    """By `weights import` and nnU-Net's -pretrained_weights; no file of the pretrained encoder is at hand."""
    plan_dataset(7, "smit", max_patch_size=64, num_processes=1, num_processes_fingerprint=1)
    arguments = {"roi_size": 64, "spacing": 1.0}
    network = SMIT()
    torch.save({"state_dict": network.state_dict(), "args": arguments}, tmp_path / "model_final.pt")
    main(["weights", "import", str(tmp_path / "model_final.pt"), "--output", str(tmp_path / "model")])
    trainer = get_trainer_from_args(
        "Dataset007_Small", "3d_fullres", 0, "nnUNetTrainerSMIT_ACT", "nnUNetRectalSMITPlans", device=CPU
    )
    maybe_load_checkpoint(trainer, False, False, str(tmp_path / "model/fold_0/checkpoint_final.pth"))
    trainer.on_train_start()
    found = trainer.network.state_dict()
    assert all(torch.equal(value, found[f"backbone.{name}"]) for name, value in network.state_dict().items())
    planned = trainer.configuration_manager.network_arch_init_kwargs["intensity_window"]
    assert [[found["window_low"].item(), found["window_high"].item()]] == [pytest.approx(planned[0])]
    trainer.on_train_epoch_start()
    loss = trainer.train_step(next(trainer.dataloader_train))["loss"]
    assert math.isfinite(loss)
    assert not torch.equal(trainer.network.backbone.out.conv.conv.weight, network.out.conv.conv.weight)
