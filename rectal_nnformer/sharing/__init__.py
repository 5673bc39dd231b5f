"""Datasets and models as single files for collaborators, and reading such files without trusting them."""

from rectal_nnformer.sharing.dataset_export import export_dataset
from rectal_nnformer.sharing.dataset_import import import_dataset

__all__ = ["export_dataset", "import_dataset"]
