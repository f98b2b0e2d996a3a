"""A found formula in a page: how it is written, how sure it is, and what it makes of each input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from neuronwise.discover import Discovery
from neuronwise.errors import InvalidArgumentError
from neuronwise.formula import Formula
from neuronwise.report._figures import ACCENT, INK, RULE, WARM, clean, new_axes, room_for, styled, svg
from neuronwise.report._page import Card
from neuronwise.report._words import count, number
from neuronwise.store import Manifest

__all__ = [
    "Curves",
    "across",
    "data_card",
    "draw_confidence",
    "draw_curve",
    "found",
    "measured_by",
    "shade",
    "shortened",
    "term_curves",
    "with_interval",
]

Floats = NDArray[np.float64]

_INPUTS = 9
_OUTPUTS = 6
_BASES = 40
_WRITTEN_OUT = 12  # terms of a formula that is shown with its numbers, at most
_POINTS = 161
# One colour an output; the page's own two come first.
_COLOURS = (ACCENT, WARM, "#3a7d44", "#7b4fa3", "#a67c00", "#00808a")
_PARTS = {
    "regression": "Part of the value",
    "classification": "Part of the logit",
    "count": "Part of the log count",
}


@dataclass(frozen=True, eq=False)
class Curves:
    """What a formula makes of each input: the sum over base functions phi_k of ``w_ki phi_k(z)``.

    Args:
        values: ``(output, input, place)``; NaN where a base function is not defined.
        places: The scaled inputs z over the range of each on the rows of the search, ``(input, place)``.
        order: Inputs by how much their curves vary, most first; those without influence are left out.
        others: Terms that are no sums over inputs, and have no curve.
    """

    values: Floats
    places: Floats
    order: tuple[int, ...]
    others: tuple[str, ...]


def data_card(manifest: Manifest) -> Card:
    """Return what the manifest says about a table of data."""
    data = manifest.data
    facts = [
        ("Name", str(data.get("name", ""))),
        ("Rows", count(int(data.get("examples", 0)))),
        ("Inputs", count(len(data.get("inputs", ())))),
        ("Target", str(data.get("target") or "")),
        ("Classes", count(len(data["classes"])) if data.get("classes") else ""),
        ("Rows left out", count(int(data["dropped_rows"])) if data.get("dropped_rows") else ""),
        ("Fingerprint", str(data.get("fingerprint", ""))[:12]),
    ]
    return Card("Data", [fact for fact in facts if fact[1]])


def with_interval(value: float, low: float, high: float, digits: int = 3) -> str:
    """Return a value with its interval, where it has one."""
    text = number(float(value), digits)
    if np.isfinite(low) and np.isfinite(high):
        text += f" [{number(float(low), digits)}, {number(float(high), digits)}]"
    return text


def shade(share: float) -> str:
    """Return the style of a cell of a map: the stronger the larger its share of the largest, warm above 0."""
    if not np.isfinite(share) or share == 0:
        return ""
    return f"background: rgba(var(--{'up' if share > 0 else 'down'}), {0.6 * min(abs(share), 1.0):.2f})"


def shortened(name: str, length: int) -> str:
    """Return a name that is no longer than that."""
    return name if len(name) <= length else f"{name[: length - 1]}…"


def across(ax: Axes) -> Axes:
    """Leave only the grid along values that go to the right."""
    clean(ax)
    ax.grid(visible=False)
    ax.grid(axis="x", color=RULE, linewidth=0.5)
    return ax


def measured_by(result: Discovery) -> str:
    """Return the column that says how sure one is of a base function; empty where nothing does."""
    columns = result.confidence.columns
    return next((name for name in ("frequency", "statistic") if name in columns), "")


def draw_confidence(result: Discovery, ax: Axes) -> Axes:
    """Draw how sure one can be of each base function; those of the formula are warm, the best on top."""
    frame, by = _sure(result), measured_by(result)
    rows = frame.iloc[::-1]
    spots = np.arange(len(rows))
    value = rows[by].to_numpy(np.float64)
    warm = rows["selected"].to_numpy(bool)
    for which, colour, name in ((warm, WARM, "in the formula"), (~warm, ACCENT, "not in it")):
        if not which.any():
            continue
        if by == "frequency":
            ends = rows[["low", "high"]].to_numpy(np.float64)[which]
            margin = np.nan_to_num(np.abs(ends.T - value[which]))
            style: dict[str, Any] = {"fmt": "o", "markersize": 4.5, "elinewidth": 1.2, "capsize": 2.5}
            ax.errorbar(value[which], spots[which], xerr=margin, color=colour, label=name, **style)
        else:
            ax.barh(spots[which], value[which], color=colour, height=0.7, label=name)
    if by == "frequency":
        ax.set_xlim(-0.03, 1.03)
        ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        ax.set_xlabel("How often found on halves of the rows")
    else:
        ax.axvline(0, color=INK, linewidth=0.8)
        if len(value) and np.abs(value).max() > 50:
            ax.set_xscale("symlog", linthresh=1.0)
            ax.xaxis.set_major_formatter(FuncFormatter(lambda at, _: number(at, 1) if at else "0"))
        ax.set_xlabel("By how much it beats its decoys")
    ax.set_yticks(spots, [shortened(str(base), 28) for base in rows["base"]])
    ax.set_ylim(-0.6, max(1, len(rows)) - 0.4)
    if warm.any() and not warm.all():
        place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "borderaxespad": 0.1}
        ax.legend(frameon=False, ncols=2, fontsize=8, **place)
    return across(ax)


def term_curves(result: Discovery) -> Curves:
    """Return what the best formula makes of each input."""
    places = result.scaling.apply(_along(result)).T
    values = np.zeros((len(result.outputs), len(result.inputs), _POINTS))
    others: dict[str, None] = {}
    for output, formula in enumerate(result.outputs):
        for term in formula.terms:
            if term.kind == "constant":
                continue
            if term.kind != "elementwise" or term.base is None:
                others[str(Formula(term.node, inputs=formula.inputs, functions=formula.functions))] = None
                continue
            weight = term.coefficient * np.asarray(formula.weights[term.weight] if term.weight else 1.0)
            with np.errstate(all="ignore"):
                phi = term.base(places)
            phi = np.where(np.isfinite(phi), phi, np.nan)
            values[output] += np.broadcast_to(weight, (len(result.inputs),))[:, None] * phi
    shown = np.where(np.isfinite(values).any(-1, keepdims=True), values, 0.0)
    spread = np.sqrt((np.nanstd(shown, axis=-1) ** 2).sum(0))
    # Rounded, so that inputs with the same curve stay in the order of the table.
    relative = np.round(spread / (spread.max() or 1.0), 6)
    order = tuple(int(one) for one in np.argsort(-relative, kind="stable") if relative[one] > 0)
    return Curves(values, places, order, tuple(others))


def draw_curve(
    result: Discovery, curves: Curves, which: int, ax: Axes, *, labels: Sequence[str] | None = None
) -> Axes:
    """Draw the curve of one input, one line an output, over the input as it was given."""
    labels = _labels(result) if labels is None else labels
    along = _along(result)[:, which]
    ax.axhline(0, color=INK, linewidth=0.6)
    for output, label in enumerate(labels[:_OUTPUTS]):
        line = curves.values[output, which]
        ax.plot(along, line, color=_COLOURS[output], linewidth=1.6, label=shortened(label, 14))
    ax.set_xlabel(shortened(result.inputs[which], 40))
    ax.set_ylabel(_PARTS[result.task])
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.yaxis.set_major_locator(MaxNLocator(5))
    clean(ax)
    if len(labels) > 1:
        place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.1}
        ax.legend(frameon=False, ncols=3, fontsize=7, handlelength=1.2, columnspacing=1.0, **place)
    return ax


def found(result: Discovery, *, labels: Sequence[str] = ()) -> dict[str, Any]:
    """Return what the part of a page about a found formula shows, for the template ``_found.html.j2``.

    Args:
        result: A discovery.
        labels: Names of the outputs; default: those that the search has seen.
    """
    by = measured_by(result)
    names = list(labels) if len(labels) == len(result.outputs) > 1 else _labels(result)
    return {
        "formulas": _written(result, names),
        "raw": result.scaling.raw,
        "clip": "" if result.scaling.clip is None else number(result.scaling.clip, 3),
        "figures": _figures(result),
        "notes": result.notes,
        "confidence": _confidence(result) if by else None,
        "curves": _curves(result, names),
    }


def _along(result: Discovery) -> Floats:
    """Return raw inputs over the range that the search has seen, as far as they are not clipped, ``(place, input)``."""
    scaling = result.scaling
    low, high = result.ranges.T
    if scaling.clip is not None:
        room = scaling.clip * scaling.scale
        low, high = np.maximum(low, scaling.centre - room), np.minimum(high, scaling.centre + room)
    return np.linspace(low, high, _POINTS)


def _labels(result: Discovery) -> list[str]:
    table = result.tables["formula_outputs"]
    own = table[table["rank"] == 0].sort_values("output")
    return [str(label) or f"output {number}" for number, label in enumerate(own["label"])]


def _sure(result: Discovery) -> pd.DataFrame:
    by = measured_by(result)
    if not by:
        raise InvalidArgumentError(
            "How sure one can be of the base functions was not measured. Search with confidence='stability'."
        )
    return result.confidence.dropna(subset=[by]).head(_BASES)


def _written(result: Discovery, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return the formula as mathematics, LaTeX and text: its form, and with its numbers where these are few."""
    outputs = result.outputs
    shown = (
        [("", result.formula)] if len(outputs) == 1 else [("Form, the same for all outputs", result.formula)]
    )
    terms = sum(term.kind != "constant" for term in outputs[0].terms)
    small = 0 < terms * len(result.inputs) <= _WRITTEN_OUT
    if small and len(outputs) <= _OUTPUTS:
        named = [f"With its numbers, {label}" for label in labels]
        shown += [
            ("With its numbers" if len(outputs) == 1 else name, formula.expanded(result.inputs))
            for name, formula in zip(named, outputs, strict=True)
        ]
    return [
        {
            "name": name,
            "html": _mathematics(formula, named=name.startswith("With")),
            "latex": formula.latex(4),
            "text": str(formula.rounded(6)),
        }
        for name, formula in shown
    ]


