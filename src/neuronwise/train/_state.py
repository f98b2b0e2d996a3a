"""The state of one site while a model trains: statistics, threshold, and what a method reports."""

from __future__ import annotations

from statistics import NormalDist

import torch
from torch import Tensor

from neuronwise.errors import InvalidArgumentError
from neuronwise.observe.statistics import Exact
from neuronwise.train._statistics import Exchange, StepStatistics

__all__ = ["SiteState", "initial_threshold"]


class SiteState(Exact):
    """Statistics of one site, and the few numbers that its method keeps.

    Args:
        statistics: The statistics.
        share: Share of entries that the moving threshold keeps above it; None for no threshold.
        rate: Step of the threshold, eta.
    """

    threshold: Tensor
    found: Tensor
    tally: Tensor
    condition: Tensor
    reported: Tensor
    report: Tensor

    def __init__(self, statistics: StepStatistics, *, share: float | None, rate: float) -> None:
        super().__init__()
        self.statistics = statistics
        self.share, self.rate = share, rate
        start = 0.0 if share is None else initial_threshold(share)
        #: The score above which entries are chosen, ``()``.
        self.register_buffer("threshold", torch.tensor(start, dtype=statistics.dtype))
        #: Entries above the threshold and all entries, of this step.
        self.register_buffer("found", torch.zeros(2, dtype=statistics.dtype), persistent=False)
        #: Chosen entries for which the sign condition held, and chosen entries with a gradient: this step, and all.
        self.register_buffer("tally", torch.zeros(2, dtype=torch.int64), persistent=False)
        self.register_buffer("condition", torch.zeros(2, dtype=torch.int64))
        #: Sum and number of the method's own figure in this step, and its mean in the step before.
        self.register_buffer("reported", torch.zeros(2, dtype=statistics.dtype), persistent=False)
        self.register_buffer("report", torch.full((), torch.nan, dtype=statistics.dtype))

    @torch.no_grad()
    def count(self, chosen: Tensor, real: Tensor | None) -> None:
        """Count entries above the threshold, among those that are real."""
        if real is None:
            total = torch.full_like(self.found[0], float(chosen.numel()))
        else:
            total = real.sum().to(self.found) * (chosen.numel() // real.numel())
        # Without statistics every score is 0, which says nothing about the level.
        known = (self.statistics.batches > 0).to(self.found)
        self.found.add_(torch.stack([torch.count_nonzero(chosen).to(self.found), total]) * known)

    @torch.no_grad()
    def note(self, figure: Tensor) -> None:
        """Add to the method's own figure of this step."""
        self.reported.add_(
            torch.stack([figure.detach().to(self.reported), torch.ones_like(self.reported[1])])
        )

    @torch.no_grad()
    def settle(self, scores: Tensor) -> None:
        """Set the threshold to the level that its share of some scores reaches; nothing where there is none."""
        if self.share is not None:
            count = max(1, round(self.share * scores.numel()))
            self.threshold.fill_(scores.flatten().topk(count).values[-1])

    def commit(self) -> Exchange:
        """Take in the step, over all processes, and begin anew."""
        yield from self._settle()
        yield from self.statistics.commit()
        self.discard()

    def _settle(self) -> Exchange:
        found, tally, reported = yield "sum", [self.found, self.tally, self.reported]
        if self.share is not None:
            excess = (found[0] / found[1].clamp(min=1.0) - self.share) / self.share
            # At most a factor e^eta a step upwards; downwards the rule itself allows no more.
            moved = self.threshold * torch.exp(self.rate * excess.clamp(max=1.0))
            self.threshold.copy_(torch.where(found[1] > 0, moved, self.threshold))
        self.condition.add_(tally)
        mean = reported[0] / reported[1].clamp(min=1.0)
        usable = (reported[1] > 0) & torch.isfinite(mean)
        self.report.copy_(torch.where(usable, mean, self.report))

    def discard(self) -> None:
        """Forget what this step brought."""
        for buffer in (self.found, self.tally, self.reported):
            buffer.zero_()
        self.statistics.discard()


def initial_threshold(share: float) -> float:
    """Return the level that a squared normal variable exceeds with this probability.

    Example:
        >>> round(initial_threshold(0.02), 2)
        5.41

    Raises:
        InvalidArgumentError: If the share is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise InvalidArgumentError(f"share must lie between 0 and 1, not {share}.")
    return NormalDist().inv_cdf(1 - share / 2) ** 2
