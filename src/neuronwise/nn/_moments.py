"""Running mean and variance of each input: what the base functions' arguments are standardised by."""

from __future__ import annotations

import torch
from torch import Tensor

from neuronwise.nn._pieces import pieces

__all__ = ["EPSILON", "scale_of", "update"]

EPSILON = 1e-5
"""Added to the variance, as in torch's batch normalisation, so that a constant input does no harm."""

_WIDE = 5.0
"""How many running deviations from the running mean a value counts at most, once there is a mean."""


def scale_of(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and reciprocal standard deviation as tensors of their own.

    Copies, since the next forward pass changes the buffers in place while this one may still wait for its backward.
    """
    wide = _at_least_single(mean)
    return mean.to(wide, copy=True), torch.rsqrt(variance.to(wide) + EPSILON)


def _at_least_single(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


@torch.no_grad()
def update(x: Tensor, axis: int, mean: Tensor, variance: Tensor, batches: Tensor, *, momentum: float) -> None:
    """Move the running moments towards those of a batch, in place.

    The share of the batch is ``max(momentum, 1 / (batches + 1))``: the first batch sets the moments, the next ones are
    averaged, then older ones are forgotten exponentially. Unlike in batch normalisation the variance is that of the
    mixture of old and new, ``(1-a) (var + (mean-new)^2) + a (var_b + (mean_b-new)^2)``, which is also right for batches
    of one. After the first batch a value counts as at most five deviations from the running mean, so that one outlier
    cannot spoil what many batches have shown. Where a batch's moments are not finite the old ones stay. All of this
    happens on the device, without waiting for it.

    Args:
        x: The batch.
        axis: Its feature axis, negative.
        mean: Running mean ``(features,)``, changed in place.
        variance: Running variance ``(features,)``, changed in place.
        batches: Number of batches seen, a whole number, changed in place.
        momentum: Smallest share of a new batch.
    """
    if x.numel() == 0:
        return
    wide = _at_least_single(mean)
    shape = (-1, *[1] * (-axis - 1))
    rows = x.detach().reshape(-1, *x.shape[axis:])
    old, old_variance = mean.to(wide), variance.to(wide)
    first = batches == 0
    # Around the old mean, or the first row: so that nothing is lost in a small difference of large numbers.
    around = torch.where(first, rows[0].reshape(x.shape[axis], -1)[:, 0].to(wide), old)
    reach = torch.where(first, torch.inf, _WIDE * torch.sqrt(old_variance + EPSILON))
    of_batch, spread = _bounded_moments(rows, around.view(shape), reach.view(shape))
    if x.numel() == x.shape[axis]:
        # One row says nothing about the spread: before there is any, keep the one assumed.
        spread = torch.where(first, old_variance, spread)
    share = torch.clamp(1.0 / (batches + 1.0), min=momentum).to(wide)
    moved = torch.lerp(old, of_batch, share)
    between = share * (1 - share) * (of_batch - old).square()
    mixed = torch.lerp(old_variance, spread.clamp(min=0.0), share) + between
    fine = torch.isfinite(mixed)
    mean.copy_(torch.where(fine, moved, old))
    variance.copy_(torch.where(fine, mixed, old_variance))
    batches.add_(1)


def _bounded_moments(rows: Tensor, around: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each feature, of values that are bounded to ``around`` plus or minus ``reach``."""
    if rows.dim() == 2 and rows.device.type == "cpu":
        # Both in one call, and exact by a second pass; twice as fast as sums for features side by side.
        bounded = torch.clamp(rows, around - reach, around + reach)
        mean, variance = torch.batch_norm_update_stats(bounded, None, None, 0.0)
        return mean, variance
    others = [dim for dim in range(rows.dim()) if dim != rows.dim() - around.dim()]
    total, squares, low = torch.zeros_like(around), torch.zeros_like(around), -reach
    for part in pieces(rows, rows):
        difference = torch.sub(part, around)
        # Two passes that vectorise where the bounds repeat; clamp() does not.
        torch.minimum(difference, reach, out=difference)
        torch.maximum(difference, low, out=difference)
        total += difference.sum(others).view_as(around)
        squares += difference.square_().sum(others).view_as(around)
    count = rows.numel() // around.numel()
    offset = (total / count).flatten()
    return around.flatten() + offset, squares.flatten() / count - offset.square()
