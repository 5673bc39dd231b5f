"""Datasets and models as single files for collaborators, and reading such files without trusting them.

`model_export.export_model` and `model_import.import_model` share models; `inspection.inspect_file` tells what is in a
file. Models need PyTorch, which takes seconds and a gigabyte of memory to load; datasets do not.
"""

from rectal_nnformer.sharing.dataset_export import export_dataset
from rectal_nnformer.sharing.dataset_import import import_dataset

__all__ = ["export_dataset", "import_dataset"]
