"""The section of one neuron: what the tables of an activity say about it, ready to be shown."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.ticker import EngFormatter, MaxNLocator

from neuronwise.observe import Activity
from neuronwise.report._examples import Shown, examples, largest, level
from neuronwise.report._figures import ACCENT, INK, RULE, WARM, clean, new_axes, room_for, styled, svg
from neuronwise.report._pictures import Pictures
from neuronwise.report._words import count, number, statistic_name, token_text, with_error
from neuronwise.sites import Site

__all__ = ["Section", "anchor", "sections"]

_PARTNERS = 10
_TOKENS = 10
_CLASSES = 30


@dataclass(frozen=True, slots=True)
class Section:
    """What is shown of one neuron; what its tables do not hold is empty.

    ``level`` is the lowest activation where so many positions share it that listing some would say nothing.
    """

    anchor: str
    title: str
    site: str
    neuron: int
    statistics: list[tuple[str, str]]
    quantiles: list[tuple[str, str]]
    histogram: Markup | None
    examples: dict[str, list[Shown]]
    level: str
    scale: str
    tokens: dict[str, list[tuple[str, str]]]
    partners: list[tuple[int, str, str]]
    classes: list[tuple[str, Markup]]

    @property
    def pictured(self) -> bool:
        """Whether the examples have pictures."""
        return any(shown.picture is not None for side in self.examples.values() for shown in side)


def anchor(place: int, neuron: int) -> str:
    """Return the id of a neuron's section, from the number of its site among the sites."""
    return f"n{place}-{neuron}"


def sections(
    result: Activity, chosen: Mapping[Site, Sequence[int]], labels: Mapping[str, str], pictures: Pictures
) -> list[Section]:
    """Return the sections of the chosen neurons, site by site.

    Args:
        result: The activity.
        chosen: Neurons of each site, in the order in which they are shown.
        labels: What to call each site, by its name.
        pictures: The images of the examples.
    """
    places = {site.name: place for place, site in enumerate(result.sites)}
    made = []
    for site, neurons in chosen.items():
        rows = {
            name: _by_neuron(result.rows(name, site=site, neuron=list(neurons)))
            for name in (
                "neurons",
                "histogram",
                "examples",
                "contexts",
                "coactivation",
                "class_means",
                "promoted",
            )
            if name in result.tables and len(neurons)
        }
        for neuron in neurons:
            own = {name: frames[neuron] for name, frames in rows.items() if neuron in frames}
            label = f"{labels[site.name]} · neuron {neuron}"
            made.append(_section(own, anchor(places[site.name], neuron), label, site, neuron, pictures))
    return made


def _by_neuron(frame: pd.DataFrame) -> dict[int, pd.DataFrame]:
    rows: dict[Any, pd.DataFrame] = dict(list(frame.groupby("neuron", sort=False)))
    return rows


def _section(
    own: Mapping[str, pd.DataFrame], name: str, title: str, site: Site, neuron: int, pictures: Pictures
) -> Section:
    row: Any = own["neurons"].iloc[0]  # a number of each column, and the site's name
    statistics, quantiles = _statistics(row)
    full = largest(own)
    return Section(
        anchor=name,
        title=title,
        site=site.name,
        neuron=neuron,
        statistics=statistics,
        quantiles=quantiles,
        histogram=_histogram(own["histogram"], row, name) if "histogram" in own else None,
        examples=examples(own, pictures, positions=int(row["n"] + row["nonfinite"]), full=full),
        level=level(own),
        scale=number(full, 3) if full and "contexts" in own else "",
        tokens=_tokens(own["promoted"]) if "promoted" in own else {},
        partners=_partners(own["coactivation"]) if "coactivation" in own else [],
        classes=_classes(own["class_means"], row, name) if "class_means" in own else [],
    )


