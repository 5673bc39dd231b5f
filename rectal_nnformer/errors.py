"""The one exception that users are meant to see."""


class RectalError(Exception):
    """A problem the user can fix: the message names the cause, the file or case, the value and the remedy.

    The command line prints it to stderr without a traceback and exits with code 2.
    """
