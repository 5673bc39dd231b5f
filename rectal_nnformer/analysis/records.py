"""What the analyses write: attention_dilution.json, attention_epochs.json and feature_reuse.json, as records.

The fields are the keys of the files, in their order; a value that is undefined is None.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rectal_nnformer.utils.files import is_there
from rectal_nnformer.utils.json_records import T, read_own

ATTENTION_NAME = "attention_dilution"
ATTENTION_FILE = f"{ATTENTION_NAME}.json"
EPOCHS_FILE = "attention_epochs.json"
REUSE_NAME = "feature_reuse"
REUSE_FILE = f"{REUSE_NAME}.json"

REMEDY = "Copy it again, or delete it: the report and the comparison do without it."


@dataclass(frozen=True)
class StageRecord:
    """Attention of one stage, mean over its blocks.

    Attributes:
        stage: Its number, from 0.
        adi: Attention dilution index.
        a_rr: Mean attention mass from real queries to real keys.
        a_rp: From real queries to padding keys.
        a_pr: From padding queries to real keys.
        a_pp: From padding queries to padding keys.
        uniform_adi: Attention dilution index of uniform attention on the same tiles.
        tumor_adi: Attention dilution index of the queries whose token holds tumour.
        tumor_a_rp: Mean attention mass of these queries on padding keys.
        scattered_padding_share: Share of real positions that received the update of a padding query.
        real_token_fraction: Real tokens among all that attention processed.
    """

    stage: int
    adi: float | None
    a_rr: float | None
    a_rp: float | None
    a_pr: float | None
    a_pp: float | None
    uniform_adi: float | None
    tumor_adi: float | None
    tumor_a_rp: float | None
    scattered_padding_share: float | None
    real_token_fraction: float


@dataclass(frozen=True)
class TumorAttention:
    """Attention of the queries whose token holds tumour: dilution index and mass on padding."""

    adi: float | None
    a_rp: float | None


@dataclass(frozen=True)
class BlockRecord:
    """Attention of one block; `entropy` and `padding_entropy` are means over real queries, in nats."""

    name: str
    stage: int
    adi: float | None
    a_rr: float | None
    a_rp: float | None
    a_pr: float | None
    a_pp: float | None
    uniform_adi: float | None
    entropy: float | None
    padding_entropy: float | None
    tumor: TumorAttention | None
    scattered_padding_share: float | None


@dataclass(frozen=True)
class CaseAttention:
    """Attention of one case over its tiles."""

    case: str
    tiles: int
    stages: tuple[StageRecord, ...]
    blocks: tuple[BlockRecord, ...]


@dataclass(frozen=True)
class AttentionRecord:
    """attention_dilution.json: the attention of a network on the cases of a fold.

    Attributes:
        patch_size: In the order x, y, z.
        window_reverse: How windows return to their place; None for networks without that choice.
        mask_padding: Whether attention to padding is masked.
        weights: Which weights the network has.
        blocks: Each block, over all cases.
        stages: Each stage, over all cases.
        settings: How it was measured.
    """

    backbone: str
    patch_size: tuple[int, ...]
    window_reverse: str | None
    mask_padding: bool
    weights: str
    configuration: str
    blocks: tuple[BlockRecord, ...]
    stages: tuple[StageRecord, ...]
    cases: tuple[CaseAttention, ...]
    settings: dict[str, Any]


@dataclass(frozen=True)
class EpochRecord:
    """One entry of attention_epochs.json: the attention after an epoch, on one crop."""

    epoch: int
    stages: tuple[StageRecord, ...]


@dataclass(frozen=True)
class Similarity:
    """CKA of the blocks of two networks; all but the matrix is None where their numbers of blocks differ.

    Attributes:
        matrix: (blocks, other blocks).
        diagonal: Of each block with the same one of the other network.
        mean_diagonal: Mean of the diagonal.
        drift: 1 minus that.
        best_match_distance: How many blocks from the diagonal the best match of a block lies, mean over the blocks.
    """

    matrix: tuple[tuple[float | None, ...], ...]
    diagonal: tuple[float | None, ...] | None
    mean_diagonal: float | None
    drift: float | None
    best_match_distance: float | None


@dataclass(frozen=True)
class NullRecord:
    """CKA of each block where the cases of one network are shuffled: mean and 95th percentile."""

    mean: tuple[float | None, ...]
    p95: tuple[float | None, ...]


@dataclass(frozen=True)
class SimilarityIntervals:
    """95 % bootstrap intervals over cases, of each block and of the drift."""

    diagonal: tuple[tuple[float, float] | None, ...]
    drift: tuple[float, float] | None


@dataclass(frozen=True)
class DebiasedSimilarity(Similarity):
    """CKA by the debiased estimator, with what chance gives and intervals."""

    null: NullRecord | None
    intervals: SimilarityIntervals | None


@dataclass(frozen=True)
class ReuseRecord:
    """feature_reuse.json: the features of two networks on the same crops, one of each case.

    Attributes:
        first: Name of the first network.
        second: Name of the second network, such as the pretrained file.
        blocks: Names of the blocks of the first.
        stages: The stage of each of them.
        debiased: By the debiased estimator; None with too few cases.
        note: What to know of the result, or an empty string.
        settings: How it was measured.
    """

    first: str
    second: str
    backbone: str
    second_backbone: str
    blocks: tuple[str, ...]
    stages: tuple[int, ...]
    num_crops: int
    num_cases: int
    debiased: DebiasedSimilarity | None
    biased: Similarity
    note: str
    settings: dict[str, Any]


def read_attention(validation_folder: Path) -> AttentionRecord | None:
    """Return attention_dilution.json of a fold, None where its attention was not measured.

    Raises:
        RectalError: The file is damaged. The same holds for the other files.
    """
    return _read_if_there(AttentionRecord, validation_folder / ATTENTION_FILE)


def read_reuse(validation_folder: Path) -> ReuseRecord | None:
    """Return feature_reuse.json of a fold, None where its features were not compared."""
    return _read_if_there(ReuseRecord, validation_folder / REUSE_FILE)


def read_epochs(fold_folder: Path) -> tuple[EpochRecord, ...]:
    """Return attention_epochs.json of a fold, empty where its attention was not followed in training."""
    return _read_if_there(tuple[EpochRecord, ...], fold_folder / EPOCHS_FILE) or ()


def _read_if_there(kind: type[T], path: Path) -> T | None:
    return read_own(kind, path, REMEDY) if is_there(path) else None
