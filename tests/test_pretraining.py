"""Pretraining on scans without outlines: what is hidden stays hidden, what was interrupted goes on, what comes out."""

import copy
import json
import signal

import numpy as np
import pytest
import torch
from pipeline import run, run_here
from scipy.ndimage import gaussian_filter
from small_datasets import IN_RAS, set_folders, write_volume
from small_networks import SMALL

from rectal_nnformer import cli
from rectal_nnformer.errors import RectalError
from rectal_nnformer.networks import find_pretrained, load_pretrained
from rectal_nnformer.networks.adapter import NETWORK_CLASSES
from rectal_nnformer.networks.pretrained_files import WEIGHTS_VARIABLE, md5_of
from rectal_nnformer.nnunet.case_files import read_blosc2
from rectal_nnformer.pretraining.loop import CHECKPOINT, FIGURE, LOG, Pretraining
from rectal_nnformer.pretraining.losses import Criterion, Distillation, follow
from rectal_nnformer.pretraining.scans import StoredScan, find_scans, store_scans
from rectal_nnformer.pretraining.schedule import learning_rate, teacher_momentum, teacher_temperature
from rectal_nnformer.pretraining.settings import Settings
from rectal_nnformer.pretraining.student import Student
from rectal_nnformer.pretraining.views import Batches, hidden_voxels, view_starts
from rectal_nnformer.utils.files import read_table

TINY = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}
NAME = "model_smit_ct10k.pth"


def write_scans(folder, number=4, shape=(20, 48, 48)):
    folder.mkdir(parents=True)
    for scan in range(number):
        rng = np.random.default_rng(scan)
        smooth = gaussian_filter(rng.normal(size=shape), 5)
        array = 500 + 200 * smooth / smooth.std() + rng.normal(0, 5, shape)
        write_volume(folder / f"scan_{scan}_0000.nii.gz", array.astype(np.float32), (1.0, 1.0, 1.0), IN_RAS)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """nnU-Net's folders with Dataset600_Scans, which holds images alone, and its scans as they are stored."""
    base = tmp_path_factory.mktemp("pretraining")
    with pytest.MonkeyPatch.context() as monkeypatch:
        set_folders(monkeypatch, base)
        write_scans(base / "nnUNet_raw/Dataset600_Scans/imagesTr")
        scans = store_scans(find_scans("600"), (1.0, 1.0, 1.0), base / "stored", 1)
    return base, scans


def settings(**changes):
    usual = {
        "dataset": "Dataset600_Scans",
        "scans": 4,
        "scans_digest": "",
        "backbone": "smit",
        "backbone_kwargs": TINY,
        "spacing": (1.0, 1.0, 1.0),
        "intensity_window": [[-3.0, 2.5]],
        "view": (32, 32, 16),
        "epochs": 3,
        "batch_size": 2,
        "start": None,
    }
    return Settings(**{**usual, **changes})


def small_student(backbone, seed=0):
    torch.manual_seed(seed)
    return Student(1, backbone, SMALL[backbone], [[0.0, 1.0]]).eval()


@pytest.mark.parametrize("backbone", ["smit", "swin_unetr_v2"])
def test_nothing_of_hidden_voxels_reaches_the_encoder(backbone):
    student = small_student(backbone)
    size = (64, 32, 32)
    image, real = torch.rand(1, 1, *size), torch.ones(1, 1, *size, dtype=torch.bool)
    hidden = torch.from_numpy(hidden_voxels(size, np.random.default_rng(0)))[None, None]
    image.requires_grad_()
    student.encode(image, real, hidden).square().sum().backward()
    assert torch.equal(image.grad[hidden], torch.zeros(int(hidden.sum())))
    assert image.grad[~hidden].abs().max() > 0
    if backbone == "smit":
        with torch.no_grad():
            changed = torch.where(hidden, torch.rand_like(image), image)
            assert torch.equal(student.encode(image, real, hidden), student.encode(changed, real, hidden))
            assert not torch.equal(student.encode(image, real), student.encode(changed, real))


@pytest.mark.parametrize("backbone", SMALL)
def test_what_comes_out_loads_with_nothing_missing_and_nothing_unexpected(backbone, tmp_path):
    student, teacher = small_student(backbone), small_student(backbone, seed=1)
    path = tmp_path / "file.pth"
    torch.save({"student": student.encoder_weights(), "teacher": teacher.encoder_weights()}, path)
    network = NETWORK_CLASSES[backbone](1, 2, **SMALL[backbone])
    report = load_pretrained(network, path)
    encoder = "transformer." if backbone == "smit" else "swinViT."
    assert report.unexpected == () and not [name for name in report.missing if name.startswith(encoder)]
    taken = student if backbone == "smit" else teacher
    weights = network.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in taken.network.backbone.state_dict().items())
    assert load_pretrained(small_student(backbone, seed=2).network.backbone, path).missing == ()


