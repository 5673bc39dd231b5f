"""Running folds as processes: what is passed to nnU-Net, resumption, failure, interruption, several GPUs.

A small script stands in for nnUNetv2_train here; the real command runs in the slow tests.
"""

import dataclasses
import fcntl
import io
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from checkpoints import write_checkpoint

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet import commands as nnunet_commands
from rectal_nnformer.nnunet.layout import ModelFolder
from rectal_nnformer.training import run_folds
from rectal_nnformer.training.run_folds import StoppedFoldsError, TrainingJob, claim_log, train_fold, train_folds


@pytest.fixture
def job(tmp_path):
    return TrainingJob(ModelFolder(tmp_path, "Dataset501_Rectal", "Trainer", "Plans", "3d_fullres"), device="cpu")


@pytest.fixture
def fake_training(tmp_path, monkeypatch):
    """Install a stand-in for nnUNetv2_train with the given body; return the file in which it notes its calls."""
    calls = tmp_path / "calls.txt"
    checkpoint = write_checkpoint(tmp_path / "finished.pth", "Trainer")  # here, as importing PyTorch takes seconds

    def install(body="finish()"):
        script = tmp_path / "fake_train.py"
        functions = f"""
            import os, shutil, sys, time
            from pathlib import Path
            dataset, configuration, fold = sys.argv[1:4]
            folder = Path({str(tmp_path)!r}) / dataset / f"Trainer__Plans__{{configuration}}" / f"fold_{{fold}}"
            with open({str(calls)!r}, "a") as file:
                print(*sys.argv[1:], "GPU", os.environ.get("CUDA_VISIBLE_DEVICES"), file=file)

            def finish():
                (folder / "validation").mkdir(parents=True, exist_ok=True)
                (folder / "validation/summary.json").write_text("{{}}")
                shutil.copy({str(checkpoint)!r}, folder / "checkpoint_final.pth")
        """
        script.write_text(f"#!{sys.executable}\n" + textwrap.dedent(functions) + "\n" + body)
        script.chmod(0o755)
        monkeypatch.setattr(nnunet_commands, "command_path", lambda name: str(script))
        monkeypatch.setattr(run_folds, "POLL_SECONDS", 0.05)
        return calls

    return install


def finish(job, fold):
    folder = job.model.fold(fold)
    write_checkpoint(folder.checkpoint_final, "Trainer")
    folder.validation.mkdir()
    (folder.validation / "summary.json").write_text("{}")


@pytest.mark.parametrize(
    ("present", "flag"),
    [
        ([], None),
        (["checkpoint_latest.pth"], "--c"),
        (["checkpoint_best.pth"], "--c"),
        (["checkpoint_final.pth", "checkpoint_best.pth"], "--val"),
    ],
)
def test_a_fold_continues_from_where_it_stands(job, present, flag):
    for name in present:
        write_checkpoint(job.model.fold(2).path / name, "Trainer")
    arguments = job.arguments(2)
    assert arguments[:3] == ["Dataset501_Rectal", "3d_fullres", "2"]
    assert [a for a in arguments if a.startswith("--")] == ([flag] if flag else [])


def test_finished_folds_are_not_repeated(job, fake_training, capsys):
    calls = fake_training()
    finish(job, 1)
    train_folds(job, [0, 1, 2])
    assert [line.split()[2] for line in calls.read_text().splitlines()] == ["0", "2"]
    assert "fold 1: finished before" in capsys.readouterr().out


def test_each_fold_has_its_log(job, fake_training):
    fake_training("print('hello from fold', fold); finish()")
    train_folds(job, [0, 1])
    for fold in (0, 1):
        assert (job.model.fold(fold).path / "crossval_log.txt").read_text(
            encoding="utf-8"
        ) == f"hello from fold {fold}\n"


def test_a_failing_fold_stops_and_shows_the_end_of_its_log(job, fake_training):
    calls = fake_training("print('no space left'); sys.exit(3)")
    with pytest.raises(RectalError, match=r"fold 0 failed with exit code 3[\s\S]*no space left"):
        train_folds(job, [0, 1])
    assert len(calls.read_text().splitlines()) == 1


