"""Small things that messages need."""


def plural(number: int, noun: str) -> str:
    """Return the number with its noun, with an s unless the number is 1."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
