"""The verdict of an audit in words, computed from its figures."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from neuronwise.intervals import side_of
from neuronwise.train._audit_plan import NONE
from neuronwise.train.decorrelation import Decorrelation
from neuronwise.train.method import Method
from neuronwise.train.monoscore import MonoScoreReward
from neuronwise.train.penalties import Penalty
from neuronwise.train.replacement import Replacement
from neuronwise.train.selectivity import ClassSelectivity
from neuronwise.train.solu import SoLU

__all__ = ["aim_of", "condition_of", "verdicts_of"]

Row = Mapping[Hashable, Any]

_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "phi_above_9": "the held-out share of phi above 9",
        "phi_top": "the held-out mean of the top 1 % of phi",
        "phi_peak": "the largest held-out phi",
        "sample_peak": "the mean over samples of the largest phi",
        "kurtosis": "the held-out kurtosis",
    }
)


def aim_of(method: Method) -> str:
    """Return what a method is meant to do to monosemanticity: "lower" it, "raise" it, or "" where that is not said."""
    sign = 0.0
    if isinstance(method, Replacement):
        sign = -1.0
    elif isinstance(method, Penalty):
        sign = -np.sign(method.strength)
    elif isinstance(method, ClassSelectivity):
        sign = np.sign(method.alpha)
    elif isinstance(method, Decorrelation | MonoScoreReward):
        sign = np.sign(method.strength)
    elif isinstance(method, SoLU):
        sign = 1.0
    return "lower" if sign < 0 else "raise" if sign > 0 else ""


def verdicts_of(
    figures: pd.DataFrame,
    aims: Mapping[str, str],
    *,
    by: str,
    metric: str,
    less_is_better: Sequence[str],
    seeds: int,
) -> pd.DataFrame:
    """Return one verdict for every inhibitor, with the sentence that says why.

    An effect is *shown* where the 95 % interval of the paired difference to training without an inhibitor leaves out 0.
    It is *as meant* where it has the direction that the inhibitor claims, and the interval of the paired difference to
    its random control leaves out 0 in that direction too.

    Args:
        figures: The table ``audit_figures``.
        aims: What each inhibitor is meant to do.
        by: The measure that decides.
        metric: The task's figure that is told.
        less_is_better: Names of the task's figures of which less is better.
        seeds: How many seeds were asked for.
    """
    rows = {
        (row["inhibitor"], row["control"], row["versus"], row["kind"], row["name"], row["basis"]): row
        for row in figures.to_dict("records")
    }

    def cell(
        inhibitor: str, kind: str, name: str, basis: str = "", *, control: bool = False, versus: str = "none"
    ) -> Row | None:
        return rows.get((inhibitor, control, versus, kind, name, basis))

    made = []
    for inhibitor, aim in aims.items():
        main = cell(inhibitor, "measure", by, "neuron")
        beside = cell(inhibitor, "measure", by, "neuron", versus="random")
        verdict = _verdict(main, beside, aim, seeds)
        parts = [_effect(inhibitor, main, verdict, by, aim)]
        if verdict not in ("diverged",):
            parts += [
                _control(cell(inhibitor, "measure", by, "neuron", control=True), beside),
                _bases(cell(inhibitor, "measure", by, "rotated"), cell(inhibitor, "measure", by, "pca")),
                _units(cell(inhibitor, "units", "live")),
            ]
        parts += [
            _task(cell(inhibitor, "task", metric), metric, metric in less_is_better),
            _step(cell(inhibitor, "one_step_start", "falls"), cell(inhibitor, "one_step_end", "falls")),
            _cost(cell(inhibitor, "cost", "cpu")),
        ]
        sentence = " ".join(part for part in parts if part)
        made.append(
            {"inhibitor": inhibitor, "aim": aim, "measure": by, "verdict": verdict, "sentence": sentence}
        )
    return pd.DataFrame(made, columns=["inhibitor", "aim", "measure", "verdict", "sentence"])


def condition_of(figures: pd.DataFrame) -> str:
    """Return in words how often the lemma's sign condition holds; empty where that was not looked at."""
    own = figures[(figures["name"] == "sign_condition") & (figures["inhibitor"] == NONE)]
    shares = dict(zip(own["kind"], own["value"], strict=True))
    if not shares:
        return ""
    start, end = (f"{100 * shares[f'one_step_{stage}']:.0f} %" for stage in ("start", "end"))
    return (
        "The sign condition, on which the argument for Reversed Deactivation rests, holds for "
        f"{start} of the highest entries before training and for {end} after training without an inhibitor."
    )


