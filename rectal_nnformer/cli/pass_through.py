"""What the subcommands share that hand all their arguments to one of nnU-Net's commands."""

import argparse
from collections.abc import Callable


def pass_through_to(command: str, usage: str) -> tuple[Callable[[argparse.ArgumentParser], None], Callable[..., None]]:
    """Return `add_arguments` and `run` of a subcommand that runs one of nnU-Net's commands.

    Args:
        command: nnU-Net's console script.
        usage: The arguments as the help shows them.
    """

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.usage = f"%(prog)s {usage} [any option of {command}]"
        parser.set_defaults(pass_through=True)

    def run(arguments: argparse.Namespace) -> None:
        from rectal_nnformer.nnunet.commands import run_command

        raise SystemExit(run_command(command, arguments.passed_through))

    return add_arguments, run
