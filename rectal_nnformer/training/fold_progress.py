"""How far a fold is, from what nnU-Net prints: a bar per fold on a terminal, single lines in a file."""

import re
import sys
import time

from tqdm import tqdm

LINES_PER_TRAINING = 10
"""About how often the epochs are told in a file."""


class FoldProgress:
    """Follows the output of one fold.

    On a terminal each running fold has a bar, at the bottom, and finished folds stand above as lines. Anywhere else, as
    in a batch system's log, bars would fill the file and be unreadable where folds run side by side; there every line
    stands for itself and names its fold. `slot` is the line of its bar.
    """

    def __init__(self, fold: int, slot: int) -> None:
        self._fold = fold
        self._epoch = 0
        self._total: int | None = None
        self._state = "starting"
        self._start = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(desc=f"fold {fold}", unit="epoch", position=slot, leave=False, dynamic_ncols=True)
        self._tell_in_file(self._state)
        self.refresh()

    def read(self, line: str) -> None:
        """Take notice of a line that nnU-Net printed."""
        if match := re.search(r"Training (\d+) epochs", line):
            self._total = int(match[1])
            self._change(f"training {match[1]} epochs")
        elif match := re.search(r": Epoch (\d+)\s*$", line):
            self._epoch = int(match[1])
        elif match := re.search(r"train_loss (\S+)", line):
            self._epoch += 1
            self._state = f"loss {match[1]}"
            if self._epoch % max(1, (self._total or 100) // LINES_PER_TRAINING) == 0:
                of_all = f" of {self._total}" if self._total else ""
                self._tell_in_file(f"epoch {self._epoch}{of_all}, {self._state}")
        elif "predicting" in line:
            self._change("validating")
        elif match := re.search(r"Detected .*", line):
            self._state = match[0]

    def refresh(self) -> None:
        """Draw the bar, with the time that has passed."""
        if self._bar is not None:
            self._bar.n, self._bar.total = self._epoch, self._total
            self._bar.set_postfix_str(self._state)

    def close(self, outcome: str) -> None:
        """Replace the bar by a line that says how the fold ended."""
        if self._bar is not None:
            self._bar.close()
            sys.stderr.write("\r")  # tqdm leaves the cursor where the bar below the first ended
        passed = tqdm.format_interval(time.monotonic() - self._start)
        self._tell(f"{outcome} after {passed}{'. ' if self._state.startswith('Detected') else '; last: '}{self._state}")

    def _change(self, state: str) -> None:
        if state != self._state:
            self._state = state
            self._tell_in_file(state)

    def _tell_in_file(self, message: str) -> None:
        if self._bar is None:
            self._tell(message)

    def _tell(self, message: str) -> None:
        tqdm.write(f"fold {self._fold}: {message}", file=sys.stderr)
