"""Where a neuron was strongest and weakest, with the tokens or the image around each place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from neuronwise.report._pictures import Picture, Pictures
from neuronwise.report._words import number, token_text

__all__ = ["Shown", "Token", "examples", "largest", "level"]

_SHADES = 8  # steps of colour on either side of zero
_PICTURED_RANKS = 10


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an example.

    Args:
        text: The token, with what cannot be seen made visible.
        shade: Its colour, ``"p1"`` to ``"p8"`` above zero and ``"n1"`` to ``"n8"`` below; nothing near zero.
        value: The activation there, as text.
        peak: Whether the example was chosen for this token.
    """

    text: str
    shade: str
    value: str
    peak: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """One of a neuron's highest or lowest activations: the tokens before it, and it with those after it."""

    value: str
    example: int
    position: int
    before: Sequence[Token]
    after: Sequence[Token]
    picture: Picture | None


def examples(
    own: Mapping[str, pd.DataFrame], pictures: Pictures, *, positions: int, full: float
) -> dict[str, list[Shown]]:
    """Return a neuron's highest and lowest activations, by side.

    Args:
        own: The neuron's rows of each table.
        pictures: The images of the examples.
        positions: Values that the neuron had over the whole corpus.
        full: The activation that has the full colour.
    """
    if "examples" not in own:
        return {}
    contexts: dict[tuple[Any, Any], list[Token]] = {}  # by side and rank
    if "contexts" in own:
        for side, of_side in own["contexts"].groupby("side", observed=True, sort=False):
            for rank, rows in of_side.groupby("rank", sort=False):
                contexts[side, rank] = _shaded(rows, full)
    shown: dict[str, list[Shown]] = {"top": [], "bottom": []}
    for row in own["examples"].sort_values("rank").to_dict("records"):
        side, rank, value = row["side"], row["rank"], float(row["value"])
        tokens = contexts.get((side, rank), [])
        peak = next((place for place, token in enumerate(tokens) if token.peak), 0)
        picture = pictures.get(row["example"], row["position"], positions) if rank < _PICTURED_RANKS else None
        shown[side].append(
            Shown(number(value, 3), row["example"], row["position"], tokens[:peak], tokens[peak:], picture)
        )
    if level(own):
        shown["bottom"] = []
    return {side: found for side, found in shown.items() if found}


def level(own: Mapping[str, pd.DataFrame]) -> str:
    """Return the activation that all of the lowest examples have, as of a rectified neuron; empty if they differ."""
    if "examples" not in own:
        return ""
    values = own["examples"].loc[own["examples"]["side"] == "bottom", "value"]
    return number(float(values.iloc[0]), 3) if len(values) > 1 and (values == values.iloc[0]).all() else ""


def largest(own: Mapping[str, pd.DataFrame]) -> float:
    """Return the size of the largest activation in the shown examples, which has the full colour."""
    values = own["contexts"]["value"].to_numpy(np.float64) if "contexts" in own else np.empty(0)
    values = np.abs(values[np.isfinite(values)])
    return float(values.max()) if values.size else 0.0


def _shaded(rows: pd.DataFrame, largest: float) -> list[Token]:
    rows = rows.sort_values("offset")
    return [
        Token(token_text(str(text)), _shade(float(value), largest), number(float(value), 3), offset == 0)
        for text, value, offset in zip(rows["token"], rows["value"], rows["offset"], strict=True)
    ]


def _shade(value: float, largest: float) -> str:
    if not math.isfinite(value) or not largest:
        return ""
    step = round(_SHADES * min(abs(value) / largest, 1.0))
    return f"{'p' if value > 0 else 'n'}{step}" if step else ""
