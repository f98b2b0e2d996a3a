"""How sure one can be of a term: how often it is found on halves of the data, and whether it beats its own decoys."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuronwise.discover._knockoffs import Maker, decoy_e_values, e_bh, whitened, wins
from neuronwise.discover.method import Method, settings_of
from neuronwise.discover.problem import SearchProblem
from neuronwise.engine import Block, blocks_of, map_reduce
from neuronwise.errors import InvalidArgumentError
from neuronwise.formula import Base

__all__ = ["check_rate", "check_resamples", "knockoff_filter", "stability_selection"]

_POWER = re.compile(r"x(\*\*\d+)?")


# ---------------------------------------------------------------------------------------------------------------------
# Stability selection


def stability_selection(
    problem: SearchProblem,
    method: Method,
    *,
    resamples: int = 50,
    engine: str = "local",
    workers: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Return how often each term is part of the best formula when half the rows are searched.

    Complementary pairs (Shah and Samworth 2013, J. R. Stat. Soc. B 75:55): the rows are split at random into two
    halves, both are searched, and this is repeated. Unlike a bootstrap no row comes twice, which would make a criterion
    that counts rows too lenient. Classes keep their shares in both halves. Half the rows find less than all: a
    frequency is a cautious figure, and a weak but true term may be far below 1.

    Args:
        problem: What to search.
        method: The search; run once a half.
        resamples: How many halves; an even number.
        engine: ``"local"``, ``"processes"`` or ``"ray"``; the result is the same.
        workers: Number of workers.
        seed: Seed of the splits and of the searches.

    Returns:
        One row a term, the most frequent first; every base function of the problem has a row, also where it was never
        selected. Columns: ``base`` (text of the term), ``frequency``, and its 95 % interval (Wilson) ``low``, ``high``.
        The interval is that of the frequency if more halves of these data were drawn, not of other data.

    Raises:
        InvalidArgumentError: If ``resamples`` is not a positive even number, or the engine is unknown.
        DataError: If half the rows cannot be searched.
    """
    from scipy.stats import binomtest

    check_resamples(resamples)
    job = _Halves(problem, method, seed)
    counts = map_reduce(job, blocks_of(resamples, 1), engine=engine, workers=workers)
    names = [*map(str, problem.bases), *sorted(set(counts) - set(map(str, problem.bases)))]
    rows = []
    for name in names:
        found = counts.get(name, 0)
        interval = binomtest(found, resamples).proportion_ci(method="wilson")
        rows.append((name, found / resamples, float(interval.low), float(interval.high)))
    frame = pd.DataFrame(rows, columns=["base", "frequency", "low", "high"])
    return frame.sort_values("frequency", ascending=False, kind="stable", ignore_index=True)


def check_resamples(resamples: int) -> None:
    """Refuse a number of halves that cannot be had; a search asks before it starts."""
    if resamples < 2 or resamples % 2:
        raise InvalidArgumentError(
            f"resamples must be a positive even number (complementary halves), not {resamples}."
        )


def check_rate(fdr: float) -> None:
    """Refuse a false discovery rate that is none."""
    if not 0 < fdr < 1:
        raise InvalidArgumentError(f"fdr must be between 0 and 1, not {fdr}.")


