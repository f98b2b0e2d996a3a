"""One knob: reach this level of this measure, and hold it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from neuronwise.errors import InvalidArgumentError
from neuronwise.observe.statistics import Exact
from neuronwise.train._state import SiteState
from neuronwise.train.method import Method, positive
from neuronwise.train.penalties import TailPenalty
from neuronwise.train.view import View

__all__ = ["ControlState", "Controller"]

ONLINE = ("share", "top")
"""The measures that the running statistics themselves offer."""


@dataclass(frozen=True)
class Controller(Method):
    r"""Bring a measure to a level by steering the strength of a penalty, up or down.

    At the end of each step the measure m (a mean over the sites, and over about the last ``smooth`` steps) is compared
    with the level, :math:`e = \log(m / target) / band` cut to -1..1, and the strength set to

    .. math:: \lambda = \lambda_0 \sinh(u),\qquad u = K\left(e + \tfrac{1}{T}\textstyle\sum e\right)

    The sum (integral control) changes the strength as long as there is an error of either sign, so the level is met
    without knowing how strongly the model reacts. Useful strengths span orders of magnitude and both signs (below 0 a
    penalty encourages); sinh is a logarithm far from 0, and passes through it. The term without a sum damps. The sum
    stands still where u is at its limit.

    The measure is taken while training, on training batches and by running statistics; on other data it may differ.

    Args:
        measure: ``"share"``: of phi above the statistics' threshold (9); ``"top"``: mean of the top 1 % of phi; or what
            ``method`` reports: ``"kurtosis"``, ``"selectivity"``, ``"monoscore"``, ``"correlation"``.
        target: The level wanted, above 0.
        method: What is steered: any method with a loss. Its own strength, without sign, is :math:`\lambda_0`.
        band: The error, as a logarithm, from which on the controller acts with all its force; None for 1 where the
            measure is ``"share"``, which moves several times as far as the others, and 0.25 where it is not.
        gain: K.
        integral: T, in steps.
        smooth: Steps over which the measure is averaged, beyond the statistics' own forgetting.
        limit: Largest u; :math:`\lambda_0\sinh(limit)` is the largest strength.

    Raises:
        InvalidArgumentError: If the method has no loss to steer, or does not report the measure.
    """

    name: ClassVar[str] = "controller"
    has_loss: ClassVar[bool] = True
    measure: str
    target: float
    method: Method = field(default_factory=TailPenalty, kw_only=True)
    band: float | None = field(default=None, kw_only=True)
    gain: float = field(default=2.0, kw_only=True)
    integral: float = field(default=100.0, kw_only=True)
    smooth: float = field(default=5.0, kw_only=True)
    limit: float = field(default=6.0, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("target", "width", "gain", "integral", "smooth", "limit"):
            positive(name, getattr(self, name))
        if not self.method.has_loss or isinstance(self.method, Controller):
            raise InvalidArgumentError(
                f"A controller steers the strength of a loss, and {type(self.method).__name__} has none to steer."
            )
        offered = [*ONLINE, *filter(None, [self.method.reports])]
        if self.measure not in offered:
            raise InvalidArgumentError(
                f"{type(self.method).__name__} does not report {self.measure!r} while training. Choose one of "
                f"{', '.join(offered)}, or a method that reports it."
            )

    @property
    def acting(self) -> Method:
        """The method that is steered."""
        return self.method

    @property
    def level(self) -> float | None:
        """The share that the steered method's threshold lets through."""
        return self.method.level

    @property
    def rate(self) -> float:
        """The step of the steered method's threshold."""
        return self.method.rate

    @property
    def width(self) -> float:
        """The band in force."""
        if self.band is not None:
            return self.band
        return 1.0 if self.measure == "share" else 0.25

    @property
    def unit(self) -> float:
        """The strength at which u is about 1."""
        return abs(self.method.size)

    def loss(self, view: View, strength: Tensor | None = None) -> Tensor | None:
        """Return the steered method's loss at the strength that the controller has set."""
        return self.method.loss(view, strength)


class ControlState(Exact):
    """What a controller remembers.

    Args:
        controller: Its settings.
    """

    strength: Tensor
    total: Tensor
    measured: Tensor

    def __init__(self, controller: Controller) -> None:
        super().__init__()
        self.controller = controller
        #: The strength in force, ``()``.
        self.register_buffer("strength", torch.zeros(()))
        #: The sum of errors divided by T.
        self.register_buffer("total", torch.zeros(()))
        #: The measure, averaged; NaN before there is any.
        self.register_buffer("measured", torch.full((), math.nan))

    @torch.no_grad()
    def update(self, states: Sequence[SiteState]) -> None:
        """Look at the measure after a step and set the strength, without waiting for a GPU."""
        settings = self.controller
        now = torch.stack([self._measure(state).to(self.strength) for state in states])
        known = torch.isfinite(now)
        mean = torch.where(known, now, 0.0).sum() / known.sum()
        smoothed = self.measured + (mean - self.measured) / settings.smooth
        smoothed = torch.where(torch.isnan(self.measured), mean, smoothed)
        self.measured.copy_(torch.where(torch.isfinite(mean), smoothed, self.measured))
        error = (torch.log(self.measured.clamp(min=1e-12) / settings.target) / settings.width).clamp(
            -1.0, 1.0
        )
        error = torch.nan_to_num(error)
        bound = settings.limit / settings.gain
        self.total.copy_((self.total + error / settings.integral).clamp(-bound, bound))
        u = (settings.gain * (error + self.total)).clamp(-settings.limit, settings.limit)
        self.strength.copy_(settings.unit * torch.sinh(u))

    def _measure(self, state: SiteState) -> Tensor:
        tail = state.statistics.tail
        if self.controller.measure not in ONLINE or tail is None:
            return state.report
        return tail.share() if self.controller.measure == "share" else tail.top_mean(0.01)
