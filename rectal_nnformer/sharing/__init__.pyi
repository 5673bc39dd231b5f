from .dataset import export_dataset, import_dataset
from .inspection import inspect_file
from .model import export_model, import_model

__all__ = ["export_dataset", "export_model", "import_dataset", "import_model", "inspect_file"]
