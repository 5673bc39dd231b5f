"""Results of a fold, reduced to what a report is made from: it is made again where the model arrives."""

from typing import Literal, TypeAlias

from pydantic import RootModel

from rectal_nnformer.evaluation.cases import CaseDetection
from rectal_nnformer.sharing.schema import Identifier, Number, Text
from rectal_nnformer.utils.json_records import Record

Value: TypeAlias = Number | None
Means: TypeAlias = dict[Text, Value | list[Value]]
Stages: TypeAlias = list[dict[Identifier, Value]]
"""What was measured of each stage of the encoder."""


class Scores(Record):
    """The means of nnU-Net's summary.json; its list of cases holds paths."""

    foreground_mean: Means | None = None
    mean: dict[Text, Means] | None = None


class LesionDetection(Record):
    """The cases of lesion_detection.json, from which all else in it follows."""

    cases: list[CaseDetection]


class AttentionDilution(Record):
    """attention_dilution.json."""

    stages: Stages


class EpochAttention(Record):
    """Attention after an epoch of training."""

    epoch: int
    stages: Stages


AttentionEpochs = RootModel[list[EpochAttention]]
"""attention_epochs.json."""


class Similarity(Record):
    """Similarity of the blocks of two networks, what chance gives, and intervals."""

    matrix: list[list[Value]]
    diagonal: list[Value] | None
    mean_diagonal: Value
    drift: Value
    best_match_distance: Value
    null: dict[Literal["mean", "p95"], list[Value]] | None = None
    intervals: dict[Literal["diagonal", "drift"], list[Value | list[Value]] | None] | None = None


class FeatureReuse(Record):
    """feature_reuse.json."""

    first: Text
    second: Text
    blocks: list[Text]
    stages: list[int]
    num_crops: int
    num_cases: int
    debiased: Similarity | None
    note: Text
