"""Commands that are killed at a random moment and run again: at the end the files are those of an uninterrupted run."""

import json
import random
import re
import shutil
import signal
import subprocess
import time
import uuid
from collections import Counter

import blosc2
import pytest
import torch
from marked import MARK, kill_started_by, started_by
from pipeline import SCRIPTS, what_is_not_whole

from rectal_nnformer.imaging.reading import read_image

pytestmark = pytest.mark.slow
RAW, PREPROCESSED, RESULTS = "nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"
DATASET, TRAINER, PLANS = "Dataset007_Small", "ManyEpochsSMIT_CPU", "nnUNetRectalSMITSmallPlans"
MODEL = ("-d", 7, "-tr", TRAINER, "-p", PLANS)
EPOCHS = 14
MOST_EPOCHS_LOST = {"SIGKILL": 10, "SIGTERM": 0}
"""As documentation/how-to/train.md promises; the epoch under way, which is trained again, is not counted."""
SECONDS_TO_END = 30
SEED = 1
SAMPLE = {
    "SIGKILL": ("convert", "plan_and_preprocess", "predict", "export_dataset", "import_dataset"),
    "SIGTERM, SIGKILL": ("crossval",),
}
"""By signals, of which a command gets one after the other before it is let to its end: commands."""
FULL = {
    "SIGKILL": {
        "convert": 4, "plan_and_preprocess": 5, "crossval": 6, "predict": 5, "export_dataset": 3, "import_dataset": 4,
        "report": 3,
    },
    "SIGTERM": {
        "convert": 1, "plan_and_preprocess": 1, "crossval": 3, "predict": 2, "export_dataset": 1, "import_dataset": 1,
        "report": 1,
    },
}  # fmt: skip


def pytest_generate_tests(metafunc):
    if "signal_name" in metafunc.fixturenames:
        series = FULL if metafunc.config.getoption("--full-series") else SAMPLE
        kills = [
            (command, name, number)
            for name, commands in series.items()
            for command, times in Counter(commands).items()
            for number in range(times)
        ]
        metafunc.parametrize(("command", "signal_name", "number"), kills)


class Workplace:
    """A folder in which each command is run from the same state, so that its files hold the same paths each time."""

    def __init__(self, root, variables, base):
        self.root, self.base, self.work = root, base, root / "work"
        places = {name: str(self.work / name) for name in (RAW, PREPROCESSED, RESULTS)}
        (root / "tmp").mkdir()
        (root / "scans").mkdir()
        for number in range(2):  # each takes long: of hardly trained networks masks have many components
            shutil.copy(base / RAW / DATASET / f"imagesTr/case_{number:02d}_0000.nii.gz", root / "scans")
        self.variables = {**variables, **places, "TMPDIR": str(root / "tmp"), "TQDM_DISABLE": "1"}
        self._uninterrupted = {}

    def arguments(self, command, number=0):
        """The command and what must be there for it: folders of nnU-Net's, by where they come from."""
        cohort, images = self.base / "cohort", self.root / "scans"
        of_base = {name: self.base / name for name in (RAW, PREPROCESSED)}
        on_cpu = ("-device", "cpu")
        match command:
            case "convert":
                places = ("--images", cohort / "images", "--masks", cohort / "masks")
                return ("convert", "nifti", *places, "-d", 7, "--name", "Small"), {}
            case "plan_and_preprocess":
                return (command, "-d", 7, "--backbone", "smit_small", "-np", 1, "-npfp", 1), {RAW: of_base[RAW]}
            case "crossval":
                return (command, *MODEL, "-f", 0, *on_cpu), of_base
            case "export_dataset":
                return (command, "-d", 7, "-o", self.work / "sent.zip"), {PREPROCESSED: of_base[PREPROCESSED]}
            case "import_dataset":
                return (command, self.uninterrupted("export_dataset")[0] / "sent.zip"), {}
        results = {RESULTS: self.uninterrupted("crossval")[0] / RESULTS}
        if command == "report":
            return (command, self.work / RESULTS / DATASET / f"{TRAINER}__{PLANS}__3d_fullres"), of_base | results
        continued = ("--continue_prediction",) * (number % 2)
        options = ("-i", images, "-o", self.work / "masks", "-f", 0, *on_cpu, "-npp", 1, "-nps", 1, *continued)
        return ("predict", *MODEL, *options), results

    def prepare(self, command, number=0):
        """Put the folder into the state before the command, and return its arguments."""
        arguments, needed = self.arguments(command, number)
        shutil.rmtree(self.work, ignore_errors=True)
        for name in (RAW, PREPROCESSED, RESULTS):
            if name in needed:
                shutil.copytree(needed[name], self.work / name)
            else:
                (self.work / name).mkdir(parents=True)
        return [str(SCRIPTS / "rectal_nnformer"), *map(str, arguments)]

    def start(self, arguments, mark):
        output = (self.root / "printed.txt").open("wb")
        environment = {**self.variables, MARK: mark}
        return subprocess.Popen(arguments, env=environment, stdout=output, stderr=output, start_new_session=True)

    def finish(self, arguments):
        """Run a command to its end; return its exit code and what it printed."""
        code = self.start(arguments, "none").wait()
        return code, (self.root / "printed.txt").read_text(encoding="utf-8")

    def uninterrupted(self, command):
        """Run a command once in peace; return the folder that it left, and the seconds it took."""
        if command not in self._uninterrupted:
            arguments = self.prepare(command)
            begin = time.monotonic()
            code, printed = self.finish(arguments)
            assert code == 0, printed[-6000:]
            kept = self.root / f"uninterrupted_{command}"
            self._uninterrupted[command] = kept, time.monotonic() - begin
            self.work.rename(kept)
        return self._uninterrupted[command]


