"""Checkpoints as whole files without a network in them."""

import torch


def write_checkpoint(path, trainer):
    """Write a checkpoint that names the trainer, with one tensor of weights, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"current_epoch": 3, "trainer_name": trainer, "network_weights": {"weight": torch.zeros(5000)}}
    torch.save(content, path)
    return path
