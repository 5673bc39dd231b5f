"""Volumes whose intensities were scaled to [0, 800] before conversion, as the method's authors do.

An exact 0 is padding for the networks, so zeros that belong to the image are lifted when a dataset is made.
"""

PREPARED_CHANNEL = "noNorm"
"""Channel name in dataset.json by which nnU-Net itself applies `PREPARED_SCHEME`."""

PREPARED_SCHEME = "NoNormalization"
"""nnU-Net's name of the scheme that leaves intensities as they are."""

PREPARED_WINDOW = (0.0, 800.0)
"""Intensities to which the authors' volumes were prepared, and which their networks read as 0 to 1."""

LIFTED_ZERO = 0.001
"""What a zero inside the image becomes: the 800,000th part of the window, and not exactly 0."""


def within_window(lowest: float, highest: float) -> bool:
    """Return whether a volume with these extreme intensities can have been scaled to [0, 800].

    Volumes that were scaled to [0, 1] are not: they would look black all over.
    """
    low, high = PREPARED_WINDOW
    return bool(low <= lowest and 1 < highest <= high)


def is_prepared(channel: str) -> bool:
    """Return whether the name of a channel in dataset.json stands for intensities scaled to [0, 800]."""
    return channel.casefold() == PREPARED_CHANNEL.casefold()
