"""What a comparison looks like: each learner beside the network of linear neurons, and what was found on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from numpy.typing import NDArray

from neuronwise.errors import InvalidArgumentError, closest
from neuronwise.estimators import Comparison
from neuronwise.report._figures import (
    ACCENT,
    INK,
    MUTED,
    RULE,
    WARM,
    clean,
    fitted_axes,
    new_axes,
    room_for,
    styled,
    svg,
)
from neuronwise.report._found import across, data_card, found, shade, with_interval
from neuronwise.report._page import Card, cards, write
from neuronwise.report._words import count, number

__all__ = ["page", "plot"]

_METRICS = {
    "nrmse": "Root mean squared error / std. dev. of the target",
    "r2": "Variance explained (R²)",
    "mae": "Mean absolute error / std. dev. of the target",
    "accuracy": "Share of right classes",
    "log_loss": "Log loss (nats)",
    "auc": "Area under the ROC curve",
}
_VERDICTS = (("better", ACCENT), ("no difference", MUTED), ("worse", WARM))
_TASK = ("task", "task_matched", "guarded")
_DOTS = 400
_CLASSES = 20
_FITS = 100
_LONG = 30.0  # ratio of the largest loss to the smallest from which on the axis is logarithmic


def plot(result: Comparison, ax: Axes | None = None, *, metric: str | None = None) -> Axes:
    """Draw the paired difference of every learner to the network of linear neurons, with 95 % intervals.

    Args:
        result: A comparison.
        ax: Axes to draw on; default: those of a new figure, ``ax.figure``.
        metric: Which metric; default: the one that learners are ranked by.

    Returns:
        The axes.

    Raises:
        InvalidArgumentError: If there is no such metric, or no other learner was compared.
    """
    wanted = result.metric if metric is None else metric
    known = list(result.tables["comparison"]["metric"].unique())
    if wanted not in known:
        raise InvalidArgumentError(f"There is no metric {wanted!r}. {closest(wanted, known)}")
    if not len(result.tables["comparison_pairs"]):
        raise InvalidArgumentError("Only linear neurons were trained: there is no difference to draw.")
    return _forest(result, wanted, fitted_axes(6, 1.3 + 0.24 * len(result.learners)) if ax is None else ax)


def page(result: Comparison, path: str | Path, *, neurons: Any = None, title: str | None = None) -> Path:
    """Write a comparison as one HTML file that opens offline and needs nothing else.

    Args:
        result: A comparison.
        path: The file to write.
        neurons: Not for a comparison, which is about learners.
        title: Heading of the page.

    Returns:
        The path.

    Raises:
        InvalidArgumentError: If ``neurons`` are given.
        WriteError: If the file cannot be written.
    """
    if neurons is not None:
        raise InvalidArgumentError("The page of a comparison is about learners; leave neurons= out.")
    parameters = result.manifest.action["parameters"]
    metrics = [str(one) for one in result.tables["comparison"]["metric"].unique()]
    splits, repeats = int(parameters["splits"]), int(parameters["repeats"])
    values = {
        "title": title or f"Are task neurons worth it on {_data_name(result)}?",
        "subtitle": f"{count(len(result.learners))} learners on the same {count(splits)} test parts"
        + (f" ({count(repeats)} repeats)" if repeats > 1 else ""),
        "cards": _cards(result),
        "verdict": result.verdict(),
        "forest": _forest_figure(result, result.metric),
        "reference": str(parameters["reference"]),
        "ranked_by": result.metric,
        "metric_name": _name(result.metric),
        "pairs": _pairs(result, metrics),
        "metrics": [(metric, _name(metric), _better(metric)) for metric in metrics],
        "means": _means(result, metrics),
        "mean_figures": [_mean_figure(result, metric) for metric in metrics],
        "found": found(result.discovery, labels=parameters["classes"]),
        "residuals": _confusions(result) if parameters["classes"] else _residuals(result),
        "classes": bool(parameters["classes"]),
        "curves": _curves(result),
        "fits": _fits(result),
        "more_fits": max(0, len(result.tables["comparison_fits"]) - _FITS),
    }
    return write(path, "comparison.html.j2", values)


def _cards(result: Comparison) -> list[Card]:
    settings = result.manifest.action["parameters"]
    compared = [
        ("Task", str(settings["task"])),
        ("Ranked and tuned by", result.metric),
        ("Test parts", count(int(settings["splits"]))),
        ("Rows to train on", count(int(settings["rows"])) if settings["rows"] else "all others"),
        ("Settings tried", count(int(settings["tune"]))),
        ("Hidden layers", ", ".join(str(width) for width in settings["hidden"])),
        ("Most epochs", count(int(settings["max_epochs"]))),
    ]
    return [data_card(result.manifest), Card("Comparison", compared), cards(result.manifest)[2]]


def _data_name(result: Comparison) -> str:
    """Return what to call the data; a table that was given without a name is called "table"."""
    name = str(result.manifest.data.get("name") or "table")
    return "these data" if name == "table" else name


def _whole(value: float) -> str:
    """Return a number of parameters, which as a mean need not be whole."""
    return count(int(value)) if np.isfinite(value) and value == int(value) else number(float(value), 4)


def _name(metric: str) -> str:
    return _METRICS.get(metric, metric)


def _better(metric: str) -> str:
    return "more" if Comparison.more_is_better(metric) else "less"


def _forest(result: Comparison, metric: str, ax: Axes) -> Axes:
    """Draw a dot and an interval for each learner, the best on top."""
    frame = result.tables["comparison_pairs"]
    rows = frame[frame["metric"] == metric].sort_values("gain", kind="stable")
    spots = np.arange(len(rows))
    ax.axvline(0, color=INK, linewidth=0.8)
    for verdict, colour in _VERDICTS:
        which = (rows["verdict"] == verdict).to_numpy()
        if which.any():
            _dots(ax, rows[which], "difference", spots[which], colour, verdict)
    ax.set_yticks(spots, rows["learner"])
    ax.set_ylim(-0.6, max(1, len(rows)) - 0.4)
    reference = str(result.manifest.action["parameters"]["reference"])
    ax.set_xlabel(f"{metric} less that of {reference} ({_better(metric)} is better)")
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.legend(
        frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.1, fontsize=8
    )
    return across(ax)


def _dots(
    ax: Axes, rows: pd.DataFrame, column: str, spots: NDArray[Any], colour: str, label: str | None
) -> None:
    value = rows[column].to_numpy(np.float64)
    margin = np.nan_to_num(np.abs(rows[["low", "high"]].to_numpy(np.float64).T - value))
    ax.errorbar(value, spots, xerr=margin, fmt="o", color=colour, markersize=5, capsize=3, label=label)


def _forest_figure(result: Comparison, metric: str) -> Markup | None:
    frame = result.tables["comparison_pairs"]
    if not len(frame):
        return None
    with styled(salt="forest"):
        room = room_for(frame["learner"])
        ax = new_axes(4.6, 0.85 + 0.24 * frame["learner"].nunique(), left=room, top=0.28)
        return _svg(_forest(result, metric, ax), f"Difference of each learner to linear neurons, {metric}")


def _mean_figure(result: Comparison, metric: str) -> Markup:
    frame = result.tables["comparison"]
    rows = frame[frame["metric"] == metric].sort_values("rank", ascending=False, kind="stable")
    spots = np.arange(len(rows))
    reference = (rows["learner"] == result.manifest.action["parameters"]["reference"]).to_numpy()
    with styled(salt=f"means {metric}"):
        ax = new_axes(3.9, 0.55 + 0.21 * len(rows), left=room_for(rows["learner"]))
        if reference.any():
            ax.axvline(float(rows.loc[reference, "mean"].iloc[0]), color=RULE, linewidth=1.2)
        _dots(ax, rows[~reference], "mean", spots[~reference], ACCENT, None)
        _dots(ax, rows[reference], "mean", spots[reference], WARM, None)
        ax.set_yticks(spots, rows["learner"])
        ax.set_ylim(-0.6, len(rows) - 0.4)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.set_xlabel(f"{metric} ({_better(metric)} is better)")
        return _svg(across(ax), f"Mean {metric} of each learner with its interval")


def _pairs(result: Comparison, metrics: list[str]) -> list[dict[str, Any]]:
    """Return the paired differences, one row a learner, those of the ranking metric deciding the order."""
    frame = result.tables["comparison_pairs"]
    own = frame[frame["metric"] == result.metric].sort_values("gain", ascending=False, kind="stable")
    cells = {(row["learner"], row["metric"]): row for row in frame.to_dict("records")}
    rows = []
    for learner in own["learner"]:
        main = cells[learner, result.metric]
        rows.append(
            {
                "learner": learner,
                "task": learner in _TASK,
                "verdict": main["verdict"],
                "p": number(float(main["p"]), 2),
                "cells": [_cell(cells.get((learner, metric)), "difference") for metric in metrics],
            }
        )
    return rows


def _means(result: Comparison, metrics: list[str]) -> list[dict[str, Any]]:
    frame = result.tables["comparison"]
    own = frame[frame["metric"] == result.metric].sort_values("rank", kind="stable")
    cells = {(row["learner"], row["metric"]): row for row in frame.to_dict("records")}
    return [
        {
            "learner": row["learner"],
            "task": row["learner"] in _TASK,
            "family": row["family"],
            "cells": [_cell(cells.get((row["learner"], metric)), "mean") for metric in metrics],
            "parameters": _whole(float(row["parameters"])),
            "seconds": number(float(row["seconds"]), 3),
        }
        for row in own.to_dict("records")
    ]


def _cell(row: dict[Any, Any] | None, column: str) -> str:
    return "–" if row is None else with_interval(row[column], row["low"], row["high"])


def _shown(result: Comparison) -> list[str]:
    """Return the learners whose predictions are shown: linear, task neurons, and the best of all."""
    frame = result.tables["comparison"]
    ranked = frame[frame["metric"] == result.metric].sort_values("rank", kind="stable")["learner"].tolist()
    task = next((name for name in _TASK if name in ranked), None)
    chosen = [str(result.manifest.action["parameters"]["reference"]), task, ranked[0]]
    return list(dict.fromkeys(name for name in chosen if name in ranked))


def _residuals(result: Comparison) -> dict[str, Any]:
    """Return figures of what was predicted against what was the case, all on the same axes."""
    frame = result.tables["out_of_fold"]
    learners = _shown(result)
    own = frame[frame["learner"].isin(learners)]
    ends = (float(own["actual"].min()), float(own["actual"].max()))
    reach = (float(own["predicted"].min()), float(own["predicted"].max()))
    figures, rows = [], 0
    for learner in learners:
        part = own[own["learner"] == learner].sort_values(["row", "fold"], kind="stable")
        rows = len(part)
        part = part.iloc[np.unique(np.linspace(0, rows - 1, min(rows, _DOTS)).round().astype(int))]
        with styled(salt=f"residuals {learner}"):
            ax = new_axes(3.4, 2.9, left=0.65)
            ax.plot(ends, ends, color=INK, linewidth=0.8)
            ax.scatter(part["actual"], part["predicted"], s=9, color=ACCENT, alpha=0.5, linewidths=0)
            ax.set_xlim(*_widened(*ends))
            ax.set_ylim(*_widened(*reach))
            ax.set_xlabel("Actual")
            ax.set_ylabel("Predicted")
            ax.xaxis.set_major_locator(MaxNLocator(5))
            ax.yaxis.set_major_locator(MaxNLocator(5))
            clean(ax)
            figures.append((learner, _svg(ax, f"Predicted against actual values, {learner}")))
    return {"figures": figures, "rows": count(rows), "drawn": count(min(rows, _DOTS))}


def _widened(low: float, high: float) -> tuple[float, float]:
    room = 0.04 * (high - low) or 0.5
    return low - room, high + room


def _confusions(result: Comparison) -> dict[str, Any]:
    """Return tables of how often a class was taken for another, shaded by its share of the actual class."""
    names = [str(name) for name in result.manifest.action["parameters"]["classes"]]
    frame = result.tables["out_of_fold"]
    tables, kept = [], 0
    for learner in _shown(result) if len(names) <= _CLASSES else []:
        part = frame[frame["learner"] == learner]
        kept = len(part)
        counts = np.zeros((len(names), len(names)), np.int64)
        np.add.at(counts, (part["actual"].astype(int), part["predicted"].astype(int)), 1)
        rows = []
        for actual, line in enumerate(counts):
            shares = line / max(1, line.sum())
            cells = [
                (count(int(line[one])), shade(float(shares[one] if one == actual else -shares[one])))
                for one in range(len(names))
            ]
            rows.append((names[actual], cells))
        tables.append((learner, rows))
    fits = result.tables["comparison_fits"]
    tested = int(fits.loc[fits["learner"] == fits["learner"].iloc[0], "test_rows"].sum())
    return {"names": names, "tables": tables, "rows": count(tested), "kept": count(kept)}


def _curves(result: Comparison) -> list[tuple[str, Markup]]:
    """Return the learning curves of each network, medians over the test parts, all on one scale."""
    frame = result.tables["learning_curves"]
    if not len(frame):
        return []
    losses = ["train_loss", "validation_loss"]
    medians = frame.groupby(["learner", "epoch"], sort=False)[losses].median().reset_index()
    values = medians[losses].to_numpy(np.float64)
    values = values[np.isfinite(values)]
    log = bool(len(values)) and values.min() > 0 and values.max() > _LONG * values.min()
    figures = []
    for learner in [name for name in result.learners if name in set(medians["learner"])]:
        part = medians[medians["learner"] == learner].sort_values("epoch")
        with styled(salt=f"curves {learner}"):
            ax = new_axes(3.2, 2.1, left=0.62, top=0.26)
            for column, colour, name in ((losses[0], ACCENT, "training"), (losses[1], WARM, "validation")):
                ax.plot(part["epoch"], part[column], color=colour, linewidth=1.5, label=name)
            if log:
                ax.set_yscale("log")
                ax.yaxis.set_major_formatter(ScalarFormatter())
            if len(values):
                low, high = float(values.min()), float(values.max())
                ax.set_ylim(*((low / 1.1, high * 1.1) if log else _widened(low, high)))
            ax.set_xlabel("Epoch")
            ax.set_ylabel("Loss")
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            clean(ax)
            ax.legend(
                frameon=False,
                ncols=2,
                loc="lower right",
                bbox_to_anchor=(1.0, 1.0),
                borderaxespad=0.1,
                fontsize=8,
            )
            figures.append((learner, _svg(ax, f"Loss by epoch, training and validation, {learner}")))
    return figures


def _fits(result: Comparison) -> list[dict[str, str]]:
    return [
        {
            "learner": str(row["learner"]),
            "fold": count(int(row["fold"])),
            "settings": ", ".join(
                f"{name.removeprefix('learner__')} {f'{value:g}' if isinstance(value, float) else value}"
                for name, value in json.loads(row["settings"]).items()
            ),
            "hidden": str(row["hidden"] or "–").replace(" ", ", "),
            "formula": str(row["formula"] or "–"),
            "parameters": _whole(float(row["parameters"])),
            "seconds": number(float(row["seconds"]), 3),
        }
        for row in result.tables["comparison_fits"].head(_FITS).to_dict("records")
    ]


def _svg(ax: Axes, label: str) -> Markup:
    return svg(ax.figure.get_figure(root=True), label=label)
