"""A pretrained training through nnU-Net: interrupted, resumed, validated, analyzed, predicted, shared, passed on."""

import hashlib
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import matplotlib.image
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.model_sharing.model_export import export_pretrained_model
from nnunetv2.model_sharing.model_import import install_model_from_zip_file
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint
from pipeline import train_here

from rectal_nnformer.analysis.validation import analyze_validation
from rectal_nnformer.cli import main
from rectal_nnformer.errors import RectalError
from rectal_nnformer.networks import SMIT
from rectal_nnformer.networks.starting_weights import recorded_pretrained_file
from rectal_nnformer.planning import plan_dataset
from rectal_nnformer.planning.backbones import SMALL_SMIT
from rectal_nnformer.training.learning_rate import warmup_cosine

torch.set_num_threads(1)
CPU = torch.device("cpu")
TRAINER, PLANS = "ShortMaskedSMIT", "nnUNetRectalSMITSmallPlans"
EPOCHS, WARMUP, INTERRUPTED_AFTER = 4, 1, 3
ANALYSIS_FILES = ("attention_dilution.json", "attention_dilution.csv", "feature_reuse.json")
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


class Recorder:
    """A logger beside nnU-Net's own, as that of Weights & Biases is."""

    def __init__(self):
        self.values, self.summary, self.config = {}, {}, {}

    def update_config(self, config):
        self.config.update(config)

    def log(self, key, value, step):
        self.values[key, step] = value

    def log_summary(self, key, value):
        self.summary[key] = value


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
    with pytest.MonkeyPatch.context() as monkeypatch:
        train_here(monkeypatch, variables, folder / "results")
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
    monkeypatch.setenv("RECTAL_NNFORMER_ATTENTION_EVERY", "2")
    trainer = new_trainer()
    recorder = Recorder()
    trainer.logger.loggers.append(recorder)
    interrupted = folder / "interrupted.pth"
    save = trainer.save_checkpoint

    def save_and_keep(filename):
        save(filename)
        if trainer.current_epoch + 1 == INTERRUPTED_AFTER and filename.endswith("latest.pth"):
            shutil.copy(filename, interrupted)

    first = {}
    start = trainer.on_train_start

    def start_and_note():
        start()
        parameters = trainer.network.backbone.transformer.named_parameters()
        first.update({name: value.clone() for name, value in parameters})

    trainer.save_checkpoint = save_and_keep
    trainer.on_train_start = start_and_note
    trainer.run_training()
    started_from_file = all(torch.equal(encoder[name], value) for name, value in first.items())
    for name in ("WEIGHTS", "ATTENTION_EVERY"):
        monkeypatch.delenv(f"RECTAL_NNFORMER_{name}")
    return SimpleNamespace(
        trainer=trainer,
        interrupted=interrupted,
        started_from_file=started_from_file,
        weights=weights,
        recorder=recorder,
    )


def test_a_training_starts_from_the_pretrained_file(trained):
    assert trained.started_from_file
    assert rates(trained.trainer) == pytest.approx(RATES)


def test_the_fold_remembers_which_file_it_started_from(trained):
    record = json.loads((Path(trained.trainer.output_folder) / "starting_weights.json").read_text())
    md5 = hashlib.md5((trained.weights / "model_smit_ct10k.pth").read_bytes(), usedforsecurity=False).hexdigest()
    assert record == {"source": "pretrained", "file": "model_smit_ct10k.pth", "md5": md5}


def test_attention_is_followed_every_second_epoch(trained):
    """In a file, the log, the progress plot and the loggers that take any value."""
    folder = Path(trained.trainer.output_folder)
    records = json.loads((folder / "attention_epochs.json").read_text())
    assert [record["epoch"] for record in records] == [0, 2]
    assert [stage["stage"] for stage in records[0]["stages"]] == [0, 1]
    assert {"adi", "a_rp", "uniform_adi"} <= set(records[0]["stages"][0])
    assert Path(trained.trainer.log_file).read_text().count("Attention dilution by stage") == 2
    assert trained.recorder.values["adi/stage_0", 2] == records[1]["stages"][0]["adi"]
    rows, columns, _ = matplotlib.image.imread(folder / "progress.png").shape
    assert (rows, columns) == (5400 + 1200, 3000)  # nnU-Net's plot and a panel under it


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


