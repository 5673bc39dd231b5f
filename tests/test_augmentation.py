"""The tumour-aware augmentation, and padding and window through nnU-Net's own training transforms."""

import dataclasses

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from rectal_nnformer.augmentation import (
    CarryPaddingTransform,
    ClampToWindowTransform,
    DeviceAugmentation,
    RecordPaddingTransform,
    RestorePaddingTransform,
    TumorIntensityTransform,
    augmentation_of_plans,
    extend_training_transforms,
)
from rectal_nnformer.augmentation.settings import published_augmentation
from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.plans import Plans

WINDOW = [[-2.0, 6.0]]


def sample(shape=(8, 12, 12), channels=1):
    """An image of varied intensities and a segmentation with background, two labels and nnU-Net's -1 for padding."""
    generator = torch.Generator().manual_seed(0)
    segmentation = torch.zeros((1, *shape), dtype=torch.int16)
    segmentation[:, 2:5, 2:5, 2:5] = 1
    segmentation[:, 2:5, 6:9, 6:9] = 2
    segmentation[:, -1] = -1
    return {"image": torch.randn((channels, *shape), generator=generator), "segmentation": segmentation}


@given(s=st.floats(0.5, 1.5), o=st.floats(-0.2, 0.2))
def test_tumor_intensities_are_scaled_and_shifted_in_units_of_the_window(s, o):
    low, high = WINDOW[0]
    before = sample()
    after = TumorIntensityTransform(WINDOW, scale=(s, s), shift=(o, o))(**{k: v.clone() for k, v in before.items()})
    tumor = before["segmentation"] == 1
    u_before, u_after = ((d["image"] - low) / (high - low) for d in (before, after))
    torch.testing.assert_close(u_after[tumor], s * u_before[tumor] + o, atol=1e-5, rtol=1e-5)
    assert torch.equal(after["image"][~tumor], before["image"][~tumor])
    assert torch.equal(after["segmentation"], before["segmentation"])


def test_draws_stay_within_the_ranges_and_fill_them():
    transform = TumorIntensityTransform(WINDOW)
    draws = [transform.get_parameters(**sample()) for _ in range(500)]
    for name, (low, high) in {"s": (0.5, 1.5), "o": (-0.2, 0.2)}.items():
        values = [draw[name] for draw in draws]
        assert low <= min(values) < low + 0.05 * (high - low)
        assert high >= max(values) > high - 0.05 * (high - low)


def test_every_tumor_label_and_every_channel_changes_in_its_own_window():
    windows = [[-2.0, 6.0], [0.0, 800.0]]
    before = sample(channels=2)
    transform = TumorIntensityTransform(windows, tumor_labels=(1, 2), scale=(1, 1), shift=(0.1, 0.1))
    after = transform(**{k: v.clone() for k, v in before.items()})
    tumor = before["segmentation"][0] > 0
    for channel, (low, high) in enumerate(windows):
        change = (after["image"] - before["image"])[channel]
        assert torch.allclose(change[tumor], torch.tensor(0.1 * (high - low)), atol=1e-4)
        assert not change[~tumor].any()


def test_clamping_respects_each_channel():
    image = torch.tensor([-5.0, 0.5, 9.0]).view(1, 1, 1, 3).repeat(2, 1, 1, 1)
    clamped = ClampToWindowTransform([[-1, 1], [0, 8]])(image=image)["image"]
    assert clamped[0].flatten().tolist() == [-1, 0.5, 1]
    assert clamped[1].flatten().tolist() == [0, 0.5, 8]


@pytest.mark.parametrize("channels", [1, 2])
def test_padding_is_restored_after_an_intensity_change(channels):
    image = torch.randn(channels, 4, 4, 4)
    image[0, :2] = 0
    image[-1, 2:] = 0
    data = CarryPaddingTransform()(image=image.clone(), segmentation=torch.zeros(1, 4, 4, 4))
    data = RecordPaddingTransform()(**data)
    assert torch.equal(data["image"], image)
    data["image"] = data["image"] + 1
    restored = RestorePaddingTransform()(**data)
    assert torch.equal(restored["image"], torch.where(image == 0, 0, image + 1))
    assert set(restored) == {"image", "segmentation"}


