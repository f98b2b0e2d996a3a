"""Constants inside trees: Levenberg-Marquardt steps with the outer coefficients solved for (variable projection).

Golub and Pereyra (1973, SIAM J. Numer. Anal. 10:413) with the Jacobian of Kaufman (1975, BIT 15:49). One pass over a
tree evaluates it for many settings of its constants at once, which gives all derivatives by differences, all trial
steps, and many starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

import numpy as np
from numpy.typing import NDArray

from neuronwise.discover._genetic_space import Space, residual_squares
from neuronwise.discover._genetic_variation import Individual
from neuronwise.discover._trees import Node, joined, terms_of, tidied, walk, with_constants

__all__ = ["FLOOR", "constants_of", "is_simple", "rounded", "tuned"]

Array = NDArray[np.float64]

_DIFFERENCE = 1e-6
_DAMPINGS = np.array([0.01, 1.0, 100.0])  # tried at once around the current one
_SCAN_SD = 2.5
_PATTERNS = 3
_PERFECT = 1e-26  # of the total squares: rounding is all that is left
_ROUNDING_STEPS = 4
_LARGEST = 1e6  # of a constant inside a tree: a larger one only makes the rest of it vanish
#: Residual squares below this share of the total count as none: what is left is rounding.
FLOOR = 1e-12


def constants_of(terms: Sequence[Node]) -> list[float]:
    """Return the constants inside the terms, in order."""
    return [node.value for term in terms for node in walk(term) if node.op == "c"]


def tuned(
    terms: Individual, space: Space, *, steps: int, starts: int, rng: Random
) -> tuple[Individual, float]:
    """Return the individual with better constants, and its residual squares.

    Args:
        terms: The individual.
        space: Where it is fitted.
        steps: Levenberg-Marquardt steps at most.
        starts: Random settings of the constants that are tried first.
        rng: The generator of the starts.

    Returns:
        The individual and its residual squares; unchanged where nothing was better.
    """
    begin = np.array(constants_of(terms))
    if not begin.size or not np.isfinite(begin).all():
        return terms, float(space.errors([terms])[0])
    settings = _scan(begin, starts, rng)
    errors = _errors(terms, settings, space)
    # There are many local optima, seldom two with the same signs: go down from the best starts of some sign patterns.
    patterns: dict[tuple[bool, ...], int] = {}
    for place in np.argsort(errors, kind="stable").tolist():
        if np.isfinite(errors[place]):
            patterns.setdefault(tuple((settings[place] < 0).tolist()), place)
    ends = [
        _descend(terms, settings[place], float(errors[place]), space, steps)
        for place in list(patterns.values())[: _PATTERNS if starts else 1]
    ]
    if not ends:
        return terms, float("inf")
    values, error = min(ends, key=lambda end: end[1])
    if error >= errors[0]:
        return terms, float(errors[0])
    return _with(terms, values), error


def _with(terms: Individual, values: Array) -> Individual:
    numbers: Iterator[float] = iter(values.tolist())
    changed = [with_constants(term, numbers) for term in terms]
    return joined(part for term in changed for part in terms_of(tidied(term)))


def _scan(begin: Array, starts: int, rng: Random) -> Array:
    """Return the constants as they are, scaled versions of them, and new ones: ``(1 + starts, C)``."""
    rows = [begin.tolist()]
    for number in range(starts):
        if number % 2:
            rows.append([rng.gauss(0.0, _SCAN_SD) for _ in begin])
        else:
            rows.append([value * rng.lognormvariate(0.0, 0.7) for value in begin])
    return np.array(rows)


def _columns(terms: Individual, settings: Array, space: Space) -> Array:
    """Return the columns for many settings of the constants: ``(B, K, r)``."""
    constants = iter([settings[:, k : k + 1] for k in range(settings.shape[1])])
    values = [np.asarray(space.batch(term, constants)) for term in terms]
    if all(term.kind == "vector" for term in terms):  # all in one matrix product
        shape = (len(settings), values[0].shape[-1])
        return space.projected(terms[0], np.stack([np.broadcast_to(one, shape) for one in values], axis=1))
    found = [space.projected(term, one) for term, one in zip(terms, values, strict=True)]
    return np.stack([np.broadcast_to(one, (len(settings), one.shape[-1])) for one in found], axis=1)


def _errors(terms: Individual, settings: Array, space: Space) -> Array:
    columns = _columns(terms, settings, space)
    norms = np.linalg.norm(columns, axis=2, keepdims=True)
    fine = (np.isfinite(norms) & (norms > 1e-12)).all(axis=(1, 2))
    fine &= (np.abs(settings) <= _LARGEST).all(axis=1)
    safe = np.where(fine[:, None, None], columns / np.where(fine[:, None, None], norms, 1.0), 0.0)
    return np.where(fine, residual_squares(safe, space.target) + space.rest, np.inf)


def _descend(
    terms: Individual,
    values: Array,
    error: float,
    space: Space,
    steps: int,
    free: Sequence[int] | None = None,
) -> tuple[Array, float]:
    """Go downhill in some of the constants, by default all."""
    damping, total = 1e-3, space.total
    places = np.arange(len(values)) if free is None else np.array(free)
    for _ in range(steps):
        derivative, left = _jacobian(terms, values, space, places)
        if derivative is None:
            break
        gram = derivative @ derivative.T
        diagonal = np.diag(gram) + 1e-12 * np.trace(gram) + 1e-300
        tries = damping * _DAMPINGS
        systems = gram + tries[:, None, None] * np.diag(diagonal)
        try:
            moves = np.linalg.solve(
                systems, np.broadcast_to((derivative @ left)[:, None], (3, len(places), 1))
            )[..., 0]
        except np.linalg.LinAlgError:
            break
        settings = np.repeat(values[None], len(moves), axis=0)
        settings[:, places] += moves
        errors = _errors(terms, settings, space)
        best = int(errors.argmin())
        if not errors[best] < error:
            damping *= 1e4
            if damping > 1e8:
                break
            continue
        gain, values, error = error - float(errors[best]), settings[best], float(errors[best])
        damping = max(float(tries[best]), 1e-12)
        if error - space.rest < _PERFECT * total or gain < 1e-9 * error:
            break
    return values, error


def _jacobian(
    terms: Individual, values: Array, space: Space, places: NDArray[np.int64]
) -> tuple[Array | None, Array]:
    """Return minus the derivative of the residual by each constant ``(C, m*r)`` and the residual ``(m*r,)``."""
    steps = _DIFFERENCE * np.maximum(1.0, np.abs(values))
    settings = np.vstack([values, (values + np.diag(steps))[places]])
    columns = _columns(terms, settings, space)
    if not np.isfinite(columns).all():
        return None, np.zeros(0)
    basis, triangle = np.linalg.qr(columns[0].T)
    if np.abs(np.diag(triangle)).min() < 1e-12 * np.abs(triangle).max():
        return None, np.zeros(0)
    inner = basis.T @ space.target.T
    coefficients = np.linalg.solve(triangle, inner)
    left = space.target.T - basis @ inner
    slopes = (columns[1:] - columns[0]) / steps[places, None, None]
    change = slopes.transpose(0, 2, 1) @ coefficients
    change -= basis @ (basis.T @ change)
    return change.reshape(len(places), -1), left.reshape(-1)


def rounded(terms: Individual, space: Space, *, rows: float) -> tuple[Individual, float]:
    """Round one constant after the other to a simple number, the others tuned anew, where the data do not object.

    Args:
        terms: An individual, tuned.
        space: Where it is fitted.
        rows: Number of rows. ``rows * ln(residual squares)`` may rise by ``ln(rows)``, what a parameter is worth, for a
            multiple of one half, and by 1, a standard error, for another short number.

    Returns:
        The individual and its residual squares.
    """
    values = np.array(constants_of(terms))
    error = float(space.errors([terms])[0])
    free = list(range(len(values)))
    floor = FLOOR * space.total
    for place in range(len(values)):
        others = [k for k in free if k != place]
        for simple in _simple(float(values[place])):
            trial = values.copy()
            trial[place] = simple
            found = float(_errors(terms, trial[None], space)[0])
            if others and np.isfinite(found):
                trial, found = _descend(terms, trial, found, space, _ROUNDING_STEPS, others)
            allowance = np.log(rows) if is_simple(simple) else 1.0
            if rows * np.log(max(found, floor) / max(error, floor)) <= allowance:
                values, error, free = trial, found, others
                break
    return _with(terms, values), error


def is_simple(value: float) -> bool:
    """Return whether a constant counts as part of the form: a multiple of one half up to 10."""
    return abs(value) <= 10 and 2 * value == round(2 * value)


def _simple(value: float) -> list[float]:
    """Return simpler numbers near a constant, the simplest first; 0 and 1 would make it vanish."""
    near = [round(value), round(2 * value) / 2, round(value, 1), round(value, 2)]
    return list(
        dict.fromkeys([0.0, 1.0, -1.0, *map(float, near), float(f"{value:.4g}"), float(f"{value:.8g}")])
    )
