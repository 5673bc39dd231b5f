"""What the JSON files of datasets and models may say: nnU-Net's keys alone, and values that stay within their folder.

nnU-Net takes folder names, class names and file endings from these files without asking. Plans can name any class of
any module to be imported and called, and any folder to read pickles from.
"""

import math
import re
from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, Field, JsonValue, RootModel, StringConstraints, model_validator

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.names import PLANNED_NETWORK
from rectal_nnformer.nnunet.plans import ancestry
from rectal_nnformer.utils.json_records import Record
from rectal_nnformer.utils.zips import is_safe_name

NETWORK = rf"^(dynamic_network_architectures\.architectures\.\w+\.[A-Z]\w*|{re.escape(PLANNED_NETWORK)})$"
LAYER = re.compile(
    r"torch\.nn\.(modules\.(conv|instancenorm|batchnorm|normalization|activation|dropout)\.)?[A-Z]\w*", re.ASCII
)
"""Classes that plans may name: networks of nnU-Net's library and the one of this package, layers of PyTorch."""


def is_possible_shape(shape: Sequence[int]) -> bool:
    """Whether a volume can have this shape: no axis of 65,536 voxels, at most 2^32 in all."""
    return all(0 < size < 1 << 16 for size in shape) and math.prod(shape) <= 1 << 32


def _that(holds: Callable[[Any], bool], otherwise: str) -> AfterValidator:
    def check(value: Any) -> Any:
        if not holds(value):
            raise ValueError(otherwise)
        return value

    return AfterValidator(check)


Number: TypeAlias = int | float
Positive: TypeAlias = Annotated[int, Field(gt=0, lt=10**6)] | Annotated[float, Field(gt=0, lt=1e6)]
Count: TypeAlias = Annotated[int, Field(gt=0, le=4096)]
Label: TypeAlias = Annotated[int, Field(ge=0, lt=1 << 16)]
Axes: TypeAlias = Annotated[list[int], _that(lambda axes: sorted(axes) == [0, 1, 2], "no order of three axes")]
Shape: TypeAlias = Annotated[tuple[int, int, int], _that(is_possible_shape, "no volume has this shape")]
Text: TypeAlias = Annotated[str, Field(max_length=10_000)]
Identifier: TypeAlias = Annotated[str, StringConstraints(pattern="^[A-Za-z_][A-Za-z0-9_]*$", max_length=100)]
PlainName: TypeAlias = Annotated[
    str,
    StringConstraints(pattern="^[A-Za-z0-9_][A-Za-z0-9_.+-]*$", max_length=100),
    _that(is_safe_name, "no plain name"),
]
DatasetName: TypeAlias = Annotated[PlainName, StringConstraints(pattern=r"^Dataset[0-9]{3}_[A-Za-z0-9]")]
Network: TypeAlias = Annotated[str, StringConstraints(pattern=NETWORK)]
FileEnding: TypeAlias = Annotated[str, StringConstraints(pattern=r"^(\.[A-Za-z0-9]+){1,2}$", max_length=20)]
Intensities: TypeAlias = dict[str, dict[str, Number]]


class DatasetJson(Record):
    """nnU-Net's dataset.json."""

    name: Text | None = None
    channel_names: dict[str, Text] | None = None
    modality: dict[str, Text] | None = None
    labels: dict[str, Label | list[Label]]
    regions_class_order: list[Label] | None = None
    numTraining: Annotated[int, Field(ge=0)] | None = None
    file_ending: FileEnding
    overwrite_image_reader_writer: Identifier | None = None


class FingerprintJson(Record):
    """nnU-Net's dataset_fingerprint.json."""

    spacings: list[list[Positive]] | None = None
    shapes_after_crop: list[list[int]] | None = None
    foreground_intensity_properties_per_channel: Intensities | None = None
    median_relative_size_after_cropping: Number | None = None


Measurements = RootModel[dict[str, JsonValue]]
"""Values that this package measured: the fingerprint of lesions, the intensity window."""


class Split(Record):
    """One fold of splits_final.json."""

    train: list[str]
    val: list[str]


class SplitsJson(RootModel[Annotated[list[Split], Field(max_length=1000)]]):
    """nnU-Net's splits_final.json."""

    def check_cases(self, cases: Collection[str]) -> None:
        """Refuse folds of cases that are not there."""
        unknown = {case for fold in self.root for case in (*fold.train, *fold.val)} - set(cases)
        if unknown:
            raise RectalError(f"splits_final.json cannot be used: there is no case {min(unknown)[:80]!r}.")


class Architecture(Record):
    """The network of a configuration; `imports` lists the arguments that name classes."""

    network_class_name: Network
    arch_kwargs: dict[str, JsonValue]
    imports: list[str] = Field(alias="_kw_requires_import")

    @model_validator(mode="after")
    def _names_layers(self) -> "Architecture":
        for key in self.imports:
            value = self.arch_kwargs.get(key)
            if value is not None and not (isinstance(value, str) and LAYER.fullmatch(value)):
                raise ValueError(f"{key} is {str(value)[:80]!r}, no layer of PyTorch")
        return self