def test_a_compiled_network_runs_as_cuda_graphs_and_its_optimizer_holds_the_same_weights(environment, monkeypatch):
    modes, compile_network = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **o: modes.append(o.get("mode")) or compile_network(model, **o))
    trainer = new_trainer()
    monkeypatch.setattr(trainer, "_do_i_compile", lambda: True)
    trainer.initialize()
    assert modes[-1] == "reduce-overhead"
    held = {id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in trainer.network.parameters()}


def test_weights_are_read_at_epoch_0_alone(trained, tmp_path):
    """Even by a network in its initial state, as one that a loaded checkpoint has not changed."""
    trainer = new_trainer()
    trainer.output_folder = str(tmp_path)
    trainer.initialize()
    trainer.current_epoch = 1
    trainer.on_train_start()
    trainer.current_epoch = 0
    with pytest.raises(RectalError, match="No published pretrained file fits this network"):
        trainer.on_train_start()


@pytest.fixture(scope="module")
def validated(trained):
    """As `--val`: a new trainer loads the final checkpoint and validates, with the pretrained file at hand again.

    A process that was killed on another computer has left a mask half-written.
    """
    trainer = new_trainer()
    left = Path(trainer.output_folder) / "validation/.case.elsewhere.123.partial.nii.gz"
    left.parent.mkdir(exist_ok=True)
    left.touch()
    trainer.logger.loggers.append(Recorder())
    maybe_load_checkpoint(trainer, continue_training=False, validation_only=True)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("RECTAL_NNFORMER_WEIGHTS", str(trained.weights))
        trainer.perform_actual_validation()
    return trainer


def test_validation_measures_dilution_and_reuse_and_logs_them(validated):
    folder = Path(validated.output_folder) / "validation"
    dilution = json.loads((folder / "attention_dilution.json").read_text())
    assert (dilution["weights"], dilution["mask_padding"]) == ("checkpoint_final.pth", True)
    assert len(dilution["cases"]) == 1
    reuse = json.loads((folder / "feature_reuse.json").read_text())
    assert (reuse["first"], reuse["second"]) == ("checkpoint_final.pth", "model_smit_ct10k.pth")
    assert reuse["debiased"] is None and "at least 4 cases" in reuse["note"]
    summary = validated.logger.loggers[-1].summary
    assert summary["final_val/adi/stage_0"] == dilution["stages"][0]["adi"]
    assert summary["final_val/lesions"] == 1 and "final_val/detection_rate" in summary


@pytest.mark.parametrize("change", ["gone", "other"])
def test_without_the_file_that_it_started_from_reuse_is_left_out_and_the_log_says_why(
    trained, validated, monkeypatch, tmp_path, change
):
    if change == "other":
        (tmp_path / "model_smit_ct10k.pth").write_bytes(b"other")
    monkeypatch.setenv("RECTAL_NNFORMER_WEIGHTS", str(tmp_path))
    # Stands for a validation of long ago: whatever it found must not be taken for this one's.
    shutil.copytree(validated.output_folder, tmp_path / "fold_0")
    earlier = [tmp_path / "fold_0/validation" / name for name in ANALYSIS_FILES]
    assert all(path.is_file() for path in earlier)
    fold, lines = replace(validated._validated_fold([]), folder=tmp_path / "fold_0"), []
    path, reason = recorded_pretrained_file(fold.folder)
    assert path is None and ("not in" if change == "gone" else "has MD5") in reason
    analyze_validation(replace(fold, log=lines.append, cases=replace(fold.cases, names=("no",))))
    assert "attention dilution failed" in lines[0] and "FileNotFoundError" in lines[0]
    assert lines[1].startswith("Feature reuse was not measured. The training started from model_smit_ct10k.pth") or (
        "has MD5" in lines[1]
    )
    assert not any(path.exists() for path in earlier)