def _mathematics(formula: Formula, *, named: bool) -> Markup:
    """Return a formula as MathML; with a dot between numbers and names, which would else read as one word."""
    text = formula.html(4)
    return Markup(text.replace("&#x2062;", "&#x22C5;") if named else text)


def _figures(result: Discovery) -> list[dict[str, str]]:
    """Return the figures of held-out rows, the formula beside the linear one and beside the constant."""
    known = result.figures
    names = {
        "r2": "Variance explained (R²)",
        "deviance_explained": "Deviance explained",
        "rmse": "Root mean squared error",
        "accuracy": "Share of right classes",
    }
    rows = []
    for name, words in names.items():
        if name not in known:
            continue
        gain = "gain_over_linear" if f"{name}_linear" in known else ""
        others = {"linear": f"{name}_linear", "difference": gain, "constant": f"{name}_constant"}
        cells = {key: _figure(result, other) if other in known else "–" for key, other in others.items()}
        if name in ("r2", "deviance_explained"):
            cells["constant"] = "0"
        rows.append({"name": words, "formula": _figure(result, name), **cells})
    return rows


def _figure(result: Discovery, name: str) -> str:
    return with_interval(result.figures[name], *result.interval(name))


def _confidence(result: Discovery) -> dict[str, Any]:
    by, frame = measured_by(result), _sure(result)
    names = [shortened(str(base), 28) for base in frame["base"]]
    with styled(salt="confidence"):
        ax = new_axes(4.2, 0.8 + 0.19 * max(2, len(frame)), left=room_for(names), top=0.28)
        what = (
            "How often each base function is found" if by == "frequency" else "Base functions beside decoys"
        )
        figure = _svg(draw_confidence(result, ax), what)
    rows = []
    for row in result.confidence.head(_BASES).to_dict("records"):
        stands = str(row.get("represented_by") or "")
        rows.append(
            {
                "base": row["base"],
                "selected": bool(row["selected"]),
                "value": with_interval(row[by], row.get("low", np.nan), row.get("high", np.nan)),
                "q": number(float(row.get("q", np.nan)), 2),
                "discovered": "" if pd.isna(row.get("discovered")) else _yes(bool(row["discovered"])),
                "stands": stands if stands != row["base"] else "itself",
            }
        )
    settings = result.manifest.action["parameters"]
    return {
        "by": by,
        "figure": figure,
        "rows": rows,
        "resamples": settings.get("resamples"),
        "fdr": settings.get("fdr"),
        "more": max(0, len(result.confidence) - _BASES),
    }