@pytest.fixture(scope="module")
def workplace(small_dataset, tmp_path_factory):
    return Workplace(tmp_path_factory.mktemp("kills"), *small_dataset)


def send(process, name, mark):
    """Kill a command and all that it started, as a machine that is switched off does, or ask the command to end."""
    try:
        if name == "SIGTERM":
            process.send_signal(signal.SIGTERM)
            process.wait(SECONDS_TO_END)
            end = time.monotonic() + SECONDS_TO_END
            while started_by(mark) and time.monotonic() < end:
                time.sleep(0.1)
            assert not started_by(mark), "processes outlive a command that was asked to end"
    finally:
        kill_started_by(mark, process.poll)
        process.wait()


def interrupt(workplace, command, name, number, arguments=None, left=1.0):
    """Start a command and end it at a moment that the number gives; return its arguments, when that was, and its code.

    With the arguments of an interrupted one, of which a share is left to do, it goes on from there.
    """
    seconds = left * workplace.uninterrupted(command)[1]
    share = random.Random(f"{SEED} {command} {name} {number}").random()
    while True:
        arguments, mark = arguments or workplace.prepare(command, number), uuid.uuid4().hex
        begin = time.monotonic()
        process = workplace.start(arguments, mark)
        try:
            process.wait(share * seconds)
        except subprocess.TimeoutExpired:
            send(process, name, mark)
            return arguments, share, process.returncode
        seconds, arguments = time.monotonic() - begin, None  # the machine has less to do than the first time


