"""The recipe behind the golden numbers of the networks: weights and inputs drawn from names, and stored outputs."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

DATA = Path(__file__).parent / "data"


def golden_shapes(name):
    return {key: tuple(shape) for key, shape in json.loads((DATA / f"{name}_keys.json").read_text()).items()}


def golden_outputs(name):
    with np.load(DATA / f"{name}.npz") as stored:
        return {key: stored[key] for key in stored.files}


def golden_input(size):
    return torch.from_numpy(np.random.default_rng(20260506).random((1, 1, *size), dtype=np.float32))


def assert_golden(found, expected):
    torch.testing.assert_close(found, torch.from_numpy(expected), atol=1e-4, rtol=0)


def shapes(network):
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def with_golden_weights(network):
    """Fill every floating-point parameter from the CRC of its name; evaluation mode."""
    for key, value in network.state_dict().items():
        if value.is_floating_point():
            drawn = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(value.shape).astype(np.float32)
            offset = key.endswith("norm.weight") or (".norm" in key and key.endswith("weight") and value.ndim == 1)
            value.copy_(torch.from_numpy(drawn * np.float32(0.05) + np.float32(offset)))
    return network.eval()
