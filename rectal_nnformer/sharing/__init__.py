"""Datasets and models as single files for collaborators, and reading such files without trusting them."""

from rectal_nnformer.sharing.dataset_export import export_dataset
from rectal_nnformer.sharing.dataset_import import import_dataset
from rectal_nnformer.sharing.inspection import inspect_file
from rectal_nnformer.sharing.model_export import export_model
from rectal_nnformer.sharing.model_import import import_model

__all__ = ["export_dataset", "export_model", "import_dataset", "import_model", "inspect_file"]