def _statistics(row: Any) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the statistics and, apart from them, the quantiles: what each is called, and its value and error."""
    others: list[tuple[str, str]] = []
    quantiles: list[tuple[str, str]] = []
    for column in row.index:
        if column in ("site", "layer", "neuron") or column.endswith("_se"):
            continue
        if column in ("n", "nonfinite"):
            if row[column] or column == "n":
                others.append((statistic_name(column), count(int(row[column]))))
            continue
        text = with_error(float(row[column]), float(row.get(f"{column}_se", math.nan)))
        (quantiles if re.match(r"q\d|quantile_", column) else others).append((statistic_name(column), text))
    return others, quantiles


def _histogram(frame: pd.DataFrame, row: Any, name: str) -> Markup | None:
    """Draw a neuron's histogram over the true edges of its bins; the table leaves empty bins out."""
    counts, edges = _filled(frame.sort_values("left"))
    if not len(counts):
        return None
    heavy = counts.max() > 50 * np.median(counts[counts > 0])
    with styled(salt=f"h{name}"):
        ax = new_axes(3.4, 2.2, left=0.62)
        ax.axvline(0, color=RULE, linewidth=0.8, zorder=0)
        if heavy:
            ax.stairs(np.maximum(counts, 0.5), edges, baseline=0.5, fill=True, color=ACCENT)
            ax.set_yscale("log")
            ax.set_ylim(bottom=0.5)
        else:
            ax.stairs(counts, edges, fill=True, color=ACCENT)
        if "mean" in row and math.isfinite(row["mean"]):
            ax.axvline(row["mean"], color=WARM, linewidth=1.2, linestyle=(0, (3, 2)))
        ax.yaxis.set_major_formatter(EngFormatter(sep=""))
        ax.set_xlabel("Activation (dashed: mean)" if "mean" in row else "Activation")
        ax.set_ylabel("Values, log scale" if heavy else "Values")
        clean(ax)
        return svg(ax.figure.get_figure(root=True), label="Histogram of the activation")


def _filled(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    counts: list[float] = []
    edges: list[float] = []
    for left, right, n in frame[["left", "right", "count"]].itertuples(index=False):
        if edges and left > edges[-1]:
            counts.append(0.0)
            edges.append(left)
        elif not edges:
            edges.append(left)
        counts.append(float(n))
        edges.append(right)
    return np.array(counts), np.array(edges)


def _tokens(frame: pd.DataFrame) -> dict[str, list[tuple[str, str]]]:
    frame = frame[frame["rank"] < _TOKENS].sort_values("rank")
    return {
        side: [
            (token_text(str(token)), number(float(logit), 3))
            for token, logit in zip(rows["token"], rows["logit"], strict=True)
        ]
        for side in ("promotes", "demotes")
        if len(rows := frame[frame["side"] == side])
    }


def _partners(frame: pd.DataFrame) -> list[tuple[int, str, str]]:
    """Return the neurons that go most together with it or most against it: index, correlation, its error."""
    frame = frame.dropna(subset=["correlation"])
    order = np.argsort(-frame["correlation"].abs().to_numpy(), kind="stable")[:_PARTNERS]
    errors = frame["correlation_se"] if "correlation_se" in frame else pd.Series(math.nan, frame.index)
    return [
        (int(other), number(float(value), 3), with_error(float(value), float(error)))
        for other, value, error in zip(
            frame["other"].iloc[order], frame["correlation"].iloc[order], errors.iloc[order], strict=True
        )
    ]


def _classes(frame: pd.DataFrame, row: Any, name: str) -> list[tuple[str, Markup]]:
    """Draw the mean of each class with its standard error, one chart for each field of labels."""
    figures = []
    for place, (field, rows) in enumerate(frame.groupby("field", sort=True, observed=True)):
        rows = rows[(rows["n"] > 0) & np.isfinite(rows["mean"])].sort_values("mean", kind="stable")
        left_out = len(rows) - _CLASSES
        if left_out > 0:  # those in the middle say least
            rows = pd.concat([rows.iloc[: _CLASSES // 2], rows.iloc[-_CLASSES // 2 :]])
        if not len(rows):
            continue
        with styled(salt=f"c{place}{name}"):
            names = [name if len(name) <= 28 else f"{name[:27]}…" for name in rows["label"].astype(str)]
            ax = new_axes(3.7, 0.6 + 0.2 * len(rows), left=room_for(names))
            error = rows["mean_se"].fillna(0.0)
            spots = np.arange(len(rows))
            ax.barh(spots, rows["mean"], color=ACCENT, height=0.65)
            ax.errorbar(rows["mean"], spots, xerr=error, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
            ax.set_yticks(spots, names)
            ax.set_ylim(-0.6, len(rows) - 0.4)
            ax.axvline(row.get("mean", 0.0), color=WARM, linewidth=1.2, linestyle=(0, (3, 2)))
            more = f"; {left_out} between left out" if left_out > 0 else ""
            ax.set_xlabel(f"Mean activation ± standard error{more}")
            ax.xaxis.set_major_locator(MaxNLocator(5))  # more would touch each other
            clean(ax)
            ax.grid(visible=False)
            ax.grid(axis="x", color=RULE, linewidth=0.5)
            label = f"Mean activation for each class of {field}"
            figures.append((str(field), svg(ax.figure.get_figure(root=True), label=label)))
    return figures
