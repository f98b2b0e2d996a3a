"""Methods that put the running mean in the place of activations: naive and Reversed Deactivation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from neuronwise.errors import InvalidArgumentError
from neuronwise.train._moments import beyond
from neuronwise.train._rules import replace, replace_gated
from neuronwise.train._select import by_chance, highest, uniform
from neuronwise.train.method import Method, Selection, positive, selected, share_of
from neuronwise.train.view import View

__all__ = [
    "GatedReversal",
    "MEmeL",
    "MEmeLTune",
    "NaiveDeactivation",
    "Replacement",
    "ReversedDeactivation",
]

Per = Literal["sample", "batch", "threshold"]


@dataclass(frozen=True, kw_only=True)
class Replacement(Method):
    """Replaces chosen activations by their running mean, and multiplies their gradient by a factor.

    Args:
        top: How many entries: a whole number, or a share below 1.
        per: Of what: of each ``"sample"`` (all positions and neurons of the site together; the published code), of the
            whole ``"batch"``, or, as a share, above a moving ``"threshold"``, which is the cheapest.
        selection: Those with the highest phi, or as many at ``"random"``, the control.
    """

    top: float = 1
    per: Per = "sample"
    selection: Selection = "phi"

    def __post_init__(self) -> None:
        selected(self.selection)
        if self.per not in ("sample", "batch", "threshold"):
            raise InvalidArgumentError(f"per must be 'sample', 'batch' or 'threshold', not {self.per!r}.")
        if self.per == "threshold":
            share_of("top, with per='threshold',", self.top)
        elif not (0 < self.top < 1 or (self.top >= 1 and self.top == int(self.top))):
            raise InvalidArgumentError(
                f"top must be a whole number of entries or a share below 1, not {self.top}."
            )

    @property
    def factor(self) -> float:
        """What the gradient of replaced entries is multiplied by."""
        raise NotImplementedError

    @property
    def level(self) -> float | None:
        """The share that the moving threshold lets through."""
        return self.top if self.per == "threshold" else None

    def chosen(self, view: View) -> Tensor:
        """Return True at the entries to replace, in the shape of the view's values."""
        if self.per == "threshold":
            return above_threshold(view, self.top, self.selection)
        score = view.phi
        if self.selection == "random":
            score = uniform(view.values, view.seed)
            score = score if view.real is None else score.masked_fill(~view.real, -1.0)
        flat = score.reshape(score.shape[0] if self.per == "sample" else 1, -1)
        count = int(self.top) if self.top >= 1 else max(1, round(self.top * flat.shape[1]))
        return highest(flat, count).reshape(score.shape)

    def replace(self, view: View) -> Tensor:
        """Return the activations with the chosen ones replaced."""
        mean = view.like_tensor(view.mean).to(view.tensor.dtype)
        return replace(view.tensor, view.like_tensor(self.chosen(view)), mean, self.factor)


def above_threshold(
    view: View, share: float, selection: Selection, mean: Tensor | None = None, scale: Tensor | None = None
) -> Tensor:
    """Return True at entries whose phi is above the moving threshold, or at as many chosen at random.

    Args:
        view: The activations.
        share: The share that the threshold lets through.
        selection: By phi or at random.
        mean: Score by this mean instead of the running one.
        scale: Score by this stabilised variance instead of the running one.
    """
    if selection == "random":
        return by_chance(view, share)
    limit = view.state.threshold * (view.scale if scale is None else scale)
    chosen = beyond(view, limit, view.mean if mean is None else mean)
    if not view.again:
        view.state.count(chosen, view.real)
    return chosen


@dataclass(frozen=True, kw_only=True)
class NaiveDeactivation(Replacement):
    """Naive deactivation: the mean in the place of the most monosemantic activations.

    Variant (a), ``z' = sg(mean)``, gives them no gradient; variant (b), ``z' = z + sg(mean - z)``, the identity's.

    Args:
        variant: ``"a"`` or ``"b"``.
        top: See :class:`Replacement`.
        per: See :class:`Replacement`.
        selection: See :class:`Replacement`.

    Source: Wang et al. (arXiv 2312.11560), Eqs. 10-11, which argues that neither inhibits: after one step (a) leaves
    the activation where it was and (b) moves it away from the mean.
    """

    name: ClassVar[str] = "naive"
    variant: Literal["a", "b"] = "b"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant not in ("a", "b"):
            raise InvalidArgumentError(f"variant must be 'a' or 'b', not {self.variant!r}.")

    @property
    def factor(self) -> float:
        """0 or 1."""
        return 0.0 if self.variant == "a" else 1.0


