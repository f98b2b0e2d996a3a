"""The state of one site's health: sums over the present window, and what the last whole window said."""

from __future__ import annotations

import torch
from torch import Tensor

from neuronwise.observe.statistics import Exact

__all__ = ["FAINT", "MINIMUM", "SiteHealth"]

MINIMUM = 32  # rows below which a window says nothing
FAINT = 1e-4  # of the mean variance: a unit with less is nearly dead
_END = 0.01  # what counts as an end of the site's range, as a share of it
_CROWD = 1e-3  # share of all entries at the upper end from which on a site has two ends
_FLOOR = 0.01  # of the mean variance, added to a unit's own where it is divided by
_STILL = 1e-3  # of the layer's root mean variance: what counts as a move
_CHUNK = 1024  # units whose sketches are compared with all others at a time


class SiteHealth(Exact):
    """What is kept for the units of one site: a fixed number of values each.

    Duplicates are looked for in two stages. A sketch holds, for every unit, ``sketch`` sums of its activations with
    random signs, one sign a row; the cosine of two units' sketches estimates their correlation over all rows of the
    window. The best partner by it is a candidate, and the rows of the *next* window settle the pair's exact
    correlation, which the search has not seen.

    Args:
        width: Number of units.
        sketch: Numbers in a sketch.
    """

    #: Of the window: rows, first and second moments about ``shift``, how often it moved, and lay at either end;
    #: sketches (sketch, unit), sums of their signs (sketch,), and products with the partner's activation.
    n: Tensor
    first: Tensor
    second: Tensor
    moved: Tensor
    high: Tensor
    low: Tensor
    sketch: Tensor
    signs: Tensor
    cross: Tensor
    #: What these refer to: the mean of the window before; the median, what is a move and the range, by the first rows.
    shift: Tensor
    rest: Tensor
    reach: Tensor
    range: Tensor
    #: Candidates of the window before, -1 for none.
    candidate: Tensor
    #: Of the last whole window.
    mean: Tensor
    variance: Tensor
    moves: Tensor
    end: Tensor
    drift: Tensor
    partner: Tensor
    correlation: Tensor
    #: Rows with NaN or infinity, which are left out, since the beginning.
    skipped: Tensor

    def __init__(self, width: int, *, sketch: int) -> None:
        super().__init__()
        for name in ("first", "second", "moved", "high", "low", "cross", "shift", "rest"):
            self.register_buffer(name, torch.zeros(width))
        for name in ("mean", "variance", "moves", "end", "drift", "correlation"):
            self.register_buffer(name, torch.full((width,), torch.nan))
        for name in ("candidate", "partner"):
            self.register_buffer(name, torch.full((width,), -1, dtype=torch.int64))
        self.register_buffer("n", torch.zeros(()))
        self.register_buffer("sketch", torch.zeros(sketch, width))
        self.register_buffer("signs", torch.zeros(sketch))
        self.register_buffer("reach", torch.zeros(()))
        self.register_buffer("range", torch.zeros(2))
        self.register_buffer("skipped", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def look(self, rows: Tensor, real: Tensor, signs: Tensor, *, first: bool) -> None:
        """Take in rows of activations.

        Args:
            rows: ``(row, unit)``.
            real: True where a row counts, ``(row,)``.
            signs: Random signs ``(row, sketch)``.
            first: Whether the window begins.
        """
        rows = rows.to(self.mean.dtype)
        finite = torch.isfinite(rows).all(1)
        self.skipped.add_((real & ~finite).sum())
        keep = (real & finite)[:, None]
        rows = torch.where(keep, rows, 0.0)
        if first:
            self._refer(rows, keep)
        away = torch.where(keep, rows - self.shift, 0.0)
        low, high = self.range
        margin = _END * (high - low)
        self.n.add_(keep.sum())
        self.first.add_(away.sum(0))
        self.second.add_(away.square().sum(0))
        self.moved.add_((keep & ((rows - self.rest).abs() > self.reach)).sum(0))
        self.high.add_((keep & (rows >= high - margin)).sum(0))
        self.low.add_((keep & (rows <= low + margin)).sum(0))
        self.sketch.add_(signs.T @ away)
        self.signs.add_((signs * keep).sum(0))
        self.cross.add_((away * away[:, self.candidate.clamp(min=0)]).sum(0))

    @torch.no_grad()
    def finish(self) -> None:
        """End the window: keep what it says, and begin the next."""
        enough = self.n >= MINIMUM
        n = self.n.clamp(min=1.0)
        moved = self.first / n
        mean, variance = self.shift + moved, (self.second / n - moved.square()).clamp(min=0.0)
        floor = _FLOOR * variance.mean()
        before = self.variance + _FLOOR * self.variance.mean()
        drift = torch.maximum(
            (mean - self.mean).abs() / before.sqrt(), ((variance + floor) / before).log().abs() / 2
        )
        # Two exactly constant windows did not drift.
        drift = torch.where((mean == self.mean) & (variance == self.variance), 0.0, drift)
        crowded = self.high.sum() >= _CROWD * n * len(mean)
        end = torch.maximum(self.high, torch.where(crowded, self.low, 0.0)) / n
        other = self.candidate.clamp(min=0)
        covariance = self.cross / n - moved * moved[other]
        correlation = covariance / (variance * variance[other]).sqrt()
        known = (self.candidate >= 0) & torch.isfinite(correlation)
        found = {
            "mean": mean,
            "variance": variance,
            "moves": torch.where(torch.isfinite(self.range).all(), self.moved / n, torch.nan),
            "end": torch.where(self.range[1] > self.range[0], end, torch.nan),
            "drift": drift,
            "correlation": torch.where(known, correlation.clamp(-1.0, 1.0), torch.nan),
        }
        self._pair(moved, variance, enough)
        for name, value in found.items():
            getattr(self, name).copy_(torch.where(enough, value, torch.nan))
        self.shift.copy_(torch.where(enough, mean, self.shift))
        for name in ("n", "first", "second", "moved", "high", "low", "sketch", "signs", "cross"):
            getattr(self, name).zero_()

    def _refer(self, rows: Tensor, keep: Tensor) -> None:
        """Say what is at rest and what is an end, by the first rows of a window."""
        n = keep.sum()
        ordered = rows.masked_fill(~keep, torch.inf).sort(0).values
        middle = ordered.index_select(0, ((n - 1).clamp(min=0) // 2)[None])[0]
        centred = torch.where(keep, rows - rows.sum(0) / n.clamp(min=1), 0.0)
        usual = (centred.square().sum(0) / n.clamp(min=1)).mean()
        low = rows.masked_fill(~keep, torch.inf).amin()
        high = rows.masked_fill(~keep, -torch.inf).amax()
        self.rest.copy_(torch.where(n > 0, middle, 0.0))
        self.reach.copy_(_STILL * usual.sqrt())
        # NaN where there was nothing to refer to: this window does not say what moves or lies at an end.
        self.range.copy_(torch.where(n > 0, torch.stack([low, high]), torch.nan))

    def _pair(self, moved: Tensor, variance: Tensor, enough: Tensor) -> None:
        """Settle the candidates, and choose the next by the sketches."""
        self.partner.copy_(torch.where(enough, self.candidate, -1))
        centred = self.sketch - self.signs[:, None] * moved
        live = variance > FAINT * variance.mean()
        length = centred.norm(dim=0)
        unit = torch.where(live & (length > 0), centred / length.clamp(min=1e-30), 0.0)
        width = unit.shape[1]
        best = []
        for start in range(0, width, _CHUNK):
            cosine = (unit[:, start : start + _CHUNK].T @ unit).abs()
            rows = torch.arange(len(cosine), device=cosine.device)
            cosine[rows, rows + start] = -1.0
            best.append(cosine.argmax(1))
        chosen = torch.cat(best)
        # A unit's only neighbour may be itself or dead.
        paired = enough & live & live[chosen] & (chosen != torch.arange(width, device=chosen.device))
        self.candidate.copy_(torch.where(paired, chosen, -1))
