"""Attribution: which neurons a number of the model's output is owed to, and how well that adds up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neuronwise.errors import InvalidArgumentError, NeuronIndexError
from neuronwise.sites import NeuronSet, Site, Sites
from neuronwise.store import Result

__all__ = ["Attribution"]


class Attribution(Result):
    """Signed scores of every neuron for one target, from :func:`neuronwise.attribute`.

    Tables: ``sites``, ``targets`` (one row for each example: the target), ``completeness`` (one row for each example
    and path: the reference, the sum of the scores, the gap, the nodes). Arrays: ``scores/<site>`` and
    ``positions/<site>``, ``(example, position, neuron)`` and ``(example, position)``.
    """

    kind: ClassVar[str] = "attribution"
    main_table: ClassVar[str] = "completeness"

    @property
    def sites(self) -> Sites:
        """The sites whose neurons have scores. As addresses only: they do not know their weights."""
        return Sites.from_frame(self.tables["sites"])

    @property
    def scores(self) -> Mapping[Site, NDArray[np.float64]]:
        """The scores, ``{site: (example, position, neuron)}``; 0 at positions that an example does not have."""
        return {site: self.arrays[f"scores/{site.name}"] for site in self.sites}

    @property
    def positions(self) -> Mapping[Site, NDArray[np.int64]]:
        """The positions, ``{site: (example, position)}``; -1 where an example has fewer."""
        return {site: self.arrays[f"positions/{site.name}"] for site in self.sites}

    @property
    def value(self) -> NDArray[np.float64]:
        """The target of every example, ``(example,)``."""
        return self.tables["targets"]["value"].to_numpy(dtype=np.float64)

    @property
    def gap(self) -> float:
        """The largest completeness gap; NaN for a method whose scores need not add up."""
        gaps = self.tables["completeness"]["gap"].abs()
        return float(gaps.max()) if gaps.notna().any() else float("nan")

    @property
    def converged(self) -> bool:
        """Whether every gap is within the tolerance that was asked for."""
        return bool(self.tables["completeness"]["converged"].all())

    def neurons(self, example: int | None = None) -> NeuronSet:
        """Return all neurons with their scores, summed over positions: ``attribution.neurons().top(10)``.

        Args:
            example: One example; None takes the mean over all.

        Raises:
            NeuronIndexError: If there is no such example.
        """
        count = len(self.value)
        if example is not None and not -count <= example < count:
            raise NeuronIndexError(f"There is no example {example}; there are {count}, from 0.")
        scores = {
            site: values.sum(1).mean(0) if example is None else values[example].sum(0)
            for site, values in self.scores.items()
        }
        return NeuronSet.of({site: range(site.width) for site in scores}, scores=scores)

    def extremes(self, k: int = 10, *, example: int | None = None) -> pd.DataFrame:
        """Return the k neurons that contribute most and the k that contribute least (work against the target).

        Args:
            k: Neurons a side.
            example: One example; None takes the mean over all.

        Returns:
            One row a neuron: side (``"most"``, ``"least"``), rank, site, layer, neuron, score.

        Raises:
            InvalidArgumentError: If k is less than 1.
        """
        if k < 1:
            raise InvalidArgumentError(f"k must be at least 1, not {k}.")
        every = self.neurons(example)
        parts = []
        for side, largest in (("most", True), ("least", False)):
            frame = every.top(k, largest=largest).to_frame()
            frame = frame.sort_values(["score", "site", "neuron"], ascending=[not largest, True, True])
            parts.append(frame.assign(side=side, rank=range(len(frame))))
        columns = ["side", "rank", "site", "layer", "neuron", "score"]
        return pd.concat(parts, ignore_index=True)[columns]

    def summary(self) -> str:
        """Return what was found in a few lines of text."""
        most = self.extremes(1)
        lines = [
            f"{self.manifest.action['parameters']['method']['name']}: {sum(s.width for s in self.sites):,} neurons of "
            f"{len(self.sites)} sites, {len(self.value)} examples, target {float(self.value.mean()):.4g} on average",
            *(f"{row.side}: {row.site}[{row.neuron}] {row.score:+.4g}" for row in most.itertuples()),
        ]
        if not np.isnan(self.gap):
            lines.append(f"largest gap {self.gap:.2g}" + ("" if self.converged else " (above the tolerance)"))
        return "\n".join(lines)
