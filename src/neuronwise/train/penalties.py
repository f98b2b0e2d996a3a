"""Losses on the Monosemantic Scale: L2E's, and scale-free ones on its tail and on the kurtosis."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from neuronwise.errors import InvalidArgumentError
from neuronwise.train._moments import (
    OFFSET,
    live_fourth,
    live_moments,
    mean_log,
    mean_over_units,
    moments,
    picked,
    places,
    settled,
)
from neuronwise.train._select import uniform
from neuronwise.train.method import Method, Selection, positive, selected, share_of
from neuronwise.train.replacement import above_threshold
from neuronwise.train.view import View

__all__ = ["L2E", "KurtosisPenalty", "Penalty", "TailPenalty"]


@dataclass(frozen=True, kw_only=True)
class Penalty(Method):
    """A loss on the activations.

    Args:
        strength: What the loss is multiplied by; below 0 it encourages what it else inhibits.
        selection: What it acts on: the highest scores, or as much at ``"random"``, the control.
    """

    has_loss: ClassVar[bool] = True
    strength: float = 0.01
    selection: Selection = "phi"

    def __post_init__(self) -> None:
        selected(self.selection)

    @property
    def size(self) -> float:
        """The strength."""
        return self.strength

    def loss(self, view: View, strength: Tensor | None = None) -> Tensor | None:
        """Return strength times the penalty."""
        return (self.strength if strength is None else strength) * self.penalty(view)

    @abstractmethod
    def penalty(self, view: View) -> Tensor:
        """Return the penalty, ``()``."""


@dataclass(frozen=True, kw_only=True)
class L2E(Penalty):
    r"""L2E: the mean of :math:`\log (z - \bar z)^2` over the entries with phi above a moving threshold.

    The running statistics stay fixed, so the network can also lower it by shrinking a unit as a whole: at strength 0.1
    small ReLU networks collapse. :class:`TailPenalty` is the same without that way out.

    Args:
        strength: Lambda, which the paper does not state.
        selection: See :class:`Penalty`.
        share: Share of the entries above the threshold.
        eta: Step of the threshold: each step :math:`\tau \leftarrow \tau e^{\eta(\hat p - p)/p}`, where :math:`\hat p`
            is the share that was above it. The paper's own rule is not known.

    Source: "Learning Towards Emergence" (arXiv 2503.23298), Eq. 5.
    """

    name: ClassVar[str] = "l2e"
    share: float = 0.02
    eta: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        share_of("share", self.share)
        positive("eta", self.eta)

    @property
    def level(self) -> float | None:
        """The share above the threshold."""
        return self.share

    @property
    def rate(self) -> float:
        """The step of the threshold."""
        return self.eta

    def penalty(self, view: View) -> Tensor:
        """Return the mean logarithm of the chosen squared deviations."""
        chosen = above_threshold(view, self.share, self.selection)
        place = places(chosen)
        # Chosen by phi, a deviation is never 0; chosen at random it may be.
        tiny = torch.finfo(view.values.dtype).tiny if self.selection == "phi" else OFFSET
        return mean_log(picked(view, place), view.mean, torch.ones_like(view.scale), chosen, place, tiny)


@dataclass(frozen=True, kw_only=True)
class Guarded(Penalty):
    r"""A scale-free penalty with a floor under the variance of every unit.

    Args:
        strength: See :class:`Penalty`.
        selection: See :class:`Penalty`.
        epsilon: Share of the layer's mean variance added to a unit's.
        floor: A unit whose variance falls below this share of the layer's mean variance is pushed back, by
            :math:`(1 - s / s_{floor})_+^2`: a dead unit has no tail, so the penalty alone would pay for killing.
        guard: What that push is multiplied by, on top of the strength.
    """

    epsilon: float = 0.01
    floor: float = 0.05
    guard: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("epsilon", self.epsilon)
        for name in ("floor", "guard"):
            if getattr(self, name) < 0:
                raise InvalidArgumentError(f"{name} must not be negative, not {getattr(self, name)}.")

    def loss(self, view: View, strength: Tensor | None = None) -> Tensor | None:
        """Return strength times the penalty, and the push of near-dead units, whatever the sign of the strength."""
        factor: Any = self.strength if strength is None else strength
        score, variance = self.scored(view)
        loss: Tensor = factor * score
        if self.floor and self.guard:
            loss = loss + abs(factor) * self.guard * self._push(variance)
        return loss

    def penalty(self, view: View) -> Tensor:
        """Return the penalty alone."""
        return self.scored(view)[0]

    @abstractmethod
    def scored(self, view: View) -> tuple[Tensor, Tensor]:
        """Return the penalty, and the batch's variance with its gradient."""

    def stable(self, variance: Tensor) -> Tensor:
        """Return the variance plus a share of the layer's, infinite where the whole site is constant."""
        scale = variance + self.epsilon * variance.mean()
        return torch.where(scale > 0, scale, torch.inf)

    def _push(self, variance: Tensor) -> Tensor:
        limit = self.floor * variance.detach().mean()
        ratio = variance / limit.clamp(min=torch.finfo(variance.dtype).tiny)
        # The root has no finite slope at 0, where a unit gets no gradient anyway.
        return (1 - torch.sqrt(ratio.clamp(min=1e-6))).clamp(min=0.0).square().mean()


