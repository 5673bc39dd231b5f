from .analysis import attention_flow, debiased_cka, linear_cka
from .augmentation import TumorIntensityTransform
from .evaluation import detect_lesions
from .networks import SMIT, SwinUNETR, load_pretrained
from .planning import plan_dataset
from .reporting import write_report

__version__: str

__all__ = [
    "SMIT",
    "SwinUNETR",
    "TumorIntensityTransform",
    "attention_flow",
    "debiased_cka",
    "detect_lesions",
    "linear_cka",
    "load_pretrained",
    "plan_dataset",
    "write_report",
]