@pytest.mark.parametrize("dummy_2d", [False, True])
def test_a_moved_patch_holds_tissue_or_padding_and_no_mixture_of_them(dummy_2d):
    """Two channels of tissue, above 3 and below -3, padded on one side; turned and scaled by nnU-Net's transform."""
    transforms = list(stock_transforms((8, 24, 24), dummy_2d).transforms[: 3 if dummy_2d else 1])
    (spatial,) = (t for t in transforms if isinstance(t, SpatialTransform))
    spatial.p_rotation = spatial.p_scaling = 1
    image = torch.stack([3 + torch.rand(8, 36, 36), -3 - torch.rand(8, 36, 36)])
    image[..., 24:] = 0

    def moved(image, *around):
        np.random.seed(1)
        framed = ComposeTransforms([*around[:1], *transforms, *around[1:]])
        return framed(image=image.clone(), segmentation=torch.zeros(1, 8, 36, 36))

    share, stock = moved((image != 0).float())["image"], moved(image)["image"]
    mixed = (share > 1e-4) & (share < 1 - 1e-4)
    assert (stock[mixed].abs() < 3).any()
    found = moved(image, CarryPaddingTransform(), RecordPaddingTransform())
    values = found["image"]
    assert torch.equal(found["padding"], share < 0.5)
    assert torch.equal(values == 0, found["padding"])
    assert (values[~found["padding"]].abs() >= 3 - 1e-4).all()
    torch.testing.assert_close(values[~mixed], stock[~mixed], atol=1e-3, rtol=0)
    assert 0.2 < (values[mixed] != 0).float().mean() < 0.8


def stock_transforms(patch_size, dummy_2d):
    return nnUNetTrainer.get_training_transforms(
        patch_size, (-0.5, 0.5), None, (0, 1, 2), dummy_2d, use_mask_for_norm=[False], foreground_labels=[1]
    )


@pytest.mark.parametrize("dummy_2d", [False, True])
def test_padding_stays_exactly_zero_through_nnunets_augmentation(dummy_2d):
    patch_size = (8, 24, 24)
    transforms = extend_training_transforms(stock_transforms(patch_size, dummy_2d), WINDOW, [1])
    np.random.seed(0)
    torch.manual_seed(0)
    for _ in range(40):
        # Two thirds of the volume are real, far from 0; the rest is padding that no rotation can hide.
        image = torch.rand((1, 8, 36, 36)) + 1
        image[..., 24:] = 0
        segmentation = torch.where(image == 0, -1, 0).to(torch.int16)
        segmentation[:, 2:6, 14:20, 14:20] = 1
        result = transforms(image=image, segmentation=segmentation)
        assert result["image"].shape == (1, *patch_size)
        assert 0.05 < (result["image"] == 0).float().mean() < 0.75
        assert result["segmentation"].min() == 0


def turned_often(transforms):
    """Let nnU-Net's spatial transform move every patch."""
    (spatial,) = (t for t in transforms.transforms if isinstance(t, SpatialTransform))
    spatial.p_rotation = spatial.p_scaling = 1
    return transforms


@pytest.mark.parametrize("dummy_2d", [False, True])
@pytest.mark.parametrize("lesion_wise", [False, True])
def test_on_the_device_batches_are_augmented_as_by_the_workers(dummy_2d, lesion_wise):
    """With the same random numbers, hundreds of patches with padding and two labels, some of which reach outside."""
    settings = dataclasses.replace(published_augmentation(2), lesion_wise=lesion_wise)
    stock = turned_often(stock_transforms((8, 24, 24), dummy_2d))
    transforms = extend_training_transforms(stock, WINDOW * 2, [1, 2], settings)
    on_device = DeviceAugmentation(transforms, torch.device("cpu"))
    samples = [sample((8, 34, 32), channels=2) for _ in range(4)]
    for number, one in enumerate(samples):
        one["image"][..., 26:] = 0
        one["segmentation"] = one["segmentation"].roll((number, 7 * number), (1, 3))
    batch = {
        "data": torch.stack([one["image"] for one in samples]),
        "target": torch.stack([one["segmentation"] for one in samples]),
        "keys": ["a", "b", "c", "d"],
    }
    for seed in range(40):
        augmented = seeded(seed, lambda: on_device({k: v.clone() if k != "keys" else v for k, v in batch.items()}))
        expected = seeded(seed, lambda: [transforms(**{k: v.clone() for k, v in one.items()}) for one in samples])
        assert augmented["keys"] == batch["keys"]
        for number, one in enumerate(expected):
            torch.testing.assert_close(augmented["data"][number], one["image"], atol=1e-4, rtol=1e-4)
            assert torch.equal(augmented["data"][number] == 0, one["image"] == 0)
            assert torch.equal(augmented["target"][number], one["segmentation"])