def test_the_first_error_of_a_failing_fold_is_shown_and_the_last(job, fake_training):
    """The cause comes first; that of an earlier attempt is not one of this."""
    fake_training("print('OSError: of another day'); sys.exit(1)")
    with pytest.raises(RectalError):
        train_folds(job, [0])
    worker = "Traceback:\\n  in worker\\nFileNotFoundError: case_07.b2nd is missing\\n" + "between\\n" * 40
    fake_training(f"print('{worker}RuntimeError: background workers are no longer alive'); sys.exit(1)")
    with pytest.raises(RectalError) as failed:
        train_folds(job, [0])
    told = str(failed.value)
    assert told.index("case_07.b2nd is missing") < told.index("background workers are no longer alive")
    assert "of another day" not in told and len(told.splitlines()) < 20


@pytest.mark.parametrize("how", ["os.kill(os.getpid(), 15)", "sys.exit(143)"])
def test_a_fold_that_sigterm_ended_is_told_as_such(job, fake_training, how):
    """Trainers of nnU-Net's end by the signal; ours save, and exit as if by it."""
    fake_training(how)
    with pytest.raises(
        StoppedFoldsError, match=r"fold 0 was ended by SIGTERM and goes on .*\nRun the same command again"
    ):
        train_folds(job, [0])


def test_a_command_that_ends_well_without_results_is_a_failure(job, fake_training):
    fake_training("pass")
    with pytest.raises(RectalError, match="fold 0 failed with exit code 0"):
        train_folds(job, [0])


def test_a_signal_of_slurm_to_all_processes_of_a_job_does_not_end_a_training(job, fake_training):
    fake_training("import signal; os.kill(os.getpid(), signal.SIGUSR2); finish()")
    train_folds(job, [0])
    assert job.is_finished(0)


def test_folds_are_spread_over_gpus(job, fake_training):
    calls = fake_training("time.sleep(0.3); finish()")
    train_folds(job, range(4), ["3", "5"])
    gpus = [line.split()[-1] for line in calls.read_text().splitlines()]
    assert sorted(gpus) == ["3", "3", "5", "5"]


def test_trainings_on_a_cpu_share_its_cores_and_the_last_gets_all(job, fake_training, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "7")  # the user's own stays
    threads = tmp_path / "threads.txt"
    note = 'print(fold, *map(os.environ.get, ("OMP_NUM_THREADS", "MALLOC_MMAP_THRESHOLD_")), file=file, flush=True)'
    fake_training(f"with open({str(threads)!r}, 'a') as file:\n    {note}\nfinish()")
    train_folds(job, range(5), (None, None))
    assert sorted(threads.read_text().splitlines()) == ["0 4 7", "1 4 7", "2 4 7", "3 4 7", "4 8 7"]
    assert run_folds.variables_on_cpu(16)["OMP_NUM_THREADS"] == "1"


def test_an_interruption_ends_the_training_and_its_workers(job, fake_training, tmp_path, monkeypatch):
    """The stand-in starts a child of its own, as nnU-Net starts its workers."""
    pids = tmp_path / "pids.txt"
    fake_training(
        f"import subprocess; child = subprocess.Popen(['sleep', '60']);"
        f"Path({str(pids)!r}).write_text(f'{{os.getpid()}} {{child.pid}}'); time.sleep(60)"
    )

    def interrupt_once_started(seconds):
        if pids.exists() and pids.read_text():
            raise KeyboardInterrupt
        time.sleep(0.05)

    monkeypatch.setattr(run_folds, "sleep", interrupt_once_started)
    with pytest.raises(KeyboardInterrupt):
        train_folds(job, [0])
    assert_gone(pids)


