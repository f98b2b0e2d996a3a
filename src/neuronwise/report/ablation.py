"""What an ablation looks like: the change by the chosen neurons, beside the changes by random ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from neuronwise.errors import InvalidArgumentError
from neuronwise.observe import Ablation
from neuronwise.report._figures import ACCENT, INK, RULE, WARM, clean, fitted_axes, new_axes, styled, svg
from neuronwise.report._page import cards, write
from neuronwise.report._words import count, number, with_error

__all__ = ["page", "plot"]

_INTERVAL = 1.959963984540054  # standard errors to either side that hold 95 % of a normal distribution
_LISTED = 200


def plot(result: Ablation, ax: Axes | None = None) -> Axes:
    """Draw the change of the metric by the chosen neurons and by each random set, with 95 % intervals.

    The intervals are over the examples of the corpus; how far the random sets lie apart is seen from their dots.

    Args:
        result: An ablation. With several metrics, the first is drawn.
        ax: Axes to draw on; default: those of a new figure, ``ax.figure``.

    Returns:
        The axes.
    """
    frame = result.tables["ablation"]
    metric = str(frame["metric"].iloc[0])
    own = frame[frame["metric"] == metric]
    return _draw(own, metric, fitted_axes(6, 1.2 + 0.22 * len(own)) if ax is None else ax)


def page(result: Ablation, path: str | Path, *, neurons: Any = None, title: str | None = None) -> Path:
    """Write an ablation as one HTML file that opens offline and needs nothing else.

    Args:
        result: An ablation.
        path: The file to write.
        neurons: Not for an ablation, whose page shows the neurons that were changed.
        title: Heading of the page.

    Returns:
        The path.

    Raises:
        InvalidArgumentError: If ``neurons`` are given.
        WriteError: If the file cannot be written.
    """
    if neurons is not None:
        raise InvalidArgumentError(
            "The page of an ablation shows the neurons that were changed; leave neurons= out, or make the page of an "
            "activity, which has a section for each neuron you name."
        )
    frame = result.tables["ablation"]
    parameters = result.manifest.action.get("parameters", {})
    values = {
        "title": title or f"Changing neurons of {result.manifest.model.get('name', 'a model')}",
        "subtitle": _subtitle(frame, parameters),
        "cards": cards(result.manifest),
        "metrics": [_metric(str(metric), rows) for metric, rows in frame.groupby("metric", sort=True)],
        "changed": _changed(parameters.get("neurons")),
    }
    return write(path, "ablation.html.j2", values)


def _draw(frame: pd.DataFrame, metric: str, ax: Axes) -> Axes:
    rows = frame.iloc[::-1]  # the chosen neurons on top
    spots = np.arange(len(rows))
    change = rows["change"].to_numpy(np.float64)
    margin = _INTERVAL * rows["change_se"].fillna(0.0).to_numpy(np.float64)
    chosen = (rows["neurons"] == "chosen").to_numpy()
    random = change[~chosen]
    if len(random) > 1:
        mean, spread = random.mean(), random.std(ddof=1)
        ax.axvspan(mean - spread, mean + spread, color=RULE, alpha=0.45, linewidth=0)
        ax.axvline(mean, color=RULE, linewidth=1.2)
    ax.axvline(0, color=INK, linewidth=0.8)
    for which, colour, size in ((chosen, WARM, 6), (~chosen, ACCENT, 4)):
        ax.errorbar(
            change[which], spots[which], xerr=margin[which], fmt="o", color=colour, markersize=size, capsize=3
        )
    names = ["chosen" if row.neurons == "chosen" else f"random, seed {row.seed}" for row in rows.itertuples()]
    ax.set_yticks(spots, names)
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.set_xlabel(f"Change of {metric}")
    ax.xaxis.set_major_locator(MaxNLocator(5))  # more would touch each other
    clean(ax)
    ax.grid(visible=False)
    ax.grid(axis="x", color=RULE, linewidth=0.5)
    return ax


def _metric(metric: str, frame: pd.DataFrame) -> dict[str, Any]:
    with styled(salt=metric):
        ax = _draw(frame, metric, new_axes(3.9, 0.6 + 0.22 * len(frame), left=1.1))
        figure = svg(ax.figure.get_figure(root=True), label=f"Change of {metric} by each set of neurons")
    return {
        "name": metric,
        "figure": figure,
        "rows": [
            {
                "set": "chosen" if row["neurons"] == "chosen" else f"random, seed {row['seed']}",
                "chosen": row["neurons"] == "chosen",
                "neurons": count(int(row["n_neurons"])),
                "baseline": number(float(row["baseline"])),
                "intervened": number(float(row["intervened"])),
                "change": _plus(float(row["change"]))
                + with_error(float(row["change"]), float(row["change_se"])),
            }
            for row in frame.to_dict("records")
        ],
        "summary": _summary(frame, metric),
        "random": len(frame) > 1,
    }


def _summary(frame: pd.DataFrame, metric: str) -> Markup:
    """Return what came out, in sentences."""
    chosen = frame[frame["neurons"] == "chosen"].iloc[0]
    random = frame.loc[frame["neurons"] == "random", "change"].to_numpy(np.float64)
    change, error = float(chosen["change"]), float(chosen["change_se"])
    text = Markup("Changing the chosen neurons moves <code>{}</code> by <strong>{}{}</strong>").format(
        metric, _plus(change), with_error(change, error)
    )
    if np.isfinite(error):
        low, high = change - _INTERVAL * error, change + _INTERVAL * error
        text += f" (95\u00a0% interval {number(low)} to {number(high)})"
    if not len(random):
        return text + ". There is no random control to compare it with."
    text += Markup(
        "; as many random neurons of the same sites move it by <strong>{}{}</strong> on average"
    ).format(_plus(random.mean()), number(float(random.mean())))
    if len(random) > 1:
        text += f" (standard deviation {number(float(random.std(ddof=1)), 2)} over {len(random)} sets)"
    beyond = int((np.abs(random) >= abs(change)).sum())
    return text + f". {beyond} of {len(random)} random sets change it at least as much."


def _plus(value: float) -> str:
    return "+" if value > 0 else ""


def _subtitle(frame: pd.DataFrame, parameters: Mapping[str, Any]) -> str:
    size = int(frame["n_neurons"].iloc[0]) if len(frame) else 0
    how = parameters.get("how")
    return f"{count(size)} {'neuron' if size == 1 else 'neurons'} changed{f', intervention “{how}”' if how else ''}"


def _changed(neurons: object) -> list[tuple[str, int, str]]:
    """Return the changed neurons of each site: its name, how many, and their indices."""
    if not isinstance(neurons, Mapping):
        return []
    listed = []
    for site, indices in neurons.items():
        if isinstance(indices, list):
            more = f" … and {len(indices) - _LISTED} more" if len(indices) > _LISTED else ""
            listed.append((str(site), len(indices), ", ".join(map(str, indices[:_LISTED])) + more))
    return listed
