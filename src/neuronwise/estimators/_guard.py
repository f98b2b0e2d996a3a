"""The guard: whether the task neuron is worth it here, judged on rows that neither network has seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import KFold, StratifiedKFold

from neuronwise.estimators._fitting import Fitted, Plan, Prepared, fit_networks, prepare, split_rows
from neuronwise.estimators._inputs import Table
from neuronwise.estimators._neuron import Neuron
from neuronwise.intervals import resampled_interval

__all__ = ["Guard", "judge"]

FOLDS = 5
# Networks of each kind in a fold; their mean loss is compared, so that chance in training does not hide a gain.
REPEATS = 3
LEVEL = 0.05
# With fewer rows than this a fold has too few held-out rows to say anything.
FEWEST = 40


@dataclass(frozen=True, eq=False)
class Guard:
    """What was compared before the neuron was chosen.

    Args:
        kept: Which network was kept.
        reason: Why, in a sentence with the figures.
        folds: One row for each fold: fold, rows held out, formula found without them, mean loss on them of the linear
            networks and of the task networks (mean squared error in units of the training part's variance, or log
            loss), gain (linear less task), and for classes the error rates. None where nothing had to be compared.
        gain: Mean gain; above 0 the task neuron is better.
        low: Lower end of its interval.
        high: Upper end.
        p_value: Probability of such a gain or a larger one if there were none.
        level: The p-value below which the task neuron is kept; the interval has a coverage of 1 - 2 level.
    """

    kept: Literal["linear", "task"]
    reason: str
    folds: pd.DataFrame | None = None
    gain: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    p_value: float = float("nan")
    level: float = LEVEL

    def __str__(self) -> str:
        return f"{self.kept} neurons kept: {self.reason}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        fields = ("kept", "reason", "gain", "low", "high", "p_value", "level")
        folds = None if self.folds is None else self.folds.to_dict(orient="list")
        return {name: getattr(self, name) for name in fields} | {"folds": folds}

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> Guard:
        """Return what :meth:`to_dict` wrote down."""
        folds = saved["folds"]
        return cls(**(saved | {"folds": None if folds is None else pd.DataFrame(folds)}))


def judge(
    table: Table, choose: Callable[[Table, Prepared], Neuron], plan: Plan, *, fraction: float, seed: int
) -> Guard:
    """Compare task and linear neurons in five folds, the search included, and decide.

    In every fold the formula is searched and networks of both kinds are trained, three of each from the same seeds,
    without the held-out fifth; their own validation parts are taken from the rest. The gain is tested with the
    corrected resampled t-test (Nadeau and Bengio 2003, Machine Learning 52:239, section 3), whose variance allows
    for training parts that overlap: the folds are not independent, and a plain t-test would find a gain where there is
    none. For classes the error rate must not rise either.

    Args:
        table: The rows.
        choose: Finds the neuron on the training part of a split.
        plan: Structure and training.
        fraction: Share of the validation parts.
        seed: Of everything with chance in it.
    """
    n = len(table.X)
    if n < FEWEST:
        return Guard("linear", f"{n} rows are too few to judge by; it takes {FEWEST}.")
    runs = FOLDS * REPEATS
    first, *numbers = (int(number) for number in np.random.SeedSequence(seed).generate_state(2 * runs + 1))
    seeds, split_seeds = numbers[:runs], numbers[runs:]
    parts = _folds(table, first)
    prepared = [
        prepare(
            table,
            split_rows(table.target, parts[run % FOLDS][0], fraction, split_seeds[run]),
            plan.scale,
            plan.clip,
        )
        for run in range(runs)
    ]
    neurons = [choose(table, each) for each in prepared[:FOLDS]] * REPEATS
    linear = fit_networks(table, prepared, [Neuron.linear()] * runs, plan, seeds)
    differs = [run for run in range(runs) if not neurons[run].is_linear]
    if not differs:
        return Guard("linear", "the search found no term beyond the linear neuron in any of the folds.")
    task = list(linear)
    trained = fit_networks(
        table,
        [prepared[number] for number in differs],
        [neurons[number] for number in differs],
        plan,
        [seeds[number] for number in differs],
    )
    for number, fitted in zip(differs, trained, strict=True):
        task[number] = fitted
    folds = _compare(table, [held for _, held in parts], linear, task, neurons)
    return _decide(folds, table.classes)


def _folds(table: Table, seed: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    stratified = table.classes and np.unique(table.target, return_counts=True)[1].min() >= FOLDS
    splitter = (StratifiedKFold if stratified else KFold)(FOLDS, shuffle=True, random_state=seed)
    return list(splitter.split(table.X, table.target))


def _compare(
    table: Table,
    held_out: list[NDArray[np.int64]],
    linear: list[Fitted],
    task: list[Fitted],
    neurons: list[Neuron],
) -> pd.DataFrame:
    rows = []
    for number, held in enumerate(held_out):
        weight = table.weight[held]
        pair = {"linear": linear[number::FOLDS], "task": task[number::FOLDS]}
        row: dict[str, Any] = {"fold": number, "rows": len(held), "formula": neurons[number].text}
        row |= {
            name: float(np.mean([np.average(one.losses(table, held), weights=weight) for one in runs]))
            for name, runs in pair.items()
        }
        row["gain"] = row["linear"] - row["task"]
        if table.classes:
            row |= {
                f"{name}_error": float(
                    np.mean([np.average(one.errors(table, held), weights=weight) for one in runs])
                )
                for name, runs in pair.items()
            }
        rows.append(row)
    return pd.DataFrame(rows)


def _decide(folds: pd.DataFrame, classes: bool) -> Guard:
    gains = folds["gain"].to_numpy(np.float64)
    count = len(gains)
    # The rows of a fold by those of its training part are 1 / (count - 1).
    mean, low, high, p_value = resampled_interval(gains, 1 / (count - 1), level=1 - 2 * LEVEL, above=True)
    better = p_value < LEVEL
    measure = "log loss" if classes else "mean squared error"
    task, linear = folds["task"].mean(), folds["linear"].mean()
    figures = (
        f"the {measure} on held-out rows is {task:.4g} with task neurons and {linear:.4g} with linear ones "
        f"(gain {mean:.3g}, {1 - 2 * LEVEL:.0%} interval {low:.3g} to {high:.3g}, p {p_value:.2g})"
    )
    if not better:
        figures += ", which is within chance" if mean > 0 else ", which is no gain"
    elif classes and folds["task_error"].mean() > folds["linear_error"].mean():
        better = False
        errors = folds["task_error"].mean(), folds["linear_error"].mean()
        figures += f", but {errors[0]:.3g} of the rows are put into a wrong class against {errors[1]:.3g}"
    return Guard("task" if better else "linear", f"{figures}.", folds, mean, low, high, p_value)