@dataclass(frozen=True)
class _Halves:
    """Searches halves of the rows and counts the terms of the best formulas; a state is ``{term: count}``."""

    problem: SearchProblem
    method: Method
    seed: int

    def start(self) -> dict[str, int]:
        return {}

    def run(self, state: dict[str, int], block: Block) -> bool:
        for number in range(block[1], block[2]):
            part = self.problem.take(self._rows(number)).with_seed(self.seed + number)
            for term in set(self.method.search(part)[0].terms):
                state[term] = state.get(term, 0) + 1
        return True

    def _rows(self, number: int) -> NDArray[np.int64]:
        """Return the rows of one half: numbers 2 i and 2 i + 1 are complementary."""
        pair, side = divmod(number, 2)
        rng = np.random.default_rng([self.seed, pair])
        labels = self.problem.y if self.problem.task == "classification" else np.zeros(self.problem.n)
        half = []
        for count, label in enumerate(np.unique(labels)):
            rows = rng.permutation(np.flatnonzero(labels == label))
            # Of an odd number the first half gets one more; in turns, so that both halves stay of one size.
            middle = (len(rows) + (count + 1) % 2) // 2
            half.append(rows[:middle] if side == 0 else rows[middle:])
        return np.sort(np.concatenate(half))

    def merge(self, state: dict[str, int], other: dict[str, int]) -> None:
        for term, count in other.items():
            state[term] = state.get(term, 0) + count

    def dump(self, state: dict[str, int]) -> dict[str, Tensor]:
        return {"counts": torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)}

    def restore(self, tensors: Mapping[str, Tensor]) -> dict[str, int]:
        state: dict[str, int] = json.loads(bytes(tensors["counts"].tolist()))
        return state

    def fingerprint(self) -> str:
        text = json.dumps([settings_of(self.method), list(map(str, self.problem.bases)), self.seed])
        digest = hashlib.sha256(text.encode())
        for array in (self.problem.X, self.problem.y):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


# ---------------------------------------------------------------------------------------------------------------------
# Knockoffs


