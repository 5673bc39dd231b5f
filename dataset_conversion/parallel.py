"""The same work on every case, in as many processes as wanted, with a progress bar."""

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tqdm import tqdm

from rectal_nnformer.errors import RectalError

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_with_progress(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, description: str
) -> list[Result]:
    """Return `function` of every item, in the order of the items.

    Args:
        function: A picklable function.
        items: Picklable items.
        workers: Number of processes; 1 stays in this one. They are spawned, as in nnU-Net, so a script that asks for
            more than 1 needs its `if __name__ == "__main__":`.
        description: What the progress bar says.

    Raises:
        RectalError: a worker process was killed.
    """
    bar = tqdm(total=len(items), desc=description, unit="case")
    workers = min(workers, len(items))
    results = []
    with bar:
        if workers <= 1:
            for item in items:
                results.append(function(item))
                bar.update()
            return results
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_ignore_interrupt)
        try:
            for result in pool.map(function, items):
                results.append(result)
                bar.update()
        except BrokenProcessPool:
            raise RectalError(
                f"A worker process died while {description}, most likely for lack of memory: use fewer (-np 1)."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)
    return results


def _ignore_interrupt() -> None:
    # Ctrl-C reaches every process of the terminal; only the parent should react, and clean up.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
