"""What a layer of neurons standardises."""

from __future__ import annotations

from typing import Any, Literal

from neuronwise.errors import InvalidArgumentError

__all__ = ["Normalise", "normalisation"]

Normalise = bool | Literal["inputs", "features", "all"]
"""What a layer standardises; see :class:`NeuronLinear`."""


def normalisation(normalise: Any) -> Literal["inputs", "features", "all", False]:
    """Return what is to be standardised, by its name.

    Args:
        normalise: What the user said.

    Raises:
        InvalidArgumentError: If it is none of the choices.
    """
    names: tuple[Literal["inputs", "features", "all"], ...] = ("inputs", "features", "all")
    if normalise is False:
        return False
    if normalise is True:
        return "inputs"
    for name in names:
        if isinstance(normalise, str) and normalise == name:
            return name
    raise InvalidArgumentError(
        f"normalise must be True (or 'inputs'), 'features', 'all' or False, not {normalise!r}."
    )
