"""What an audit looks like: the verdicts, what every inhibitor did over whole runs and in one step, and its price."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from neuronwise.errors import InvalidArgumentError, closest
from neuronwise.intervals import side_of
from neuronwise.report._figures import (
    ACCENT,
    INK,
    MUTED,
    WARM,
    clean,
    fitted_axes,
    new_axes,
    room_for,
    styled,
    svg,
)
from neuronwise.report._found import across, shade, with_interval
from neuronwise.report._page import Card, cards, write
from neuronwise.report._words import count, number
from neuronwise.train import Audit

__all__ = ["page", "plot"]

_BASES = {"neuron": "neurons", "rotated": "random rotation", "pca": "principal components"}
#: Measures whose curves are shown, beside the one that decides, where they were taken.
_CURVES = ("phi_top", "kurtosis", "class_selectivity")
_STRONG = 0.5  # relative change at which a cell's colour is strongest


def plot(result: Audit, ax: Axes | None = None, *, measure: str | None = None) -> Axes:
    """Draw the relative change of a measure by each inhibitor and its random control, with 95 % intervals.

    Args:
        result: An audit.
        ax: Axes to draw on; default: those of a new figure, ``ax.figure``.
        measure: Which measure; default: the one that decides the verdicts.

    Returns:
        The axes.

    Raises:
        InvalidArgumentError: If it was not taken.
    """
    wanted = result.by if measure is None else measure
    figures = result.tables["audit_figures"]
    known = list(figures.loc[figures["kind"] == "measure", "name"].unique())
    if wanted not in known:
        raise InvalidArgumentError(f"There is no measure {wanted!r} here. {closest(wanted, known)}")
    return _forest(result, wanted, fitted_axes(6, 1.2 + 0.4 * len(result.inhibitors)) if ax is None else ax)


def page(result: Audit, path: str | Path, *, neurons: Any = None, title: str | None = None) -> Path:
    """Write an audit as one HTML file that opens offline and needs nothing else.

    Args:
        result: An audit.
        path: The file to write.
        neurons: Not for an audit, which is about inhibitors.
        title: Heading of the page.

    Returns:
        The path.

    Raises:
        InvalidArgumentError: If ``neurons`` are given.
        WriteError: If the file cannot be written.
    """
    if neurons is not None:
        raise InvalidArgumentError("The page of an audit is about inhibitors; leave neurons= out.")
    parameters = result.manifest.action["parameters"]
    seeds = len(parameters["seeds"])
    names = len(result.inhibitors)
    values = {
        "title": title or f"Audit of inhibitors on {result.manifest.model.get('name', 'a model')}",
        "subtitle": f"{count(names)} {'inhibitor' if names == 1 else 'inhibitors'}, {count(seeds)} "
        f"{'seed' if seeds == 1 else 'seeds'}, {count(int(parameters['steps']))} training steps each",
        "cards": _cards(result),
        "verdicts": result.tables["verdicts"].to_dict("records"),
        "condition": result.condition,
        "by": result.by,
        "forest": _forest_figure(result),
        "curves": _curves(result),
        "inhibitors": list(result.inhibitors),
        "measures": _changes(result, "measure", "neuron"),
        "bases": _of_bases(result),
        "units": _changes(result, "units", ""),
        "task": _differences(result),
        "steps": _steps(result),
        "costs": _costs(result),
        "without": dict(parameters.get("without_control", {})),
        "rate": number(float(parameters["one_step_rate"]), 2),
    }
    return write(path, "audit.html.j2", values)


def _cards(result: Audit) -> list[Card]:
    settings, data = result.manifest.action["parameters"], result.manifest.data
    model, _, made = cards(result.manifest)
    known = [
        ("Examples to train on", count(int(data["train"]))),
        ("Held out", count(int(data["held_out"]))),
        ("Fingerprint", str(data["fingerprint"])[:12]),
    ]
    run = [
        ("Seeds", ", ".join(map(str, settings["seeds"]))),
        ("Steps", count(int(settings["steps"]))),
        ("Batch size", count(int(settings["batch_size"]))),
        ("Optimiser", str(settings["optimizer"])),
        ("Unit", str(settings["unit"])),
        ("Warm-up", count(int(settings["start"]))),
    ]
    return [model, Card("Data", known), Card("Training", run), made]


def _forest(result: Audit, measure: str, ax: Axes) -> Axes:
    figures = result.tables["audit_figures"]
    own = figures[
        (figures["kind"] == "measure")
        & (figures["name"] == measure)
        & (figures["basis"] == "neuron")
        & (figures["versus"] == "none")
    ]
    places = {name: len(result.inhibitors) - 1 - spot for spot, name in enumerate(result.inhibitors)}
    ax.axvline(0, color=INK, linewidth=0.8)
    for control, colour, label, shift in (
        (False, ACCENT, "inhibitor", 0.12),
        (True, MUTED, "random control", -0.16),
    ):
        rows = own[own["control"] == control]
        if not len(rows):
            continue
        value = 100 * rows["relative"].to_numpy(np.float64)
        ends = 100 * rows[["relative_low", "relative_high"]].to_numpy(np.float64).T
        margin = np.nan_to_num(np.abs(ends - value))
        spots = [places[name] + shift for name in rows["inhibitor"]]
        ax.errorbar(value, spots, xerr=margin, fmt="o", color=colour, markersize=5, capsize=3, label=label)
    ax.set_yticks(list(places.values()), list(places))
    ax.set_ylim(-0.6, max(1, len(places)) - 0.4)
    ax.set_xlabel(f"{measure.replace('_', ' ')}: change against no inhibitor, %")
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.legend(
        frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.1, fontsize=8
    )
    return across(ax)


def _forest_figure(result: Audit) -> Markup:
    with styled(salt="forest"):
        ax = new_axes(5.4, 0.85 + 0.38 * len(result.inhibitors), left=room_for(result.inhibitors), top=0.28)
        _forest(result, result.by, ax)
        return svg(ax.figure.get_figure(root=True), label=f"Change of {result.by} by each inhibitor")


def _curves(result: Audit) -> list[tuple[str, list[tuple[str, Markup]]]]:
    """Return for each figure one panel an inhibitor: its curve and its control's, beside no inhibitor."""
    frame = result.tables["audit_curves"]
    shown = [("measure", name) for name in dict.fromkeys([result.by, *_CURVES])]
    shown += [("task", name) for name in dict.fromkeys([result.metric, "loss"])]
    found = []
    for kind, name in shown:
        own = frame[(frame["kind"] == kind) & (frame["name"] == name)]
        if own["value"].notna().any():
            panels = [(one, _panel(own, one, name)) for one in result.inhibitors]
            found.append((name.replace("_", " "), panels))
    return found


