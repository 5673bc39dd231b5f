"""The same work on every item, in as many processes as wanted, with a progress bar."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import TypeVar

from tqdm import tqdm

from rectal_nnformer.errors import RectalError

_DIED = "A worker process died ({}), most likely for lack of memory: use fewer processes."

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_with_progress(
    function: Callable[[Item], Result], items: Sequence[Item], num_workers: int, description: str
) -> list[Result]:
    """Return `function` of every item, both picklable, in the order of the items.

    When an item fails or the process is interrupted, work under way is broken off, not waited for; no worker is left
    when the exception leaves this function, nor when this process is killed. There is at most one worker a case, and 1
    stays in this process. More are spawned, as in nnU-Net, so that a script needs its `if __name__ == "__main__":`.

    Raises:
        RectalError: A worker process was killed.
    """
    num_workers = min(num_workers, len(items))
    results = []
    with tqdm(total=len(items), desc=description, unit="case") as bar:
        if num_workers <= 1:
            for item in items:
                results.append(function(item))
                bar.update()
            return results
        context = multiprocessing.get_context("spawn")
        lifeline, our_end = context.Pipe(duplex=False)
        with lifeline, our_end:
            pool = ProcessPoolExecutor(num_workers, context, _start_worker, (lifeline,))
            try:
                with _interruptions_held():
                    coming = pool.map(function, items)  # which starts the workers
                for result in coming:
                    results.append(result)
                    bar.update()
            except BaseException as error:
                # A pool alone would finish the items under way, and those that its queue holds ready.
                our_end.close()
                if isinstance(error, BrokenProcessPool):
                    raise RectalError(_DIED.format(description)) from None
                raise
            finally:
                pool.shutdown(cancel_futures=True)
    return results


@contextmanager
def _interruptions_held() -> Iterator[None]:
    """Put Ctrl-C off in this thread, and let processes that are started in the block never take notice of it.

    It reaches every process of the terminal; only this one should react, and clean up.
    """
    resource_tracker.ensure_running()  # which lets Ctrl-C through again when it is started
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def workers_undisturbed() -> Iterator[None]:
    """Let processes that another library starts in the block take no notice of Ctrl-C, each of which would tell of it.

    This process does, by a thread that takes the signal in for it; what waits for other processes must look up now and
    then.
    """
    ended = threading.Event()
    threading.Thread(target=ended.wait, daemon=True).start()
    try:
        with _interruptions_held():
            yield
    finally:
        ended.set()


def _start_worker(lifeline: Connection) -> None:
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()


def _end_with(lifeline: Connection) -> None:
    """End this process at once when the other end of the pipe is closed, as it also is by the parent's death."""
    lifeline.poll(None)
    os._exit(1)
