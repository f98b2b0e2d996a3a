"""The overview of an activity: one row and a few figures for the sites."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from numpy.typing import NDArray

from neuronwise.observe import Activity
from neuronwise.report._figures import bands, new_axes, styled, svg
from neuronwise.report._words import count, number, short_labels, site_labels, statistic_name

__all__ = ["Overview", "draw", "main_statistic", "overview"]

_FIGURES = ("std", "kurtosis", "active")
_MAIN = ("kurtosis", "std", "active", "mean", "max")


@dataclass(frozen=True, slots=True)
class Overview:
    """What is said of every site.

    Args:
        columns: Heads of the table.
        rows: Its rows, as text.
        figures: Figures with one column for each site.
        active: What counts as active, or nothing if that was not counted.
    """

    columns: list[str]
    rows: list[list[str]]
    figures: list[Markup]
    active: str


def overview(result: Activity) -> Overview:
    """Return the overview of an activity."""
    frame = result.tables["neurons"]
    summary = result.summary()
    sparsity = 1 - frame.groupby("site", observed=True)["active"].mean() if "active" in frame else None
    columns = ["Site", "Neurons"]
    rows = [
        [label, count(int(row["neurons"]))]
        for label, (_, row) in zip(site_labels(result.sites), summary.iterrows(), strict=True)
    ]
    for column, head in (("dead", "Dead"), ("nearly_dead", "Nearly dead")):
        if column in summary:
            columns.append(head)
            for row, value in zip(rows, summary[column], strict=True):
                row.append(count(int(value)))
    if sparsity is not None:
        columns.append("Sparsity")
        for row, site in zip(rows, result.sites, strict=True):
            row.append(number(float(sparsity[site.name]), 3))
    for column in ("active", "mean", "std", "skewness", "kurtosis"):
        if f"median_{column}" in summary:
            columns.append(f"Median {statistic_name(column, short=True).lower()}")
            for row, value in zip(rows, summary[f"median_{column}"], strict=True):
                row.append(number(float(value), 3))
    figures = [_figure(result, column) for column in _FIGURES if column in frame]
    return Overview(columns, rows, figures, _active(result) if sparsity is not None else "")


def main_statistic(frame: pd.DataFrame) -> str:
    """Return the statistic by which neurons are chosen and drawn: kurtosis, or the next best there is."""
    return next((column for column in _MAIN if column in frame), "n")


def draw(result: Activity, column: str, ax: Axes) -> Axes:
    """Draw the distribution of one statistic over the neurons of every site."""
    values = list(result.statistic(column).values())
    bands(ax, values, short_labels(result.sites), scale=_scale(column, values))
    ax.set_title(f"{statistic_name(column)} of the neurons", loc="left")
    layered = len({site.layer for site in result.sites} - {None}) == len(result.sites)
    ax.set_xlabel("Layer" if layered else "Site")
    if column == "active":
        ax.set_ylim(-0.02, 1.02)
    return ax


def _figure(result: Activity, column: str) -> Markup:
    with styled(salt=column):
        tilted = max(map(len, short_labels(result.sites)), default=0) > 4
        ax = draw(result, column, new_axes(3.9, 2.5, bottom=0.95 if tilted else 0.45, top=0.25))
        return svg(
            ax.figure.get_figure(root=True), label=f"{statistic_name(column)} of the neurons of every site"
        )


def _scale(column: str, values: list[NDArray[np.float64]]) -> str:
    """Return a scale on which both the many and the few extreme neurons can be seen."""
    flat = np.concatenate([np.empty(0), *values])
    flat = flat[np.isfinite(flat)]
    if not flat.size or column == "active":
        return "linear"
    if flat.min() > 0 and flat.max() > 50 * flat.min():
        return "log"
    return "symlog" if np.abs(flat).max() > 30 * max(float(np.median(np.abs(flat))), 1.0) else "linear"


def _active(result: Activity) -> str:
    reducers = result.manifest.action.get("parameters", {}).get("reducers", {})
    settings = reducers.get("active", {})
    if "threshold" not in settings:
        return "as the reducer says"
    size = "size of the activation" if settings.get("absolute") else "activation"
    return f"{size} above {settings['threshold']:g}"
