"""A candidate: one formula that a search has found, with how good it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from neuronwise.errors import InvalidArgumentError
from neuronwise.formula import Formula

__all__ = ["TIE", "Candidate", "predicted", "ranked"]

#: Criteria that differ by less than this are a tie, and the simpler formula wins: from 6 on evidence is "strong" (Kass
#: and Raftery 1995, J. Am. Stat. Assoc. 90:773, on the scale of 2 ln of the Bayes factor, which BIC approximates).
TIE = 6.0
_POWER = re.compile(r"x(\*\*\d+)?")
_LARGEST_LOG_COUNT = 700.0  # exp of more is not a finite number


@dataclass(frozen=True, eq=False)
class Candidate:
    """One formula that a search has found.

    Args:
        formula: The formula in the problem's (scaled) inputs: the predictor itself with its numbers where there is one
            output, else its form with free weights.
        criterion: How good it is; lower is better. Only differences within one search mean something.
        complexity: Complexity of the form.
        terms: Its terms as texts without weights, simplest first, such as ``("x", "x**2")``; empty for a constant.
        outputs: The predictor of each output with its numbers; by default ``(formula,)``.
        link: How a predictor becomes a prediction: ``"identity"``, ``"logit"``, ``"softmax"``, ``"log"``.
        figures: Further figures by name, such as ``r2`` and ``dof``.
    """

    formula: Formula
    criterion: float
    complexity: int
    terms: tuple[str, ...]
    outputs: tuple[Formula, ...] = ()
    link: str = "identity"
    figures: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.outputs:
            object.__setattr__(self, "outputs", (self.formula,))

    def predictor(self, X: NDArray[Any]) -> NDArray[np.float64]:
        """Return what the formulas give, ``(n, outputs)``: values, logits or log counts.

        Args:
            X: Scaled inputs, ``(n, d)``.
        """
        with np.errstate(all="ignore"):
            return np.column_stack([formula.evaluate(X) for formula in self.outputs])

    def predict(self, X: NDArray[Any]) -> NDArray[np.float64]:
        """Return predictions: values ``(n,)`` or ``(n, m)``, probabilities ``(n, C)``, or expected counts ``(n,)``.

        Args:
            X: Scaled inputs, ``(n, d)``.
        """
        return predicted(self.predictor(X), self.link)


def predicted(predictor: NDArray[np.float64], link: str) -> NDArray[np.float64]:
    """Turn predictors ``(n, outputs)`` into predictions; see :meth:`Candidate.predict`.

    Raises:
        InvalidArgumentError: If there is no such link.
    """
    if link == "identity":
        return predictor[:, 0] if predictor.shape[1] == 1 else predictor
    if link == "logit":
        second = expit(predictor[:, 0])
        return np.column_stack([1 - second, second])
    if link == "softmax":
        probabilities: NDArray[np.float64] = softmax(predictor, axis=1)
        return probabilities
    if link == "log":
        counts: NDArray[np.float64] = np.exp(np.minimum(predictor[:, 0], _LARGEST_LOG_COUNT))
        return counts
    raise InvalidArgumentError(f"link must be 'identity', 'logit', 'softmax' or 'log', not {link!r}.")


def ranked(candidates: Iterable[Candidate], *, keep: int = 20) -> list[Candidate]:
    """Return candidates best first: the simplest of those that tie with the best, then the others by their criterion.

    Plain powers of x are simpler than anything else.

    Args:
        candidates: In any order.
        keep: How many to keep at most.
    """
    order = sorted(candidates, key=lambda one: (one.criterion, one.complexity, one.terms))
    if not order:
        return []
    limit = order[0].criterion + TIE
    first = min((one for one in order if one.criterion <= limit), key=_simplicity)
    return [first, *(one for one in order if one is not first)][:keep]


def _simplicity(one: Candidate) -> tuple[int, int, float, tuple[str, ...]]:
    others = sum(_POWER.fullmatch(term) is None for term in one.terms)
    return others, one.complexity, one.criterion, one.terms
