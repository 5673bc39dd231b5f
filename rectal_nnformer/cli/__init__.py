"""The console script `rectal_nnformer`: one module per group of commands.

These modules import nothing but the standard library and what is as quick, so that every `--help` is instant and works
before nnU-Net is set up. A command checks its arguments, then imports what it needs.
"""

import io
import sys
from collections.abc import Sequence

from rectal_nnformer import __version__
from rectal_nnformer.cli import data, models, pretraining, results, setup, sharing, study
from rectal_nnformer.cli.command import Command, Parser
from rectal_nnformer.errors import RectalError

COMMANDS: tuple[Command, ...] = (
    *setup.COMMANDS,
    *data.COMMANDS,
    *pretraining.COMMANDS,
    *models.COMMANDS,
    *results.COMMANDS,
    *study.COMMANDS,
    *sharing.COMMANDS,
)


def build_parser() -> Parser:
    """Return the parser with all subcommands."""
    parser = Parser(
        prog="rectal_nnformer",
        description="CT-pretrained SMIT and Swin UNETR for rectal cancer MRI, inside nnU-Net v2.",
    )
    parser.add_argument("--version", action="version", version=f"rectal_nnformer {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        pass_through = command.add_arguments is None
        subparser = subparsers.add_parser(
            command.name, help=command.help, description=command.run.__doc__, add_help=not pass_through
        )
        if command.add_arguments:
            command.add_arguments(subparser)
        subparser.set_defaults(command=command, parser=subparser, pass_through=pass_through)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one subcommand; a user's error, or one of the file system, is one message on stderr and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be in UTF-8
    parsed, rest = build_parser().parse_known_args(arguments)
    command: Command = parsed.command
    if parsed.pass_through:
        parsed.passed = rest
    elif rest:
        parsed.parser.refuse(rest)
    try:
        command.run(parsed)
    except (RectalError, OSError) as error:
        print(f"rectal_nnformer {command.name}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(f"\nInterrupted. {command.if_interrupted}".rstrip(), file=sys.stderr)
        raise SystemExit(130) from None
