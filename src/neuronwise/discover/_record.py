"""Turn what a search has found into the tables of a result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neuronwise.discover._evaluate import Figure
from neuronwise.discover.candidate import Candidate
from neuronwise.discover.discovery import Discovery
from neuronwise.discover.problem import SearchProblem
from neuronwise.formula import Formula, Term
from neuronwise.store import Manifest

__all__ = ["recorded"]

_ROWS = 10_000  # rows on which shares of terms are measured


def recorded(
    problem: SearchProblem,
    candidates: Sequence[Candidate],
    *,
    held: Sequence[float],
    figures: Mapping[str, Figure],
    confidence: pd.DataFrame | None,
    margin: float,
    notes: Sequence[str],
    settings: Mapping[str, Any],
    target: str,
    ranges: NDArray[np.float64],
) -> Discovery:
    """Return the result of a search.

    Args:
        problem: The problem, all rows.
        candidates: What was found, best first.
        held: Share explained of held-out rows by each, NaN where there are none.
        figures: Figures of the search.
        confidence: What was found out about base functions, from :mod:`neuronwise.discover.confidence`, or None.
        margin: Distance of the best criterion within which a candidate is an alternative.
        notes: Sentences for the reader.
        settings: How it was searched, as plain JSON.
        target: Name of the target; empty where it has none.
        ranges: Smallest and largest value of each raw input over the rows of the search, ``(d, 2)``.
    """
    sure = _bases(problem, candidates[0], confidence)
    frequency = dict(zip(sure["base"], sure["frequency"], strict=True))
    terms, weights = _terms(problem, candidates, frequency)
    manifest = Manifest(
        kind="discovery",
        action={
            "name": "discover",
            "parameters": {
                **settings,
                "task": problem.task,
                "link": problem.link,
                "bases": [str(base) for base in problem.bases],
                "margin": margin,
                "clip": problem.clip,
                "notes": list(notes),
            },
        },
        seed=problem.seed,
        data={
            "kind": "table",
            "examples": problem.n,
            "inputs": list(problem.names),
            "ranges": ranges.tolist(),
            "target": target,
            "classes": [_plain(label) for label in problem.classes],
            "fingerprint": _fingerprint(problem),
        },
    )
    return Discovery(
        tables={
            "formulas": _formulas(candidates, held, margin),
            "formula_outputs": _outputs(problem, candidates),
            "formula_terms": terms,
            "term_weights": weights,
            "bases": sure,
            "discovery_figures": pd.DataFrame(
                [(name, figure.value, figure.low, figure.high) for name, figure in figures.items()],
                columns=["name", "value", "low", "high"],
            ),
        },
        manifest=manifest,
        arrays={"centre": problem.centre, "scale": problem.scale},
    )


def _formulas(candidates: Sequence[Candidate], held: Sequence[float], margin: float) -> pd.DataFrame:
    lowest = min(candidate.criterion for candidate in candidates)
    return pd.DataFrame(
        {
            "rank": range(len(candidates)),
            "formula": [str(candidate.formula) for candidate in candidates],
            "terms": ["; ".join(candidate.terms) for candidate in candidates],
            "criterion": [candidate.criterion for candidate in candidates],
            "delta": [candidate.criterion - lowest for candidate in candidates],
            "within_margin": [candidate.criterion - lowest <= margin for candidate in candidates],
            "complexity": [candidate.complexity for candidate in candidates],
            "explained": [candidate.figures.get("explained", np.nan) for candidate in candidates],
            "held_out": list(held),
        }
    )


def _outputs(problem: SearchProblem, candidates: Sequence[Candidate]) -> pd.DataFrame:
    rows = []
    for rank, candidate in enumerate(candidates):
        for output, formula in enumerate(candidate.outputs):
            label = str(problem.classes[output]) if problem.link == "softmax" else ""
            rows.append((rank, output, label, str(formula), json.dumps(formula.to_dict())))
    return pd.DataFrame(rows, columns=["rank", "output", "label", "predictor", "data"])


def _terms(
    problem: SearchProblem, candidates: Sequence[Candidate], frequency: Mapping[str, float]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables of terms and of weights."""
    X = problem.X[:_ROWS]
    terms, weights = [], []
    for rank, candidate in enumerate(candidates):
        for output, formula in enumerate(candidate.outputs):
            whole = formula.evaluate(X)
            for number, term in enumerate(formula.terms):
                base = "" if term.base is None else str(term.base)
                values = formula.weights.get(term.weight or "")
                own = values is not None and np.ndim(values) == 1
                terms.append(
                    {
                        "rank": rank,
                        "output": output,
                        "term": number,
                        "kind": term.kind,
                        "expression": _text(term, formula),
                        "base": base,
                        "coefficient": np.nan if own else term.coefficient,
                        "share": _share(_part(term, formula).evaluate(X), whole),
                        "frequency": frequency.get(base, np.nan),
                    }
                )
                if own:
                    each = term.coefficient * np.asarray(values)
                    weights += [
                        (rank, output, number, name, float(weight))
                        for name, weight in zip(problem.names, each, strict=True)
                    ]
    return pd.DataFrame(terms), pd.DataFrame(weights, columns=["rank", "output", "term", "input", "weight"])


def _part(term: Term, formula: Formula) -> Formula:
    """Return one term as a formula of its own."""
    alone = Formula(term.node, inputs=formula.inputs, functions=formula.functions)
    values = {name: formula.weights[name] for name in alone.parameters if name in formula.weights}
    return Formula(alone, weights=values)


def _text(term: Term, formula: Formula) -> str:
    return str(_part(term, formula))


def _share(part: Any, whole: Any) -> float:
    """Return the covariance of a term with the predictor over the predictor's variance; all shares add to 1."""
    spread = float(np.var(whole))
    return float(np.mean((part - part.mean()) * (whole - whole.mean()))) / spread if spread > 0 else 0.0


def _bases(problem: SearchProblem, best: Candidate, confidence: pd.DataFrame | None) -> pd.DataFrame:
    names = list(dict.fromkeys([*map(str, problem.bases), *best.terms]))
    if confidence is not None:
        names = list(dict.fromkeys([*names, *confidence["base"]]))
    frame = pd.DataFrame({"base": [*names, *problem.dropped]})
    frame["dropped"] = [problem.dropped.get(name, "") for name in frame["base"]]
    frame["selected"] = frame["base"].isin(best.terms)
    known = pd.DataFrame({"base": []}) if confidence is None else confidence
    known = known.set_index("base").rename(columns={"selected": "discovered"})
    for name in ("frequency", "low", "high", "statistic", "q"):
        frame[name] = frame["base"].map(known[name]) if name in known.columns else np.nan
    tested = "represented_by" in known.columns
    frame["discovered"] = frame["base"].map(known["discovered"]) if tested else pd.NA
    frame["discovered"] = frame["discovered"].astype("boolean")
    frame["represented_by"] = frame["base"].map(known["represented_by"]).fillna("") if tested else ""
    return frame


def _plain(label: Any) -> Any:
    return label if isinstance(label, bool | int | float | str) else str(label)


def _fingerprint(problem: SearchProblem) -> str:
    digest = hashlib.sha256(json.dumps([problem.names, problem.task, problem.clip]).encode())
    for array in (problem.X, problem.y, *(() if problem.weight is None else (problem.weight,))):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
