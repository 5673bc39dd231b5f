"""A command and its parser, which brings the nearest name where one does not exist."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from rectal_nnformer.utils.text import nearest


@dataclass(frozen=True)
class Command:
    """One subcommand of `rectal_nnformer`.

    Attributes:
        run: Checks the arguments, then does the work. Its name is the command's, its docstring the description in help.
        add_arguments: Adds the options; nothing large may be imported for it. None where all arguments are nnU-Net's:
            `run` finds them in `arguments.passed`.
        if_interrupted: What is left after Ctrl-C and what to do, where that needs saying.
    """

    run: Callable[[argparse.Namespace], None]
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None] | None = None
    if_interrupted: str = ""

    @property
    def name(self) -> str:
        """What the user types."""
        return self.run.__name__


class Parser(argparse.ArgumentParser):
    """A parser of options that must be written in full."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})
        self._given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, and remember what was given."""
        self._given = sys.argv[1:] if args is None else args
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """End with a message, to which what was meant is added where a required option is missing and one misspelt."""
        if "required" in message:
            message += self._hint([given.partition("=")[0] for given in self._given])
        super().error(message)

    def _hint(self, arguments: Sequence[str]) -> str:
        known = [option for action in self._actions for option in action.option_strings]
        unknown = [argument for argument in arguments if argument.startswith("--") and argument not in known]
        return next((f".{hint}" for hint in (nearest(argument, known) for argument in unknown) if hint), "")

    def refuse(self, arguments: Sequence[str]) -> NoReturn:
        """End with a message on arguments that are none of this parser's."""
        known = [option for action in self._actions for option in action.option_strings]
        hints = [nearest(argument, known) for argument in arguments if argument.startswith("-")]
        self.error(f"unrecognized arguments: {' '.join(arguments)}.{''.join(hints[:1])}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = list(map(str, action.choices))
            message = f"there is no {value}, but {', '.join(names)}.{nearest(str(value), names)}"
            raise argparse.ArgumentError(action, message)
