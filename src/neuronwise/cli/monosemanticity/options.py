"""Options that the commands on monosemanticity share, and what is made of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from neuronwise.train import Method

__all__ = ["Measures", "Rotation", "Unit", "UnitName", "inhibitor_of", "inhibitors_of", "names_in"]


class Unit(StrEnum):
    """What counts as one neuron."""

    feature = "feature"
    element = "element"
    pooled = "pooled"


UnitName = Annotated[
    Unit,
    typer.Option(
        "--unit",
        help="What counts as one neuron: feature (every position is a sample), element (position and channel "
        "together), pooled (the mean over positions).",
    ),
]
Measures = Annotated[
    str | None,
    typer.Option(
        "--measures",
        metavar="A,B,...",
        help="Measures to take, such as phi_above_9, kurtosis, class_selectivity, auc. Default: all that can be taken.",
    ),
]
Rotation = Annotated[
    bool,
    typer.Option(
        "--rotation/--no-rotation", help="Also measure in a random rotation and along principal components."
    ),
]


def names_in(text: str | None) -> list[str] | None:
    """Return the names in a list with commas; None for none given."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def inhibitors_of(texts: Sequence[str]) -> dict[str, Method]:
    """Return the inhibitors that texts such as ``tail`` and ``tail:strength=0.1`` say, by their text."""
    return {text: inhibitor_of(text) for text in texts}


def inhibitor_of(text: str) -> Method:
    """Return the inhibitor that a text such as ``reversed:D=10,top=5`` says.

    Raises:
        InvalidArgumentError: If there is no such inhibitor, it has no such setting, or that cannot be read.
    """
    from neuronwise.errors import InvalidArgumentError, closest
    from neuronwise.train import METHODS

    name, _, rest = text.partition(":")
    if name not in METHODS:
        raise InvalidArgumentError(
            f"There is no inhibitor {name!r}. {closest(name, METHODS)} All: {', '.join(sorted(METHODS))}."
        )
    kind = METHODS[name]
    known = [entry.name for entry in dataclasses.fields(kind)]  # type: ignore[arg-type]
    settings: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise InvalidArgumentError(f"{text!r}: write settings as name=value, as in {name}:{known[0]}=1.")
        if key not in known:
            raise InvalidArgumentError(
                f"The inhibitor {name!r} has no setting {key!r}. {closest(key, known)}"
            )
        settings[key] = _value(value)
    try:
        return kind(**settings)
    except TypeError as error:
        raise InvalidArgumentError(f"{text!r} cannot be meant: {error}.") from error


def _value(text: str) -> Any:
    """Return a number, true or false where the text is one, else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