def assert_gone(pids):
    """A killed orphan may take a moment to be reaped."""
    deadline = time.monotonic() + 5
    while any(is_running(int(pid)) for pid in pids.read_text().split()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid):
    """Whether a process exists and is no zombie."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.fixture
def started(fake_training):
    """Return a function that starts a training of some code, and returns when it has printed a line."""

    def start(code):
        fake_training(f"import signal\n{code}\nprint('ready', flush=True); time.sleep(60)")
        read, write = os.pipe()
        with os.fdopen(write, "wb") as output:
            process = nnunet_commands.start_command("nnUNetv2_train", ["D", "c", "0"], output=output)
        with os.fdopen(read, "rb") as log:
            assert log.readline() == b"ready\n"
        return process

    return start


def test_a_training_has_the_time_to_save_itself_when_sigterm_comes_again(started, tmp_path):
    """As from SLURM, which ends a job that goes back into the queue."""
    saved = tmp_path / "saved"
    process = started(
        f"def save(*_):\n    time.sleep(1)\n    Path({str(saved)!r}).touch()\n    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save)"
    )
    before = signal.getsignal(signal.SIGTERM)
    with nnunet_commands.interruptible():
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        nnunet_commands.stop_groups([process])
    assert (process.returncode, saved.exists()) == (143, True)
    assert signal.getsignal(signal.SIGTERM) == before


def test_what_ignores_the_interruption_is_killed(started, monkeypatch):
    process = started("signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    monkeypatch.setattr(nnunet_commands, "SECONDS_TO_STOP", 0.5)
    nnunet_commands.stop_groups([process])
    assert process.returncode == -signal.SIGKILL


def test_a_second_interruption_leaves_nothing_running(job, fake_training, tmp_path, monkeypatch):
    """Two folds that ignore the request to end, and a user who presses Ctrl-C again while they are waited for."""
    pids = tmp_path / "pids.txt"
    fake_training(
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"with open({str(pids)!r}, 'a') as file: print(os.getpid(), file=file)\n"
        "time.sleep(60)"
    )

    def interrupt_once_started(seconds):
        if pids.exists() and len(pids.read_text().split()) == 2:
            raise KeyboardInterrupt
        time.sleep(0.05)

    def interrupt_again(self, timeout=None):
        if timeout is not None:
            raise KeyboardInterrupt
        return wait(self)

    wait = subprocess.Popen.wait
    monkeypatch.setattr(run_folds, "sleep", interrupt_once_started)
    monkeypatch.setattr(subprocess.Popen, "wait", interrupt_again)
    with pytest.raises(KeyboardInterrupt):
        train_folds(job, [0, 1], [None, None])
    assert_gone(pids)


def test_a_fold_that_fails_lets_the_others_finish_but_starts_none(job, fake_training):
    calls = fake_training("time.sleep(0.5 * int(fold)); finish() if fold == '1' else sys.exit(1)")
    with pytest.raises(RectalError, match="fold 0 failed"):
        train_folds(job, [0, 1, 2], [None, None])
    assert job.is_finished(1)
    assert {line.split()[2] for line in calls.read_text().splitlines()} == {"0", "1"}


def test_a_fold_is_not_trained_by_two_processes(job, fake_training):
    calls = fake_training()
    log = job.model.fold(0).path / "crossval_log.txt"
    log.parent.mkdir(parents=True)
    with log.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(RectalError, match="fold 0 is being trained by another process"):
            train_folds(job, [0])
    assert not calls.exists()


def test_what_a_killed_training_held_is_free_and_its_sign_gone(job, fake_training):
    """Whether the fold was trained further or was finished; what a process holds stays."""
    fake_training("(folder / '.training.lock').touch(); finish()")
    finish(job, 1)
    signs = [job.model.fold(fold).path / ".training.lock" for fold in (0, 1)]
    signs[1].touch()
    train_folds(job, [0, 1])
    assert not any(sign.exists() for sign in signs)
    program = (
        "import sys\nfrom pathlib import Path\nfrom rectal_nnformer.utils.files import locked\n"
        "with locked(Path(sys.argv[1]), ''): print(flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program, str(signs[1])], **pipes) as holder:
        holder.stdout.readline()
        train_folds(job, [1])
        assert signs[1].exists()
        holder.stdin.close()


def test_a_training_in_the_foreground_holds_its_fold_and_leaves_no_log(job, fake_training):
    calls = fake_training()
    fold = job.model.fold(0)
    with claim_log(fold), pytest.raises(RectalError, match="fold 0 is being trained by another process"):
        train_fold(fold, job.arguments(0))
    assert not calls.exists()
    program = "subprocess.Popen(['flock', '--nonblock', str(folder / 'crossval_log.txt'), 'true']).wait()"
    fake_training(f"import subprocess; sys.exit(10 + {program})")
    assert train_fold(fold, job.arguments(0)) == 11  # the training itself is one that holds it
    assert not list(fold.path.iterdir())


def test_a_training_in_the_foreground_tells_the_first_error_last(job, fake_training, capfd):
    """As it is printed on stderr, and once more below, where there were others."""
    worker = "Traceback:\\n  in worker\\nFileNotFoundError: case_07.b2nd is missing\\n" + "between\\n" * 40
    fake_training(
        f"print('epoch'); print('{worker}RuntimeError: background workers are no longer alive', file=sys.stderr)\n"
        "sys.exit(1)"
    )
    assert train_fold(job.model.fold(0), job.arguments(0)) == 1
    printed = capfd.readouterr()
    assert printed.out == "epoch\n"
    shown, _, told = printed.err.partition("fold 0 failed. The first error was:\n")
    assert shown == worker.replace("\\n", "\n") + "RuntimeError: background workers are no longer alive\n"
    assert told.splitlines()[0] == "  FileNotFoundError: case_07.b2nd is missing"
    assert told.splitlines()[-1] == "  RuntimeError: background workers are no longer alive"
    fake_training("print('ValueError: alone', file=sys.stderr); sys.exit(3)")
    assert train_fold(job.model.fold(0), job.arguments(0)) == 3
    assert capfd.readouterr().err == "ValueError: alone\n"


def test_probabilities_asked_for_later_are_made_by_validating_again(job):
    """Unless it was killed in between, when those of the case at hand are cut, and of others there are none."""
    with_probabilities = dataclasses.replace(job, save_probabilities=True)
    finish(job, 0)
    job.model.dataset_json.write_text('{"labels": {"background": 0}, "file_ending": ".nii.gz"}')
    validation = job.model.fold(0).validation
    assert job.is_finished(0) and not with_probabilities.is_finished(0)
    assert {"--npz", "--val"} <= set(with_probabilities.arguments(0))
    for case in ("one", "two"):
        (validation / f"{case}.nii.gz").touch()
        assert not with_probabilities.is_finished(0)
        np.savez_compressed(validation / f"{case}.npz", probabilities=np.zeros(100))
        assert with_probabilities.is_finished(0)
    whole = (validation / "two.npz").read_bytes()
    (validation / "two.npz").write_bytes(whole[: len(whole) // 2])
    assert job.is_finished(0) and not with_probabilities.is_finished(0)


def test_the_log_can_be_followed_while_a_fold_runs(job, fake_training, monkeypatch):
    """What the command prints must not wait in its buffer."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    seen = []
    fake_training("print('first line'); time.sleep(1.5); finish()")

    def look(seconds):
        log = job.model.fold(0).path / "crossval_log.txt"
        if log.read_text() and not job.is_finished(0):
            seen.append(log.read_text())
        time.sleep(0.05)

    monkeypatch.setattr(run_folds, "sleep", look)
    train_folds(job, [0])
    assert seen


