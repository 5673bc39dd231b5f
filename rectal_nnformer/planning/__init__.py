"""From a raw dataset to plans and preprocessed data: fingerprint, intensity window, planning rules, planner."""

from rectal_nnformer.planning.api import plan_dataset
from rectal_nnformer.planning.backbones import BACKBONES
from rectal_nnformer.planning.explanation import describe_plans
from rectal_nnformer.planning.planner import RectalExperimentPlanner

__all__ = ["BACKBONES", "RectalExperimentPlanner", "describe_plans", "plan_dataset"]
