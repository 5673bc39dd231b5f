"""Where a network sees tumour, surely or hardly: the lesions of its mask and the places that fell short of it."""

from dataclasses import dataclass

from rectal_nnformer.evaluation.detection import Component


@dataclass(frozen=True)
class Candidate(Component):
    """One candidate of a case that was scored.

    Those of the mask come first, numbered as its components; the others lie below the mask's threshold.

    Attributes:
        confidence: How sure the network is of it, from 0 to 1.
        in_mask: Whether it is a component of the predicted mask.
        shared_voxels: Voxels that it shares with each of the case's reference lesions.
    """

    confidence: float
    in_mask: bool
    shared_voxels: tuple[int, ...]
