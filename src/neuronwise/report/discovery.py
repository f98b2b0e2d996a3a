"""What a discovery looks like: the formula, how sure one can be of it, and what it makes of each input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from neuronwise.discover import Discovery
from neuronwise.errors import InvalidArgumentError, closest
from neuronwise.formula import Formula
from neuronwise.report._figures import fitted_axes
from neuronwise.report._found import (
    data_card,
    draw_confidence,
    draw_curve,
    found,
    measured_by,
    shade,
    term_curves,
)
from neuronwise.report._page import Card, cards, write
from neuronwise.report._words import count, number

__all__ = ["page", "plot"]

_FORMULAS = 20
_INPUTS = 30
_OUTPUTS = 6


def plot(result: Discovery, ax: Axes | None = None, *, name: str | None = None) -> Axes:
    """Draw how sure one can be of each base function, or what the formula makes of an input.

    Args:
        result: A discovery.
        ax: Axes to draw on; default: those of a new figure, ``ax.figure``.
        name: An input: draw the curve sum_k w_ki phi_k(z) of this one. Default: confidence in the base functions; where
            it was not measured, the curve of the input that varies most.

    Returns:
        The axes.

    Raises:
        InvalidArgumentError: If there is no such input, or there is nothing to draw.
    """
    if name is not None and name not in result.inputs:
        raise InvalidArgumentError(f"There is no input {name!r}. {closest(name, result.inputs)}")
    if name is None and measured_by(result):
        tall = 1.0 + 0.2 * min(40, len(result.confidence))
        return draw_confidence(result, fitted_axes(5.4, tall) if ax is None else ax)
    curves = term_curves(result)
    if not curves.order and curves.others:
        raise InvalidArgumentError(
            "Confidence was not measured, and no term of the formula is a sum over inputs, which would have a curve. "
            "Search with confidence='stability'."
        )
    which = result.inputs.index(name) if name is not None else (*curves.order, 0)[0]
    return draw_curve(result, curves, which, fitted_axes(5, 3.2) if ax is None else ax)


def page(result: Discovery, path: str | Path, *, neurons: Any = None, title: str | None = None) -> Path:
    """Write a discovery as one HTML file that opens offline and needs nothing else.

    Args:
        result: A discovery.
        path: The file to write.
        neurons: Not for a discovery, which is about a formula.
        title: Heading of the page.

    Returns:
        The path.

    Raises:
        InvalidArgumentError: If ``neurons`` are given.
        WriteError: If the file cannot be written.
    """
    if neurons is not None:
        raise InvalidArgumentError("The page of a discovery is about a formula; leave neurons= out.")
    values = {
        "title": title or "The formula that was found",
        "subtitle": _subtitle(result),
        "cards": _cards(result),
        "found": found(result),
        "alternatives": _alternatives(result),
        "weights": _weights(result),
        "dropped": result.dropped,
    }
    return write(path, "discovery.html.j2", values)


def _subtitle(result: Discovery) -> str:
    figures = result.figures
    terms = len(result.terms)
    what = f"{count(terms)} {'term' if terms == 1 else 'terms'}" if terms else "A constant instead"
    return (
        f"{what} of {count(len(result.inputs))} "
        f"{'input' if len(result.inputs) == 1 else 'inputs'}, found on {count(int(figures['rows_search']))} rows, "
        f"measured on {count(int(figures['rows_held_out']))} others"
    )


def _cards(result: Discovery) -> list[Card]:
    settings = result.manifest.action["parameters"]
    scaling = result.scaling
    search = [
        ("Method", str(settings["method"]["name"])),
        ("Task", result.task),
        ("Base functions", count(len(settings["bases"]))),
        ("Inputs", "as they are" if scaling.raw else "standardised"),
        ("Held out", f"{100 * float(settings.get('held_out', 0.0)):g}\u00a0%"),
        ("Confidence", str(settings.get("confidence", "none"))),
        ("Seconds", number(float(result.figures["seconds"]), 2)),
    ]
    return [data_card(result.manifest), Card("Search", search), cards(result.manifest)[2]]


def _alternatives(result: Discovery) -> dict[str, Any]:
    """Return the formulas that the search cannot tell from the best, and how many others it has seen."""
    table = result.tables["formulas"].sort_values("rank")
    within = table[table["within_margin"]]
    rows = [
        {
            "terms": str(row["terms"]).replace("; ", " + ") or "a constant",
            "best": row["rank"] == 0,
            "delta": number(float(row["delta"]), 3),
            "complexity": count(int(row["complexity"])),
            "explained": number(float(row["explained"]), 4),
            "held_out": number(float(row["held_out"]), 4),
        }
        for row in within.head(_FORMULAS).to_dict("records")
    ]
    return {
        "rows": rows,
        "more": max(0, len(within) - _FORMULAS),
        "beyond": len(table) - len(within),
        "margin": number(float(result.manifest.action["parameters"]["margin"]), 3),
    }


def _weights(result: Discovery) -> dict[str, Any] | None:
    """Return the maps of weights, inputs by terms, one an output, each term in colours of its own scale."""
    columns = [_columns(result, output) for output in range(len(result.outputs))]
    if not any(columns):
        return None
    labels = result.tables["formula_outputs"].set_index(["rank", "output"])["label"]
    curved = term_curves(result).order
    order = [*curved, *sorted(set(range(len(result.inputs))) - set(curved))][:_INPUTS]
    scaling, maps = result.scaling, []
    for output, own in enumerate(columns[:_OUTPUTS]):
        largest = [float(np.abs(weights).max()) or 1.0 for _, _, weights in own]
        rows = [
            {
                "name": result.inputs[one],
                "scale": (number(float(scaling.centre[one]), 3), number(float(scaling.scale[one]), 3)),
                "cells": [
                    (number(float(weights[one]), 3), shade(float(weights[one]) / most))
                    for (_, _, weights), most in zip(own, largest, strict=True)
                ],
            }
            for one in order
        ]
        heads = [(head, share) for head, share, _ in own]
        maps.append({"label": str(labels[(0, output)]), "heads": heads, "rows": rows})
    return {
        "maps": maps,
        "raw": scaling.raw,
        "left_out": max(0, len(result.inputs) - _INPUTS),
        "outputs_left_out": max(0, len(columns) - _OUTPUTS),
    }


def _columns(result: Discovery, output: int) -> list[tuple[str, str, NDArray[np.float64]]]:
    """Return the weight vectors of an output's terms: what each belongs to, the term's share, and one weight an input.

    A term that is a product has a vector for each of its factors.
    """
    formula = result.outputs[output]
    table = result.tables["formula_terms"]
    table = table[(table["rank"] == 0) & (table["output"] == output)].sort_values("term")
    columns = []
    for term, row in zip(formula.terms, table.to_dict("records"), strict=True):
        share = _percent(float(row["share"]))
        for name in Formula(term.node, inputs=formula.inputs, functions=formula.functions).parameters:
            weights = np.asarray(formula.weights[name], np.float64)
            if weights.ndim != 1:
                continue
            alone = term.kind == "elementwise"
            head = str(row["base"] or row["expression"]) if alone else f"{name} in {row['expression']}"
            columns.append((head, share, term.coefficient * weights if alone else weights))
    return columns


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\u00a0%".replace("-", "−") if np.isfinite(share) else "–"
