"""discover: from a table to a formula, with figures on rows that the search has not seen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neuronwise.discover._evaluate import Figure, held_out_figures, losses
from neuronwise.discover._record import recorded
from neuronwise.discover._remarks import left_out_note, remarks
from neuronwise.discover._table import Table, read_table
from neuronwise.discover.candidate import Candidate
from neuronwise.discover.confidence import (
    check_rate,
    check_resamples,
    knockoff_filter,
    stability_selection,
)
from neuronwise.discover.discovery import Discovery
from neuronwise.discover.group import fit_terms
from neuronwise.discover.method import Method, Refits, settings_of
from neuronwise.discover.methods import method_of
from neuronwise.discover.outlying import usual_rows
from neuronwise.discover.problem import SearchProblem, pose
from neuronwise.discover.scaling import Scale
from neuronwise.engine import check_engine
from neuronwise.errors import DataError, InvalidArgumentError, counted
from neuronwise.formula import Base

__all__ = ["Confidence", "discover"]

Confidence = Literal["stability", "knockoffs", "none"]

Outlying = Literal["leave out", "keep"]

_FEWEST = 10  # rows of either part


def discover(
    X: Any,
    y: Any,
    *,
    method: str | Method = "group",
    bases: str | Sequence[str | Base] = "default",
    task: str = "auto",
    inputs: Sequence[str] | None = None,
    sample_weight: Any = None,
    scale: Scale = "auto",
    clip: float = 5.0,
    shift: bool = False,
    outlying: Outlying = "leave out",
    held_out: float = 0.25,
    margin: float = 10.0,
    confidence: Confidence = "stability",
    resamples: int = 50,
    fdr: float = 0.1,
    engine: str = "local",
    workers: int | None = None,
    seed: int = 0,
) -> Discovery:
    """Search the formula that a table asks for.

    The rows are split: one part is searched, and every figure but those of the fit is measured on the other. Then the
    numbers of the formulas found, not their terms, are fitted again to all rows (where the method can; a note says so).
    Where nothing is beyond chance the formula is a constant, and a note says so.

    Args:
        X: Inputs: a DataFrame, an array or a tensor, one row a sample.
        y: Target, one value a row (regression: or one column an output), or the name of a column of ``X``.
        method: A name in ``METHODS``, or a method with its settings such as ``Group(max_terms=3)``.
        bases: Base functions: a preset (``"default"``, ``"polynomial"``, ``"bounded"``, ...), a text such as
            ``"x, x**2, sin(x)"``, or several.
        task: ``"regression"``, ``"classification"``, ``"count"``; ``"auto"`` takes texts, booleans, and whole numbers
            0 .. C-1 for labels.
        inputs: Names of the columns.
        sample_weight: How much each row counts, ``(n,)``.
        scale: ``"auto"``: raw where every column lies in [-10, 10] with a standard deviation between 0.1 and 10 (later
            inputs are clipped at 1.5 times the largest of these), else standardised by the rows of the search and
            clipped; or ``"none"``, ``"standard"``.
        clip: Standard deviations at which standardised inputs are clipped.
        shift: Move the argument of base functions that are undefined on the data (``log(x)`` of negative inputs) until
            they are defined, instead of leaving them out.
        outlying: ``"leave out"`` of the search the rows in which an input, or the number to explain, is further from
            the central 99 % of its column than these are wide (7.7 standard deviations if normal); a note counts them.
            ``"keep"``: search all rows; one wild value may then bring a term of its own. Figures are of all held-out
            rows either way.
        held_out: Share of the rows that the search does not see; 0 for none, and then there are no honest figures.
        margin: Formulas whose criterion is within this distance of the best are its alternatives. From 10 on evidence
            is "very strong" (Kass and Raftery 1995).
        confidence: ``"stability"``: how often each term is found on halves of the rows; ``"knockoffs"``: which base
            functions beat their decoys at a false discovery rate; ``"none"``.
        resamples: Halves for ``"stability"``.
        fdr: False discovery rate for ``"knockoffs"``.
        engine: ``"local"``, ``"processes"`` or ``"ray"``.
        workers: Number of workers.
        seed: Seed of the split and of everything else with chance in it.

    Raises:
        DataError: If table or target cannot be used; says where and what to do.
        InvalidArgumentError: If an argument is wrong.
        FormulaError: If a base function cannot be parsed.

    Example:
        >>> X = np.random.default_rng(0).uniform(-2, 2, (400, 3))
        >>> y = X**2 @ [1, -2, 0.5] + np.sin(3 * X) @ [0.5, 1, -1]
        >>> found = discover(X, y, confidence="none")
        >>> found.terms, round(found.figures["r2"], 4)
        (('x**2', 'sin(3*x)'), 1.0)
    """
    chosen = method_of(method)
    _check(held_out, margin, confidence, outlying, resamples, fdr)
    check_engine(engine, workers)
    _check_bases(chosen, bases, confidence)
    table = read_table(X, y, task=task, inputs=inputs, sample_weight=sample_weight)
    search_rows, test_rows = _split(table, held_out, seed)
    usual = _usual(table, search_rows) if outlying == "leave out" else np.ones(table.n, dtype=bool)
    left_out = int(np.count_nonzero(~usual[search_rows]))
    search_rows = search_rows[usual[search_rows]]
    seen = table.inputs[search_rows]
    everything = pose(table, bases=bases, scale=scale, clip=clip, shift=shift, seed=seed, rows=search_rows)
    search = everything.take(search_rows)
    start = time.perf_counter()
    candidates = chosen.search(search, engine=engine, workers=workers)
    seconds = time.perf_counter() - start
    sure = _confidence(confidence, chosen, search, resamples, fdr, engine, workers)
    held, figures, notes = _measured(candidates, everything, search, test_rows)
    final, rows_refitted = _refitted(chosen, candidates, everything, test_rows, usual)
    parts = {
        "rows": table.n,
        "inputs": len(table.names),
        "rows_search": search.n,
        "rows_held_out": len(test_rows),
    }
    return recorded(
        everything,
        final,
        held=held,
        figures={**{k: Figure(v) for k, v in parts.items()}, "seconds": Figure(seconds), **figures},
        confidence=sure,
        margin=margin,
        notes=(
            *everything.notes,
            *left_out_note(left_out),
            *remarks(candidates, len(test_rows), table.n - left_out, rows_refitted),
            *notes,
        ),
        settings={
            "method": settings_of(chosen),
            "scale": scale,
            "shift": shift,
            "outlying": outlying,
            "held_out": held_out,
            "confidence": confidence,
            "resamples": resamples if confidence == "stability" else None,
            "fdr": fdr if confidence == "knockoffs" else None,
        },
        target=table.label,
        ranges=np.stack([seen.min(0), seen.max(0)], axis=1),
    )


def _check(
    held_out: float, margin: float, confidence: str, outlying: str, resamples: int, fdr: float
) -> None:
    if confidence == "stability":
        check_resamples(resamples)
    if confidence == "knockoffs":
        check_rate(fdr)
    if not 0 <= held_out < 1:
        raise InvalidArgumentError(f"held_out must be at least 0 and below 1, not {held_out}.")
    if not margin >= 0:
        raise InvalidArgumentError(f"margin must not be negative, but is {margin}.")
    if confidence not in get_args(Confidence):
        raise InvalidArgumentError(
            f"confidence must be one of {', '.join(get_args(Confidence))}, not {confidence!r}."
        )
    if outlying not in get_args(Outlying):
        raise InvalidArgumentError(f"outlying must be 'leave out' or 'keep', not {outlying!r}.")


def _check_bases(method: Method, bases: str | Sequence[str | Base], confidence: str) -> None:
    """Refuse base functions that nothing would come of."""
    if getattr(method, "uses_bases", True) or confidence == "knockoffs":
        return
    if not (isinstance(bases, str) and bases == "default"):
        raise InvalidArgumentError(
            f"The method {method.name!r} has terms of its own and uses no base functions: leave out bases, or take "
            "another method, such as 'group'."
        )


def _split(table: Table, held_out: float, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows to search and those to hold out, each class in both at its share; a single one is searched."""
    n = table.n
    if held_out == 0:
        return np.arange(n), np.empty(0, np.intp)
    rng = np.random.default_rng(seed)
    groups = table.target if table.task == "classification" else np.zeros(n)
    test = []
    for label in np.unique(groups):
        rows = rng.permutation(np.flatnonzero(groups == label))
        test.append(rows[: round(len(rows) * held_out) if len(rows) > 1 else 0])
    out = np.sort(np.concatenate(test))
    search = np.setdiff1d(np.arange(n), out)
    if len(out) < _FEWEST or len(search) < _FEWEST:
        raise DataError(
            f"Of {n} rows, held_out={held_out:g} leaves {len(search)} to search and {len(out)} to measure on; both "
            f"parts need {_FEWEST}. Take more rows, another share, or held_out=0."
        )
    return search, out


