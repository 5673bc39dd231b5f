"""The memory of a training step: counted against what autograd saves, and against what a GPU said."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.autograd.graph import saved_tensors_hooks

from rectal_nnformer.errors import RectalError
from rectal_nnformer.planning.backbones import BACKBONES, resolve_backbone
from rectal_nnformer.planning.memory import (
    GIB,
    LiveBytes,
    MemoryTarget,
    MixedPrecision,
    StepMemory,
    memory_target,
    planned_network,
    step_memory,
    training_loss,
)

MEASURED = json.loads((Path(__file__).parent / "data" / "gpu_memory.json").read_text())
TINY = {"embed_dim": 8, "depths": [2, 1], "num_heads": [1, 2]}


def affine_count(per_voxel=2000, fixed=1.5 * GIB, update=1.6 * GIB):
    """A stand-in for the count: memory linear in the voxels of a batch."""

    def count(patch_size, batch_size):
        x, y, z = patch_size
        return StepMemory(0, 0, 0, 0, int(fixed + per_voxel * x * y * z * batch_size), int(update))

    return count


def test_live_bytes_are_counted_once_and_until_they_are_freed():
    with LiveBytes() as live:
        first = torch.zeros(1024)
        view = first[10:].reshape(2, -1)
        assert live.now == 4096
        second = first + 1
        assert (live.now, live.peak) == (8192, 8192)
        del second
        assert (live.now, live.peak) == (4096, 8192)
        del first
        assert live.now == 4096
        del view
        assert live.now == 0


def test_activations_are_what_autograd_saves():
    # The same step for real, in full precision: what autograd saves, without what is there anyway.
    network = planned_network("smit", 1, 2, TINY)
    image, target = torch.rand(2, 1, 16, 32, 32), torch.zeros(2, 1, 16, 32, 32)
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = -(-storage.nbytes() // 512) * 512
        return tensor

    with LiveBytes() as live:
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = training_loss()(network(image), target)
        counted = live.now
    there_before = {t.untyped_storage().data_ptr() for t in (*network.parameters(), *network.buffers())}
    saved = sum(size for place, size in saved.items() if place not in there_before)
    assert loss.requires_grad
    # Beside what is saved there is the result itself, and small leftovers of the attention masks.
    assert saved <= counted < 1.05 * saved


def test_parameters_moments_and_gradients_are_counted():
    network = planned_network("smit", 1, 2, TINY)
    parameters = sum(p.numel() for p in network.parameters()) * 4
    memory = step_memory("smit", (32, 32, 16), 2, backbone_kwargs=TINY)
    # Each tensor is rounded up to 512 bytes, and buffers are weights too.
    count = len([*network.parameters()]) + len([*network.buffers()])
    assert parameters <= memory.gradients <= parameters + 512 * count
    assert memory.optimizer == 2 * memory.gradients
    assert memory.weights > parameters
    assert memory.forward_backward > memory.weights + memory.optimizer + memory.activations
    assert memory.required > memory.reserved > memory.peak


@pytest.mark.parametrize(("heads", "strided", "fused"), [(16, False, True), (12, False, False), (16, True, False)])
def test_attention_counts_as_the_kernel_that_a_gpu_takes(heads, strided, fused):
    # 10 windows of 3 heads and 60 tokens; plain operations keep the whole attention, in full precision.
    query, key, value = (torch.empty(10, 3, 60, heads, device="meta", requires_grad=True) for _ in range(3))
    bias = torch.empty(1, 3, 60, 60, device="meta", requires_grad=True)
    saved = set()

    def pack(tensor):
        saved.add(tuple(tensor.shape))
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor), MixedPrecision():
        mask = bias.transpose(2, 3) if strided else bias
        update = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    assert update.shape == query.shape
    assert any(shape[-2:] == (60, 60) and shape[0] in (10, 30) for shape in saved) != fused
    update.sum().backward()
    assert bias.grad.shape == bias.shape
    assert query.grad.shape == query.shape


def test_memory_is_linear_in_the_batch_and_grows_with_patch_channels_and_classes():
    def peak(patch=(32, 32, 16), batch=2, **options):
        return step_memory("smit", patch, batch, backbone_kwargs=TINY, **options).forward_backward

    two, three, four = (peak(batch=n) for n in (2, 3, 4))
    assert four - two == pytest.approx(2 * (three - two), rel=0.01)
    assert peak(patch=(32, 32, 32)) == pytest.approx(four, rel=0.01)
    assert peak(in_channels=3) > two
    assert peak(out_channels=5) > two


def test_counting_again_gives_the_same_and_leaves_pytorch_as_it_was():
    first = step_memory("smit", (32, 32, 16), 2, backbone_kwargs=TINY)
    step_memory("smit", (16, 16, 32), 3, backbone_kwargs=TINY)
    assert step_memory("smit", (32, 32, 16), 2, backbone_kwargs=dict(TINY)) == first
    assert torch.zeros(1).untyped_storage().nbytes() == 4


@pytest.mark.parametrize(
    "case", [case for case in MEASURED["steps"] if case["fast"]], ids=lambda c: f"{c['network']}-{c['patch_size']}"
)
def test_count_agrees_with_a_gpu(case):
    check_against_gpu(case)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [case for case in MEASURED["steps"] if not case["fast"]], ids=lambda c: f"{c['network']}-{c['patch_size']}"
)
def test_count_agrees_with_a_gpu_for_other_patches_and_batches(case):
    check_against_gpu(case)


def check_against_gpu(case):
    memory = step_memory(case["network"], case["patch_size"], case["batch_size"])
    assert 1 < memory.peak / GIB / case["allocated"] < 1.12  # attention counts as kept
    assert memory.reserved / GIB > case["reserved"]


def test_largest_batch_fills_the_target_and_no_more():
    target = MemoryTarget(24, affine_count())
    patch = (128, 128, 64)
    batch = target.largest_batch(patch, limit=1000)
    assert target.required(patch, batch) <= 24 < target.required(patch, batch + 1)
    assert target.required(patch, batch) == pytest.approx(affine_count()(patch, batch).required / GIB)
    assert target.largest_batch(patch, limit=5) == 5
    assert target.largest_batch(patch, limit=0) == 2
    assert MemoryTarget(5, affine_count()).largest_batch(patch, limit=1000) == 2


@pytest.mark.parametrize("gigabytes", [0, -8, float("nan"), float("inf")])
def test_impossible_target_is_refused(gigabytes):
    with pytest.raises(RectalError, match="positive number of GB"):
        memory_target(gigabytes, BACKBONES["smit"], 1, 2)


def test_target_counts_the_network_with_its_arguments():
    narrow = memory_target(None, resolve_backbone("smit_small", {"embed_dim": 8}), 1, 2)
    wide = memory_target(24, resolve_backbone("smit_small"), 1, 2)
    assert narrow.gigabytes == wide.gigabytes == 24
    assert narrow.required((32, 32, 32), 2) < wide.required((32, 32, 32), 2)