def test_analysis_on_demand(trained, validated, environment, capsys, tmp_path):
    """Of a checkpoint, of random weights for which nothing need be trained, of a fold against a file and a fold."""
    fold = Path(validated.output_folder)
    names = ("-d", "7", "-tr", TRAINER, "-p", PLANS, "-device", "cpu")
    stored = json.loads((fold / "validation/attention_dilution.json").read_text())
    main(["attention", *names, "-o", str(tmp_path)])
    repeated = json.loads((tmp_path / f"{TRAINER}__{PLANS}__3d_fullres/fold_0/attention_dilution.json").read_text())
    whole_fold = {case["case"]: case for case in repeated["cases"]}
    case = stored["cases"][0]
    assert whole_fold[case["case"]]["stages"][0]["adi"] == pytest.approx(case["stages"][0]["adi"], abs=1e-6)
    main(["attention", *names, "-c", "3d_fullres_cubic", "--weights", "random", "-o", str(tmp_path)])
    cubic = json.loads(
        (tmp_path / f"{TRAINER}__{PLANS}__3d_fullres_cubic/fold_0/attention_dilution_random.json").read_text()
    )
    assert len(set(cubic["patch_size"])) == 1 and cubic["weights"] == "random"
    main(["feature_reuse", str(fold), str(fold), "-o", str(tmp_path / "same.json"), "-device", "cpu"])
    assert json.loads((tmp_path / "same.json").read_text())["biased"]["mean_diagonal"] == pytest.approx(1)
    main(["feature_reuse", str(fold), str(trained.weights / "model_smit_ct10k.pth"), "-device", "cpu"])
    against_file = json.loads((fold / "validation/feature_reuse.json").read_text())
    assert against_file["second"] == "model_smit_ct10k.pth" and against_file["num_cases"] == 2
    assert "Feature reuse" in capsys.readouterr().out


def place_in(argument, places):
    for name, place in places.items():
        argument = argument.replace(name, place)
    return argument


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["attention", "-d", "7", "-tr", TRAINER, "-p", PLANS, "-f", "9"], "has the folds 0 to 4, and no 9"),
        (["attention", "-d", "7", "-tr", TRAINER, "-p", "No", "-f", "0"], "No.json"),
        (["attention", "-d", "7", "-tr", TRAINER, "-p", PLANS, "-c", "2d"], "no configuration '2d'"),
        (["attention", "-d", "7", "-tr", TRAINER, "-p", PLANS, "--weights", "latest"], "checkpoints of this fold"),
        (["attention", "-d", "7", "-tr", "nnUNetTrainerNone", "-p", PLANS], "no trainer called nnUNetTrainerNone"),
        (["feature_reuse", "here", "there"], "not the folder of a fold"),
        (["feature_reuse", "FOLD", "FOLD/checkpoint_final.pth"], "Name the folder itself"),
        (["feature_reuse", "FOLD", "COPY"], "It is a checkpoint that nnU-Net trained: name the folder of its fold"),
    ],
)
def test_analysis_of_what_is_not_there_says_so(validated, capsys, tmp_path, arguments, message):
    output = [] if arguments[0] == "feature_reuse" else ["-o", str(tmp_path)]
    shutil.copy(Path(validated.output_folder) / "checkpoint_final.pth", tmp_path / "copy.pth")
    places = {"FOLD": validated.output_folder, "COPY": str(tmp_path / "copy.pth")}
    arguments = [place_in(argument, places) for argument in arguments]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, *output, "-device", "cpu"])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


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
    main(["weights", "import", str(tmp_path / "model_final.pt"), "-o", str(tmp_path / "model")])
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