@dataclass(frozen=True, kw_only=True)
class TailPenalty(Guarded):
    r"""The mean logarithm of the largest phi, with phi by the batch's own mean and variance, gradients through both.

    :math:`L = \overline{\log\left((z-m_B)^2/(s_B^2 + \epsilon\,\overline{s_B^2}) + 10^{-4}\right)}` over the entries
    above a moving threshold. It does not change when a unit is scaled, so shrinking does not lower it; only another
    shape of the distribution does. Below 0, the strength makes tails grow.

    Args:
        strength: See :class:`Penalty`.
        selection: See :class:`Penalty`.
        epsilon: See :class:`Guarded`.
        floor: See :class:`Guarded`.
        guard: See :class:`Guarded`.
        share: Share of the entries above the threshold.
        eta: Step of the threshold, see :class:`L2E`.
    """

    name: ClassVar[str] = "tail"
    strength: float = 0.03
    share: float = 0.02
    eta: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        share_of("share", self.share)
        positive("eta", self.eta)

    @property
    def level(self) -> float | None:
        """The share above the threshold."""
        return self.share

    @property
    def rate(self) -> float:
        """The step of the threshold."""
        return self.eta

    def scored(self, view: View) -> tuple[Tensor, Tensor]:
        """Return the mean logarithm of the largest phi, and the batch's variance with its gradient."""
        batch = moments(view)
        mean, variance = settled(view, batch.mean, batch.variance)
        chosen = above_threshold(view, self.share, self.selection, mean, self.stable(variance))
        place = places(chosen)
        mean, variance, entries = live_moments(view, batch, place)
        return mean_log(entries, mean, self.stable(variance), chosen, place, OFFSET), variance


@dataclass(frozen=True, kw_only=True)
class KurtosisPenalty(Guarded):
    r"""The mean over units of :math:`\log(E_B[\phi^2] + 10^{-4})`, with phi as in :class:`TailPenalty`.

    Args:
        strength: See :class:`Penalty`.
        selection: See :class:`Penalty`; at random it takes ``units`` of the units by chance.
        epsilon: See :class:`Guarded`.
        floor: See :class:`Guarded`.
        guard: See :class:`Guarded`.
        units: Share of the units, those with the highest kurtosis; 1 takes all.
    """

    name: ClassVar[str] = "kurtosis"
    strength: float = 0.03
    reports: ClassVar[str] = "kurtosis"
    units: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.units <= 1:
            raise InvalidArgumentError(f"units must be a share above 0 and at most 1, not {self.units}.")
        if self.selection == "random" and self.units == 1:
            raise InvalidArgumentError(
                "Of all units, none can be chosen at random: give selection='random' with units below 1, beside the "
                "same units with selection='phi'."
            )

    def scored(self, view: View) -> tuple[Tensor, Tensor]:
        """Return the mean logarithm of the kurtosis, and the batch's variance with its gradient."""
        batch = moments(view)
        mean, variance = settled(view, batch.mean, batch.variance)
        variance, fourth = live_fourth(view, batch, mean, self.stable(variance).rsqrt())
        # Infinite where the site is constant, and the moment 0.
        scale = self.stable(variance).clamp(max=torch.finfo(variance.dtype).max)
        kurtosis = fourth * (scale.detach() / scale).square()
        if not view.again:
            alive = variance.detach() > self.epsilon * variance.detach().mean()
            view.state.note(mean_over_units(kurtosis.detach(), alive))
        terms = torch.log(kurtosis + OFFSET)
        if self.units == 1:
            return terms.mean(), variance
        score = kurtosis.detach().reshape(-1)
        if self.selection == "random":
            score = uniform(score, view.seed)
        best = score.topk(max(1, round(self.units * score.numel())), sorted=False).indices
        return terms.reshape(-1)[best].mean(), variance