def _measured(
    candidates: list[Candidate], everything: SearchProblem, search: SearchProblem, test_rows: NDArray[np.intp]
) -> tuple[list[float], dict[str, Figure], tuple[str, ...]]:
    """Return the share explained of held-out rows by each candidate, figures of the best, and notes."""
    if not len(test_rows):
        return [float("nan")] * len(candidates), {}, ()
    weight = None if everything.weight is None else everything.weight[test_rows]
    test = replace(everything, X=everything.X[test_rows], y=everything.y[test_rows], weight=weight)
    found = [losses(candidate, test, search) for candidate in candidates]
    linear = [base for base in search.bases if base.text == "x"]
    compared = losses(fit_terms(search, ("x",)), test, search) if linear and search.n > 2 * search.d else None
    notes: tuple[str, ...] = ()
    if found[0].undefined:
        rows = counted(found[0].undefined, "held-out row")
        notes = (f"Left out of the figures, as the formula is not defined there: {rows}.",)
    figures = held_out_figures(found[0], compared, test, search)
    gain = figures.get("gain_over_linear")
    if gain is not None and candidates[0].terms not in ((), ("x",)) and not gain.low > 0:
        notes += ("On the held-out rows the formula is not shown to be better than the linear one.",)
    if candidates[0].terms and not found[0].explained() > 0:
        what = "the probabilities are" if everything.task == "classification" else "the formula is"
        notes += (f"On the held-out rows {what} no better than a constant.",)
    return [one.explained() for one in found], figures, notes


