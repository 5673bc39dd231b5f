"""Results of a fold as they travel: a report is made from them again where the model arrives."""

from typing import Generic, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, RootModel

from rectal_nnformer.analysis import records
from rectal_nnformer.evaluation.case_detection import CaseDetection
from rectal_nnformer.evaluation.fold import EVALUATION_FILE
from rectal_nnformer.sharing.schema import Number, Text
from rectal_nnformer.utils.json_records import Record

T = TypeVar("T")
Means: TypeAlias = dict[Text, Number | list[Number | None] | None]


class Scores(Record):
    """The means of nnU-Net's summary.json; its list of cases holds paths."""

    foreground_mean: Means | None = None
    mean: dict[Text, Means] | None = None


class LesionDetection(Record):
    """The cases of lesion_detection.json, from which all else in it follows."""

    cases: list[CaseDetection]


class Analysis(RootModel[T], Generic[T]):
    """The records of an analysis as they are."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True)


RESULTS: dict[str, type[BaseModel]] = {
    "validation/summary.json": Scores,
    f"validation/{EVALUATION_FILE}": LesionDetection,
    f"validation/{records.ATTENTION_FILE}": Analysis[records.AttentionRecord],
    f"validation/{records.REUSE_FILE}": Analysis[records.ReuseRecord],
    records.EPOCHS_FILE: Analysis[tuple[records.EpochRecord, ...]],
}
"""What training and validation of a fold left, beside its checkpoint."""
