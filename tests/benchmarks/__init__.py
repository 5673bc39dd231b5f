"""Programs that measure time and memory; run them from the checkout as `python -m tests.benchmarks.NAME`."""

import argparse
import sys
from pathlib import Path

# Modules of the tests import each other by their names alone, as pytest lets them.
if (tests := str(Path(__file__).parents[1])) not in sys.path:
    sys.path.append(tests)


def fold_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of what tells a fold of a model, and the device, as `nnUNetv2_train` has it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("dataset", "trainer", "plans"):
        parser.add_argument(name)
    parser.add_argument("-c", default="3d_fullres", help="default: %(default)s")
    parser.add_argument("-f", type=int, default=0, help="default: %(default)s")
    parser.add_argument("-device", default="cuda", help="default: %(default)s")
    return parser