NNUNETS_PRINTS = """
import random
from tqdm import tqdm
random.seed(fold)
print("2026-01-01 10:00:00: Training 20 epochs of 250 iterations")
for epoch in range(20):
    print(f"2026-01-01 10:00:00: \\n2026-01-01 10:00:00: Epoch {epoch} ", flush=True)
    time.sleep(random.uniform(0, 0.05))
    print(f"2026-01-01 10:00:00: train_loss -0.{epoch}")
print("2026-01-01 10:00:00: predicting case_1")
for _ in tqdm(range(3), desc="Lesion detection"):
    time.sleep(0.05)
print("2026-01-01 10:00:00: Detected 3 of 4 lesions")
finish()
"""


def test_in_a_file_folds_side_by_side_are_single_lines(job, fake_training, capsys):
    fake_training(NNUNETS_PRINTS)
    train_folds(job, [0, 1, 2], [None, None])
    shown = capsys.readouterr().err
    assert "\r" not in shown and "\x1b" not in shown
    lines = shown.splitlines()
    assert all(line.startswith("fold ") for line in lines)
    for fold in range(3):
        told = [line.removeprefix(f"fold {fold}: ") for line in lines if line.startswith(f"fold {fold}: ")]
        epochs = [line for line in told if line.startswith("epoch ")]
        assert epochs[0] == "epoch 2 of 20, loss -0.1" and len(epochs) == 10
        assert told[:2] == ["starting", "training 20 epochs"] and told[-2] == "validating"
        assert told[-1].startswith("finished after 00:0") and told[-1].endswith("Detected 3 of 4 lesions")


