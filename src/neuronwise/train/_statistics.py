"""Running statistics that take in a whole optimisation step at once."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from neuronwise.observe.statistics import Layout, RunningStatistics

__all__ = ["Exchange", "StepStatistics", "exchange"]

Exchange = Generator[tuple[Literal["sum", "max"], list[Tensor]], list[Tensor], None]
"""Asks for tensors to be reduced over the processes of a run, and gets them back reduced, several times in a row."""


class StepStatistics(RunningStatistics):
    """Running statistics that gather during an optimisation step and change only at its end.

    All forward passes of the step (micro-batches, the calls of a recurrent module, what activation checkpointing
    recomputes) so score by the same numbers, and together count as one batch: accumulating the gradients of four
    batches of 16 is the same as one batch of 64.
    """

    gathered_n: Tensor
    gathered_first: Tensor
    gathered_second: Tensor
    gathered_above: Tensor
    gathered_peak: Tensor
    gathered_histogram: Tensor

    def _allocate(self, shape: tuple[int, int, int] | None, device: torch.device | None = None) -> None:
        super()._allocate(shape, device)
        for name in ("first", "second", "above", "peak"):
            self._gather_buffer(name, torch.zeros_like(self.mean))
        self._gather_buffer("n", torch.zeros_like(self.weight))
        histogram = torch.zeros(0, dtype=self.dtype) if self.tail is None else self.tail.histogram
        self._gather_buffer("histogram", torch.zeros_like(histogram))

    @property
    def layout(self) -> Layout:
        """How tensors of the site are read."""
        return self._layout

    @property
    def scale(self) -> Tensor:
        """Variance plus ``floor`` times the mean variance; infinite where that is 0."""
        return self._scale()

    def _gather_buffer(self, name: str, value: Tensor) -> None:
        self.register_buffer(f"gathered_{name}", value, persistent=False)

    @torch.no_grad()
    def gather(self, tensor: Tensor, mask: Tensor | None = None) -> None:
        """Add up one more tensor of this step.

        Args:
            tensor: Activations as the site has them.
            mask: True where a position is real, batch first.
        """
        tensor = tensor.detach()
        self.prepare(tuple(tensor.shape), tensor.device)
        samples, real = self._layout.samples(tensor, mask, self.dtype)
        if not len(samples):
            return
        begun = (self.weight > 0) | (self.gathered_n > 0)
        # Before there is a mean, sums are about the step's first sample, for which its place is free.
        first = samples[:1] if self.unit == "element" else samples[:1, :, :, :1]
        first = torch.nan_to_num(first.to(self.dtype)[0], nan=0.0, posinf=0.0, neginf=0.0)
        self.mean.copy_(torch.where(begun, self.mean, first))
        sums = self._sums(samples, real, torch.ones_like(begun))
        # A sum keeps what its dimensions were reduced to; the buffers have no axis of samples.
        shape = self.mean.shape
        self.gathered_first.add_(sums.first.reshape(shape))
        self.gathered_second.add_(sums.second.reshape(shape))
        self.gathered_n.add_(sums.n.reshape(self.weight.shape))
        if self.tail is not None:
            self.gathered_above.add_(sums.above.reshape(shape))
            self.gathered_peak.copy_(torch.maximum(self.gathered_peak, sums.peak.reshape(shape)))
            self.gathered_histogram.add_(self._histogram(samples, real))

    def commit(self) -> Exchange:
        """Take in what was gathered, over all processes, and begin anew."""
        seen = self.weight > 0
        n, first = self.gathered_n, self.gathered_first
        safe = n.clamp(min=1.0)
        inner = (self.gathered_second - first.square() / safe).clamp(min=0.0)
        moved = first + torch.where(seen, 0.0, self.mean) * n
        self.mean.mul_(seen)
        total_n, total, above, histogram = yield (
            "sum",
            [n, moved, self.gathered_above, self.gathered_histogram],
        )
        delta = total / total_n.clamp(min=1.0)
        (inner,) = yield "sum", [inner + n * (moved / safe - delta).square()]
        (peak,) = yield "max", [self.gathered_peak]
        ok = torch.isfinite(total).all() & torch.isfinite(inner).all()
        some = (total_n > 0).any()
        if self.tail is not None:
            scored = ok & some & seen.any()
            self.tail.absorb(total_n, above, peak / self._scale(), histogram, scored, self._kept())
        self._absorb(total_n, delta, inner, ok)
        self.batches.add_(ok & some)
        self.skipped.add_(~ok)
        self.discard()

    def discard(self) -> None:
        """Forget what was gathered."""
        for name, buffer in self.named_buffers(recurse=False):
            if name.startswith("gathered_"):
                buffer.zero_()


@torch.no_grad()
def exchange(
    parties: Sequence[Exchange], all_reduce: Callable[[Tensor, Literal["sum", "max"]], Tensor] | None
) -> None:
    """Run several exchanges in lockstep, so that what all of them ask for travels together.

    Args:
        parties: Exchanges that ask in the same order.
        all_reduce: Reduces a float64 tensor over the processes of a run; None with one process.
    """
    asked: list[Any] = [next(party) for party in parties]
    while asked:
        replies = [tensors for _, tensors in asked]
        if all_reduce is not None:
            replies = _reduced(replies, all_reduce, asked[0][0])
        following = []
        for party, reply in zip(parties, replies, strict=True):
            try:
                following.append(party.send(reply))
            except StopIteration:
                continue
        asked = following


def _reduced(
    groups: list[list[Tensor]],
    all_reduce: Callable[[Tensor, Literal["sum", "max"]], Tensor],
    how: Literal["sum", "max"],
) -> list[list[Tensor]]:
    flat = torch.cat([tensor.reshape(-1).double() for group in groups for tensor in group])
    sizes = [tensor.numel() for group in groups for tensor in group]
    pieces = iter(torch.split(all_reduce(flat, how), sizes))
    return [[next(pieces).reshape(tensor.shape).to(tensor) for tensor in group] for group in groups]