def _yes(true: bool) -> str:
    return "yes" if true else "no"


def _curves(result: Discovery, labels: Sequence[str]) -> dict[str, Any]:
    curves = term_curves(result)
    shown = curves.order[:_INPUTS]
    outputs = min(len(result.outputs), _OUTPUTS)
    top = 0.08 if len(result.outputs) == 1 else 0.12 + 0.16 * -(-outputs // 3)
    ends = _ends(curves.values[:, list(shown)])
    figures = []
    for which in shown:
        with styled(salt=f"curve {which}"):
            ax = draw_curve(
                result, curves, which, new_axes(3.2, 1.9 + top, left=0.62, top=top), labels=labels
            )
            ax.set_ylim(*ends)
            label = f"What the formula makes of {result.inputs[which]} over its range"
            figures.append(_svg(ax, label))
    return {
        "figures": figures,
        "left_out": [result.inputs[one] for one in curves.order[_INPUTS:]],
        "without": len(result.inputs) - len(curves.order) if curves.order else 0,
        "others": curves.others,
        "outputs_left_out": max(0, len(result.outputs) - _OUTPUTS),
    }


def _ends(values: Floats) -> tuple[float, float]:
    """Return ends of the axis that all curves share."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return -1.0, 1.0
    low, high = min(float(finite.min()), 0.0), max(float(finite.max()), 0.0)
    room = 0.06 * (high - low or 1.0)
    return low - room, high + room


def _svg(ax: Axes, label: str) -> Markup:
    return svg(ax.figure.get_figure(root=True), label=label)