def _panel(own: pd.DataFrame, inhibitor: str, name: str) -> Markup:
    bands = {
        key: part.groupby("step")["value"].agg(["mean", "std"])
        for key, part in own.groupby(["inhibitor", "control"], sort=False)
    }
    # One axis for all panels of a figure, by the means: the band of one that diverged must not decide.
    means = np.concatenate([band["mean"].to_numpy() for band in bands.values()])
    means = means[np.isfinite(means)]
    room = 0.08 * (means.max() - means.min() or abs(means.max()) or 1.0)
    with styled(salt=f"curve {name} {inhibitor}"):
        ax = new_axes(3.4, 2.1, left=0.62)
        for key, colour, style, label in (
            (("none", False), MUTED, "-", "none"),
            ((inhibitor, True), WARM, (0, (3, 2)), "random"),
            ((inhibitor, False), ACCENT, "-", inhibitor),
        ):
            if key not in bands:
                continue
            band = bands[key]
            spread = band["std"].fillna(0.0)
            ax.fill_between(
                band.index,
                band["mean"] - spread,
                band["mean"] + spread,
                color=colour,
                alpha=0.16,
                linewidth=0,
            )
            ax.plot(band.index, band["mean"], color=colour, linestyle=style, linewidth=1.6, label=label)
        ax.set_ylim(means.min() - room, means.max() + room)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        ax.yaxis.set_major_locator(MaxNLocator(5))
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.set_xlabel("Training steps")
        ax.legend(frameon=False, fontsize=7.5, loc="best")
        clean(ax)
        return svg(ax.figure.get_figure(root=True), label=f"{name} while training with {inhibitor}")


def _rows(result: Audit, kind: str, basis: str, versus: str = "none") -> pd.DataFrame:
    figures = result.tables["audit_figures"]
    return figures[
        (figures["kind"] == kind) & (figures["basis"] == basis) & (figures["versus"] == versus)
    ].sort_values("control", kind="stable")