def test_the_log_has_all_that_nnunet_prints_and_no_bars(job, fake_training):
    fake_training(NNUNETS_PRINTS)
    train_folds(job, [0])
    log = (job.model.fold(0).path / "crossval_log.txt").read_text(encoding="utf-8")
    assert log.count("train_loss") == 20 and "predicting case_1" in log and "Detected 3 of 4 lesions" in log
    assert "\r" not in log and "Lesion detection" not in log


def test_one_warning_that_tells_users_nothing_is_left_out_of_the_log(job, fake_training):
    fake_training(
        "import warnings\n"
        "warnings.warn('`torch.jit.interface` is deprecated. Please use another.', FutureWarning)\n"
        "warnings.warn('something else is deprecated', FutureWarning)\n"
        "finish()"
    )
    train_folds(job, [0])
    log = (job.model.fold(0).path / "crossval_log.txt").read_text(encoding="utf-8")
    assert "something else is deprecated" in log and "torch.jit" not in log


def screen_of(output):
    """Return the lines that a terminal shows after `output`: carriage returns, line feeds and cursor up."""
    screen, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[\d*[A-Za-z]|[\r\n]|[^\r\n\x1b]+", output):
        if part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
            screen += [""] * (row + 1 - len(screen))
        elif part.endswith("A") and part.startswith("\x1b"):
            row -= int(part[2:-1] or 1)
        else:
            line = screen[row].ljust(column)
            screen[row] = line[:column] + part + line[column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in screen if line.strip()]


def test_on_a_terminal_nothing_but_the_outcomes_is_left_of_the_bars(job, fake_training, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    fake_training(NNUNETS_PRINTS)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    while_running = []

    def look(seconds):
        while_running.append(screen_of(terminal.getvalue()))
        time.sleep(0.05)

    monkeypatch.setattr(run_folds, "sleep", look)
    train_folds(job, [0, 1, 2], [None, None])
    outcomes = screen_of(terminal.getvalue())
    assert len(outcomes) == 3 and all(" finished after 00:0" in line for line in outcomes)
    assert {line[:6] for line in outcomes} == {"fold 0", "fold 1", "fold 2"}
    for lines in while_running:
        names = [line[:6] for line in lines]
        assert len(names) == len(set(names)), "each fold has one line, be it its bar or its outcome"
        assert all(re.match(r"fold \d", name) for name in names)
    assert any("20 [" in line and "loss -0." in line for lines in while_running for line in lines)


def test_the_error_is_shown_from_the_line_that_names_it(job, fake_training):
    fake_training("print('Traceback'); print('some.RectalError: the cause'); print('detail\\n' * 30); sys.exit(1)")
    with pytest.raises(RectalError, match="the cause"):
        train_folds(job, [0])
