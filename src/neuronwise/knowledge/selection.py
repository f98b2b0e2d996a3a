"""Which neurons are a fact's: those above a threshold in one prompt, and those that enough prompts share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from neuronwise.errors import InvalidArgumentError

__all__ = ["Refinement", "adapted_share", "coarse", "shared_by"]

_STEP, _ROUNDS = 0.05, 6


@dataclass(frozen=True)
class Refinement:
    """How many prompts must share a neuron.

    Args:
        share: Share of the fact's prompts, from 0 to 1.
        rule: ``"official"``: at least ``share`` of the prompts, and at least three of them (Dai et al. 2022, as their
            code has it); ``"eleuther"``: more than ``share`` of them (the package ``knowledge-neurons``).
        size: Where given, ``share`` moves in steps of 0.05, at most six, until the mean number of neurons of a
            relation's facts lies between these two (the published loop: the size is then put in, not found).

    Raises:
        InvalidArgumentError: If a value is outside what is allowed.
    """

    share: float = 0.7
    rule: Literal["official", "eleuther"] = "official"
    size: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise InvalidArgumentError(f"share is a part of the prompts, from 0 to 1, not {self.share}.")
        if self.rule not in ("official", "eleuther"):
            raise InvalidArgumentError(f"rule must be 'official' or 'eleuther', not {self.rule!r}.")
        if self.size is not None and not 0 <= self.size[0] <= self.size[1]:
            raise InvalidArgumentError(f"size must be (least, most), not {self.size}.")


def coarse(scores: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    """Return which neurons reach a part of their prompt's largest score, ``(prompt, neuron)``.

    Where no score is positive there are none.

    Args:
        scores: ``(prompt, neuron)``.
        threshold: The part, more than 0; the paper has 0.2.
    """
    most = scores.max(axis=1, keepdims=True)
    reached: NDArray[np.bool_] = (scores >= threshold * most) & (scores > 0)
    return reached


def shared_by(
    counts: NDArray[np.int64], prompts: NDArray[np.int64] | int, rule: Refinement
) -> NDArray[np.bool_]:
    """Return which counts are enough.

    Args:
        counts: In how many prompts each neuron was.
        prompts: How many prompts its fact has.
        rule: What is enough. Facts of fewer than three prompts need all of them under the official rule.
    """
    needed = rule.share * np.asarray(prompts, dtype=np.float64)
    # In binary 0.55 * 20 is more than 11, and 0.29 * 100 less than 29; a share of the prompts is meant exactly.
    if rule.rule == "eleuther":
        return np.asarray(counts > needed + 1e-9)
    return np.asarray(counts >= np.maximum(needed - 1e-9, np.minimum(3, prompts)))


def adapted_share(
    counts: Sequence[NDArray[np.int64]], prompts: Sequence[int], rule: Refinement
) -> tuple[float, int]:
    """Return the share of prompts at which a relation's facts have the wanted number of neurons, and the rounds used.

    Args:
        counts: For each fact of the relation, in how many prompts each of its coarse neurons was.
        prompts: How many prompts each fact has.
        rule: Where to start, and the wanted size.
    """
    share, rounds = rule.share, 0
    if rule.size is None or not counts:
        return share, rounds
    for rounds in range(_ROUNDS + 1):
        now = Refinement(share, rule.rule)
        size = float(np.mean([shared_by(c, n, now).sum() for c, n in zip(counts, prompts, strict=True)]))
        if rule.size[0] <= size <= rule.size[1] or rounds == _ROUNDS:
            break
        step = _STEP if size > rule.size[1] else -_STEP
        moved = math.floor(min(max(share + step, 0.0), 1.0) * 100 + 0.5) / 100
        if moved == share:
            break
        share = moved
    return share, rounds
