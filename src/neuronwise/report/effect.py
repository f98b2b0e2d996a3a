"""What an effect looks like: the change of the answers' probability by the chosen neurons, beside random ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from neuronwise.errors import InvalidArgumentError, closest
from neuronwise.knowledge import Effect
from neuronwise.report._figures import ACCENT, INK, RULE, WARM, clean, fitted_axes, new_axes, styled, svg
from neuronwise.report._page import Card, cards, write
from neuronwise.report._words import count, number

__all__ = ["page", "plot"]

_PROBES = {
    "own": "own prompts",
    "held_out": "held out",
    "neighbour": "same answer",
    "sister": "sister facts",
    "other": "other facts",
    "unrelated": "unrelated",
}
_MEASURES = {
    "ratio_of_means": "Change of the mean P (ratio of means)",
    "mean_of_ratios": "Mean change of P a prompt (mean of ratios)",
    "median_ratio": "Median of P after / P before",
    "delta_log_p": "Change of log P (nats)",
    "delta_right": "Change of the share of right answers",
}
_SHARES = ("ratio_of_means", "mean_of_ratios", "delta_right")
_PROBLEMS = 50


def plot(
    result: Effect, ax: Axes | None = None, *, measure: str = "ratio_of_means", factor: float | None = None
) -> Axes:
    """Draw an average over facts for every kind of prompt, by the chosen and by random neurons, with 95 % intervals.

    Args:
        result: An effect.
        ax: Axes to draw on; default: those of a new figure, ``ax.figure``.
        measure: Which average; see :func:`neuronwise.knowledge.measure_effect`.
        factor: Which factor; default: the first.

    Returns:
        The axes.

    Raises:
        InvalidArgumentError: If there is no such average or factor.
    """
    if measure not in _MEASURES:
        raise InvalidArgumentError(f"There is no average {measure!r}. {closest(measure, _MEASURES)}")
    chosen = result.factors[0] if factor is None else float(factor)
    frame = result.tables["effect_summary"]
    own = frame[(frame["factor"] == chosen) & (frame["measure"] == measure)]
    if not len(own):
        known = ", ".join(f"{one:g}" for one in result.factors)
        raise InvalidArgumentError(f"The factor {chosen:g} was not measured; there are {known}.")
    return _draw(own, measure, fitted_axes(6, 3.4) if ax is None else ax)


def page(result: Effect, path: str | Path, *, neurons: Any = None, title: str | None = None) -> Path:
    """Write an effect as one HTML file that opens offline and needs nothing else.

    Args:
        result: An effect.
        path: The file to write.
        neurons: Not for an effect, which is about all neurons that were changed.
        title: Heading of the page.

    Raises:
        InvalidArgumentError: If ``neurons`` are given.
        WriteError: If the file cannot be written.
    """
    if neurons is not None:
        raise InvalidArgumentError("The page of an effect is about all neurons changed; leave neurons= out.")
    parameters = result.manifest.action["parameters"]
    problems = result.tables["effect_problems"]
    facts = result.tables["effects"]["fact"].nunique()
    values = {
        "title": title or f"Changing the neurons of facts in {result.manifest.model.get('name', 'a model')}",
        "subtitle": f"{count(facts)} {'fact' if facts == 1 else 'facts'}, each beside {parameters['controls']} random "
        f"sets of as many neurons of the same sites; neurons changed at {_where(parameters['positions'])}",
        "cards": _cards(result),
        "factors": [_factor(result, factor) for factor in result.factors],
        "problems": [
            {name: str(row[name]) for name in ("fact", "probe", "prompt", "problem")}
            for row in problems.head(_PROBLEMS).to_dict("records")
        ],
        "more": max(0, len(problems) - _PROBLEMS),
        "reference": parameters["reference"],
    }
    return write(path, "effect.html.j2", values)


def _where(positions: str) -> str:
    return "the slot" if positions == "slot" else "all positions"


def _cards(result: Effect) -> list[Card]:
    data = result.manifest.data
    model, _, run = cards(result.manifest)
    facts = [
        ("Name", str(data.get("name", ""))),
        ("Facts", count(int(data.get("facts", 0)))),
        ("Relations", count(len(data.get("relations", {})))),
        ("Fingerprint", str(data.get("fingerprint", ""))[:12]),
    ]
    return [model, Card("Facts", facts), run]


def _factor(result: Effect, factor: float) -> dict[str, Any]:
    frame = result.tables["effect_summary"]
    own = frame[frame["factor"] == factor]
    figures = []
    for shown in ("ratio_of_means", "delta_log_p"):
        with styled(salt=f"{factor} {shown}"):
            axes = new_axes(4.6, 2.6, left=0.75, bottom=0.55, top=0.3)
            ax = _draw(own[own["measure"] == shown], shown, axes)
            label = f"{_MEASURES[shown]} by chosen and by random neurons, for each kind of prompt"
            figures.append(svg(ax.figure.get_figure(root=True), label=label))
    rows = []
    for (probe, measure), part in own.groupby(["probe", "measure"], sort=False):
        pair, average = part["neurons"].eq("random").any(), str(measure)
        groups = {str(row["neurons"]): row for row in part.to_dict("records")}
        rows.append(
            {
                "probe": _PROBES[str(probe)],
                "measure": _MEASURES[average],
                "chosen": _with_interval(groups["chosen"], average),
                "random": _with_interval(groups["random"], average) if pair else "–",
                "difference": _with_interval(groups["difference"], average) if pair else "–",
                "spread": _shown(groups["random"]["seed_sd"], average) if pair else "–",
                "facts": count(int(groups["chosen"]["facts"])),
            }
        )
    return {"name": _named(factor), "figures": figures, "rows": rows}


def _named(factor: float) -> str:
    return {0.0: "Suppressed (× 0)", 2.0: "Doubled (× 2)"}.get(factor, f"Multiplied by {factor:g}")


def _draw(frame: pd.DataFrame, measure: str, ax: Axes) -> Axes:
    """Draw pairs of bars, one pair a kind of prompt."""
    probes = [probe for probe in _PROBES if probe in set(frame["probe"])]
    base = 1.0 if measure == "median_ratio" else 0.0
    for name, colour, shift in (("chosen", WARM, -0.19), ("random", ACCENT, 0.19)):
        rows = frame[frame["neurons"] == name].set_index("probe").reindex(probes)
        if not rows["value"].notna().any():
            continue
        value = rows["value"].to_numpy(np.float64)
        ends = rows[["low", "high"]].to_numpy(np.float64).T
        margin = np.nan_to_num(np.abs(ends - value))
        places = np.arange(len(probes)) + shift
        ax.bar(places, value - base, 0.34, bottom=base, color=colour, label=name)
        ax.errorbar(places, value, yerr=margin, fmt="none", ecolor=INK, elinewidth=0.9, capsize=2.5)
    ax.axhline(base, color=INK, linewidth=0.8)
    ax.set_xticks(np.arange(len(probes)), [_PROBES[probe].replace(" ", "\n") for probe in probes])
    ax.set_xlim(-0.6, len(probes) - 0.4)
    ax.set_ylabel(_MEASURES[measure].split(" (")[0] + (" (nats)" if measure == "delta_log_p" else ""))
    if measure in _SHARES:
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    clean(ax)
    ax.grid(axis="y", color=RULE, linewidth=0.5)
    ax.legend(
        frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.1, fontsize=8
    )
    return ax


def _with_interval(row: dict[Any, Any], measure: str) -> str:
    text = _shown(row["value"], measure)
    if np.isfinite(row["low"]) and np.isfinite(row["high"]):
        text += f" [{_shown(row['low'], measure)}, {_shown(row['high'], measure)}]"
    return text


def _shown(value: float, measure: str) -> str:
    if not np.isfinite(value):
        return "–"
    if measure in _SHARES:
        return f"{100 * value:+.1f}\u00a0%".replace("-", "−")
    return number(float(value), 3)
