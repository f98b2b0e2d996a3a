"""One search problem: checked inputs in the range of the base functions, a target, and what may be searched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuronwise.discover._shift import shifted
from neuronwise.discover._table import Table, Task, read_table
from neuronwise.discover.scaling import Scale, Scaling, scaling_for
from neuronwise.errors import DataError, InvalidArgumentError
from neuronwise.formula import Base, bases, usable

__all__ = ["SearchProblem", "make_problem", "pose"]


@dataclass(frozen=True, eq=False)
class SearchProblem:
    """What a search method gets. Made by :func:`make_problem`.

    Args:
        X: Inputs, scaled and clipped, float64 ``(n, d)``.
        y: Regression: float64 ``(n,)``, or ``(n, m)`` with several outputs. Classification: codes into ``classes``,
            int64 ``(n,)``. Count: float64 ``(n,)``.
        task: ``"regression"``, ``"classification"`` or ``"count"``.
        names: Names of the inputs.
        bases: The base functions that may be used, all finite on ``X``.
        weight: Sample weights with mean 1, ``(n,)``, or None.
        seed: Seed of everything with chance in it.
        centre: What was taken off the raw inputs, ``(d,)``.
        scale: What they were divided by, ``(d,)``.
        clip: At which absolute value they were clipped then, or None.
        classes: Labels of the classes; empty where it is no classification.
        dropped: Base functions that cannot be used on these inputs, and why.
        notes: What was assumed, in sentences.
    """

    X: NDArray[np.float64]
    y: NDArray[Any]
    task: Task
    names: tuple[str, ...]
    bases: tuple[Base, ...]
    weight: NDArray[np.float64] | None = None
    seed: int = 0
    centre: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    scale: NDArray[np.float64] = field(default_factory=lambda: np.ones(0))
    clip: float | None = None
    classes: tuple[Any, ...] = ()
    dropped: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.X)

    @property
    def d(self) -> int:
        """Number of inputs."""
        return int(self.X.shape[1])

    @property
    def row_weight(self) -> NDArray[np.float64]:
        """How much each row counts, ``(n,)``: 1 where no weights were given."""
        return np.ones(self.n) if self.weight is None else self.weight

    @property
    def n_weighted(self) -> int:
        """Number of rows that count: those of weight 0 do not."""
        return int(np.count_nonzero(self.row_weight))

    @property
    def outputs(self) -> int:
        """Number of predictors that a term brings a coefficient for: 1; m; or C with more than two classes."""
        if self.task == "classification":
            return 1 if len(self.classes) == 2 else len(self.classes)
        return 1 if self.y.ndim == 1 else int(self.y.shape[1])

    @property
    def link(self) -> str:
        """How a predictor becomes a prediction: ``"identity"``, ``"logit"``, ``"softmax"`` or ``"log"``."""
        if self.task == "classification":
            return "logit" if len(self.classes) == 2 else "softmax"
        return "log" if self.task == "count" else "identity"

    @property
    def targets(self) -> NDArray[np.float64]:
        """The target as numbers, ``(n, outputs)``: classes as indicators (of the second class where there are two)."""
        if self.task != "classification":
            table = self.y.reshape(self.n, -1)
        elif len(self.classes) == 2:
            table = self.y[:, None] == 1
        else:
            table = self.y[:, None] == np.arange(len(self.classes))
        return np.asarray(table, dtype=np.float64)

    @property
    def response(self) -> NDArray[np.float64]:
        """Centred numbers to explain by least squares, ``(n, m)``.

        For regression the target less its mean. For classes and counts the residual of the model without terms,
        whitened: the sum of squares that a term explains of it is the score test of that term. For methods that know
        least squares only; labels never enter as numbers with an order.
        """
        targets = self.targets
        mean = np.average(targets, axis=0, weights=self.weight)
        residual = targets - mean
        if self.task == "regression":
            return residual
        if self.task == "count":
            return residual / np.sqrt(mean)
        if self.outputs == 1:
            return residual / np.sqrt(mean * (1 - mean))
        # Some rows, such as half of all, may lack a class: it has no residual, and nothing is asked of it.
        there = mean > 0
        mean, residual = mean[there], residual[:, there]
        covariance = np.diag(mean) - np.outer(mean, mean)
        # One class is given by the others: without the last one the covariance has an inverse.
        factor = np.linalg.cholesky(covariance[:-1, :-1])
        whitened: NDArray[np.float64] = np.linalg.solve(factor, residual[:, :-1].T).T
        return whitened

    @property
    def scaling(self) -> Scaling:
        """How raw inputs become ``X``."""
        return Scaling(self.centre, self.scale, self.clip)

    def take(self, rows: NDArray[Any]) -> SearchProblem:
        """Return the problem of some rows (indices, with repeats if wanted, or a mask), the rest unchanged.

        Raises:
            DataError: If the target is constant over them.
        """
        y = self.y[rows]
        if len(y) == 0 or (y == y[0]).all(0).any():
            raise DataError("The target is constant over these rows.")
        return replace(self, X=self.X[rows], y=y, weight=None if self.weight is None else self.weight[rows])

    def with_seed(self, seed: int) -> SearchProblem:
        """Return the same problem with another seed."""
        return replace(self, seed=seed)


def make_problem(
    X: Any,
    y: Any,
    *,
    bases: str | Sequence[str | Base] = "default",
    task: str = "auto",
    inputs: Sequence[str] | None = None,
    sample_weight: Any = None,
    scale: Scale = "auto",
    clip: float = 5.0,
    shift: bool = False,
    seed: int = 0,
) -> SearchProblem:
    """Check a table and a target and return the search problem.

    Args:
        X: Inputs: a DataFrame (names are kept), an array or a tensor, one row a sample.
        y: Target, one value a row (regression: or one column an output), or the name of a column of ``X``.
        bases: Base functions: a preset of :data:`neuronwise.formula.PRESETS`, a text such as ``"x, x**2, sin(x)"``, or
            several.
        task: ``"regression"``, ``"classification"``, ``"count"``; ``"auto"`` takes texts, booleans, and whole numbers
            0 .. C-1 for labels.
        inputs: Names of the columns.
        sample_weight: How much each row counts, ``(n,)``.
        scale: ``"auto"``: raw where every column lies in [-10, 10] with a standard deviation between 0.1 and 10 (later
            inputs are clipped at 1.5 times the largest of these), else standardised and clipped; or ``"none"``,
            ``"standard"``.
        clip: Standard deviations at which standardised inputs are clipped.
        shift: Move the argument of base functions that are undefined on the data (``log(x)`` of negative inputs) until
            they are defined, instead of leaving them out.
        seed: Seed of everything with chance in it.

    Raises:
        DataError: If table or target cannot be used; says where and what to do.
        InvalidArgumentError: If an argument is wrong, or no base function can be used.
        FormulaError: If a base function cannot be parsed.

    Example:
        >>> X = np.linspace(-1, 1, 40).reshape(20, 2)
        >>> problem = make_problem(X, X.sum(1), bases="x, log(x)")
        >>> [str(base) for base in problem.bases], list(problem.dropped)
        (['x'], ['log(x)'])
    """
    return pose(
        read_table(X, y, task=task, inputs=inputs, sample_weight=sample_weight),
        bases=bases,
        scale=scale,
        clip=clip,
        shift=shift,
        seed=seed,
    )


def pose(
    table: Table,
    *,
    bases: str | Sequence[str | Base],
    scale: Scale,
    clip: float,
    shift: bool,
    seed: int,
    rows: NDArray[Any] | None = None,
) -> SearchProblem:
    """Return the problem of a checked table; arguments as of :func:`make_problem`.

    Args:
        table: The table.
        bases: Base functions.
        scale: How to scale.
        clip: Where to clip.
        shift: Whether to move arguments.
        seed: Seed.
        rows: The rows whose mean and standard deviation count; default: all.
    """
    raw, names, notes = table.inputs, table.names, table.notes
    scaling = scaling_for(raw if rows is None else raw[rows], scale, clip)
    scaled = scaling.apply(raw)
    kept, dropped = usable_bases(bases, scaled, names, shift=shift)
    if not scaling.raw:
        notes += (f"Inputs were standardised and clipped at {scaling.clip:g} standard deviations.",)
    far = np.count_nonzero(np.abs(scaled) == scaling.clip, axis=0) if scaling.clip else np.zeros(len(names))
    if far.any():
        shown = ", ".join(f"{name} ({count})" for name, count in zip(names, far, strict=True) if count)
        notes += (f"Values far from the others, or beyond what the search has seen, were clipped: {shown}.",)
    constant = [name for name, spread in zip(names, np.ptp(raw, axis=0), strict=True) if spread == 0]
    if constant:
        notes += (f"Inputs that do not vary have weight 0: {', '.join(constant)}.",)
    if len(raw) <= raw.shape[1]:
        notes += (
            f"There are no more rows ({len(raw)}) than inputs ({raw.shape[1]}): only strong effects can be found.",
        )
    return SearchProblem(
        scaled,
        table.target,
        table.task,
        names,
        kept,
        weight=table.weight,
        seed=seed,
        centre=scaling.centre,
        scale=scaling.scale,
        clip=scaling.clip,
        classes=table.classes,
        dropped=MappingProxyType(dropped),
        notes=notes,
    )


def usable_bases(
    spec: str | Sequence[str | Base], X: NDArray[np.float64], names: tuple[str, ...], *, shift: bool = False
) -> tuple[tuple[Base, ...], dict[str, str]]:
    """Return the base functions that are finite on scaled inputs, simplest first, and why others are not used.

    Raises:
        InvalidArgumentError: If none is left.
    """
    wanted = bases(spec)
    if shift:
        wanted = tuple(dict.fromkeys(shifted(base, X) for base in wanted))
    kept, reasons = usable(wanted, X, names)
    dropped = {str(base): reason for base, reason in reasons.items()}
    if not kept:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(dropped.items())[:3])
        raise InvalidArgumentError(
            f"No base function can be used on these inputs ({why}). Try scale='standard'."
        )
    return tuple(sorted(kept, key=lambda base: (base.complexity, base.growth, str(base)))), dropped
