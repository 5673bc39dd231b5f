"""Programs that measure time and memory; run them from the checkout as `python -m tests.benchmarks.NAME`."""

import sys
from pathlib import Path

# Modules of the tests import each other by their names alone, as pytest lets them.
if (tests := str(Path(__file__).parents[1])) not in sys.path:
    sys.path.append(tests)