def _shown(row: Row | None) -> int:
    """Return the sign of a difference whose interval leaves out 0, else 0."""
    return 0 if row is None else side_of(row["low"], row["high"])


def _verdict(main: Row | None, beside: Row | None, aim: str, seeds: int) -> str:
    if main is None or main["n"] < min(2, seeds):
        return "diverged"
    if main["n"] < 2:
        return "too few seeds"
    sign = _shown(main)
    if sign == 0:
        return "no effect shown"
    if not aim:
        return "lowers" if sign < 0 else "raises"
    if sign != (-1 if aim == "lower" else 1):
        return "the opposite"
    return "as meant" if beside is None or _shown(beside) == sign else "as at random"


def _effect(inhibitor: str, main: Row | None, verdict: str, by: str, aim: str) -> str:
    what = _NAMES.get(by, f"the held-out {by.replace('_', ' ')}")
    if verdict == "diverged" or main is None:
        return f"{inhibitor}: training diverged, or nothing could be measured of {what}."
    values = f"{_number(main['value'])} against {_number(main['reference'])} without it"
    if verdict == "too few seeds":
        return f"{inhibitor}: {what} is {values}, with one seed, which says nothing of the spread."
    if verdict == "no effect shown":
        return f"{inhibitor}: no effect shown on {what} ({_change(main)}; {values})."
    verb = "lowers" if main["difference"] < 0 else "raises"
    meant = {
        "as meant": ", as it is meant to",
        "the opposite": f", though it is meant to {aim} it",
    }.get(verdict, "")
    return f"{inhibitor} {verb} {what} by {_size(main)} ({values}){meant}."


def _control(row: Row | None, beside: Row | None) -> str:
    if row is None:
        return ""
    told = f"Its random control changes it by {_change(row)}"
    if beside is None or not np.isfinite(beside["low"]):
        return f"{told}."
    more = "differs from that" if _shown(beside) else "is not shown to differ from that"
    return f"{told}, and the effect {more}."


def _bases(rotated: Row | None, pca: Row | None) -> str:
    told = [
        f"{_change(row)} {where}"
        for row, where in ((rotated, "in a random rotation"), (pca, "along principal components"))
        if row is not None and np.isfinite(row["relative"])
    ]
    return f"In other bases: {', '.join(told)}." if told else ""


def _units(row: Row | None) -> str:
    if row is None or not _shown(row):
        return ""
    verb = "fewer" if row["difference"] < 0 else "more"
    return f"It leaves {verb} units alive: {100 * row['value']:.0f} % against {100 * row['reference']:.0f} %."


def _task(row: Row | None, metric: str, less: bool) -> str:
    if row is None:
        return ""
    sign = _shown(row)
    word = "no difference shown"
    if sign:
        word = "better" if (sign < 0) == less else "worse"
    interval = (
        "" if not np.isfinite(row["low"]) else f" [{_number(row['low'])}, {_number(row['high'])}], {word}"
    )
    told = f"{metric[:1].upper()}{metric[1:]} {_number(row['value'])} against {_number(row['reference'])}"
    return f"{told} (paired {_signed(row['difference'])}{interval})."


def _step(start: Row | None, end: Row | None) -> str:
    told = [
        f"{100 * row['value']:.0f} % {when} ({100 * row['reference']:.0f} % without it)"
        for row, when in ((start, "before training"), (end, "after it"))
        if row is not None and np.isfinite(row["value"])
    ]
    return f"In one step the highest phi falls for {' and '.join(told)}." if told else ""


def _cost(row: Row | None) -> str:
    return "" if row is None else f"A step takes {row['value']:.2f} times the processor time."


def _size(row: Row) -> str:
    ends = sorted((abs(row["relative_low"]), abs(row["relative_high"])))
    if not np.isfinite(row["relative"]):
        return f"{_number(abs(row['difference']))}"
    return f"{_percent(abs(row['relative']))} % [{_percent(ends[0])}, {_percent(ends[1])}]"


def _change(row: Row) -> str:
    if not np.isfinite(row["relative"]):
        return _signed(row["difference"])
    told = f"{_percent(row['relative'], sign=True)} %"
    if not np.isfinite(row["relative_low"]):
        return told
    return f"{told} [{_percent(row['relative_low'])}, {_percent(row['relative_high'])}]"


def _percent(share: float, *, sign: bool = False) -> str:
    value = 100 * share
    digits = 0 if abs(value) >= 10 else 1
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    return "0" if float(text) == 0 else text


def _number(value: float) -> str:
    return f"{value:.4g}"


def _signed(value: float) -> str:
    return f"{value:+.2g}" if value else "0"
