"""What the subcommands share that hand all their arguments to one of nnU-Net's commands."""

import argparse
from collections.abc import Callable, Sequence


def pass_through_to(command: str, usage: str) -> tuple[Callable[[argparse.ArgumentParser], None], Callable[..., None]]:
    """Return `add_arguments` and `run` of a subcommand that runs one of nnU-Net's commands.

    Args:
        command: nnU-Net's console script.
        usage: the arguments as the help shows them.
    """

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.usage = f"%(prog)s {usage} [any option of {command}]"
        parser.set_defaults(pass_through=True)

    def run(arguments: argparse.Namespace) -> None:
        from rectal_nnformer.nnunet_commands import run_command

        raise SystemExit(run_command(command, arguments.passed_through))

    return add_arguments, run


def values_of(arguments: Sequence[str]) -> dict[str, list[str]]:
    """Return what follows each option. By exact names: argparse would read `-device` as `-d evice`."""
    values: dict[str, list[str]] = {}
    option = ""
    for argument in arguments:
        if argument.startswith("-") and not argument[1:2].isdigit():
            option = argument
            values[option] = []
        elif option:
            values[option].append(argument)
    return {option: found for option, found in values.items() if found or option.startswith(("--", "-h"))}