def _changes(result: Audit, kind: str, basis: str) -> list[dict[str, Any]]:
    """Return one row a figure: its value without an inhibitor, and the relative change by each and its control."""
    frame = _rows(result, kind, basis)
    rows = []
    for name, part in frame.groupby("name", sort=False):
        cells = {(row["inhibitor"], row["control"]): row for row in part.to_dict("records")}
        rows.append(
            {
                "name": str(name).replace("_", " "),
                "chosen": name == result.by,
                "reference": number(float(part["reference"].iloc[0]), 3),
                "cells": [
                    (_change(cells.get((one, False))), _change(cells.get((one, True))))
                    for one in result.inhibitors
                ],
            }
        )
    return rows


def _of_bases(result: Audit) -> list[dict[str, Any]]:
    rows = []
    for basis, label in _BASES.items():
        part = _rows(result, "measure", basis)
        part = part[(part["name"] == result.by) & ~part["control"].astype(bool)]
        if len(part):
            cells = {row["inhibitor"]: row for row in part.to_dict("records")}
            rows.append(
                {
                    "name": label,
                    "reference": number(float(part["reference"].iloc[0]), 3),
                    "cells": [_change(cells.get(one)) for one in result.inhibitors],
                }
            )
    return rows if len(rows) > 1 else []


def _change(row: Any) -> tuple[str, str]:
    """Return a cell: the relative change in per cent with its interval, and its style, coloured where it is shown."""
    if row is None or not np.isfinite(row["relative"]):
        return "–", ""
    text = f"{number(100 * row['relative'], 2)} %"
    if not np.isfinite(row["low"]):
        return text, ""
    text += f" [{number(100 * row['relative_low'], 2)}, {number(100 * row['relative_high'], 2)}]"
    return text, shade(row["relative"] / _STRONG) if side_of(row["low"], row["high"]) else ""


def _differences(result: Audit) -> list[dict[str, Any]]:
    frame = _rows(result, "task", "")
    names = list(frame["name"].unique())
    rows = []
    for (inhibitor, control), part in frame.groupby(["inhibitor", "control"], sort=False):
        cells = {row["name"]: row for row in part.to_dict("records")}
        rows.append(
            {
                "label": f"{inhibitor}, random" if control else inhibitor,
                "cells": [_difference(cells[name]) for name in names],
            }
        )
    order = {name: spot for spot, name in enumerate(result.inhibitors)}
    return sorted(rows, key=lambda row: order[str(row["label"]).removesuffix(", random")])


def _difference(row: Any) -> tuple[str, str, str]:
    """Return a figure's name, its value and its difference to training without an inhibitor."""
    told = with_interval(row["difference"], row["low"], row["high"], 2)
    return str(row["name"]), number(float(row["value"]), 4), told


def _steps(result: Audit) -> list[dict[str, Any]]:
    """Return what one step did, for no inhibitor, each of them and its control."""
    figures = result.tables["audit_figures"]
    own = figures[figures["kind"].isin(["one_step_start", "one_step_end"]) & (figures["versus"] != "random")]
    values = {
        (row["inhibitor"], row["control"], row["kind"], row["name"]): float(row["value"])
        for row in own.to_dict("records")
    }
    keys = [("none", False)] + [(one, control) for one in result.inhibitors for control in (False, True)]
    rows = []
    for inhibitor, control in keys:
        cells = [
            values.get((inhibitor, control, f"one_step_{stage}", name), np.nan)
            for stage in ("start", "end")
            for name in ("falls", "below_plain", "relative_fall")
        ]
        if np.isfinite(cells).any():
            rows.append({"label": f"{inhibitor}, random" if control else inhibitor, "cells": _told(cells)})
    return rows


def _told(cells: list[float]) -> list[str]:
    return [
        "–" if not np.isfinite(value) else number(value, 2) if spot % 3 == 2 else f"{100 * value:.0f} %"
        for spot, value in enumerate(cells)
    ]


def _costs(result: Audit) -> list[dict[str, str]]:
    frame = _rows(result, "cost", "")
    values = {
        (row["inhibitor"], row["name"]): float(row["value"])
        for row in frame[~frame["control"].astype(bool)].to_dict("records")
    }
    return [
        {"inhibitor": one, "cpu": f"{values[one, 'cpu']:.2f}", "wall": f"{values[one, 'wall']:.2f}"}
        for one in result.inhibitors
        if (one, "cpu") in values
    ]
