from .api import plan_dataset
from .backbones import BACKBONES
from .explanation import describe_plans
from .planner import RectalExperimentPlanner

__all__ = ["BACKBONES", "RectalExperimentPlanner", "describe_plans", "plan_dataset"]
