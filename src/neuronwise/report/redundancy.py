"""What redundancy looks like: what is lost without two neurons together, against what is lost without each alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from neuronwise.errors import InvalidArgumentError
from neuronwise.knowledge import Redundancy
from neuronwise.report._figures import ACCENT, INK, RULE, WARM, clean, fitted_axes, new_axes, styled, svg
from neuronwise.report._page import Card, cards, write
from neuronwise.report._words import count, number

__all__ = ["page", "plot"]

_LISTED = 20


def plot(result: Redundancy, ax: Axes | None = None) -> Axes:
    """Draw every pair of neurons: the fall of P without both, against the falls without each, added.

    Pairs above the diagonal lose more together than alone; those that cover for each other are marked.

    Args:
        result: A redundancy.
        ax: Axes to draw on; default: those of a new figure, ``ax.figure``.

    Returns:
        The axes.
    """
    return _draw(result, fitted_axes(4.4, 3.8) if ax is None else ax)


def page(result: Redundancy, path: str | Path, *, neurons: Any = None, title: str | None = None) -> Path:
    """Write a redundancy as one HTML file that opens offline and needs nothing else.

    Args:
        result: A redundancy.
        path: The file to write.
        neurons: Not for a redundancy, whose page shows all its neurons.
        title: Heading of the page.

    Raises:
        InvalidArgumentError: If ``neurons`` are given.
        WriteError: If the file cannot be written.
    """
    if neurons is not None:
        raise InvalidArgumentError("The page of a redundancy shows all its neurons; leave neurons= out.")
    parameters, data = result.manifest.action["parameters"], result.manifest.data
    with styled(salt="redundancy"):
        ax = _draw(result, new_axes(4.2, 3.6, left=0.7))
        figure = svg(
            ax.figure.get_figure(root=True),
            label="Fall of P without both neurons against the sum of both falls",
        )
    model, _, run = cards(result.manifest)
    fact = Card(
        "Fact",
        [("Id", str(data.get("fact", ""))), ("Answer", str(data.get("answer", ""))), ("P", number(result.p))],
    )
    pairs = result.tables["redundant_pairs"].sort_values("synergy", ascending=False).head(_LISTED)
    values = {
        "title": title or f"Neurons that stand in for each other: {data.get('answer', '')}",
        "subtitle": result.summary().splitlines()[0],
        "cards": [model, fact, run],
        "figure": figure,
        "neurons": [
            {**row, "score": number(row["score"]), "drop": number(row["drop"])}
            for row in result.tables["redundant_neurons"].to_dict("records")
        ],
        "pairs": [
            {**row, **{name: number(row[name]) for name in ("drop", "drop_other", "drop_both", "synergy")}}
            for row in pairs.to_dict("records")
        ],
        "all_pairs": count(len(result.tables["redundant_pairs"])),
        "criteria": {name: f"{100 * parameters[name]:g}\u00a0%" for name in ("keep", "lose", "share")},
    }
    return write(path, "redundancy.html.j2", values)


def _draw(result: Redundancy, ax: Axes) -> Axes:
    frame = result.tables["redundant_pairs"]
    alone = (frame["drop"] + frame["drop_other"]).to_numpy(np.float64)
    both, covers = frame["drop_both"].to_numpy(np.float64), frame["covers"].to_numpy(bool)
    ends = [float(min(alone.min(), both.min(), 0.0)), float(max(alone.max(), both.max(), 1e-9))]
    ax.plot(ends, ends, color=RULE, linewidth=1)
    ax.axhline(0, color=INK, linewidth=0.6)
    ax.scatter(alone[~covers], both[~covers], s=14, color=ACCENT, alpha=0.6, linewidths=0, label="pair")
    if covers.any():
        ax.scatter(alone[covers], both[covers], s=28, color=WARM, linewidths=0, label="covers for each other")
        ax.legend(frameon=False, loc="upper left", fontsize=8)
    ax.set_xlabel("Fall of P without one, plus without the other")
    ax.set_ylabel("Fall of P without both")
    clean(ax)
    return ax