class ConfigurationJson(Record):
    """A configuration of nnU-Net's plans; one that inherits tells what differs."""

    inherits_from: PlainName | None = None
    previous_stage: PlainName | None = None
    next_stage: PlainName | list[PlainName] | None = None
    data_identifier: PlainName | None = None
    preprocessor_name: Identifier | None = None
    batch_size: Count | None = None
    patch_size: Annotated[list[Count], Field(min_length=2, max_length=3)] | None = None
    median_image_size_in_voxels: list[Number] | None = None
    spacing: Annotated[list[Positive], Field(min_length=2, max_length=3)] | None = None
    normalization_schemes: list[Identifier] | None = None
    use_mask_for_norm: list[bool] | None = None
    resampling_fn_data: Identifier | None = None
    resampling_fn_data_kwargs: dict[str, JsonValue] | None = None
    resampling_fn_seg: Identifier | None = None
    resampling_fn_seg_kwargs: dict[str, JsonValue] | None = None
    resampling_fn_probabilities: Identifier | None = None
    resampling_fn_probabilities_kwargs: dict[str, JsonValue] | None = None
    architecture: Architecture | None = None
    batch_dice: bool | None = None
    # Plans of older versions describe the network here.
    UNet_class_name: Identifier | None = None
    UNet_base_num_features: Count | None = None
    n_conv_per_stage_encoder: list[Count] | None = None
    n_conv_per_stage_decoder: list[Count] | None = None
    num_pool_per_axis: list[int] | None = None
    pool_op_kernel_sizes: list[list[Count]] | None = None
    conv_kernel_sizes: list[list[Count]] | None = None
    unet_max_num_features: Count | None = None


class ItkGrid(Record):
    """The grid of an image as SimpleITK tells it, in the order x, y, z, in mm."""

    spacing: tuple[Positive, ...]
    origin: tuple[Number, ...]
    direction: tuple[Number, ...]
    original_orientation: Annotated[str, StringConstraints(pattern="^[RLAPSI]{3}$")] | None = None

    @model_validator(mode="after")
    def _is_grid(self) -> "ItkGrid":
        axes = len(self.spacing)
        if axes not in (2, 3, 4) or (len(self.origin), len(self.direction)) != (axes, axes**2):
            raise ValueError("the grid of no image")
        return self


Row: TypeAlias = tuple[Number, Number, Number, Number]


class Properties(Record):
    """What nnU-Net stores about a preprocessed case, but for the places of its labels: z, y, x, in mm and voxels."""

    spacing: Annotated[list[Positive], Field(min_length=3, max_length=3)]
    sitk_stuff: ItkGrid | None = None
    nibabel_stuff: dict[str, tuple[Row, Row, Row, Row]] | None = None
    shape_before_cropping: Shape
    bbox_used_for_cropping: Annotated[list[tuple[int, int]], Field(min_length=3, max_length=3)]
    shape_after_cropping_and_before_resampling: Shape

    @model_validator(mode="after")
    def _is_possible(self) -> "Properties":
        """Refuse what no cropping leaves: validation would allocate and crop by it."""
        box = self.bbox_used_for_cropping
        if not all(0 <= low < high <= size for (low, high), size in zip(box, self.shape_before_cropping, strict=True)):
            raise ValueError(f"bbox_used_for_cropping {box} does not lie within {self.shape_before_cropping}")
        if tuple(high - low for low, high in box) != self.shape_after_cropping_and_before_resampling:
            raise ValueError(f"bbox_used_for_cropping {box} is not of the size after cropping")
        return self


class PlansJson(Record):
    """nnU-Net's plans, with this package's record of why it planned so."""

    dataset_name: DatasetName
    plans_name: PlainName
    original_median_spacing_after_transp: list[Positive] | None = None
    original_median_shape_after_transp: list[Number] | None = None
    image_reader_writer: Identifier | None = None
    transpose_forward: Axes = Field(default_factory=lambda: [0, 1, 2])
    transpose_backward: Axes = Field(default_factory=lambda: [0, 1, 2])
    configurations: dict[PlainName, ConfigurationJson]
    experiment_planner_used: Identifier | None = None
    label_manager: Identifier | None = None
    foreground_intensity_properties_per_channel: Intensities | None = None
    continue_training: bool | None = None
    rectal_nnformer: JsonValue = None

    def of(self, dataset_name: str) -> "PlansJson":
        """Return these plans of a dataset."""
        if self.dataset_name != dataset_name:
            raise RectalError(f"The plans cannot be used: their dataset_name is {self.dataset_name}.")
        return self

    def setting(self, configuration: str | None, key: str) -> Any:
        """Return what a configuration or the first of its ancestors that tells it tells; None if none does."""
        if configuration not in self.configurations:
            return None
        line = ancestry(configuration, lambda child: self.configurations[child].inherits_from, self.configurations)
        values = (getattr(self.configurations[name], key) for name in line)
        return next((value for value in values if value is not None), None)

    def data_folders(self) -> dict[str, str]:
        """Return the folder of preprocessed data of each configuration, inherited ones included."""
        found = {name: self.setting(name, "data_identifier") for name in self.configurations}
        return {name: folder for name, folder in found.items() if folder is not None}

    def make(self, folder: str, properties: Properties, shape: Sequence[int]) -> bool:
        """Whether a case of these properties can become arrays of this shape in a folder of data.

        By nnU-Net's `compute_new_shape`; other preprocessors than its `DefaultPreprocessor` can make anything. Some
        planners let configurations of several spacings share a folder, of which one is enough.
        """
        original = [properties.spacing[axis] for axis in self.transpose_forward]
        cropped = properties.shape_after_cropping_and_before_resampling
        for name in (name for name, data in self.data_folders().items() if data == folder):
            spacing = self.setting(name, "spacing")
            if spacing is None or self.setting(name, "preprocessor_name") != "DefaultPreprocessor":
                return True
            # Configurations in 2D tell the spacing of the last two axes.
            target = [*original[: 3 - len(spacing)], *spacing]
            exact = [old / new * size for old, new, size in zip(original, target, cropped, strict=True)]
            if all(abs(size - rounded) <= 0.5 for size, rounded in zip(exact, shape, strict=True)):
                return True
        return False
