"""What a knowledge map looks like: neurons by layer, who feeds whom, and where in a prompt they work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from neuronwise.errors import InvalidArgumentError
from neuronwise.knowledge import KnowledgeMap
from neuronwise.report._figures import (
    ACCENT,
    INK,
    MUTED,
    RULE,
    WARM,
    fitted_axes,
    new_axes,
    room_for,
    styled,
    svg,
)
from neuronwise.report._page import Card, cards, write
from neuronwise.report._words import count, number, token_text

__all__ = ["page", "plot", "plot_positions"]

_LISTED = 30
_SWEEPS = 4  # how often neurons are put near what they are tied to


def plot(result: KnowledgeMap, ax: Axes | None = None, *, edges: int | None = None) -> Axes:
    """Draw the neurons in rows, one a layer, sized by their score, with the strongest edges between them.

    Warm colours help the answer, or raise the activation of the neuron above; cold ones work against it.

    Args:
        result: A knowledge map.
        ax: Axes to draw on; default: those of a new figure, ``ax.figure``.
        edges: How many edges, the strongest; default: one and a half for each neuron, at most 60.

    Returns:
        The axes.
    """
    layers = result.tables["map_nodes"]["site"].nunique()
    own = fitted_axes(_width(result), 1.0 + 0.75 * layers) if ax is None else ax
    return _draw(result, own, edges)


def plot_positions(result: KnowledgeMap, ax: Axes | None = None, *, prompt: int = 0) -> Axes:
    """Draw the summed scores of one prompt by layer and position: in each cell above what helps, below what hinders.

    Args:
        result: A knowledge map with a heat map.
        ax: Axes to draw on; default: those of a new figure, ``ax.figure``.
        prompt: Number of the prompt.

    Raises:
        InvalidArgumentError: If the map has no scores by position, or no such prompt.
    """
    frame = _positions(result, prompt)
    shape = frame["position"].nunique(), frame["site"].nunique()
    return _heat(frame, fitted_axes(1.2 + 0.5 * shape[0], 1.0 + 0.38 * shape[1]) if ax is None else ax)


def page(result: KnowledgeMap, path: str | Path, *, neurons: Any = None, title: str | None = None) -> Path:
    """Write a knowledge map as one HTML file that opens offline and needs nothing else.

    Args:
        result: A knowledge map.
        path: The file to write.
        neurons: Not for a map, whose page shows all its neurons.
        title: Heading of the page.

    Raises:
        InvalidArgumentError: If ``neurons`` are given.
        WriteError: If the file cannot be written.
    """
    if neurons is not None:
        raise InvalidArgumentError("The page of a knowledge map shows all its neurons; leave neurons= out.")
    parameters, data = result.manifest.action["parameters"], result.manifest.data
    nodes, edges = result.tables["map_nodes"], result.tables["map_edges"]
    with styled(salt="map"):
        ax = _draw(
            result, new_axes(_width(result), 0.7 + 0.75 * nodes["site"].nunique(), left=0.75, bottom=0.1)
        )
        figure = svg(
            ax.figure.get_figure(root=True), label="Neurons by layer, with the strongest edges between them"
        )
    model, _, run = cards(result.manifest)
    fact = [
        ("Id", str(data.get("fact", ""))),
        ("Answer", str(data.get("answer", ""))),
        ("Prompts", count(len(parameters["prompts"]))),
        ("Method", str(parameters["method"])),
        (str(parameters["target"]).replace("_", " ").capitalize(), number(float(parameters["value"]))),
        ("Largest gap", "" if np.isnan(result.gap) else f"{number(100 * result.gap, 2)}\u00a0%"),
    ]
    values = {
        "title": title or f"Knowledge map: {data.get('answer', '')}",
        "subtitle": f"{count(len(nodes))} neurons in {nodes['site'].nunique()} layers, {count(len(edges))} edges",
        "cards": [model, Card("Fact", fact), run],
        "figure": figure,
        "drawn": _drawn(result, None),
        "heat": _heat_figure(result),
        "prompt": parameters["prompts"][0],
        "nodes": [
            _numbers(row, ("score", "activation", "start", "explained", "gap")) for row in _records(nodes)
        ],
        "edges": [_numbers(row, ("score", "score_sd")) for row in _records(result.strongest(_LISTED))],
        "all_edges": count(len(edges)),
    }
    return write(path, "knowledge_map.html.j2", values)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _numbers(row: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return row | {name: number(float(row[name])) for name in names}


def _width(result: KnowledgeMap) -> float:
    """Return a width in inches at which the neurons of the fullest layer have room."""
    fullest = int(result.tables["map_nodes"].groupby("site").size().max())
    return float(np.clip(1.2 + 0.55 * fullest, 4.0, 9.0))


def _drawn(result: KnowledgeMap, edges: int | None) -> int:
    wanted = min(60, len(result.tables["map_nodes"]) * 3 // 2) if edges is None else edges
    return min(wanted, len(result.tables["map_edges"]))


def _draw(result: KnowledgeMap, ax: Axes, edges: int | None = None) -> Axes:
    nodes = result.tables["map_nodes"]
    strongest = result.strongest(_drawn(result, edges))
    rows = {site: row for row, site in enumerate(dict.fromkeys(nodes["site"]))}
    place = _laid_out(nodes, strongest, rows)
    ends = [
        _curve(place[edge["site"], edge["neuron"]], place[edge["to_site"], edge["to_neuron"]])
        for edge in _records(strongest)
    ]
    score = strongest["score"].to_numpy(np.float64)
    share = np.abs(score) / max(float(np.abs(score).max(initial=0.0)), 1e-300)
    for colour, which in ((ACCENT, score < 0), (WARM, score >= 0)):
        lines = [end for end, chosen in zip(ends, which, strict=True) if chosen]
        widths, alphas = 0.5 + 3.0 * share[which], 0.2 + 0.5 * share[which]
        ax.add_collection(LineCollection(lines, colors=colour, linewidths=widths, alpha=alphas, zorder=1))
    where = np.array([place[row["site"], row["neuron"]] for row in _records(nodes)])
    value = nodes["score"].to_numpy(np.float64)
    size = 60 + 340 * np.abs(value) / max(float(np.abs(value).max()), 1e-300)
    for colour, which in ((ACCENT, value < 0), (WARM, value >= 0)):
        ax.scatter(where[which, 0], where[which, 1], s=size[which], color=colour, linewidths=0, zorder=2)
    crowded = len(nodes) / len(rows) > 14
    for (x, y), neuron, area in zip(where.tolist(), nodes["neuron"], size.tolist(), strict=True):
        below = -(np.sqrt(area) / 2 + 2)
        ax.annotate(
            str(neuron), (x, y), xytext=(0, below), textcoords="offset points", ha="center", va="top",
            fontsize=5.5 if crowded else 7, color=INK, zorder=3,
        )  # fmt: skip
    labels = [_layer(nodes, site) for site in rows]
    ax.set_yticks(list(rows.values()), labels)
    ax.set_xlim(-0.04, 1.04)
    ax.set_ylim(-0.6, len(rows) - 0.6)
    ax.set_xticks([])
    ax.spines[["top", "right", "bottom", "left"]].set_visible(False)
    ax.tick_params(length=0)
    for height in rows.values():
        ax.axhline(height, color=RULE, linewidth=0.5, zorder=0)
    return ax


def _curve(start: tuple[float, float], end: tuple[float, float]) -> NDArray[np.float64]:
    """Return the points of an edge, ``(point, 2)``; one that passes by a layer makes a bow around its neurons."""
    along = np.linspace(0, 1, 25)[:, None]
    straight = np.array(start) + along * (np.array(end) - np.array(start))
    bow = 0.05 * (abs(end[1] - start[1]) - 1)
    side = 1.0 if start[0] + end[0] >= 1 else -1.0
    straight[:, 0] += side * bow * np.sin(np.pi * along[:, 0])
    points: NDArray[np.float64] = straight
    return points


def _layer(nodes: pd.DataFrame, site: str) -> str:
    layer = nodes.loc[nodes["site"] == site, "layer"].iloc[0]
    unique = nodes.groupby("layer")["site"].nunique().le(1).all()
    return f"Layer {layer}" if pd.notna(layer) and unique else site[-16:]


def _laid_out(
    nodes: pd.DataFrame, edges: pd.DataFrame, rows: dict[str, int]
) -> dict[tuple[str, int], tuple[float, float]]:
    """Return the place of every neuron: evenly along its layer, in an order that keeps edges short."""
    names = {(row["site"], row["neuron"]): at for at, row in enumerate(_records(nodes))}
    tied = np.zeros((len(nodes), len(nodes)))
    for edge in _records(edges):
        one, other = names[edge["site"], edge["neuron"]], names[edge["to_site"], edge["to_neuron"]]
        tied[one, other] = tied[other, one] = abs(edge["score"])
    members = [np.flatnonzero((nodes["site"] == site).to_numpy()) for site in rows]
    x: NDArray[np.float64] = np.zeros(len(nodes))
    for own in members:
        x[own] = _even(len(own))
    weight = tied.sum(1)
    for _ in range(_SWEEPS):
        for own in members:
            pull = np.where(weight[own] > 0, tied[own] @ x / np.maximum(weight[own], 1e-300), x[own])
            x[own[np.argsort(pull, kind="stable")]] = _even(len(own))
    return {name: (float(x[at]), float(rows[name[0]])) for name, at in names.items()}


def _even(size: int) -> NDArray[np.float64]:
    return (np.arange(size) + 0.5) / size


def _positions(result: KnowledgeMap, prompt: int) -> pd.DataFrame:
    if "map_positions" not in result.tables:
        raise InvalidArgumentError("The map has no scores by position; make it with heat_map=True.")
    frame = result.tables["map_positions"]
    own = frame[frame["prompt"] == prompt]
    if not len(own):
        raise InvalidArgumentError(
            f"There is no prompt {prompt}; there are {frame['prompt'].nunique()}, from 0."
        )
    return own


def _heat(frame: pd.DataFrame, ax: Axes) -> Axes:
    sites = {site: row for row, site in enumerate(dict.fromkeys(frame["site"]))}
    largest = max(float(frame["positive"].max()), float(-frame["negative"].min()), 1e-300)
    for row in _records(frame):
        for value, colour, up in ((row["positive"], WARM, 0.0), (-row["negative"], ACCENT, -0.44)):
            corner = (row["position"] - 0.46, sites[row["site"]] + up)
            ax.add_patch(Rectangle(corner, 0.92, 0.44, facecolor=colour, alpha=value / largest, linewidth=0))
    tokens = frame.drop_duplicates("position").sort_values("position")
    ax.set_xticks(
        tokens["position"],
        [token_text(token) for token in tokens["token"]],
        rotation=35,
        ha="right",
        color=MUTED,
    )
    ax.set_yticks(list(sites.values()), [_layer(frame, site) for site in sites])
    ax.set_xlim(-0.6, float(tokens["position"].max()) + 0.6)
    ax.set_ylim(-0.6, len(sites) - 0.4)
    ax.spines[["top", "right", "bottom", "left"]].set_visible(False)
    ax.tick_params(length=0)
    return ax


def _heat_figure(result: KnowledgeMap) -> Any:
    if "map_positions" not in result.tables:
        return None
    frame = _positions(result, 0)
    labels = [token_text(token) for token in frame["token"]]
    with styled(salt="positions"):
        width = 0.9 + 0.42 * frame["position"].nunique()
        bottom = 0.2 + 0.7 * room_for(labels)
        height = 0.3 + bottom + 0.34 * frame["site"].nunique()
        ax = _heat(frame, new_axes(width, height, left=0.75, bottom=bottom))
        return svg(ax.figure.get_figure(root=True), label="Summed scores by layer and position")