def knockoff_filter(
    problem: SearchProblem,
    *,
    fdr: float = 0.1,
    per_input: bool = False,
    first: Sequence[Base] = (),
    distinct: float = 0.1,
    repeats: int = 20,
    copies: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Return which base functions are part of the target, with a false discovery rate.

    Each base function is a group of ``d`` columns, and its hypothesis is that all its weights are 0 in the linear model
    of all groups. Every group gets decoys (fixed-X knockoffs: Barber and Candès 2015, Ann. Stat. 43:2055; of groups:
    Dai and Barber 2016) with the same products among each other and with all other groups, but without an effect; a
    group counts where it beats its decoys. Three things are added so that it is of use here:

    - *Representatives.* ``x``, ``sin(x)`` and ``tanh(x)`` can hardly be told apart, and then no method has power.
      Base functions are taken in one after the other - those in ``first``, then plain powers, then the simplest - if
      those taken already leave at least ``distinct`` of them unexplained. The others are represented: the row of the
      nearest base function that was taken stands for them. This looks at inputs only, so the rate stays valid.
    - *Several decoys of each* (Gimenez and Zou 2019; Emery and Keich 2019). With one decoy a rate of 0.1 cannot be
      shown with less than 10 discoveries; with M decoys ``1 / (M fdr)`` are enough. M is ``2 / fdr``, or as many as the
      rows allow: ``n`` must be above ``(M + 1) K d``. The column ``needed`` says how many are needed at least.
    - *Repeats.* Decoys are random. The e-values of several runs, each at half the level, are averaged, and the e-BH
      rule selects (Ren and Barber 2024, J. R. Stat. Soc. B 86:122), which keeps the rate.

    The rate is exact in finite samples if the target is a weighted sum of the groups plus Gaussian noise of one
    variance, whatever the distribution of the inputs. It is approximate if the target is something else (then it speaks
    of the best such sum), and for classes and counts, where the groups are weighted as in the fitted logistic (one
    class against the others) or Poisson model. Model-X knockoffs would not do: given ``x``, ``x**2`` is not random.

    Args:
        problem: The rows and base functions. Terms found on these same rows must not be given as ``first``.
        fdr: False discovery rate: the expected share of false ones among the selected, between 0 and 1.
        per_input: Test every base function of every input by itself: K d hypotheses instead of K.
        first: Base functions of the problem that shall stand for themselves before any other, such as those that a
            search on other rows has found.
        distinct: Share of a group that the groups before must leave unexplained.
        repeats: Runs with other decoys.
        copies: Decoys of each group, M.
        seed: Seed of the decoys.

    Returns:
        One row a base function (and input), in the order of the problem. Columns: ``base``, ``input`` (if
        ``per_input``), ``represented_by`` (its own text, or that of the base function that stands for it),
        ``statistic`` (by how much it beats the median of its decoys, or is beaten: negative; in units of the noise,
        mean of the runs; NaN if represented), ``e_value``, ``q`` (the smallest level at which it would be selected; NaN
        if represented), ``selected``, ``needed``.

    Raises:
        InvalidArgumentError: If an argument is out of its range.
        DataError: If there are fewer than about two rows a column.

    Example:
        >>> from neuronwise.discover import make_problem
        >>> rng = np.random.default_rng(0)
        >>> X = rng.uniform(-1, 1, (400, 3))
        >>> y = (X**2) @ [1, -2, 1] + 0.2 * rng.standard_normal(400)
        >>> found = knockoff_filter(make_problem(X, y, bases="x, x**2, sin(x)"))
        >>> found[["base", "represented_by", "selected"]].values.tolist()
        [['x', 'x', False], ['x**2', 'x**2', True], ['sin(x)', 'x', False]]
    """
    _check(problem, fdr, first, distinct, repeats, copies)
    if problem.weight is not None and not problem.weight.all():
        problem = problem.take(problem.weight > 0)
    units = _units(problem, first, per_input)
    row = problem.row_weight
    columns = [base(problem.X[:, inputs]) for base, inputs in units]
    standing = _representatives([whitened([group], row).columns for group in columns], distinct)
    taken = sorted(set(standing))
    groups = [columns[at] for at in taken]
    if copies is None:
        room = (problem.n - 2) // sum(group.shape[1] for group in groups) - 1
        copies = max(1, min(round(2 / fdr), room))
    rng = np.random.default_rng(seed)
    values, margins = np.zeros(len(taken)), np.zeros(len(taken))
    targets = _working(problem, groups, row)
    for weights, target in targets:
        maker = Maker(whitened(groups, weights), copies)
        for _ in range(repeats):
            won, margin = wins(maker.make(target, rng))
            values += decoy_e_values(won, margin, copies, fdr / 2 if repeats > 1 else fdr)
            margins += np.where(won == 0, margin, -margin)
    runs = repeats * len(targets)
    tested = {at: number for number, at in enumerate(taken)}
    return _frame(problem, units, standing, tested, (margins / runs, values / runs), fdr, copies, per_input)


def _check(
    problem: SearchProblem,
    fdr: float,
    first: Sequence[Base],
    distinct: float,
    repeats: int,
    copies: int | None,
) -> None:
    check_rate(fdr)
    if not 0 < distinct < 1:
        raise InvalidArgumentError(f"distinct must be between 0 and 1, not {distinct}.")
    if repeats < 1 or (copies is not None and copies < 1):
        raise InvalidArgumentError(f"repeats and copies must be at least 1, not {repeats} and {copies}.")
    if unknown := [str(base) for base in first if base not in problem.bases]:
        raise InvalidArgumentError(f"first names base functions that the problem does not have: {unknown}.")


def _units(
    problem: SearchProblem, first: Sequence[Base], per_input: bool
) -> list[tuple[Base, NDArray[np.int64]]]:
    """Return what is tested - base functions, each with inputs - in the order in which they are taken in."""
    rest = [base for base in problem.bases if base not in first]
    rest.sort(key=lambda base: _POWER.fullmatch(str(base)) is None)
    # An input that does not vary has no effect to test.
    inputs = np.flatnonzero(np.ptp(problem.X, axis=0) > 0)
    parts = [inputs[at : at + 1] for at in range(len(inputs))] if per_input else [inputs]
    return [(base, part) for base in [*first, *rest] for part in parts]


def _representatives(groups: Sequence[NDArray[np.float64]], distinct: float) -> list[int]:
    """Return for each group the number of the group that stands for it: itself, or the nearest of those before.

    Args:
        groups: Orthonormal columns of each group.
        distinct: Smallest share of a group (and a third of it in every direction) that must be left unexplained.
    """
    basis = np.zeros((len(groups[0]), 0))
    standing: list[int] = []
    for number, group in enumerate(groups):
        used = group[:, (group**2).sum(0) > 0.5]
        left = used - basis @ (basis.T @ used)
        shares, turn = np.linalg.eigh(left.T @ left)
        if len(shares) and shares.mean() >= distinct and shares.min() >= distinct / 3:
            standing.append(number)
            basis = np.hstack([basis, left @ (turn / np.sqrt(shares))])
            continue
        before = sorted(set(standing))
        nearest = max(before, key=lambda at: float(((groups[at].T @ group) ** 2).sum()), default=number)
        standing.append(nearest)
    return standing


def _working(
    problem: SearchProblem, groups: Sequence[NDArray[np.float64]], row: NDArray[np.float64]
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return least-squares problems that stand for the task: weights of the rows, and the weighted, centred target.

    Classes and counts: the working response and weights of a Newton step from a slightly shrunk fit (iteratively
    reweighted least squares; McCullagh and Nelder 1989, section 2.5).
    """
    if problem.task == "regression":
        return [(row, _centred(target, row)) for target in problem.targets.T]
    columns = np.sqrt(problem.n) * whitened(groups, row).columns / np.sqrt(row)[:, None]
    out = []
    for target in problem.targets.T:
        mean, slope = _fitted(problem.task, columns, target, row)
        weights = row * np.maximum(slope, 1e-6)
        link = np.log(mean) if problem.task == "count" else np.log(mean / (1 - mean))
        out.append((weights, _centred(link + (target - mean) / np.maximum(slope, 1e-6), weights)))
    return out


def _fitted(
    task: str, columns: NDArray[np.float64], target: NDArray[np.float64], row: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the fitted means and the slopes of the mean in the predictor."""
    from sklearn.linear_model import LogisticRegression, PoissonRegressor

    if task == "count":
        counts = PoissonRegressor(alpha=1e-3, max_iter=1000).fit(columns, target, sample_weight=row)
        mean = np.maximum(counts.predict(columns), 1e-8)
        return mean, mean
    classes = LogisticRegression(C=10.0, max_iter=1000).fit(columns, target, sample_weight=row)
    mean = np.clip(classes.predict_proba(columns)[:, 1], 1e-6, 1 - 1e-6)
    return mean, mean * (1 - mean)


def _centred(target: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    centred: NDArray[np.float64] = (target - np.average(target, weights=weights)) * np.sqrt(weights)
    return centred


def _frame(
    problem: SearchProblem,
    units: list[tuple[Base, NDArray[np.int64]]],
    standing: list[int],
    tested: Mapping[int, int],
    results: tuple[NDArray[np.float64], NDArray[np.float64]],
    fdr: float,
    copies: int,
    per_input: bool,
) -> pd.DataFrame:
    margins, values = results
    levels = e_bh(values)
    rows = []
    for number, (base, inputs) in enumerate(units):
        other, other_inputs = units[standing[number]]
        by = str(other) if not per_input else f"{other} of {problem.names[other_inputs[0]]}"
        at = tested.get(number)
        nothing = (np.nan, np.nan, np.nan, False)
        found = nothing if at is None else (margins[at], values[at], levels[at], bool(levels[at] <= fdr))
        place = (problem.bases.index(base), int(inputs[0]))
        rows.append((place, str(base), problem.names[inputs[0]], by, *found))
    rows.sort(key=lambda entry: entry[0])
    columns = ["base", "input", "represented_by", "statistic", "e_value", "q", "selected"]
    frame = pd.DataFrame([entry[1:] for entry in rows], columns=columns)
    # e-BH selects s hypotheses with e-values of at least K / (fdr s), and no e-value is above K M.
    frame["needed"] = int(np.ceil(1 / (copies * fdr) - 1e-9))
    return frame if per_input else frame.drop(columns=["input"])
