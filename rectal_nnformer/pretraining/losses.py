"""The three losses: restoration of masked voxels, and distillation of patch tokens and of the image token.

Source: Jiang et al., SMIT, MICCAI 2022; the distillation is that of Caron et al., DINO, ICCV 2021, and Zhou et al.,
iBOT, ICLR 2022.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rectal_nnformer.pretraining.student import Student

STUDENT_TEMPERATURE = 0.1
CENTER_MOMENTUM = 0.9
DISTILLATION_WEIGHT = 0.1
"""Of either distillation beside the restoration, which has 1."""


@dataclass(frozen=True)
class Losses:
    """Scalars of a step; `by_mean` is what the restoration would be with the true mean of each view's hidden voxels."""

    restoration: Tensor
    patch_tokens: Tensor
    image_tokens: Tensor
    by_mean: Tensor

    @property
    def total(self) -> Tensor:
        """The weighted sum that is made small."""
        return self.restoration + DISTILLATION_WEIGHT * (self.patch_tokens + self.image_tokens)

    def values(self) -> list[float]:
        """Return numbers in the order of `LOSS_NAMES`."""
        every = (self.total, self.restoration, self.by_mean, self.patch_tokens, self.image_tokens)
        return [float(value.detach()) for value in every]


LOSS_NAMES = ("loss", "restoration", "restoration_by_mean", "patch_tokens", "image_tokens")


class Distillation(nn.Module):
    """Cross-entropy of the student's softmax against the teacher's, which is centred and sharpened."""

    center: Tensor

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(outputs))

    def forward(self, student: Tensor, teacher: Tensor, weights: Tensor, temperature: float) -> Tensor:
        """Return the mean over tokens, by weights (...), for logits (..., outputs) and the teacher's temperature.

        In training the centre moves towards the mean of the teacher's logits afterwards.
        """
        targets = ((teacher.float() - self.center) / temperature).softmax(dim=-1)
        entropies = -(targets * F.log_softmax(student.float() / STUDENT_TEMPERATURE, dim=-1)).sum(dim=-1)
        if self.training:
            self.center.lerp_(teacher.float().flatten(0, -2).mean(dim=0), 1 - CENTER_MOMENTUM)
        return weighted_mean(entropies, weights)


class Criterion(nn.Module):
    """All losses of a batch, with the centres of both distillations."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.of_patches = Distillation(student.patch_head.outputs)
        self.of_images = Distillation(student.image_head.outputs)

    def forward(self, student: Student, teacher: Student, image: Tensor, hidden: Tensor, temperature: float) -> Losses:
        """Return the losses of `image` and `hidden`, pairs of views as `rectal_nnformer.pretraining.views` gives them.

        They are (pairs, 2, ..., z, y, x). The student sees both views masked, the teacher all of them.
        """
        inputs, real = student.network.prepare(image.flatten(0, 1))
        lost = hidden.flatten(0, 1).permute(student.network.to_xyz)
        seen = student.encode(inputs, real, lost)
        with torch.no_grad():
            whole = teacher.encode(inputs, real)
            patch_targets = teacher.patch_head(whole)
            real_share = share_per_token(real, student.stride)
            other_view = image_token(whole, real_share).unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
            image_targets = teacher.image_head(other_view)
        counted = lost & real
        patches = self.of_patches(
            student.patch_head(seen), patch_targets, share_per_token(counted, student.stride), temperature
        )
        pooled = student.image_head(image_token(seen, real_share))
        images = self.of_images(pooled, image_targets, torch.ones_like(pooled[:, 0]), temperature)
        restored, by_mean = restoration_losses(student.restore(seen).float(), inputs, counted)
        return Losses(restored, patches, images, by_mean)


def share_per_token(voxels: Tensor, stride: int) -> Tensor:
    """Return the share (batch, x, y, z) of each token's voxels that a mask (batch, 1, x, y, z) has."""
    return F.avg_pool3d(voxels.float(), stride)[:, 0]


def image_token(tokens: Tensor, weights: Tensor) -> Tensor:
    """Return the mean (batch, channel) of tokens (batch, x, y, z, channel), by weights (batch, x, y, z)."""
    total = weights.sum(dim=(1, 2, 3)).clamp(min=1e-6)
    return (tokens * weights.unsqueeze(-1)).sum(dim=(1, 2, 3)) / total.unsqueeze(-1)


def restoration_losses(restored: Tensor, image: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean absolute error over counted voxels, of a restoration and of each view's mean over them.

    Images are (batch, channel, x, y, z), `counted` bool (batch, 1, x, y, z): hidden and no padding.
    """
    weights = counted.expand_as(image).float()
    axes = (1, 2, 3, 4)
    means = (image * weights).sum(axes, keepdim=True) / weights.sum(axes, keepdim=True).clamp(min=1)
    return weighted_mean((restored - image).abs(), weights), weighted_mean((means - image).abs(), weights)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return a mean by weights; 0 where all of them are."""
    return (values * weights).sum() / weights.sum().clamp(min=1e-6)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move the teacher's parameters to `momentum` of themselves and 1 - `momentum` of the student's."""
    for mean, current in zip(teacher.parameters(), student.parameters(), strict=True):
        mean.lerp_(current, 1 - momentum)
