"""What a method is that changes how monosemantic neurons become while a model trains."""

from __future__ import annotations

from abc import ABC
from typing import ClassVar, Literal

from torch import Tensor

from neuronwise.errors import InvalidArgumentError
from neuronwise.train.view import View

__all__ = ["Method", "Selection", "positive", "selected", "share_of"]

Selection = Literal["phi", "random"]
"""Which entries: those with the highest scores, or as many at random (the control)."""


class Method(ABC):
    """A method: a frozen data class of settings; a new one is a file, and a line in METHODS.

    It replaces activations (:meth:`replace`), adds a loss (:meth:`loss`), or both. Both are asked in every forward pass
    in training mode, once the warm-up is over, with the running statistics as they were before the step.
    """

    name: ClassVar[str]
    #: Whether :meth:`loss` returns anything.
    has_loss: ClassVar[bool] = False
    #: What must be said of each batch: "labels", "embeddings".
    needs: ClassVar[frozenset[str]] = frozenset()
    #: What the figure is that it reports with ``state.note``; "" for none.
    reports: ClassVar[str] = ""
    #: Whether it changes the model's function for good, and so acts in evaluation mode and from the first step on.
    always: ClassVar[bool] = False

    @property
    def acting(self) -> Method:
        """What acts: the method itself, or the one that it steers."""
        return self

    @property
    def level(self) -> float | None:
        """The share of entries that a moving threshold lets through; None if the method has no threshold."""
        return None

    @property
    def rate(self) -> float:
        """The step of the moving threshold."""
        return 0.05

    @property
    def size(self) -> float:
        """The strength of the loss."""
        return 1.0

    def replace(self, view: View) -> Tensor:
        """Return what the model goes on with; ``view.tensor`` itself leaves it alone."""
        return view.tensor

    def loss(self, view: View, strength: Tensor | None = None) -> Tensor | None:
        """Return the loss of this site, ``()``, strength included.

        Args:
            view: The activations.
            strength: Use this instead of the method's own strength.
        """
        return None


def positive(name: str, value: float) -> None:
    """Raise an error if a number is not above 0.

    Raises:
        InvalidArgumentError: If it is not.
    """
    if not value > 0:
        raise InvalidArgumentError(f"{name} must be above 0, not {value}.")


def share_of(name: str, value: float) -> None:
    """Raise an error if a number is no share.

    Raises:
        InvalidArgumentError: If it is not between 0 and 1.
    """
    if not 0 < value < 1:
        raise InvalidArgumentError(f"{name} must lie between 0 and 1, not {value}.")


def selected(selection: object) -> None:
    """Raise an error if a choice of entries is unknown.

    Raises:
        InvalidArgumentError: If it is neither "phi" nor "random".
    """
    if selection not in ("phi", "random"):
        raise InvalidArgumentError(f"selection must be 'phi' or 'random', not {selection!r}.")
