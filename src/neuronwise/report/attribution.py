"""What an attribution looks like: a map over layers, the neurons that contribute most and least, and how it adds up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from neuronwise.attribute import Attribution
from neuronwise.errors import InvalidArgumentError
from neuronwise.report._figures import (
    ACCENT,
    INK,
    RULE,
    WARM,
    clean,
    fitted_axes,
    new_axes,
    room_for,
    styled,
    svg,
)
from neuronwise.report._page import cards, write
from neuronwise.report._words import count, number
from neuronwise.sites import NeuronSet, Site

__all__ = ["page", "plot"]

_SHOWN = 12
_ROWS = 200
_POSITIONS = 64

Floats = NDArray[np.float64]


def plot(result: Attribution, ax: Axes | None = None) -> Axes:
    """Draw the map over layers: what speaks for the target in each, and what against it, mean over the examples.

    Args:
        result: An attribution.
        ax: Axes to draw on; default: those of a new figure, ``ax.figure``.

    Returns:
        The axes.
    """
    return _layers(result, fitted_axes(5, 1.1 + 0.3 * len(result.sites)) if ax is None else ax)


def page(
    result: Attribution, path: str | Path, *, neurons: NeuronSet | None = None, title: str | None = None
) -> Path:
    """Write an attribution as one HTML file that opens offline and needs nothing else.

    Args:
        result: An attribution.
        path: The file to write.
        neurons: Neurons to list, whatever their scores, beside the most and least contributing ones.
        title: Heading of the page.

    Returns:
        The path.

    Raises:
        InvalidArgumentError: If neurons are given that have no scores.
        WriteError: If the file cannot be written.
    """
    parameters = result.manifest.action.get("parameters", {})
    method = str(parameters.get("method", {}).get("name", "attribution")).replace("_", " ")
    with styled(salt="map"):
        ax = new_axes(4.6, 0.75 + 0.24 * len(result.sites), left=room_for(_names(result)))
        layers = _svg(_layers(result, ax), "Sum of the scores for and against the target in each layer")
    with styled(salt="bars"):
        names, scores = _extremes(result)
        ax = new_axes(4.6, 0.7 + 0.19 * len(names), left=room_for(names))
        bars = _svg(_bars(ax, names, scores), "Scores of the neurons that contribute most and least")
    values = {
        "title": title
        or f"Neurons of {result.manifest.model.get('name', 'a model')} that contribute to a target",
        "subtitle": _subtitle(result, method),
        "cards": cards(result.manifest),
        "layers": layers,
        "positions": _position_map(result),
        "bars": bars,
        "chosen": _chosen(result, neurons),
        "targets": [(example, number(float(value))) for example, value in enumerate(result.value[:_ROWS])],
        "adds_up": bool(result.tables["completeness"]["gap"].notna().any()),
        "converged": result.converged,
        "gap": number(result.gap, 2) if np.isfinite(result.gap) else "",
        "completeness": _completeness(result),
        "left_out": max(0, len(result.tables["completeness"]) - _ROWS),
    }
    return write(path, "attribution.html.j2", values)


def _subtitle(result: Attribution, method: str) -> str:
    neurons, examples = sum(site.width for site in result.sites), len(result.value)
    ending = "" if examples == 1 else "s"
    return (
        f"{method}, {count(neurons)} neurons of {len(result.sites)} sites, {count(examples)} example{ending}"
    )


def _names(result: Attribution) -> list[str]:
    """Return a short name for each site: its layer, with its stack where there are several."""
    stacks = {site.stack for site in result.sites}
    names = []
    for site in result.sites:
        if site.layer is None:
            names.append(site.name)
        else:
            names.append(f"{site.stack} {site.layer}" if len(stacks) > 1 else f"layer {site.layer}")
    return names if len(set(names)) == len(names) else [site.name for site in result.sites]


def _layers(result: Attribution, ax: Axes) -> Axes:
    totals = [np.nanmean(np.nansum(values, 1), 0) for values in result.scores.values()]
    spots = np.arange(len(totals))
    speaks = np.array([values[values > 0].sum() for values in totals])
    against = np.array([values[values < 0].sum() for values in totals])
    ax.barh(spots, speaks, color=WARM, height=0.7)
    ax.barh(spots, against, color=ACCENT, height=0.7)
    ax.plot(speaks + against, spots, "o", color=INK, markersize=3.5)
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_yticks(spots, _names(result))
    ax.set_ylim(-0.6, len(totals) - 0.4)
    ax.set_xlabel("Sum of scores: for, against, and both together (dot)")
    return _across(ax)


def _extremes(result: Attribution) -> tuple[list[str], Floats]:
    """Return names and scores of the most and the least contributing neurons, highest first, none twice."""
    frame = result.extremes(_SHOWN).dropna(subset=["score"]).drop_duplicates(["site", "neuron"])
    frame = frame.sort_values("score", ascending=False, kind="stable")
    short = {site.name: name for site, name in zip(result.sites, _names(result), strict=True)}
    names = [f"{short[str(row.site)]}, neuron {row.neuron}" for row in frame.itertuples()]
    return names, frame["score"].to_numpy(dtype=np.float64)


def _bars(ax: Axes, names: list[str], scores: Floats) -> Axes:
    spots = np.arange(len(names))[::-1]
    ax.barh(spots, scores, color=np.where(scores > 0, WARM, ACCENT).tolist(), height=0.7)
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_yticks(spots, names)
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.set_xlabel("Score, mean over the examples")
    return _across(ax)


def _across(ax: Axes) -> Axes:
    clean(ax)
    ax.grid(visible=False)
    ax.grid(axis="x", color=RULE, linewidth=0.5)
    return ax


def _position_map(result: Attribution) -> dict[str, Any] | None:
    """Return the sums of layers by positions of the first example, where there are several, as cells to colour."""
    scores, positions = result.scores, result.positions
    rows = []
    for name, site in zip(_names(result), result.sites, strict=True):
        sums = np.nansum(scores[site][0], -1)
        at = positions[site][0]
        rows.append((name, dict(zip(at[at >= 0].tolist(), sums[at >= 0].tolist(), strict=True))))
    where = sorted({at for _, sums in rows for at in sums})
    if len(where) < 2:
        return None
    shown = where[-_POSITIONS:]
    strongest = max((abs(value) for _, sums in rows for value in sums.values()), default=0.0) or 1.0
    cells = [
        (name, [(number(sums[at]), _shade(sums[at] / strongest)) if at in sums else ("", "") for at in shown])
        for name, sums in rows
    ]
    return {"where": shown, "rows": cells, "left_out": len(where) - len(shown)}


def _shade(share: float) -> str:
    step = int(np.ceil(abs(share) * 8 - 1e-9))
    return f"{'p' if share > 0 else 'n'}{step}" if step else ""


def _chosen(result: Attribution, neurons: NeuronSet | None) -> list[tuple[str, int, str]]:
    if neurons is None:
        return []
    every = result.neurons()
    known: dict[str, Site] = {site.name: site for site in result.sites}
    rows = []
    for site, index in neurons:
        if site.name not in known:
            raise InvalidArgumentError(f"The attribution has no scores of {site.name}.")
        scores = every.scores(known[site.name])
        assert scores is not None
        rows.append((site.name, index, number(float(scores[index]))))
    return rows


def _completeness(result: Attribution) -> list[dict[str, str]]:
    frame = result.tables["completeness"].head(_ROWS)
    return [
        {
            "path": str(row["path"]),
            "example": count(int(row["example"])),
            "reference": number(float(row["reference"])),
            "gap": number(float(row["gap"]), 2),
            "nodes": count(int(row["nodes"])),
            "converged": "yes" if row["converged"] else "no",
        }
        for row in frame.to_dict("records")
    ]


def _svg(ax: Axes, label: str) -> Any:
    return svg(ax.figure.get_figure(root=True), label=label)
