"""Convert what a manifest lists: a JSON file as of the Medical Segmentation Decathlon and of MONAI."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from rectal_nnformer.dataset_conversion.cases import Case
from rectal_nnformer.dataset_conversion.images import ImageFile, stem
from rectal_nnformer.dataset_conversion.masks import MaskFile, check_values
from rectal_nnformer.dataset_conversion.nifti import channel_names, note_orientation
from rectal_nnformer.dataset_conversion.raw_dataset import convert_cases
from rectal_nnformer.dataset_conversion.target import Options, make_target
from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.masks import label_values
from rectal_nnformer.utils.json_records import read_own
from rectal_nnformer.utils.text import plural

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11

REMEDY = 'Write it as {"training": [{"image": "a.nii.gz", "label": "a_mask.nii.gz"}]}, paths being relative to it.'

_Path = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class _Entry:
    """A case as it is listed: its image, or one for each channel, its mask, and the fold that validates it."""

    image: _Path | Annotated[list[_Path], Field(min_length=1)]
    label: str | None = None
    fold: Annotated[int, Field(ge=0)] | None = None
    test: bool = False

    @property
    def images(self) -> list[str]:
        """The image of each channel."""
        return [self.image] if isinstance(self.image, str) else self.image


@dataclass(frozen=True)
class _Manifest:
    """What is read of a manifest."""

    training: list[_Entry] = field(default_factory=list)
    validation: list[_Entry] = field(default_factory=list)
    testing: list[_Entry | str] = field(default_factory=list)
    test: list[_Entry | str] = field(default_factory=list)
    labels: dict[str, Any] | None = None


def convert_manifest(
    manifest: Path,
    base: Path | None,
    dataset_id: int,
    name: str | None,
    *,
    prepared: bool = False,
    channels: Sequence[str] = (),
    **options: "Unpack[Options]",
) -> Path:
    """Convert the images and masks that a manifest lists to `DatasetXXX_Name`; return that folder.

    Args:
        manifest: JSON file with lists of `image` and `label` under `training` and `validation`, and under `testing` or
            `test` of images that go to imagesTs, with a `label` or without. The number `fold` of an entry is the fold
            that validates it; else, where there is `validation`, it is what the only fold validates; else five folds
            are made. `labels` names the values of masks.
        base: The folder that its paths are relative to; None: that of the manifest.
        dataset_id: 1 to 999.
        name: Name of the dataset, without number. None: cases are added to the dataset of the id.
        prepared: See `convert_nifti`.
        channels: See `convert_nifti`; an `image` that is a list has one for each.
        **options: See `Options`. With `test` all that has a label goes to the test cohort.

    Raises:
        RectalError: Anything that cannot be right, for all cases at once; nothing is written then.
    """
    content = read_own(_Manifest, manifest, REMEDY)
    entries = _entries(content, manifest, options.get("test", False))
    labelled = any(entry.label for entry in entries)
    known = _numbers(content.labels, manifest)
    target = make_target(dataset_id, name, labelled, options, channel_names(channels, prepared), known)
    check_values(target.labels)
    if target.adding and any(entry.fold is not None for entry in entries):
        print(f"Note: the folds that {manifest} tells are those of a new dataset: --add keeps the ones that there are.")
    problems: defaultdict[str, list[str]] = defaultdict(list)
    folder, cases = base or manifest.parent, []
    for case, entry in _by_name(entries, problems).items():
        paths = [folder / image for image in entry.images]
        if entry.label is None and not entry.test:
            problems[case].append(f"no label for {paths[0]} in {manifest}; add it, or list the image under testing")
        if len(paths) != len(target.channels):
            problems[case].append(
                f"{manifest} lists {plural(len(paths), 'image')}, and the channels are {', '.join(target.channels)}; "
                "name all with --channels"
            )
            continue
        mask = MaskFile(folder / entry.label, target.labels) if entry.label else None
        origin = ", ".join(map(str, paths))
        cases.append(Case(case, tuple(map(ImageFile, paths)), mask, case, origin, entry.test, entry.fold))
    note_orientation({case.name: case.images[0].files[0] for case in cases})
    return convert_cases(cases, problems, target)


def _entries(content: _Manifest, manifest: Path, test: bool) -> list[_Entry]:
    """Return all that is listed, with the fold that validates it and whether it is to test on.

    Raises:
        RectalError: Nothing is listed, or folds are told of some cases alone, or in two ways.
    """
    others = [_Entry(one) if isinstance(one, str) else one for one in (*content.testing, *content.test)]
    tested = [replace(entry, test=True, fold=None) for entry in others]
    if not (content.training or content.validation or tested):
        raise RectalError(f"{manifest} lists no case under training, validation or testing. {REMEDY}")
    if test:
        return [*(replace(e, test=True, fold=None) for e in (*content.training, *content.validation)), *tested]
    told = [entry.fold is not None for entry in (*content.training, *content.validation)]
    if any(told) and not all(told):
        raise RectalError(
            f"{manifest} tells the fold of {sum(told)} of {plural(len(told), 'case')} under training and validation: "
            "tell it of all, or of none."
        )
    if content.validation and not content.training:
        raise RectalError(f"{manifest} lists cases under validation, and none under training.")
    held_out = content.validation if any(told) else [replace(entry, fold=0) for entry in content.validation]
    return [*(replace(entry, test=False) for entry in (*content.training, *held_out)), *tested]


def _numbers(labels: Mapping[str, Any] | None, manifest: Path) -> dict[str, Any] | None:
    """Return labels by name, where the Decathlon names them by number.

    Raises:
        RectalError: They are not such as nnU-Net takes.
    """
    if not labels:
        return None
    by_number = all(key.isdecimal() and isinstance(name, str) for key, name in labels.items())
    numbers = {str(name): int(key) for key, name in labels.items()} if by_number else dict(labels)
    label_values({"labels": numbers}, str(manifest))
    return numbers


def _by_name(entries: Sequence[_Entry], problems: defaultdict[str, list[str]]) -> dict[str, _Entry]:
    """Return entries by the name of their first file; where several would have the same, by their path."""
    names = [_short_name(entry) for entry in entries]
    count = Counter(names)
    result: dict[str, _Entry] = {}
    for name, entry in zip(names, entries, strict=True):
        path = Path(entry.images[0])
        parts = [part for part in path.parent.parts if part not in (path.anchor, ".", "..")]
        case = name if count[name] == 1 else "_".join([*parts, name])
        if case in result:
            problems[case].append("listed twice; take one entry out, or name the files apart")
        result[case] = entry
    return result


def _short_name(entry: _Entry) -> str:
    """Return the name of the first file, without the number of its channel unless the mask has it, too."""
    name = stem(Path(entry.images[0]))
    return name if entry.label and stem(Path(entry.label)) == name else name.removesuffix("_0000")
