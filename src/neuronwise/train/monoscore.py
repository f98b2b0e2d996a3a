"""MonoScore as a reward: neurons that respond to inputs which another encoder finds alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from neuronwise.train._select import uniform
from neuronwise.train.method import Method, Selection, selected
from neuronwise.train.view import View

__all__ = ["MonoScoreReward"]


@dataclass(frozen=True, kw_only=True)
class MonoScoreReward(Method):
    r"""Subtract ``strength`` times the mean MonoScore of the units from the loss.

    With activations scaled to 0..1 over the batch, :math:`\tilde a`, and embeddings of length 1,

    .. math:: \frac{\lVert \sum_i \tilde a_i E_i \rVert^2 - \sum_i \tilde a_i^2}
        {(\sum_i \tilde a_i)^2 - \sum_i \tilde a_i^2}

    is the mean cosine of pairs weighted by both activations, in time linear in the batch. Units that are constant in
    the batch are left out.

    Needs embeddings of another encoder: ``mono.expect(embeddings=...)`` before each batch, one for each example.

    Args:
        strength: Lambda; below 0 it discourages.
        selection: ``"random"`` shuffles the embeddings, the control.

    Source: MonoLoss (arXiv 2602.12403), which uses 0.03 to 0.1; MonoScore (arXiv 2504.02821), Eqs. 5-9.
    """

    name: ClassVar[str] = "monoscore"
    has_loss: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"embeddings"})
    reports: ClassVar[str] = "monoscore"
    strength: float = 0.03
    selection: Selection = "phi"

    def __post_init__(self) -> None:
        selected(self.selection)

    @property
    def size(self) -> float:
        """The strength."""
        return self.strength

    def loss(self, view: View, strength: Tensor | None = None) -> Tensor | None:
        """Return minus strength times the score; ``strength`` given stands for the factor of the score itself."""
        values, embeddings = view.matrix, view.row_embeddings()
        if self.selection == "random":
            embeddings = embeddings[uniform(values.detach().mean(1), view.seed).argsort()]
        low, high = values, values
        if view.real_rows is not None:
            padded = ~view.real_rows[:, None]
            low, high = values.masked_fill(padded, torch.inf), values.masked_fill(padded, -torch.inf)
        lowest, highest = low.amin(0), high.amax(0)
        spread = highest - lowest
        live = (spread > 0) & torch.isfinite(spread)
        scaled = (values - lowest) / torch.where(live, spread, 1.0)
        scaled = torch.where(live, scaled, 0.0)
        if view.real_rows is not None:
            scaled = scaled * view.real_rows[:, None]
        own = scaled.square().sum(0)
        pairs = scaled.sum(0).square() - own
        live = live & (pairs > torch.finfo(pairs.dtype).eps * own)
        score = ((scaled.T @ embeddings).square().sum(1) - own) / torch.where(live, pairs, 1.0)
        mean = torch.where(live, score, 0.0).sum() / live.sum().clamp(min=1)
        if not view.again:
            view.state.note(mean.detach())
        return (-self.strength if strength is None else strength) * mean
