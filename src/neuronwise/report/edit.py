"""What an evaluation of edits looks like: each method beside random edits and the model as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from neuronwise.edit import EditEvaluation
from neuronwise.errors import InvalidArgumentError, closest
from neuronwise.report._figures import (
    ACCENT,
    INK,
    MUTED,
    RULE,
    WARM,
    clean,
    fitted_axes,
    new_axes,
    styled,
    svg,
)
from neuronwise.report._page import Card, cards, write
from neuronwise.report._words import count, number, token_text

__all__ = ["page", "plot"]

_METRICS = {
    "reliability": "Reliability",
    "generality": "Generality",
    "portability": "Portability",
    "symmetry": "Symmetry",
    "synonymy": "Synonymy",
    "neighbour": "Neighbours",
    "sister": "Sister facts",
    "attribute": "Attribute",
    "unrelated": "Unrelated",
}
_MEASURES = {"argmax": "By the most likely token", "probability": "By probability"}
_TEXT = ("nll", "perplexity", "kl")
_CONTROLS = {"none": "no edit", "edit": "edit", "random": "random"}
_PROBES = {"edit": "own prompt", "held_out": "held out", "paraphrase": "paraphrase"} | {
    name: name
    for name in ("portability", "symmetry", "synonymy", "neighbour", "sister", "attribute", "unrelated")
}
# More colours, for when all methods are in one figure; none of them is read as one of the page's two.
_COLOURS = (WARM, ACCENT, "#3a7d44", "#7b4fa3", "#a67c00", "#00808a")
_PROMPTS = 40
_PROBLEMS = 50


def plot(
    result: EditEvaluation, ax: Axes | None = None, *, measure: str = "argmax", method: str | None = None
) -> Axes:
    """Draw one group of bars a metric: no edit, each edit and its random control, with 95 % intervals over facts.

    Args:
        result: An evaluation.
        ax: Axes to draw on; default: those of a new figure, ``ax.figure``.
        measure: ``"argmax"``, success by the most likely token, or ``"probability"``.
        method: Only this method beside no edit; default: all.

    Returns:
        The axes.

    Raises:
        InvalidArgumentError: If there is no such measure or method.
    """
    if measure not in _MEASURES:
        raise InvalidArgumentError(f"There is no measure {measure!r}. {closest(measure, _MEASURES)}")
    known = _methods(result)
    if method is not None and method not in known:
        raise InvalidArgumentError(f"The method {method!r} was not evaluated. {closest(method, known)}")
    chosen = known if method is None else [method]
    frame = _shares(result, measure)
    width = 1.2 + 0.16 * (1 + 2 * len(chosen)) * max(4, frame["metric"].nunique())
    return _draw(frame, chosen, measure, fitted_axes(min(14.0, width), 3.6) if ax is None else ax)


def page(result: EditEvaluation, path: str | Path, *, neurons: Any = None, title: str | None = None) -> Path:
    """Write an evaluation of edits as one HTML file that opens offline and needs nothing else.

    Args:
        result: An evaluation.
        path: The file to write.
        neurons: Not for edits, whose page is about facts.
        title: Heading of the page.

    Raises:
        InvalidArgumentError: If ``neurons`` are given.
        WriteError: If the file cannot be written.
    """
    if neurons is not None:
        raise InvalidArgumentError("The page of an evaluation of edits is about facts; leave neurons= out.")
    methods, problems = _methods(result), result.problems
    values = {
        "title": title or f"Edits of {result.manifest.model.get('name', 'a model')}",
        "subtitle": _subtitle(result, methods),
        "cards": _cards(result),
        "measures": [_measure(result, methods, measure) for measure in _MEASURES],
        "metrics": _METRICS,
        "text": _text(result, methods),
        "prompts": [_prompts(result, method) for method in methods],
        "problems": [
            {
                "fact": str(row["fact"]) or "(all together)",
                "what": _what(str(row["method"]), str(row["control"]), row["seed"]),
                "problem": str(row["problem"]),
            }
            for row in problems.sort_values("number").head(_PROBLEMS).to_dict("records")
        ],
        "problem_count": len(problems),
        "more": max(0, len(problems) - _PROBLEMS),
    }
    return write(path, "edit.html.j2", values)


def _methods(result: EditEvaluation) -> list[str]:
    """Return the methods in the order in which they were given."""
    return [str(method) for method in result.manifest.action["parameters"]["methods"]]


def _subtitle(result: EditEvaluation, methods: list[str]) -> str:
    parameters = result.manifest.action["parameters"]
    facts = result.tables["edit_prompts"]["fact"].nunique()
    controls = int(parameters["controls"])
    random = (
        f"{controls} random {'edit' if controls == 1 else 'edits'} of the same size"
        if controls
        else "no control"
    )
    together = ", all facts in one edit" if parameters["together"] else ""
    return (
        f"{count(facts)} {'fact' if facts == 1 else 'facts'}, {count(len(methods))} "
        f"{'method' if len(methods) == 1 else 'methods'}, each beside {random}{together}"
    )


def _cards(result: EditEvaluation) -> list[Card]:
    data, parameters = result.manifest.data, result.manifest.action["parameters"]
    model, _, run = cards(result.manifest)
    facts = [
        ("Name", str(data.get("name", ""))),
        ("Facts", count(int(data.get("facts", 0)))),
        ("Relations", count(len(data.get("relations", {})))),
        ("Lines left out", count(int(data.get("skipped", 0)))),
        ("Plain text", str((parameters["corpus"] or {}).get("name", "none"))),
        ("Fingerprint", str(data.get("fingerprint", ""))[:12]),
    ]
    return [model, Card("Facts", facts), run]


def _shares(result: EditEvaluation, measure: str) -> pd.DataFrame:
    frame = result.tables["edit_summary"]
    return frame[(frame["measure"] == measure) & frame["metric"].isin(list(_METRICS))]


def _bars(methods: list[str]) -> list[tuple[str, str, str, str, float]]:
    """Return the bars of each group: method, control, name in the legend, colour, opacity."""
    bars = [("none", "none", "no edit", MUTED, 1.0)]
    if len(methods) == 1:
        return [
            *bars,
            (methods[0], "edit", methods[0], WARM, 1.0),
            (methods[0], "random", "random", ACCENT, 1.0),
        ]
    for place, method in enumerate(methods):
        colour = _COLOURS[place % len(_COLOURS)]
        bars += [(method, "edit", method, colour, 1.0), (method, "random", f"{method}, random", colour, 0.4)]
    return bars


def _draw(frame: pd.DataFrame, methods: list[str], measure: str, ax: Axes) -> Axes:
    metrics = [metric for metric in _METRICS if metric in set(frame["metric"])]
    groups = {key: rows.set_index("metric") for key, rows in frame.groupby(["method", "control"], sort=False)}
    bars = [bar for bar in _bars(methods) if bar[:2] in groups]
    width = 0.84 / max(1, len(bars))
    for place, (method, control, name, colour, opacity) in enumerate(bars):
        rows = groups[method, control].reindex(metrics)
        value = rows["value"].to_numpy(np.float64)
        margin = np.nan_to_num(np.abs(rows[["low", "high"]].to_numpy(np.float64).T - value))
        at = np.arange(len(metrics)) + (place - (len(bars) - 1) / 2) * width
        ax.bar(at, value, 0.92 * width, color=colour, alpha=opacity, label=name)
        ax.errorbar(at, value, yerr=margin, fmt="none", ecolor=INK, elinewidth=0.9, capsize=2)
    ax.set_xticks(
        np.arange(len(metrics)),
        [_METRICS[metric] for metric in metrics],
        rotation=30,
        ha="right",
        rotation_mode="anchor",
    )
    ax.set_xlim(-0.6, max(1, len(metrics)) - 0.4)
    ax.set_ylim(0, 1.02)
    ax.set_ylabel(_MEASURES[measure])
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    clean(ax)
    ax.grid(axis="y", color=RULE, linewidth=0.5)
    if bars:
        ax.legend(
            frameon=False,
            ncols=min(len(bars), 5),
            loc="lower right",
            bbox_to_anchor=(1.0, 1.0),
            borderaxespad=0.1,
            fontsize=8,
        )
    return ax


def _measure(result: EditEvaluation, methods: list[str], measure: str) -> dict[str, Any]:
    """Return the table and the figures of success by one measure."""
    frame = _shares(result, measure)
    metrics = [metric for metric in _METRICS if metric in set(frame["metric"])]
    figures = []
    for method in methods:
        if not len(frame[frame["method"] == method]):
            continue
        with styled(salt=f"{measure} {method}"):
            ax = _draw(frame, [method], measure, new_axes(4.6, 2.9, left=0.65, bottom=0.75, top=0.3))
            label = f"{_MEASURES[measure]}, {method} beside a random edit and no edit, for each metric"
            figures.append((method, svg(ax.figure.get_figure(root=True), label=label)))
    cells = {
        (row["method"], row["control"], row["metric"]): _with_interval(row, _percent)
        for row in frame.to_dict("records")
    }
    rows = [
        {**heads, "cells": [cells.get((*key, metric), Markup("–")) for metric in metrics]}
        for key, heads in _rows(methods)
        if any((*key, metric) in cells for metric in metrics)
    ]
    return {"name": _MEASURES[measure], "metrics": metrics, "figures": figures, "rows": rows}


def _text(result: EditEvaluation, methods: list[str]) -> list[dict[str, Any]]:
    """Return the rows about plain text: one a method and control."""
    frame = result.tables["edit_summary"]
    known = {
        (row["method"], row["control"], row["metric"]): row
        for row in frame[frame["measure"] == "text"].to_dict("records")
    }
    return [
        {
            **heads,
            "cells": [_with_interval(known[*key, metric], _figure) for metric in _TEXT],
            "patches": "–" if key[0] == "none" else count(int(known[*key, "nll"]["facts"])),
            "tokens": count(int(known[*key, "nll"]["n"])),
        }
        for key, heads in _rows(methods)
        if (*key, "nll") in known
    ]


def _rows(methods: list[str]) -> list[tuple[tuple[str, str], dict[str, Any]]]:
    """Return the rows of every table, in order: their key, and what stands at their head."""
    keys = [("none", "none"), *((method, control) for method in methods for control in ("edit", "random"))]
    return [
        (
            key,
            {
                "method": "–" if key[0] == "none" else key[0],
                "control": _CONTROLS[key[1]],
                "edit": key[1] == "edit",
            },
        )
        for key in keys
    ]


def _prompts(result: EditEvaluation, method: str) -> dict[str, Any]:
    """Return the first prompts of one method's edits, before and after, fact by fact."""
    frame = result.tables["edit_prompts"]
    mine = frame[(frame["method"] == method) & (frame["control"] == "edit")]
    order = {probe: place for place, probe in enumerate(_PROBES)}
    shown = (
        mine.assign(order=mine["probe"].map(order)).sort_values(["fact", "order", "number"]).head(_PROMPTS)
    )
    rows = [
        {
            "fact": str(row["fact"]),
            "probe": _PROBES.get(str(row["probe"]), str(row["probe"])),
            "prompt": str(row["prompt"]),
            "top": (_token(row["top_before"]), _token(row["top"])),
            "answer": str(row["answer"]),
            "p": _before_after(row["log_p_answer_before"], row["log_p_answer"]),
            "other": str(row["other"]),
            "p_other": _before_after(row["log_p_other_before"], row["log_p_other"]) if row["other"] else "",
            "success": bool(row["success"]),
        }
        for row in shown.to_dict("records")
    ]
    return {"method": method, "rows": rows, "all": len(mine), "facts": int(mine["fact"].nunique())}


def _token(token: object) -> str:
    return token_text(str(token).strip(" ") or str(token))


def _before_after(before: float, after: float) -> str:
    return " → ".join(number(float(np.exp(value)), 2) for value in (before, after))


def _what(method: str, control: str, seed: Any) -> str:
    """Return what was being done when something went wrong."""
    if method == "none":
        return "asking"
    return method if control != "random" else f"{method}, random, seed {seed}"


def _with_interval(row: dict[Any, Any], shown: Any) -> Markup:
    """Return a figure, and its interval in small letters where there is one."""
    text = Markup("{}").format(shown(row["value"]))
    if np.isfinite(row["low"]) and np.isfinite(row["high"]):
        text += Markup(" <small>[{}, {}]</small>").format(shown(row["low"]), shown(row["high"]))
    return text


def _percent(value: float) -> str:
    return f"{100 * value:.0f}\u00a0%"


def _figure(value: float) -> str:
    return number(float(value), 4)
