"""What monosemanticity looks like: every measure in every layer, what each sees, and the most extreme neurons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from neuronwise.errors import InvalidArgumentError, NeuronIndexError, closest
from neuronwise.observe import Monosemanticity
from neuronwise.observe.measures import MEASURES
from neuronwise.report._figures import ACCENT, INK, MUTED, fitted_axes, new_axes, room_for, styled, svg
from neuronwise.report._page import cards, write
from neuronwise.report._words import count, number, short_labels, site_labels
from neuronwise.sites import NeuronSet

__all__ = ["page", "plot"]

_BASES = {"neuron": "The neurons", "rotated": "A random rotation", "pca": "Principal components"}
_EXTREME = 3
_WRITTEN = 12  # sites up to which the numbers stand in the cells
_BESIDE = 6  # sites up to which the maps are small enough to stand side by side
_FAINTEST, _STRONGEST = 0.06, 0.55  # of the colour; stronger, and the numbers in it are hard to read
_NEURONS = 200


def plot(result: Monosemanticity, ax: Axes | None = None, *, basis: str = "neuron") -> Axes:
    """Draw a map of measures by layers: the mean over live units, each measure from its least (faint) to its greatest.

    Args:
        result: Monosemanticity of a model.
        ax: Axes to draw on; default: those of a new figure, ``ax.figure``.
        basis: ``"neuron"``, ``"rotated"`` or ``"pca"``. The colours of a measure mean the same in all of them.

    Returns:
        The axes.

    Raises:
        InvalidArgumentError: If that basis was not measured.
    """
    known = _bases(result)
    if basis not in known:
        raise InvalidArgumentError(f"The basis {basis!r} was not measured. {closest(basis, known)}")
    frame = result.tables["site_measures"]
    wide, tall = _size(frame[frame["basis"] == basis])
    return _heat(result, basis, fitted_axes(2.0 + wide, 0.8 + tall) if ax is None else ax)


def page(
    result: Monosemanticity, path: str | Path, *, neurons: NeuronSet | None = None, title: str | None = None
) -> Path:
    """Write monosemanticity as one HTML file that opens offline and needs nothing else.

    Args:
        result: Monosemanticity of a model.
        path: The file to write.
        neurons: Neurons to list with all their measures, beside the most extreme ones of each measure.
        title: Heading of the page.

    Returns:
        The path.

    Raises:
        InvalidArgumentError: If neurons are given and the units are elements, or no measure is one of neurons.
        SiteNotFoundError: If one of the neurons is of a site that was not measured.
        NeuronIndexError: If a site of that name has fewer neurons here.
        WriteError: If the file cannot be written.
    """
    parameters = result.manifest.action["parameters"]
    chosen = _chosen(result, neurons)
    values = {
        "title": title or f"Monosemanticity of {result.manifest.model.get('name', 'a model')}",
        "subtitle": _subtitle(result),
        "cards": cards(result.manifest),
        "maps": [(_BASES[basis], _heat_figure(result, basis)) for basis in _bases(result)],
        "room": 0
        if len(result.sites) <= _BESIDE
        else round(18 + 4.4 * _size(result.tables["site_measures"])[0]),
        "liveness": _liveness(result),
        "reference": _reference(parameters.get("reference")),
        "measures": _measures(result),
        "skipped": dict(parameters.get("skipped", {})),
        "extremes": _extremes(result),
        "chosen": chosen,
        "listed": _EXTREME,
    }
    return write(path, "monosemanticity.html.j2", values)


def _bases(result: Monosemanticity) -> list[str]:
    known = set(result.tables["site_measures"]["basis"])
    return [basis for basis in _BASES if basis in known]


def _subtitle(result: Monosemanticity) -> str:
    frame = result.tables["site_measures"]
    measures, sites = frame["measure"].nunique(), len(result.sites)
    unit = str(result.manifest.action["parameters"].get("unit", "feature"))
    samples = {
        "feature": "positions",
        "pooled": "examples, each by its mean over positions",
        "element": "examples",
    }
    least, most = int(frame["n"].min()), int(frame["n"].max())
    many = count(most) if least == most else f"{count(least)} to {count(most)}"
    return (
        f"{count(measures)} {'measure' if measures == 1 else 'measures'} of {count(sites)} "
        f"{'site' if sites == 1 else 'sites'}, on {many} {samples.get(unit, 'samples')}"
    )


def _reference(reference: Any) -> str:
    return (
        str(reference.get("name", "another corpus")) if isinstance(reference, dict) else str(reference or "")
    )


def _size(frame: pd.DataFrame) -> tuple[float, float]:
    """Return how wide and tall the cells of a map are together, in inches."""
    sites = frame["site"].nunique()
    return (0.5 if sites <= _WRITTEN else 0.22) * sites, 0.2 * frame["measure"].nunique()


def _heat(result: Monosemanticity, basis: str, ax: Axes) -> Axes:
    frame = result.tables["site_measures"]
    ends = frame.groupby("measure")["mean"].agg(["min", "max"])
    own = frame[frame["basis"] == basis]
    measures = list(own["measure"].unique())
    rows = {measure: len(measures) - 1 - spot for spot, measure in enumerate(measures)}
    columns = {site.name: spot for spot, site in enumerate(result.sites)}
    written = len(columns) <= _WRITTEN
    for row in own.to_dict("records"):
        x, y, value = columns[row["site"]], rows[row["measure"]], float(row["mean"])
        if np.isfinite(value):
            low, high = ends.loc[row["measure"]]
            share = (value - low) / (high - low) if high > low else 0.5
            strength = _FAINTEST + (_STRONGEST - _FAINTEST) * float(share)
            ax.add_patch(
                Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=ACCENT, alpha=strength, linewidth=0)
            )
        if written:
            text, colour = (number(value, 2), INK) if np.isfinite(value) else ("–", MUTED)
            ax.text(x, y, text, ha="center", va="center", fontsize=7, color=colour)
    ax.set_xticks(list(columns.values()), short_labels(list(result.sites)))
    if not _by_layer(result):
        ax.tick_params(axis="x", labelrotation=35)
    ax.set_xlabel("Layer" if _by_layer(result) else "Site")
    ax.set_yticks(list(rows.values()), [measure.replace("_", " ") for measure in rows])
    ax.set_xlim(-0.55, len(columns) - 0.45)
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.spines[["top", "right", "bottom", "left"]].set_visible(False)
    ax.tick_params(length=0)
    step = max(1, -(-len(columns) // 24))
    for spot, label in enumerate(ax.get_xticklabels()):
        label.set_visible(spot % step == 0)
    return ax


def _by_layer(result: Monosemanticity) -> bool:
    return len({site.layer for site in result.sites} - {None}) == len(result.sites)


def _heat_figure(result: Monosemanticity, basis: str) -> Markup:
    frame = result.tables["site_measures"]
    own = frame[frame["basis"] == basis]
    wide, tall = _size(own)
    # As wide as the map of the neurons, which has the longest names, so that all are drawn at one scale.
    left = room_for(frame["measure"])
    bottom = 0.45 if _by_layer(result) else 0.5 + 0.6 * room_for(short_labels(list(result.sites)))
    with styled(salt=basis):
        ax = new_axes(left + 0.08 + max(wide, 1.6), 0.05 + bottom + tall, left=left, bottom=bottom, top=0.05)
        label = f"Mean of each measure in each layer: {_BASES[basis].lower()}"
        return svg(_heat(result, basis, ax).figure.get_figure(root=True), label=label)


def _liveness(result: Monosemanticity) -> list[dict[str, str]]:
    frame = result.tables["site_measures"]
    own = frame[frame["basis"] == "neuron"].groupby("site", sort=False).first()
    labels = dict(zip((site.name for site in result.sites), site_labels(list(result.sites)), strict=True))
    names = ("n_live", "n_near_dead", "n_dead", "n", "n_reference")
    return [
        {"site": str(site), "label": labels[str(site)], **{name: count(int(row[name])) for name in names}}
        for site, row in own.iterrows()
    ]


def _measures(result: Monosemanticity) -> list[dict[str, str]]:
    """Return the measures that were taken, with what each sees and cannot see."""
    rows = []
    for name in result.tables["site_measures"]["measure"].unique():
        known = MEASURES.get(str(name))
        rows.append(
            {
                "name": str(name),
                "per": known.per if known else "–",
                "range": known.range + ("" if known.scale_free else "; not scale free") if known else "–",
                "sees": known.sees if known else "–",
                "blind": known.blind_to if known else "–",
            }
        )
    return rows


def _extremes(result: Monosemanticity) -> list[dict[str, Any]]:
    """Return the live units with the highest and the lowest values of each measure of neurons."""
    frame = result.tables["unit_measures"]
    frame = frame[frame["live"].astype(bool) & np.isfinite(frame["value"].astype(np.float64))]
    rows = []
    for measure, part in frame.groupby("measure", sort=False):
        ordered = part.sort_values("value", ascending=False, kind="stable")
        many = min(_EXTREME, -(-len(ordered) // 2))
        rows.append(
            {
                "measure": str(measure),
                "highest": [_named(row) for row in ordered.head(many).to_dict("records")],
                "lowest": [
                    _named(row)
                    for row in ordered.iloc[::-1].head(min(many, len(ordered) // 2)).to_dict("records")
                ],
            }
        )
    return rows


def _named(row: dict[Any, Any]) -> tuple[str, str]:
    place = f", position {row['position']}" if row["position"] else ""
    return f"{row['site']}[{row['neuron']}]{place}", number(float(row["value"]), 3)


def _chosen(result: Monosemanticity, neurons: NeuronSet | None) -> dict[str, Any] | None:
    """Return all measures of the neurons asked for."""
    if neurons is None:
        return None
    frame = result.tables["unit_measures"]
    if not len(frame):
        raise InvalidArgumentError("No measure of neurons was taken, only of sites; leave neurons= out.")
    if (frame["position"] > 0).any():
        raise InvalidArgumentError(
            "The units are elements (unit='element'), each position of a neuron for itself; leave neurons= out."
        )
    for site in neurons.sites:
        own = result.sites[site.name]
        if int(neurons.indices(site)[-1]) >= own.width:
            raise NeuronIndexError(
                f"The neurons to show hold neuron {neurons.indices(site)[-1]} of {own.name}, which has {own.width} "
                "neurons here. Choose neurons of the sites that were measured."
            )
    measures = list(frame["measure"].unique())
    values = {
        measure: {site.name: own for site, own in result.values(measure).items()} for measure in measures
    }
    live = {site.name: own for site, own in result.live().items()}
    asked = [(site.name, int(index)) for site, index in neurons]
    rows = [
        {
            "name": f"{site}[{index}]",
            "live": bool(live[site][index]),
            "cells": [number(float(values[measure][site][index]), 3) for measure in measures],
        }
        for site, index in asked[:_NEURONS]
    ]
    return {"measures": measures, "rows": rows, "more": max(0, len(asked) - _NEURONS)}
