"""The console script `rectal_nnformer`: one module per subcommand.

Each module offers `HELP` (one line), `add_arguments(parser)` and `run(arguments)`, and `IF_INTERRUPTED` (what is left
after Ctrl-C and what to do) where that needs saying. Only the standard library is imported at module level there, so
that every `--help` is instant and works before nnU-Net is set up.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from rectal_nnformer import __version__
from rectal_nnformer.errors import RectalError

COMMANDS = (
    "demo",
    "convert",
    "plan",
    "plan_and_preprocess",
    "train",
    "predict",
    "crossval",
    "evaluate",
    "report",
    "compare",
    "attention",
    "feature_reuse",
    "weights",
    "export_dataset",
    "import_dataset",
    "export_model",
    "import_model",
    "inspect",
    "env",
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with all subcommands."""
    parser = argparse.ArgumentParser(
        prog="rectal_nnformer",
        description="CT-pretrained SMIT and Swin UNETR for rectal cancer MRI, inside nnU-Net v2.",
    )
    parser.add_argument("--version", action="version", version=f"rectal_nnformer {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = importlib.import_module(f"rectal_nnformer.cli.{name}")
        subparser = subparsers.add_parser(name, help=module.HELP, description=module.__doc__, allow_abbrev=False)
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run, if_interrupted=getattr(module, "IF_INTERRUPTED", ""))
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one subcommand; a user's error, or one of the file system, is one message on stderr and exit code 2."""
    parser = build_parser()
    parsed, rest = parser.parse_known_args(arguments)
    if getattr(parsed, "pass_through", False):
        parsed.passed_through = rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        parsed.run(parsed)
    except (RectalError, OSError) as error:
        print(f"rectal_nnformer {parsed.command}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(f"\nInterrupted. {parsed.if_interrupted}".rstrip(), file=sys.stderr)
        raise SystemExit(130) from None