def test_restored_voxels_lie_where_their_token_does():
    student = small_student("smit")
    tokens = torch.zeros(1, 2, 1, 1, student.restoration.in_features)
    tokens[0, 1] = 1
    with torch.no_grad():
        student.restoration.bias.zero_()
        restored = student.restore(tokens)
    assert restored.shape == (1, 1, 2 * student.stride, student.stride, student.stride)
    assert restored[:, :, : student.stride].abs().max() == 0 < restored[:, :, student.stride :].abs().min()


def test_distillation_is_the_cross_entropy_against_the_centred_teacher():
    distillation = Distillation(2)
    student, teacher = torch.tensor([[0.0, 0.0], [0.1, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    only_first, only_second = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0])
    assert distillation(student, teacher, only_first, 0.05).item() == pytest.approx(np.log(2))
    assert distillation.center.tolist() == pytest.approx([0.05, 0.05])
    # The teacher is certain of the second output, of which the student's softmax is 1 / (1 + e).
    assert distillation(student, teacher, only_second, 0.01).item() == pytest.approx(np.log(1 + np.e))
    assert distillation.eval()(student, teacher, only_first, 0.05) > 0
    assert distillation.center.tolist() == pytest.approx([0.095, 0.095])


def test_the_teacher_is_the_moving_average_of_the_student():
    teacher, student = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    expected = 0.75 * teacher.weight + 0.25 * student.weight
    follow(teacher, student, 0.75)
    assert torch.allclose(teacher.weight, expected)


def test_the_losses_compare_the_views_of_a_scan_alone():
    student = small_student("smit")
    criterion = Criterion(student).eval()
    image = torch.rand(2, 2, 1, 16, 16, 32)
    hidden = torch.from_numpy(np.stack([hidden_voxels((16, 16, 32), np.random.default_rng(0))] * 4)).view(
        2, 2, 1, 16, 16, 32
    )
    both = criterion(student, student, image, hidden, 0.04)
    each = [criterion(student, student, image[i : i + 1], hidden[i : i + 1], 0.04) for i in (0, 1)]
    for name in ("restoration", "by_mean", "patch_tokens", "image_tokens"):
        mean = torch.stack([getattr(one, name) for one in each]).mean()
        assert getattr(both, name).item() == pytest.approx(mean.item(), rel=1e-5)
    assert both.total.item() == pytest.approx(
        (both.restoration + 0.1 * both.patch_tokens + 0.1 * both.image_tokens).item()
    )


def test_padding_is_not_restored():
    student = small_student("smit")
    image, hidden = torch.rand(1, 2, 1, 16, 16, 32), torch.zeros(1, 2, 1, 16, 16, 32, dtype=torch.bool)
    image[..., 16:], hidden[..., 16:] = 0, True
    losses = Criterion(student)(student, student, image, hidden, 0.04)
    assert losses.restoration == losses.by_mean == losses.patch_tokens == 0


def test_views_lie_in_the_scan_and_in_one_region():
    rng = np.random.default_rng(0)
    starts = np.array([view_starts((100, 50, 10), (48, 48, 16), rng) for _ in range(200)])
    assert starts.min(axis=(0, 1)).tolist() == [0, 0, -3] and starts.max(axis=(0, 1)).tolist() == [52, 2, -3]
    assert np.abs(starts[:, 0] - starts[:, 1]).max() == 16


def test_seven_of_ten_blocks_are_hidden():
    hidden = hidden_voxels((64, 48, 24), np.random.default_rng(0))
    blocks = hidden[::16, ::16, ::16]
    assert blocks.sum() == round(0.7 * 24) and hidden.shape == (64, 48, 24)
    assert np.array_equal(hidden[5:10, 20:30, 17:20].all(), blocks[0, 1, 1])
    assert hidden_voxels((16, 16, 16), np.random.default_rng(0)).sum() == 0


def test_an_epoch_takes_every_scan_at_most_once(stored, tmp_path):
    views = Pretraining(settings(), stored[1], tmp_path, "cpu").views
    (first, second), later = list(Batches(4, 2, 0, 2)), list(Batches(4, 2, 1, 3))
    assert later[0] == second
    assert {views.scan_of(sample) for sample in first + second} == set(views.files)
    assert [list(batch) for batch in Batches(5, 2, 1, 4)] == [[2, 3], [5, 6], [7, 8]]
    one, again = views[3], views[3]
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert one["image"].shape == (2, 1, 16, 32, 32) and not torch.equal(one["image"][0], one["image"][1])


def test_schedules_begin_and_end_as_published():
    assert learning_rate(19, 500, 6) == pytest.approx(6e-4) and learning_rate(0, 500, 6) == pytest.approx(3e-5)
    assert learning_rate(499, 500, 6) < 1e-8 and learning_rate(19, 500, 6, 48) == pytest.approx(4 * 6e-4)
    assert [teacher_temperature(step, 500) for step in (0, 15, 30, 499)] == pytest.approx([0.04, 0.055, 0.07, 0.07])
    assert teacher_momentum(0, 500) == 0.996 and teacher_momentum(500, 500) == 1


@pytest.fixture(scope="module")
def whole(stored, tmp_path_factory):
    """The folder of a pretraining that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    Pretraining(settings(), stored[1], folder, "cpu").run()
    return folder


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_pretraining_goes_on_as_if_it_had_not_been(stored, whole, tmp_path, monkeypatch, number):
    pretraining = Pretraining(settings(), stored[1], tmp_path, "cpu")
    train_step = pretraining._train_step

    def interrupted(batch):
        if pretraining.step == 2:
            signal.raise_signal(number)
        train_step(batch)

    monkeypatch.setattr(pretraining, "_train_step", interrupted)
    handler = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit):
        pretraining.run()
    assert signal.getsignal(number) == handler
    assert (tmp_path / CHECKPOINT).is_file() and not (tmp_path / NAME).exists()
    torch.rand(7)  # whatever else was drawn
    Pretraining(settings(), stored[1], tmp_path, "cpu").run()
    assert (tmp_path / LOG).read_bytes() == (whole / LOG).read_bytes()
    ours, theirs = (torch.load(folder / NAME) for folder in (tmp_path, whole))
    assert all(torch.equal(value, theirs[part][name]) for part in theirs for name, value in ours[part].items())
    assert md5_of(tmp_path / NAME) == md5_of(whole / NAME)


def test_what_is_beside_the_file(whole, stored, capsys):
    assert {path.name for path in whole.iterdir()} == {NAME, LOG, FIGURE, "pretraining.json"}
    before = (whole / NAME).stat().st_mtime_ns
    Pretraining(settings(), stored[1], whole, "cpu").run()
    assert (whole / NAME).stat().st_mtime_ns == before and "nothing is left to do" in capsys.readouterr().out


def test_the_first_step_moves_the_student_and_the_teacher_a_little(stored, tmp_path):
    pretraining = Pretraining(settings(), stored[1], tmp_path, "cpu")
    before = copy.deepcopy(pretraining.teacher.state_dict())
    batch = {name: torch.stack([pretraining.views[i][name] for i in (0, 1)]) for name in ("image", "hidden")}
    pretraining._train_step(batch)
    for name, after in pretraining.teacher.named_parameters():
        now = pretraining.student.get_parameter(name)
        assert torch.allclose(after, 0.996 * before[name] + 0.004 * now, atol=1e-7), name
    unmoved = [n for n, v in pretraining.student.named_parameters() if torch.equal(v, before[n])]
    # The heads' last layers wait for the second epoch; norms of skips are not used.
    assert all(name.endswith("last.weight") or ".transformer.norm" in name for name in unmoved), unmoved


def test_pretraining_goes_on_from_a_file(stored, whole, tmp_path):
    pretraining = Pretraining(settings(start="md5"), stored[1], tmp_path, "cpu", whole / NAME)
    weights = torch.load(whole / NAME)["student"]
    for network in (pretraining.student, pretraining.teacher):
        assert all(torch.equal(value, weights[name]) for name, value in network.encoder_weights().items())


@pytest.mark.parametrize(("backbone", "layout"), [("smit", "student"), ("swin_unetr", "state_dict")])
def test_pretraining_goes_on_from_the_layouts_of_published_files(backbone, layout, stored, tmp_path):
    weights = small_student(backbone, seed=1).network.backbone.state_dict()
    wrapper = {"smit": "module.backbone.", "swin_unetr": "module."}[backbone]
    content = {wrapper + name.removeprefix("swinViT."): value for name, value in weights.items()}
    torch.save({layout: {**content, "module.head.weight": torch.ones(2)}}, tmp_path / "published")
    chosen = settings(backbone=backbone, backbone_kwargs=SMALL[backbone], start="md5")
    pretraining = Pretraining(chosen, stored[1], tmp_path, "cpu", tmp_path / "published")
    begun = pretraining.student.network.backbone.state_dict()
    assert all(torch.equal(begun[name], value) for name, value in weights.items())


def test_the_loss_falls(stored, tmp_path):
    pretraining = Pretraining(settings(epochs=12, batch_size=4), stored[1], tmp_path, "cpu")
    pretraining.run()
    restoration = np.array(pretraining.epochs)[:, 1]
    assert restoration[-3:].mean() < 0.9 * restoration[:3].mean()


@pytest.mark.slow
def test_hidden_regions_are_restored_better_than_by_their_mean(tmp_path):
    scans = []
    for number in range(8):
        rng = np.random.default_rng(number)
        normal = rng.normal(size=3)
        grid = np.stack(np.meshgrid(*(np.arange(n) - n / 2 for n in (20, 48, 48)), indexing="ij"))
        halves = np.tanh(np.tensordot(normal / np.linalg.norm(normal), grid, 1) / 4) + rng.normal(
            0, 0.05, grid.shape[1:]
        )
        file = tmp_path / f"{number}.npy"
        np.save(file, halves[None].astype(np.float32))
        scans.append(StoredScan(file, halves.shape, []))
    small = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4]}
    changes = {"scans": 8, "batch_size": 4, "epochs": 250, "intensity_window": [[-1.2, 1.2]], "backbone_kwargs": small}
    pretraining = Pretraining(settings(**changes), scans, tmp_path / "out", "cpu")
    pretraining.run()
    first, last = (np.mean(part, axis=0) for part in (pretraining.epochs[:5], pretraining.epochs[-5:]))
    print(first, last)
    assert last[0] < first[0] and last[1] < 0.8 * last[2]


@pytest.mark.slow
def test_plans_decide_and_a_trainer_starts_from_the_file(small_dataset, tmp_path):
    variables, base = small_dataset
    plans = "nnUNetRectalSMITSmallPlans"
    one = ("-device", "cpu", "-np", 1, "--epochs", 1, "--batch-size", 2, "-o", tmp_path)
    run_here(variables, "rectal_nnformer", "pretrain", "-d", 7, "-p", plans, *one)
    preprocessed = base / "nnUNet_preprocessed/Dataset007_Small"
    (data,) = preprocessed.glob("nnUNetRectalPlans_3d_fullres_*mm")
    (ours,) = preprocessed.glob("pretraining_*mm")
    for path in data.glob("case_??.b2nd"):
        assert np.array_equal(np.load(ours / f"{path.stem}.npy"), read_blosc2(path))
    trainer = "nnUNetTrainerSMIT_ACT_1epoch_1iteration"
    with_weights = {**variables, WEIGHTS_VARIABLE: str(tmp_path)}
    run(with_weights, "rectal_nnformer", "train", 7, 0, "-tr", trainer, "-p", plans, "-device", "cpu")
    fold = base / f"nnUNet_results/Dataset007_Small/{trainer}__{plans}__3d_fullres/fold_0"
    started = json.loads((fold / "starting_weights.json").read_text())
    assert started == {"source": "pretrained", "file": NAME, "md5": md5_of(tmp_path / NAME)}


def test_a_loss_that_is_not_finite_is_refused_and_names_the_scans(stored, tmp_path):
    pretraining = Pretraining(settings(), stored[1], tmp_path, "cpu")
    with torch.no_grad():
        pretraining.student.restoration.bias[0] = torch.inf
    with pytest.raises(RectalError, match=r"step 1: .*not finite .*restoration nan.*scan_\d, scan_\d"):
        pretraining.run()
    assert not (tmp_path / NAME).exists()


def test_other_settings_and_a_damaged_checkpoint_are_refused(stored, tmp_path):
    settings().claim(tmp_path)
    with pytest.raises(RectalError, match="other settings: epochs 3, not 4"):
        Pretraining(settings(epochs=4), stored[1], tmp_path, "cpu").run()
    with pytest.raises(RectalError, match="other settings: other names, sizes or times of the scans' files; another"):
        settings(scans_digest="changed", start="md5").claim(tmp_path)
    torch.save({"step": 1}, tmp_path / CHECKPOINT)
    with pytest.raises(RectalError, match="is no checkpoint of this pretraining"):
        Pretraining(settings(), stored[1], tmp_path, "cpu").run()
    (tmp_path / CHECKPOINT).write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(RectalError, match=f"{CHECKPOINT} cannot be read"):
        Pretraining(settings(), stored[1], tmp_path, "cpu").run()


def test_the_command_needs_images_alone(stored, tmp_path, monkeypatch, capsys):
    base, _ = stored
    set_folders(monkeypatch, base)
    cli.main(["pretrain", "-d", "600", "-b", "smit_small", "-device", "cpu", "--epochs", "1", "-np", "1"])
    folder = base / "nnUNet_results/Dataset600_Scans/pretraining__smit_small"
    told = capsys.readouterr().out
    assert "4 scans, 1 times: 1 step of 4; views of 48 x 48 x 16 voxels of 1 x 1 x 1 mm" in told
    assert f"export RECTAL_NNFORMER_WEIGHTS={folder}" in told
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(folder))
    assert find_pretrained("smit", {"embed_dim": 16}) == folder / NAME
    assert [row["epoch"] for _, row in read_table(folder / LOG, ["epoch"], "The log", "Restore it.")] == ["0"]


def test_scans_are_stored_once(stored, tmp_path, monkeypatch, capsys):
    base, _ = stored
    set_folders(monkeypatch, base)
    scans = find_scans("Dataset600_Scans")
    first = store_scans(scans, (2.0, 2.0, 2.0), tmp_path, 1)
    assert first[0].shape == (10, 24, 24)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    capsys.readouterr()
    assert store_scans(scans, (2.0, 2.0, 2.0), tmp_path, 4) == first
    assert capsys.readouterr().err == ""  # no bar, and no processes
    (tmp_path / "scan_2.npy").unlink()
    assert store_scans(scans, (2.0, 2.0, 2.0), tmp_path, 1) == first
    assert "1/1" in capsys.readouterr().err
    again = {path for path in tmp_path.iterdir() if path.stat().st_mtime_ns != written[path]}
    assert again == {tmp_path / "scan_2.npy", tmp_path / "scan_2.json"}


def test_scans_that_cannot_be_used_are_named_together_and_the_others_are_stored(tmp_path, monkeypatch):
    set_folders(monkeypatch, tmp_path)
    folder = tmp_path / "nnUNet_raw/Dataset605_Bad/imagesTr"
    write_scans(folder)
    cut = folder / "scan_1_0000.nii.gz"
    cut.write_bytes(cut.read_bytes()[:9000])
    write_volume(folder / "scan_3_0000.nii.gz", np.ones((20, 48, 48), np.float32), (1.0, 1.0, 1.0), IN_RAS)
    with pytest.raises(RectalError) as error:
        store_scans(find_scans("605"), (2.0, 2.0, 2.0), tmp_path / "stored", 1)
    first, *others = str(error.value).splitlines()
    assert first == "2 scans of Dataset605_Bad cannot be used. Put right, or take away:"
    assert ["scan_1_0000.nii.gz cannot be read" in others[0], "image is constant" in others[1]] == [True, True]
    assert {path.stem for path in (tmp_path / "stored").glob("*.npy")} == {"scan_0", "scan_2"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("-d 600", "Name the network with -b"),
        ("-d 601 -b smit", "No dataset is called 601"),
        ("-d 602 -b smit", "Dataset602_Empty holds no scans: put them into"),
        ("-d 603 -b smit", "Case b of Dataset603_Channels has 2 image files, but 1 channels are expected"),
        ("-d 600 -b smit --from none.pth", "There is no weights file none.pth"),
        ("-d 600 -p none.json", "There is no file none.json"),
        ("-d 600 -p nothing", "No dataset is called Dataset600_Scans in nnUNet_preprocessed"),
        ("-d 604 -b smit", "broken_0000.nii.gz cannot be read"),
    ],
)
def test_wrong_inputs_are_named(options, message, stored, tmp_path, monkeypatch, capsys):
    set_folders(monkeypatch, tmp_path)
    raw = tmp_path / "nnUNet_raw"
    write_scans(raw / "Dataset600_Scans/imagesTs", 1)
    (raw / "Dataset602_Empty").mkdir()
    for number, names in ((603, ("a_0000", "b_0000", "b_0001")), (604, ("broken_0000",))):
        folder = raw / f"Dataset{number}_{'Channels' if number == 603 else 'Broken'}/imagesTr"
        folder.mkdir(parents=True)
        for name in names:
            (folder / f"{name}.nii.gz").write_bytes(b"no image")
    with pytest.raises(SystemExit) as exit_:
        cli.main(["pretrain", *options.split(), "-device", "cpu"])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
