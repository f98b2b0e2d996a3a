"""What an activity looks like: a figure of the layers, and a page with every neuron."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from neuronwise.errors import InvalidArgumentError, NeuronIndexError
from neuronwise.observe import Activity
from neuronwise.report._figures import fitted_axes
from neuronwise.report._neurons import neuron_table
from neuronwise.report._overview import draw, main_statistic, overview
from neuronwise.report._page import cards, write
from neuronwise.report._pictures import Pictures
from neuronwise.report._section import sections
from neuronwise.report._words import count, site_labels, statistic_name
from neuronwise.sites import NeuronSet, Site

__all__ = ["page", "plot"]

_PER_SITE = 5
_SECTIONS = 40
_LISTED = 20  # neurons with values that are not finite


def plot(result: Activity, ax: Axes | None = None) -> Axes:
    """Draw how the neurons of each layer are spread: the excess kurtosis, which is high for selective neurons.

    Each column is one site: a thin line from the least to the greatest, thicker ones over the middle 90 % and
    50 % of the neurons, a dot for the median. Where the kurtosis was not measured, another statistic is drawn.

    Args:
        result: An activity.
        ax: Axes to draw on; default: those of a new figure, ``ax.figure``.

    Returns:
        The axes.
    """
    return draw(result, main_statistic(result.tables["neurons"]), fitted_axes(6, 3.6) if ax is None else ax)


def page(
    result: Activity,
    path: str | Path,
    *,
    neurons: NeuronSet | None = None,
    title: str | None = None,
    rows: int = 20_000,
) -> Path:
    """Write an activity as one HTML file that opens offline and needs nothing else.

    Args:
        result: An activity. What it has no table for is left out of the page.
        path: The file to write.
        neurons: The neurons that get a section of their own; default: the five with the highest kurtosis of
            every site, fewer where that would be more than 40.
        title: Heading of the page.
        rows: Most neurons in the table of all neurons; where there are more, those with the highest kurtosis
            are in it, and the page says so.

    Returns:
        The path.

    Raises:
        InvalidArgumentError: If ``rows`` is not positive.
        SiteNotFoundError: If one of the neurons is of a site that was not observed.
        NeuronIndexError: If a site of that name has fewer neurons here.
        WriteError: If the file cannot be written.
    """
    if rows < 1:
        raise InvalidArgumentError(f"rows must be at least 1, not {rows}.")
    frame = result.tables["neurons"]
    by = main_statistic(frame)
    chosen = _most_selective(result, by) if neurons is None else _observed(result, neurons)
    labels = dict(zip((site.name for site in result.sites), site_labels(result.sites), strict=True))
    pictures = Pictures(result, _examples_of(result, chosen))
    shown = sections(result, chosen, labels, pictures)
    values = {
        "title": title or f"Neurons of {result.manifest.model.get('name', 'a model')}",
        "subtitle": _subtitle(result, frame),
        "cards": cards(
            result.manifest, positions=int((frame["n"] + frame["nonfinite"]).max()) if len(frame) else 0
        ),
        "overview": overview(result),
        "nonfinite": _nonfinite(result, labels),
        "table": neuron_table(result, chosen, labels, by=by, rows=rows),
        "sections": shown,
        "anchors": {section.anchor for section in shown},
        "chosen_by": statistic_name(by) if neurons is None else "",
        "by_name": statistic_name(by),
    }
    return write(path, "activity.html.j2", values)


def _subtitle(result: Activity, frame: pd.DataFrame) -> str:
    sites = len(result.sites)
    data = result.manifest.data
    text = f"{count(len(frame))} neurons in {sites} {'site' if sites == 1 else 'sites'}"
    return f"{text}, watched over the corpus {data['name']}" if "name" in data else text


def _most_selective(result: Activity, by: str) -> dict[Site, list[int]]:
    """Return the neurons with the highest value of a statistic in every site, highest first."""
    statistic = result.statistic(by)
    each = min(_PER_SITE, max(1, _SECTIONS // max(len(statistic), 1)))
    chosen: dict[Site, list[int]] = {}
    for site, values in statistic.items():
        order = np.argsort(-np.where(np.isfinite(values), values, -np.inf), kind="stable")
        chosen[site] = [int(neuron) for neuron in order[:each] if np.isfinite(values[neuron])]
    best = {site: statistic[site][own[0]] for site, own in chosen.items() if own}
    kept = sorted(best, key=lambda site: -best[site])[:_SECTIONS]
    return {site: own for site, own in chosen.items() if site in kept}


def _observed(result: Activity, neurons: NeuronSet) -> dict[Site, list[int]]:
    chosen: dict[Site, list[int]] = {}
    for site in neurons.sites:
        own = result.sites[site.name]
        indices = [int(neuron) for neuron in neurons.indices(site)]
        if indices[-1] >= own.width:
            raise NeuronIndexError(
                f"The neurons to show hold neuron {indices[-1]} of {own.name}, which has {own.width} neurons in this "
                "activity. Choose neurons of the sites that were observed."
            )
        chosen[own] = indices
    return chosen


def _examples_of(result: Activity, chosen: Mapping[Site, Sequence[int]]) -> list[int]:
    """Return the numbers of the examples that the sections name."""
    if "images" not in result.tables or "examples" not in result.tables:
        return []
    named = [
        result.rows("examples", site=site, neuron=list(own))["example"] for site, own in chosen.items() if own
    ]
    return [int(example) for example in np.unique(pd.concat(named))] if named else []


def _nonfinite(result: Activity, labels: Mapping[str, str]) -> dict[str, object] | None:
    """Return how many neurons had values that are NaN or infinite, and the worst of them."""
    bad = result.nonfinite.sort_values("nonfinite", ascending=False, kind="stable")
    if not len(bad):
        return None
    worst = [
        f"{labels[row['site']]}, neuron {row['neuron']}: {count(row['nonfinite'])}"
        for row in bad.head(_LISTED).to_dict("records")
    ]
    return {"neurons": len(bad), "values": int(bad["nonfinite"].sum()), "worst": worst}