@dataclass(frozen=True, kw_only=True)
class ReversedDeactivation(Replacement):
    """Reversed Deactivation: the mean in their place, and the gradient reversed, ``z' = -D z + sg(mean + D z)``.

    One step of gradient descent moves the activation towards its mean wherever the loss falls when it moves from the
    mean to where it was (Lemma 3.3). Over whole training runs of small networks the tail of phi was measured to grow.

    Args:
        D: How much the reversed gradient is multiplied by.
        watch: Count in the backward pass for how many entries the lemma's condition holds (``"condition"`` in the log).
        top: See :class:`Replacement`.
        per: See :class:`Replacement`.
        selection: See :class:`Replacement`.

    Source: Wang et al. (arXiv 2312.11560), Eq. 12, algorithm 2, appendix E.3. The published module is not this to the
    letter: it merges the second batch with the weight of two, scores after the update, returns float32, keeps its
    statistics out of checkpoints and breaks on a batch of one. Its unit mode is ``"element"``.
    """

    name: ClassVar[str] = "reversed"
    D: float = 1.0
    watch: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("D", self.D)

    @property
    def factor(self) -> float:
        """Minus D."""
        return -self.D

    @property
    def gated(self) -> bool:
        """Whether the gradient is reversed only where the condition holds."""
        return False

    def replace(self, view: View) -> Tensor:
        """Return the activations with the chosen ones replaced."""
        if not (self.watch or self.gated):
            return super().replace(view)
        mean = view.like_tensor(view.mean).to(view.tensor.dtype)
        return replace_gated(
            view.tensor,
            view.like_tensor(self.chosen(view)),
            mean,
            self.factor,
            above=view.tensor.detach() > mean,
            # A compiled backward pass cannot count.
            tally=None if torch.compiler.is_compiling() else view.state.tally,
            gate=self.gated,
        )


@dataclass(frozen=True, kw_only=True)
class MEmeL(ReversedDeactivation):
    """Reversed Deactivation as published: one entry of each sample, D = 1 (use ``unit="element"``).

    Source: Wang et al. (KDD 2024, arXiv 2312.11560), section 4.1.2.
    """

    name: ClassVar[str] = "memel"

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.D, self.top, self.per) != (1, 1, "sample"):
            raise InvalidArgumentError(
                "MEmeL has D=1 and top=1 per sample; take MEmeLTune or ReversedDeactivation."
            )


@dataclass(frozen=True, kw_only=True)
class MEmeLTune(ReversedDeactivation):
    """One of the 25 settings that MEmeL-Tune is the best of: ``top`` and ``D`` in 1, 5, 10, 50, 100.

    The published figures are those of the best of 25 on the task's own measure; :meth:`grid` returns them all.

    Source: Wang et al. (KDD 2024, arXiv 2312.11560), appendix E.
    """

    name: ClassVar[str] = "memel_tune"
    #: The values of both.
    VALUES: ClassVar[tuple[int, ...]] = (1, 5, 10, 50, 100)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.D not in self.VALUES or self.top not in self.VALUES or self.per != "sample":
            raise InvalidArgumentError(
                f"MEmeL-Tune has D and top in {self.VALUES}, per sample, not D={self.D}, top={self.top}, per "
                f"{self.per}. ReversedDeactivation takes any."
            )

    @classmethod
    def grid(cls) -> tuple[MEmeLTune, ...]:
        """Return all 25 settings."""
        return tuple(cls(D=D, top=top) for top in cls.VALUES for D in cls.VALUES)


@dataclass(frozen=True, kw_only=True)
class GatedReversal(ReversedDeactivation):
    """Reversed Deactivation where the lemma's sign condition holds, and naive deactivation (b) where it does not.

    The condition, ``sign(dL/dz') = -sign(z - mean)`` at the mean, is looked at in the backward pass, so that in either
    case one step moves the chosen activation towards its mean. Held in 51-56 % of cases before training and 87-93 %
    after an epoch (digits). Under ``torch.compile`` it works, but is not counted for the log.

    Args:
        D: See :class:`ReversedDeactivation`.
        watch: See :class:`ReversedDeactivation`; always on here.
        top: See :class:`Replacement`.
        per: See :class:`Replacement`.
        selection: See :class:`Replacement`.
    """

    name: ClassVar[str] = "gated"

    @property
    def gated(self) -> bool:
        """True."""
        return True
