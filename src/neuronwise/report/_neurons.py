"""The table of all neurons in a page: what it holds, and how it goes into the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from neuronwise.observe import Activity
from neuronwise.report._section import anchor
from neuronwise.report._words import statistic_name, token_text
from neuronwise.sites import Site
from neuronwise.store import query

__all__ = ["neuron_table"]

_COLUMNS = ("kurtosis", "skewness", "mean", "std", "min", "max", "active", "nonfinite")
_RANKS = 5


def neuron_table(
    result: Activity,
    chosen: Mapping[Site, Sequence[int]],
    labels: Mapping[str, str],
    *,
    by: str,
    rows: int,
) -> dict[str, Any]:
    """Return the table of neurons as plain lists, column by column, for the script of the page.

    Args:
        result: The activity.
        chosen: The neurons that have a section.
        labels: What to call each site, by its name.
        by: The statistic that the table is sorted by at first, and that decides which neurons are in it.
        rows: Most neurons in it. Those with a section are in it always.
    """
    sites = list(result.sites)
    places = {site.name: place for place, site in enumerate(sites)}
    frame = result.tables["neurons"]
    frame = frame.assign(place=frame["site"].astype(str).map(places)).reset_index(drop=True)
    with_section = {(places[site.name], neuron) for site, neurons in chosen.items() for neuron in neurons}
    frame = _strongest(frame, with_section, by=by, rows=rows)
    columns = [c for c in _COLUMNS if c in frame and (c != "nonfinite" or frame[c].any())]
    if by not in columns:
        columns.insert(0, by)
    keys = list(zip(frame["place"].tolist(), frame["neuron"].tolist(), strict=True))
    table: dict[str, Any] = {
        "sites": [{"name": site.name, "label": labels[site.name], "layer": site.layer} for site in sites],
        "total": len(result.tables["neurons"]),
        "by": by,
        "site": frame["place"].tolist(),
        "neuron": frame["neuron"].tolist(),
        "columns": [
            {
                "key": c,
                "label": statistic_name(c, short=True),
                "whole": c in ("n", "nonfinite"),
                "values": _short(frame[c]),
            }
            for c in columns
        ],
        "sections": {f"{place}:{neuron}": anchor(place, neuron) for place, neuron in sorted(with_section)},
        "words": [],
    }
    for head, source, side, extra in (
        ("Top tokens", "contexts", "top", 'and "offset" = 0'),
        ("Bottom tokens", "contexts", "bottom", 'and "offset" = 0'),
        ("Promotes", "promoted", "promotes", ""),
    ):
        if source in result.tables:
            words = _words(result, source, side, extra, places)
            table["words"].append({"label": head, "values": [words.get(key, []) for key in keys]})
    return table


def _strongest(frame: pd.DataFrame, always: set[tuple[int, int]], *, by: str, rows: int) -> pd.DataFrame:
    """Return the neurons with the highest value of a statistic, and some others always, in their own order."""
    if len(frame) <= rows:
        return frame
    keys = zip(frame["place"].tolist(), frame["neuron"].tolist(), strict=True)
    kept = np.fromiter((key in always for key in keys), dtype=bool, count=len(frame))
    score = np.where(kept, np.inf, frame[by].fillna(-np.inf).to_numpy(np.float64))
    order = np.argsort(-score, kind="stable")[: max(rows, int(kept.sum()))]
    return frame.iloc[np.sort(order)]


def _short(values: pd.Series) -> list[float | int | None]:
    """Return numbers in four significant digits, None for those that are not finite: JSON has no name for them."""
    shortened = (float(f"{value:.4g}") if math.isfinite(value) else None for value in values.astype(float))
    return [None if v is None else int(v) if v.is_integer() and abs(v) < 2**53 else v for v in shortened]


def _words(
    result: Activity, table: str, side: str, extra: str, places: Mapping[str, int]
) -> dict[tuple[int, int], list[str]]:
    """Return each neuron's first few different tokens of a table, by number of the site and index of the neuron."""
    if result.folder is not None:  # a long table: read only what is wanted of it
        condition = f"side = '{side}' and rank < {_RANKS} {extra}"
        frame = query(result.folder, f"select site, neuron, rank, token from {table} where {condition}")
    else:
        frame = result.tables[table]
        frame = frame[(frame["side"] == side) & (frame["rank"] < _RANKS)]
        frame = frame[frame["offset"] == 0] if "offset" in frame else frame
    frame = frame.sort_values(["site", "neuron", "rank"], kind="stable")
    found: dict[tuple[int, int], list[str]] = {}
    for site, neuron, token in zip(frame["site"].astype(str), frame["neuron"], frame["token"], strict=True):
        words = found.setdefault((places[site], int(neuron)), [])
        if (text := token_text(str(token))) not in words:
            words.append(text)
    return found
