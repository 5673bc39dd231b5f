"""The versions that a manifest tells."""

import importlib.metadata

from rectal_nnformer import __version__


def software_versions() -> dict[str, str]:
    """Return the versions of this package and of those that its files depend on."""
    packages = ("nnunetv2", "torch", "numpy", "blosc2")
    return {"rectal_nnformer": __version__, **{name: importlib.metadata.version(name) for name in packages}}
