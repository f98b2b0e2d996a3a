"""What losses are made of: moments of the batch with their gradient, and logarithms of chosen entries."""

from __future__ import annotations

import torch
from torch import Tensor

from neuronwise.train.view import View

__all__ = ["live_moments", "mean_over_samples", "mean_over_units", "selected_log"]

MINIMUM = 16  # samples a unit from which on a batch's own variance is taken


def mean_over_samples(values: Tensor, view: View) -> Tensor:
    """Return the mean over the samples that are real, broadcasting to the view's values."""
    if view.real is None:
        return values.mean(view.dims, keepdim=True)
    weight = view.real.to(values.dtype)
    return (values * weight).sum(view.dims, keepdim=True) / weight.sum(view.dims, keepdim=True).clamp(min=1.0)


def mean_over_units(values: Tensor, real: Tensor | None = None) -> Tensor:
    """Return the mean over units, ``()``; of those that are real."""
    if real is None:
        return values.mean()
    weight = real.to(values.dtype)
    return (values * weight).sum() / weight.sum().clamp(min=1.0)


def live_moments(view: View) -> tuple[Tensor, Tensor, Tensor]:
    """Return the batch's mean and biased variance with their gradients, and the deviations from that mean.

    The gradient through both is what makes a penalty of ``deviation^2 / variance`` blind to a unit's scale: it cannot
    be lowered by shrinking the unit. A batch of few samples says too little about a variance; there the values are
    those of the running statistics, still with the batch's gradients.
    """
    values = view.values
    # Padding may hold anything, NaN too, which a weight of 0 would not take out.
    values = values if view.real is None else values.masked_fill(~view.real, 0.0)
    mean = mean_over_samples(values, view)
    away = values - mean
    variance = mean_over_samples(away.square(), view)
    if view.samples < MINIMUM:
        own = variance.detach()
        largest = torch.maximum(own, view.variance).clamp(min=torch.finfo(own.dtype).tiny)
        variance = view.variance * (1 + (variance - own) / largest)
        mean = view.mean + (mean - mean.detach())
        away = values - mean
    return mean, variance, away


def selected_log(away: Tensor, scale: Tensor, chosen: Tensor, offset: float) -> Tensor:
    """Return the mean of ``log(away^2 / scale + offset)`` over the chosen entries, ``()``; 0 if there are none.

    Args:
        away: Deviations ``(example, position, neuron, position)``.
        scale: What their squares are divided by; broadcasts to them.
        chosen: True where chosen, of their shape.
        offset: Keeps the logarithm finite.
    """
    if away.device.type == "cpu" and not torch.compiler.is_compiling():
        return _sparse_log(away, scale, chosen, offset)
    terms = torch.where(chosen, torch.log(away.square() / scale + offset), 0.0)
    return terms.sum() / chosen.sum().clamp(min=1)


def _sparse_log(away: Tensor, scale: Tensor, chosen: Tensor, offset: float) -> Tensor:
    """Do the same with the chosen entries alone: a logarithm costs as much as all else together."""
    place = chosen.reshape(-1).nonzero().squeeze(1)
    after, width = away.shape[3], away.shape[2]
    divisor = scale.reshape(-1)
    if divisor.numel() == 1:
        unit = torch.zeros_like(place)
    elif divisor.numel() == width:
        unit = torch.div(place, after, rounding_mode="floor") % width
    else:
        unit = place % divisor.numel()
    terms = torch.log(away.reshape(-1)[place].square() / divisor[unit] + offset)
    return terms.sum() / max(1, len(place))
