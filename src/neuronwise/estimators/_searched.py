"""What the estimators share that have a formula, or base functions, and no network."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuronwise.errors import InvalidArgumentError
from neuronwise.estimators._columns import Column, base_columns, columns_of
from neuronwise.estimators._neuron import Found, check_formula, search
from neuronwise.formula import Base, Formula, bases

__all__ = ["check_clip", "columns_for", "given_columns", "scaled_design"]


def check_clip(clip: Any) -> float:
    """Return the clip.

    Raises:
        InvalidArgumentError: If it is no number above 1.
    """
    if not isinstance(clip, Real) or not 1 < float(clip) < np.inf:
        raise InvalidArgumentError(f"clip must be a number of standard deviations above 1, not {clip!r}.")
    return float(clip)


def columns_for(
    formula: Any,
    X: NDArray[np.float64],
    target: NDArray[Any],
    weight: NDArray[np.float64] | None,
    *,
    method: Any,
    bases: Any,
    names: Sequence[str],
    seed: int,
) -> tuple[tuple[Column, ...], Found | None]:
    """Return the columns of a model and what the search found, if there was one.

    Args:
        formula: ``"auto"`` to search, or what :func:`given_columns` takes.
        X: Scaled inputs (n, d).
        target: Numbers (n,) or (n, outputs), or codes of classes, int64 (n,).
        weight: Of each row, or None.
        method: Of the search.
        bases: Base functions of the search.
        names: Names of the inputs.
        seed: Of everything with chance in it.
    """
    if not (isinstance(formula, str) and formula == "auto"):
        check_formula(formula)
        return given_columns(formula, names), None
    found = search(X, target, weight, method=method, bases=bases, names=names, seed=seed)
    return columns_of(found.formula), found


def given_columns(formula: Any, names: Sequence[str]) -> tuple[Column, ...]:
    """Return the columns of a formula or of base functions that a user gave.

    Args:
        formula: ``"linear"``, text, a Formula, or several base functions, each with a weight for every input.
        names: Names of the inputs.

    Raises:
        FormulaError: If a text cannot be read.
        InvalidArgumentError: If nothing can be made of it, or it is not linear in its weights.
    """
    if isinstance(formula, str) and formula == "linear":
        return base_columns(bases("x"))
    if isinstance(formula, str | Formula):
        # Names of columns in a text are inputs where they are those of the table.
        known = None if isinstance(formula, Formula) and formula.inputs is not None else list(names)
        return columns_of(Formula(formula) if known is None else Formula(formula, inputs=known))
    if isinstance(formula, Base):
        return base_columns([formula])
    if isinstance(formula, Sequence):
        return base_columns(bases(list(formula)))
    raise InvalidArgumentError(
        f"formula must be 'auto', 'linear', a text, a Formula or base functions, not {type(formula).__name__}."
    )


def scaled_design(
    columns: Sequence[Column], Z: NDArray[np.float64], weight: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return all columns, standardised, with their means and deviations.

    Args:
        columns: The columns.
        Z: Scaled inputs (n, d).
        weight: Of each row.

    Raises:
        InvalidArgumentError: If a column is not finite on these inputs.
    """
    parts = [column.values(Z) for column in columns]
    for column, part in zip(columns, parts, strict=True):
        if not np.isfinite(part).all():
            row = int(np.argwhere(~np.isfinite(part))[0][0])
            raise InvalidArgumentError(
                f"The term {column.name} is not finite in row {row} of the scaled inputs. Leave it out, or clip "
                "the inputs to where it is defined."
            )
    design = np.hstack([np.zeros((len(Z), 0)), *parts])
    mean = np.average(design, axis=0, weights=weight)
    spread = np.sqrt(np.average((design - mean) ** 2, axis=0, weights=weight))
    spread = np.where(spread > 1e-12 * np.maximum(np.abs(mean), 1), spread, np.inf)
    return (design - mean) / spread, mean, spread