def seeded(seed, work):
    np.random.seed(seed)
    torch.manual_seed(seed)
    return work()


def test_regions_and_the_mask_of_the_nonzero_voxels_are_kept_on_the_device():
    stock = nnUNetTrainer.get_training_transforms(
        (8, 24, 24), (-0.5, 0.5), None, (0, 1, 2), False, use_mask_for_norm=[True], regions=[(1, 2), 2]
    )
    transforms = extend_training_transforms(turned_often(stock), WINDOW, None)
    on_device = DeviceAugmentation(transforms, torch.device("cpu"))
    one = sample((8, 34, 32))
    expected = seeded(3, lambda: transforms(**{k: v.clone() for k, v in one.items()}))
    found = seeded(3, lambda: on_device({"data": one["image"][None].clone(), "target": one["segmentation"][None]}))
    assert torch.equal(found["target"][0], expected["segmentation"]) and expected["segmentation"].any((1, 2, 3)).all()
    torch.testing.assert_close(found["data"][0], expected["image"], atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_augments_with_the_same_moments():
    """Noise comes from another generator there, so that images agree in the mean; where labels lie does not."""
    transforms = extend_training_transforms(turned_often(stock_transforms((8, 24, 24), False)), WINDOW, [1], None)
    one, moments = sample((8, 34, 32)), {}
    for device in ("cpu", "cuda"):
        augment = DeviceAugmentation(transforms, torch.device(device))
        batch = {
            "data": one["image"].expand(400, -1, -1, -1, -1),
            "target": one["segmentation"].expand(400, 1, 8, 34, 32),
        }
        found = seeded(0, lambda augment=augment, batch=batch: augment(batch))
        assert found["data"].device.type == found["target"].device.type == device
        moments[device] = [
            found["data"].mean().item(),
            found["data"].std().item(),
            *((found["target"] == label).float().mean().item() for label in (0, 1, 2)),
        ]
    assert moments["cuda"] == pytest.approx(moments["cpu"], rel=0.05, abs=0.01)


@pytest.mark.parametrize("changed", [{"p_elastic_deform": 0.2}, {"mode_seg": "nearest"}])
def test_what_the_device_does_otherwise_is_refused(changed):
    transforms = extend_training_transforms(stock_transforms((8, 24, 24), False), WINDOW, None)
    (spatial,) = (t for t in transforms.transforms if isinstance(t, SpatialTransform))
    vars(spatial).update(changed)
    with pytest.raises(RectalError, match="Unset nnUNet_augment_on_device"):
        DeviceAugmentation(transforms, torch.device("cpu"))


def test_augmentation_stands_between_geometry_and_intensities():
    names = [
        getattr(t, "transform", t).__class__.__name__
        for t in extend_training_transforms(stock_transforms((8, 24, 24), False), WINDOW, [1]).transforms
    ]
    assert names[:5] == [
        "CarryPaddingTransform",
        "SpatialTransform",
        "RecordPaddingTransform",
        "ClampToWindowTransform",
        "TumorIntensityTransform",
    ]
    assert names.index("GammaTransform") < names.index("RestorePaddingTransform") < names.index("MirrorTransform")


def test_without_tumor_labels_there_is_no_tumor_transform():
    transforms = extend_training_transforms(stock_transforms((8, 24, 24), False), WINDOW, None).transforms
    assert "TumorIntensityTransform" not in str(transforms)


def test_channels_draw_independently_from_their_own_ranges():
    windows = [[0.0, 1.0], [0.0, 1.0]]
    transform = TumorIntensityTransform(windows, scale=[(0.5, 0.6), (1.4, 1.5)], shift=[(0, 0), (-0.2, 0.2)])
    draws = [transform.get_parameters(**sample(channels=2)) for _ in range(50)]
    scale, shift = (np.array([draw[name].flatten().tolist() for draw in draws]) for name in ("s", "o"))
    assert scale[:, 0].min() >= 0.5 and scale[:, 0].max() <= 0.6
    assert scale[:, 1].min() >= 1.4 and scale[:, 1].max() <= 1.5
    assert not shift[:, 0].any() and abs(shift[:, 1]).max() <= 0.2
    assert abs(np.corrcoef(scale.T)[0, 1]) < 0.9
    with pytest.raises(ValueError):
        TumorIntensityTransform(windows, scale=[(0.5, 0.6)] * 3)


def changes(transform, before):
    """Return s and o of every tumour voxel, found from what became of two different intensities."""
    results = []
    for level in (0.25, 0.75):
        data = {**before, "image": torch.full_like(before["image"], level)}
        np.random.seed(4)
        results.append(transform(**{key: value.clone() for key, value in data.items()})["image"])
    scale = (results[1] - results[0]) / 0.5
    return scale, results[0] - 0.25 * scale


def test_lesion_wise_draws_change_each_lesion_on_its_own():
    """Labels 1 and 2 touch and are one lesion; another of label 1 lies apart."""
    before = sample()
    segmentation = torch.zeros_like(before["segmentation"])
    segmentation[:, 1:3, 1:4, 1:4] = 1
    segmentation[:, 3:5, 4:6, 4:6] = 2  # by a corner
    segmentation[:, 1:4, 8:11, 8:11] = 1
    segmentation[:, -1] = -1
    before["segmentation"] = segmentation
    first = (segmentation[0] > 0) & (torch.arange(12) < 7)
    second = (segmentation[0] > 0) & ~first
    scale, shift = changes(TumorIntensityTransform([[0, 1]], (1, 2), lesion_wise=True), before)
    for values in (scale[0], shift[0]):
        assert values[first].max() - values[first].min() < 1e-5
        assert values[second].max() - values[second].min() < 1e-5
        assert abs(values[first].mean() - values[second].mean()) > 1e-3
    together, _ = changes(TumorIntensityTransform([[0, 1]], (1, 2)), before)
    assert together[0][first | second].max() - together[0][first | second].min() < 1e-5
    background = segmentation[0] < 1
    assert torch.allclose(scale[0][background], torch.ones(1)) and not shift[0][background].any()


@pytest.mark.parametrize("lesion_wise", [False, True])
def test_a_patch_without_tumor_stays_as_it_is(lesion_wise):
    before = sample()
    before["segmentation"] = torch.zeros_like(before["segmentation"])
    after = TumorIntensityTransform(WINDOW, lesion_wise=lesion_wise)(**{k: v.clone() for k, v in before.items()})
    assert torch.equal(after["image"], before["image"])


def plans_with(record):
    content = {"plans_name": "Plans", "dataset_name": "Dataset501_Tiny", "configurations": {}}
    return Plans.of(content if record is None else {**content, "rectal_nnformer": record})


def planned(**changed):
    channel = {"name": "T2w", "scale": [0.8, 1.3], "shift": [-0.05, 0.1]}
    augmentation = {"ranges": "planned", "lesion_wise": True, "channels": [{**channel, **changed}]}
    return plans_with({"augmentation": augmentation})


def test_plans_say_which_augmentation():
    settings = augmentation_of_plans(planned(), 1)
    assert (settings.scale, settings.shift, settings.lesion_wise) == (((0.8, 1.3),), ((-0.05, 0.1),), True)
    assert str(settings) == "scale 0.80 to 1.30, shift -0.05 to +0.10 (planned, one draw per lesion)"
    transforms = extend_training_transforms(stock_transforms((8, 24, 24), False), WINDOW, [1], settings).transforms
    (tumor,) = (t.transform for t in transforms if "TumorIntensityTransform" in repr(t))
    assert (tumor.scale, tumor.shift, tumor.lesion_wise) == ([(0.8, 1.3)], [(-0.05, 0.1)], True)


@pytest.mark.parametrize("record", [None, {"version": "0.1.0"}])
def test_plans_without_the_key_are_as_published(record):
    settings = augmentation_of_plans(plans_with(record), 2)
    assert settings.scale == ((0.5, 1.5),) * 2 and settings.shift == ((-0.2, 0.2),) * 2
    assert not settings.lesion_wise


@pytest.mark.parametrize("changed", [{"scale": [1.3, 0.8]}, {"scale": [0, 1]}, {"shift": 0.1}, {"shift": [0.1]}])
def test_ranges_that_cannot_be_used_are_refused(changed):
    with pytest.raises(RectalError, match="The plans 'Plans' hold tumour augmentation ranges that cannot be used"):
        augmentation_of_plans(planned(**changed), 1)
    with pytest.raises(RectalError, match="2 channels need one"):
        augmentation_of_plans(planned(), 2)