def test_a_killed_command_that_is_run_again_ends_as_if_nothing_had_been(workplace, command, signal_name, number):
    expected, arguments, left_to_do, ends = workplace.uninterrupted(command)[0], None, 1.0, {}
    for name in signal_name.split(", "):
        before = arguments
        arguments, share, code = interrupt(workplace, command, name, number, before, left_to_do)
        if arguments is not before:  # it began anew
            ends.clear()
        left_to_do *= 1 - share
        begun = epochs(workplace.work)
        ends[name] = len(begun)
        left = sorted(str(path.relative_to(workplace.work)) for path in workplace.work.rglob(".*"))
        print(f"{command} {name} {number}: at {share:.3f}, exit code {code}, epochs {begun}, left {left}")
        assert code in ((-signal.SIGKILL,) if name == "SIGKILL" else (-signal.SIGTERM, 130))
        if command not in ("crossval", "predict"):  # there nnU-Net writes, and what it left is made again
            assert not what_is_not_whole(workplace.work)
    code, printed = workplace.finish(arguments)
    begun = epochs(workplace.work)
    print(f"run again: exit code {code}, epochs {begun}")
    # Killed when all was in place, it refuses to make it twice.
    done = {"convert": "is in use by", "import_dataset": "exists. Move it away"}.get(command)
    assert code == 0 or (code == 2 and done and done in printed), printed[-6000:]
    assert not what_is_not_whole(workplace.work)
    assert not [path for path in workplace.work.rglob("*") if path.name.startswith(".") or "partial" in path.name]
    assert_same(command, workplace.work, expected)
    for name, end in ends.items():
        if 0 < end < len(begun):
            assert begun[end - 1] - begun[end] <= MOST_EPOCHS_LOST[name]
    last = begun[max(ends.values()) :]
    assert not last or last == list(range(last[0], EPOCHS))


def epochs(folder):
    """Return the epochs that the training of the fold has begun, in their order."""
    logs = list(folder.glob(f"{RESULTS}/*/*/fold_0/crossval_log.txt"))
    return [int(number) for log in logs for number in re.findall(r"\bEpoch (\d+)\b", log.read_text(encoding="utf-8"))]


def assert_same(command, folder, expected):
    """Compare all files: byte for byte, or by their meaning where they hold random weights, times or other paths."""
    found, wanted = dict(named_files(folder)), dict(named_files(expected))
    assert found.keys() == wanted.keys()
    for name in found:
        of_training = command == "crossval" and name.startswith(RESULTS)
        compared = what_a_training_wrote if of_training else what_is_always_the_same
        assert compared(found[name]) == compared(wanted[name]), name


def named_files(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            yield re.sub(r"training_log_[\d_]+", "training_log", str(path.relative_to(folder))), path


def what_is_always_the_same(path):
    if path.suffix == ".b2nd":  # compressed by threads, whose blocks come in any order
        array = blosc2.open(str(path), mode="r")[:]
        return array.shape, array.dtype, array.tobytes()
    if path.name in ("report.html", "findings.html", "findings.json"):
        return re.sub(r"\d\d \w+ 20\d\d, \d\d:\d\d", "", path.read_text(encoding="utf-8"))
    if path.name == "predict_from_raw_data_args.json":
        return {
            **json.loads(path.read_text(encoding="utf-8")),
            "list_of_lists_or_source_folder": None,
            "overwrite": None,
        }
    return path.read_bytes()


def what_a_training_wrote(path):
    """Return what is the same in all trainings, whose weights and times are not."""
    if path.parent.name.startswith(TRAINER) and path.suffix == ".json" and "summary" not in path.name:
        return path.read_bytes()  # plans, descriptions
    if path.suffix == ".pth":
        content = torch.load(path, weights_only=False)
        weights = {name: value.shape for name, value in content["network_weights"].items()}
        assert all(value.isfinite().all() for value in content["network_weights"].values())
        if path.name == "checkpoint_best.pth":
            return weights
        lengths = {name: len(values) for name, values in content["logging"].items()}
        return weights, content["current_epoch"], lengths, content["logging"]["lrs"]
    if path.name.endswith(".nii.gz"):
        image = read_image(path)
        return image.GetSize(), image.GetSpacing(), image.GetDirection()
    if path.suffix == ".json":
        content = json.loads(path.read_text(encoding="utf-8"))
        cases = sorted(set(re.findall(r"case_\d\d", json.dumps(content))))
        return cases, list(content) if isinstance(content, dict) else len(content)
    if path.suffix == ".csv":
        return re.findall(r"case_\d\d", path.read_text(encoding="utf-8"))[:1], path.read_text(
            encoding="utf-8"
        ).splitlines()[0]
    return path.stat().st_size > 0
