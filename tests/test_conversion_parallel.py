"""Work in several processes: results in order, and an end at once when something goes wrong."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from rectal_nnformer.errors import RectalError
from rectal_nnformer.utils.parallel import map_with_progress


def double(number):
    time.sleep(0.02 * (3 - number))
    return 2 * number


def fail_or_sleep(number):
    if number == 0:
        raise RectalError("case 0 cannot be right")
    time.sleep(60)


def killed_or_sleep(number):
    if number == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_results_are_in_the_order_of_the_items(num_workers):
    assert map_with_progress(double, range(4), num_workers, "doubling") == [0, 2, 4, 6]


@pytest.mark.parametrize(
    ("function", "message"), [(fail_or_sleep, "case 0 cannot"), (killed_or_sleep, "worker process died .sleeping.")]
)
def test_an_error_or_a_killed_worker_ends_all_work_at_once(function, message):
    start = time.monotonic()
    with pytest.raises(RectalError, match=message):
        map_with_progress(function, range(6), 2, "sleeping")
    assert time.monotonic() - start < 40
    assert not multiprocessing.active_children()


INTERRUPTED = """
import os, signal, sys, time
from pathlib import Path
from rectal_nnformer.utils.parallel import map_with_progress

def work(number):
    Path(sys.argv[1], str(os.getpid())).touch()
    time.sleep(60)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    map_with_progress(work, range(6), 2, "sleeping")
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interruption_waits_for_no_worker_and_leaves_none(tmp_path, how):
    (tmp_path / "pids").mkdir()
    (tmp_path / "script.py").write_text(INTERRUPTED)
    process = subprocess.Popen([sys.executable, str(tmp_path / "script.py"), str(tmp_path / "pids")])
    wait_until(lambda: len(list((tmp_path / "pids").iterdir())) == 2)
    start = time.monotonic()
    process.send_signal(how)
    assert process.wait(timeout=40) != 0
    wait_until(lambda: not any(is_running(int(path.name)) for path in (tmp_path / "pids").iterdir()))
    assert time.monotonic() - start < 40


WHOLE_TERMINAL = """
import os, sys, time

if __name__ == "__mp_main__":
    os.close(os.open(os.path.join(sys.argv[1], str(os.getpid())), os.O_CREAT))
    time.sleep(1)  # it is only starting

def work(number):
    time.sleep(60)

if __name__ == "__main__":
    import multiprocessing
    from rectal_nnformer.utils.parallel import map_with_progress, workers_undisturbed
    try:
        if sys.argv[2] == "ours":
            map_with_progress(work, range(6), 2, "sleeping")
        else:
            with workers_undisturbed(), multiprocessing.get_context("spawn").Pool(2) as pool:
                result = pool.map_async(work, range(6))
                while not result.ready():
                    time.sleep(0.1)
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.parametrize("whose", ["ours", "of a library"])
def test_ctrl_c_while_workers_start_is_told_by_none_of_them(tmp_path, whose):
    """It reaches every process of a terminal."""
    (tmp_path / "pids").mkdir()
    (tmp_path / "script.py").write_text(WHOLE_TERMINAL)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "pids"), whose]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", start_new_session=True
    )
    wait_until(lambda: len(list((tmp_path / "pids").iterdir())) == 2)
    os.killpg(process.pid, signal.SIGINT)
    printed, errors = process.communicate(timeout=40)
    assert printed == "interrupted\n" and "Traceback" not in errors


def wait_until(condition):
    deadline = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