def _refitted(
    method: Method,
    candidates: list[Candidate],
    everything: SearchProblem,
    test_rows: NDArray[np.intp],
    usual: NDArray[np.bool_],
) -> tuple[list[Candidate], int]:
    """Return candidates with their numbers fitted to all rows, and to how many; 0 where that cannot be done."""
    if not len(test_rows) or not isinstance(method, Refits):
        return candidates, 0
    kept = usual.copy()
    if everything.clip is not None:
        # A held-out row beyond what the search has seen was clipped, and would bend all numbers by an input it has not.
        kept[test_rows] &= (np.abs(everything.X[test_rows]) < everything.clip).all(1)
    everything = everything.take(kept)
    fresh = [method.refit(everything, candidate) for candidate in candidates]
    final = [replace(new, criterion=old.criterion) for new, old in zip(fresh, candidates, strict=True)]
    return final, everything.n


def _usual(table: Table, search_rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return which rows are not far from those of the search; a row of weight 0 has no say."""
    by = search_rows if table.weight is None else search_rows[table.weight[search_rows] > 0]
    return usual_rows(table.inputs, table.target, table.task, by=by)


def _confidence(
    how: Confidence,
    method: Method,
    search: SearchProblem,
    resamples: int,
    fdr: float,
    engine: str,
    workers: int | None,
) -> pd.DataFrame | None:
    if how == "stability":
        return stability_selection(
            search, method, resamples=resamples, engine=engine, workers=workers, seed=search.seed
        )
    return knockoff_filter(search, fdr=fdr, seed=search.seed) if how == "knockoffs" else None
