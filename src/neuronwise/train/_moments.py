"""What losses are made of: moments of the batch with their gradient, and logarithms of chosen entries.

On a CPU a pass over the activations costs more than what it computes, above all where it asks for new memory. So sums
are taken in pieces that stay in cache, and backward passes that autograd would put together from a pass for every
operation are written by hand.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from neuronwise.train.view import View

__all__ = [
    "OFFSET",
    "Moments",
    "beyond",
    "live_fourth",
    "live_moments",
    "mean_log",
    "mean_over_units",
    "moments",
    "picked",
    "pieces",
    "places",
    "settled",
]

OFFSET = 1e-4  # of logarithms of phi, which may be 0 where chance chooses
MINIMUM = 16  # samples a unit from which on a batch's own variance is taken
PIECE = 1 << 18  # entries looked at together on a CPU: what stays in a core's cache


class Moments(NamedTuple):
    """Mean and biased variance of a batch, without gradient; they broadcast to the view's values."""

    samples: Tensor  # real ones of a unit, at least 1
    mean: Tensor
    variance: Tensor


def pieces(*tensors: Tensor | None, dims: tuple[int, ...]) -> list[tuple[Any, ...]]:
    """Cut tensors along axes of samples into pieces that stay in cache; a compiler or a GPU gets them whole.

    Args:
        tensors: The activations ``(example, position, neuron, position)``, and what has their first two axes; None
            stays None.
        dims: The axes that count samples.
    """
    first = cast(Tensor, tensors[0])
    if not _is_eager(first) or first.numel() <= PIECE:
        return [tensors]
    length, width = first.shape[:2]
    rows = max(1, PIECE * length // first.numel())
    # Whole examples lie in memory as one; only where a single one is too large it is cut too.
    columns = max(1, PIECE * length * width // first.numel()) if rows == 1 and 1 in dims else width
    return [
        tuple(
            None if tensor is None else tensor[row : row + rows, column : column + columns]
            for tensor in tensors
        )
        for row in range(0, length, rows)
        for column in range(0, width, columns)
    ]


def mean_over_units(values: Tensor, real: Tensor | None = None) -> Tensor:
    """Return the mean over units, ``()``; of those that are real."""
    if real is None:
        return values.mean()
    weight = real.to(values.dtype)
    return (values * weight).sum() / weight.sum().clamp(min=1.0)


@torch.no_grad()
def moments(view: View) -> Moments:
    """Return the batch's own moments."""
    dims = view.dims
    parts = []
    for values, real in pieces(view.values, view.real, dims=dims):
        # Padding may hold anything, NaN too, which a weight of 0 would not take out.
        values = values if real is None else values.masked_fill(~real, 0.0)
        count = _count(values, real, dims)
        total = values.sum(dims, keepdim=True)
        away = values - total / count.clamp(min=1.0)
        away = away.square_() if real is None else away.masked_fill_(~real, 0.0).square_()
        parts.append((count, total, away.sum(dims, keepdim=True)))
    counts, totals, inners = (torch.stack(part) for part in zip(*parts, strict=True))
    count = counts.sum(0).clamp(min=1.0)
    mean = totals.sum(0) / count
    between = counts * (totals / counts.clamp(min=1.0) - mean).square()
    return Moments(count, mean, (inners + between).sum(0) / count)


def settled(view: View, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance to go by: those of the batch, or where it is too small the running statistics.

    A batch of few samples says too little about a variance; there the values are those of the running statistics, still
    with the batch's gradients.
    """
    if view.samples >= MINIMUM:
        return mean, variance
    own = variance.detach()
    largest = torch.maximum(own, view.variance).clamp(min=torch.finfo(own.dtype).tiny)
    return view.mean + (mean - mean.detach()), view.variance * (1 + (variance - own) / largest)


def places(chosen: Tensor) -> Tensor | None:
    """Return where chosen entries are, ``(entry,)``; None where that would make a GPU wait or a graph break."""
    return chosen.reshape(-1).nonzero().squeeze(1) if _is_eager(chosen) else None


@torch.no_grad()
def beyond(view: View, limit: Tensor, mean: Tensor) -> Tensor:
    """Return True at real entries whose squared deviation from a mean is above a limit (both of units)."""
    values = view.values
    chosen = torch.empty(values.shape, dtype=torch.bool, device=values.device)
    for part, real, out in pieces(values, view.real, chosen, dims=view.dims):
        torch.gt((part - mean).square_(), limit, out=out)
        if real is not None:
            out.logical_and_(real)
    return chosen


def picked(view: View, place: Tensor | None) -> Tensor:
    """Return the entries at these places, or where none are given all, padding as 0."""
    if place is not None:
        return view.values.reshape(-1)[place]
    return view.values if view.real is None else view.values.masked_fill(~view.real, 0.0)


def live_moments(view: View, batch: Moments, place: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean and variance to go by with the batch's gradients, and entries with theirs.

    The gradient through both is what makes a penalty of ``deviation^2 / variance`` blind to a unit's scale: it cannot
    be lowered by shrinking the unit.

    Args:
        view: The activations.
        batch: Their moments.
        place: Which entries to return, ``(entry,)``; None for all, padding as 0.
    """
    given = (view.values, view.real, *batch, place)
    mean, variance, entries = cast(tuple[Tensor, ...], _Live.apply(*given))  # type: ignore[no-untyped-call]
    return *settled(view, mean, variance), picked(view, None) if place is None else entries


class _Live(torch.autograd.Function):
    """Mean, variance and some entries, of which the gradient is a single pass, and the places of the entries."""

    @staticmethod
    def forward(
        values: Tensor,
        real: Tensor | None,
        count: Tensor,
        mean: Tensor,
        variance: Tensor,
        place: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        entries = values.new_empty(0) if place is None else values.reshape(-1).index_select(0, place)
        return mean.clone(), variance.clone(), entries

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        values, real, count, _, _, place = inputs
        ctx.save_for_backward(values, real, count, output[0], place)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        values, real, count, mean, place = ctx.saved_tensors
        slope = 2.0 * grads[1] / count
        grad = torch.addcmul(grads[0] / count - slope * mean, values, slope)
        if real is not None:
            grad = grad.masked_fill(~real, 0.0)
        if place is not None:
            grad = grad.reshape(-1).index_add_(0, place, grads[2]).view(values.shape)
        return grad, None, None, None, None, None


def mean_log(
    entries: Tensor,
    mean: Tensor,
    scale: Tensor,
    chosen: Tensor,
    place: Tensor | None,
    offset: float,
) -> Tensor:
    """Return the mean of ``log((z - mean)^2 / scale + offset)`` over the chosen entries, ``()``; 0 if there are none.

    A logarithm costs as much as all else together, so it is taken of the chosen entries alone where these are known.

    Args:
        entries: The entries at ``place``, or all of them.
        mean: What they deviate from; broadcasts to the activations.
        scale: What their squares are divided by; broadcasts to the activations.
        chosen: True where chosen, of the shape of the activations ``(example, position, neuron, position)``.
        place: Where chosen entries are, see :func:`places`.
        offset: Keeps the logarithm finite.
    """
    if place is None:
        terms = torch.where(chosen, torch.log((entries - mean).square() / scale + offset), 0.0)
        return terms.sum() / chosen.sum().clamp(min=1)
    away = entries - _at(place, mean, chosen.shape)
    terms = torch.log(away.square() / _at(place, scale, chosen.shape) + offset)
    return terms.sum() / max(1, len(place))


def live_fourth(view: View, batch: Moments, mean: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """Return the variance to go by and the mean of ``((z - mean) * root)^4``, with the gradients of the batch.

    The mean moves with the batch; the root gets no gradient.

    Args:
        view: The activations.
        batch: Their moments.
        mean: The mean to go by.
        root: What deviations are multiplied by.
    """
    given = (view.values, view.real, *batch, mean - batch.mean, root, view.dims)
    own, variance, fourth, _ = cast(tuple[Tensor, ...], _Fourth.apply(*given))  # type: ignore[no-untyped-call]
    return settled(view, own, variance)[1], fourth


class _Fourth(torch.autograd.Function):
    """Mean, variance and fourth moment, of which the gradient is a single pass; the third moment is for that."""

    @staticmethod
    def forward(
        values: Tensor,
        real: Tensor | None,
        count: Tensor,
        mean: Tensor,
        variance: Tensor,
        shift: Tensor,
        root: Tensor,
        dims: tuple[int, ...],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        third, fourth = torch.zeros_like(mean), torch.zeros_like(mean)
        for part, valid in pieces(values, real, dims=dims):
            away = (part - (mean + shift)).mul_(root)
            away = away if valid is None else away.masked_fill_(~valid, 0.0)
            square = away.square()
            third += away.mul_(square).sum(dims, keepdim=True)
            fourth += square.square_().sum(dims, keepdim=True)
        return mean.clone(), variance.clone(), fourth / count, third / count

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        values, real, count, mean, _, shift, root, ctx.dims = inputs
        ctx.save_for_backward(values, real, count, mean, shift, root, output[3])
        ctx.mark_non_differentiable(output[3])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        values, real, count, mean, shift, root, third = ctx.saved_tensors
        spread = 2.0 * grads[1] / count
        factor = 4.0 * grads[2] * root / count
        base = grads[0] / count + spread * shift - factor * third
        cube = factor * root
        grad = torch.empty(values.shape, dtype=values.dtype, device=values.device)
        for part, valid, out in pieces(values, real, grad, dims=ctx.dims):
            away = part - (mean + shift)
            inner = torch.addcmul(spread, cube, (away * root).square_())
            torch.addcmul(base, away, inner, out=out)
            if valid is not None:
                out.masked_fill_(~valid, 0.0)
        return grad, None, None, None, None, None, None, None


def _is_eager(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def _count(values: Tensor, real: Tensor | None, dims: tuple[int, ...]) -> Tensor:
    """Return how many samples of every unit are real, broadcasting to the values."""
    if real is not None:
        return real.to(values.dtype).sum(dims, keepdim=True)
    count = 1
    for dim in dims:
        count *= values.shape[dim]
    return torch.full((1, 1, 1, 1), float(count), dtype=values.dtype, device=values.device)


def _at(place: Tensor, values: Tensor, shape: torch.Size) -> Tensor:
    """Return values of units at places in activations of a shape to which they broadcast."""
    flat = values.reshape(-1)
    if flat.numel() == 1:
        return flat
    unit = place
    if flat.numel() == shape[2]:
        unit = torch.div(place, shape[3], rounding_mode="floor")
    return flat.index_select(0, unit % flat.numel())
