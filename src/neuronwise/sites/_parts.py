"""The neurons of one site inside a NeuronSet, and reading what a user may give as indices and scores."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuronwise.errors import InvalidArgumentError, NeuronIndexError
from neuronwise.sites.site import Site

__all__ = [
    "Indices",
    "Part",
    "Scores",
    "as_indices",
    "flat_scores",
    "make_part",
    "order",
    "same_width",
    "shorten",
    "split_scores",
    "unscored",
]

Indices = NDArray[np.int64]
Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Part:
    """The neurons of one site: sorted unique indices, and a score for each or None."""

    site: Site
    indices: Indices
    scores: Scores | None

    def take(self, keep: NDArray[Any]) -> Part:
        return Part(self.site, self.indices[keep], None if self.scores is None else self.scores[keep])


def order(site: Site) -> tuple[Any, ...]:
    """Sort key of a site: stack, layer, then path with its numbers as numbers (layers.2 before layers.10)."""
    layer = -1 if site.layer is None else site.layer
    call = -1 if site.call is None else site.call
    return (_natural(site.stack), layer, _natural(site.path), site.tensor, call)


def _natural(text: str) -> list[str | int]:
    return [int(piece) if piece.isdigit() else piece for piece in re.split(r"([0-9]+)", text)]


def unscored(like: NDArray[Any]) -> Scores:
    return np.full(like.size, np.nan)


def shorten(indices: Indices) -> str:
    head = ", ".join(map(str, indices[:6].tolist()))
    return f"{head}, ... {indices[-1]}" if indices.size > 6 else head


def as_indices(site: Site, chosen: Any) -> Indices:
    """Turn what a user may give as indices into an array of indices, all of them inside the site's width."""
    if isinstance(chosen, str) and chosen == "*":
        return np.arange(site.width)
    if isinstance(chosen, slice):
        return np.arange(site.width)[chosen]
    array = np.atleast_1d(np.asarray(list(chosen) if isinstance(chosen, set | frozenset) else chosen))
    if array.size == 0:
        return np.empty(0, dtype=np.int64)
    if array.dtype == np.bool_:
        if array.shape != (site.width,):
            raise NeuronIndexError(
                f"A mask of {site.name} has {site.width} entries, not shape {array.shape}."
            )
        return np.flatnonzero(array).astype(np.int64)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise InvalidArgumentError(
            f"Neurons of {site.name} are whole numbers in one dimension, "
            f"not {array.dtype} of shape {array.shape}."
        )
    wrong = array[(array < 0) | (array >= site.width)]
    if wrong.size:
        raise NeuronIndexError(
            f"{site.name} has no neuron {', '.join(map(str, wrong[:5].tolist()))}: it has {site.width}, "
            f"numbered 0 to {site.width - 1}."
        )
    return array.astype(np.int64)


def make_part(site: Site, indices: Indices, scores: Scores | None) -> Part:
    unique, first = np.unique(indices, return_index=True)
    return Part(site, unique, None if scores is None else scores[first])


def same_width(first: Site, second: Site) -> None:
    if first.width != second.width:
        raise InvalidArgumentError(
            f"The sets are of different models: {first.name} has {first.width} neurons in one, "
            f"{second.width} in the other."
        )


def flat_scores(scores: Any, count: int) -> Scores:
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != (count,):
        raise InvalidArgumentError(
            f"{count} neurons need {count} scores, not an array of shape {values.shape}."
        )
    return values


def split_scores(sites: list[Site], counts: list[int], scores: Any) -> list[Scores | None]:
    if scores is None:
        return [None] * len(sites)
    if not isinstance(scores, Mapping):
        return list(np.split(flat_scores(scores, sum(counts)), np.cumsum(counts)[:-1])) if counts else []
    missing = [site.name for site in sites if site not in scores]
    if missing:
        raise InvalidArgumentError(f"There are no scores for {', '.join(missing[:5])}.")
    return [flat_scores(scores[site], count) for site, count in zip(sites, counts, strict=True)]
