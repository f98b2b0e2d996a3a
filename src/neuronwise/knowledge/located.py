"""KnowledgeNeurons: what locating the neurons of many facts has found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pandas as pd

from neuronwise.errors import FactError, InvalidArgumentError, closest
from neuronwise.sites import NeuronSet, Site, Sites
from neuronwise.store import Result

__all__ = ["KnowledgeNeurons"]


class KnowledgeNeurons(Result):
    """The neurons of facts, from :func:`neuronwise.knowledge.locate`.

    Tables: ``sites``; ``facts`` (one row a fact: what the model says, how far its prompts agree, how many neurons);
    ``fact_neurons`` (the neurons of each fact with score, number of prompts and whether enough prompts share them);
    ``relations`` (share of prompts asked for, set sizes, overlap of sets); ``hubs`` (neurons of many facts);
    ``fact_problems`` (facts that could not be looked at).
    """

    kind: ClassVar[str] = "knowledge"
    main_table: ClassVar[str] = "facts"

    @property
    def sites(self) -> Sites:
        """The sites that were looked at. As addresses only: they do not know their weights."""
        return Sites.from_frame(self.tables["sites"])

    @property
    def ids(self) -> list[str]:
        """The ids of the facts."""
        return [str(fact) for fact in self.tables["facts"]["fact"]]

    def neurons(
        self, fact: str, *, side: str = "most", k: int | None = None, refined: bool = True
    ) -> NeuronSet:
        """Return the neurons of one fact, scored by their mean score over its prompts.

        Args:
            fact: Its id.
            side: ``"most"`` for those that contribute most, ``"least"`` for those that work most against the answer.
            k: Only the first k by rank.
            refined: Only those that enough prompts share; without it all that are kept.

        Raises:
            FactError: If there is no such fact.
            InvalidArgumentError: If there is no such side.
        """
        if fact not in self._by_fact:
            raise FactError(f"There is no fact {fact!r} in this result. {closest(fact, self.ids)}")
        if side not in ("most", "least"):
            raise InvalidArgumentError(f"side must be 'most' or 'least', not {side!r}.")
        frame = self._by_fact[fact]
        frame = frame[frame["side"] == side]
        if refined:
            frame = frame[frame["refined"]]
        frame = frame.sort_values("rank")
        return _set_of(frame if k is None else frame.head(k), {site.name: site for site in self.sites})

    def sets(self, *, side: str = "most", k: int | None = None, refined: bool = True) -> dict[str, NeuronSet]:
        """Return the neurons of every fact, ``{fact id: set}``; see :meth:`neurons`."""
        return {fact: self.neurons(fact, side=side, k=k, refined=refined) for fact in self.ids}

    def hubs(self, *, kind: str | None = None) -> pd.DataFrame:
        """Return neurons that are in many facts' sets, the commonest first.

        Args:
            kind: ``"hub"`` (facts of several relations) or ``"relation"`` (mostly of one); None for both.
        """
        frame = self.tables["hubs"].sort_values(["facts", "site", "neuron"], ascending=[False, True, True])
        return frame[frame["kind"] == kind] if kind is not None else frame

    def summary(self) -> str:
        """Return what was found in a few lines of text."""
        facts, problems = self.tables["facts"], len(self.tables["fact_problems"])
        if not len(facts):
            return f"no fact could be looked at ({problems} problems)"
        hubs = self.tables["hubs"]
        lines = [
            f"{len(facts):,} facts, {problems} that could not be looked at; {facts['right'].mean():.0%} of the prompts "
            f"are answered right, mean P {facts['p'].mean():.3f}",
            f"neurons a fact: mean {facts['neurons'].mean():.2f}, median {facts['neurons'].median():g}, "
            f"{int((facts['neurons'] == 0).sum())} facts with none",
            f"agreement of a fact's prompts: Jaccard {_mean(facts['jaccard'])}, R1^2 {_mean(facts['r1_squared'])}",
            *self._overlap_lines(),
            f"{(hubs['kind'] == 'hub').sum()} hub neurons, {(hubs['kind'] == 'relation').sum()} relation neurons",
        ]
        gaps = facts["gap"].abs()
        if gaps.notna().any():
            lines.append(f"largest completeness gap {gaps.max():.2g}")
        return "\n".join(lines)

    def _overlap_lines(self) -> list[str]:
        relations = self.tables["relations"]
        every = relations[relations["relation"] == ""]
        if not len(every):
            return []
        row = every.iloc[0]
        return [
            f"neurons shared by two facts: {row['shared_within']:.2f} within a relation, "
            f"{row['shared_across']:.2f} across"
        ]

    @property
    def _by_fact(self) -> Mapping[str, pd.DataFrame]:
        if "_grouped" not in self.__dict__:
            grouped = {
                str(fact): part for fact, part in self.tables["fact_neurons"].groupby("fact", observed=True)
            }
            empty = self.tables["fact_neurons"].iloc[:0]
            object.__setattr__(self, "_grouped", {fact: grouped.get(fact, empty) for fact in self.ids})
        found: Mapping[str, pd.DataFrame] = self.__dict__["_grouped"]
        return found


def _set_of(frame: pd.DataFrame, sites: Mapping[str, Site]) -> NeuronSet:
    indices: dict[Site, list[int]] = {}
    scores: dict[Site, list[float]] = {}
    for name, part in frame.groupby("site", sort=False, observed=True):
        part = part.sort_values("neuron")
        indices[sites[str(name)]] = part["neuron"].tolist()
        scores[sites[str(name)]] = part["score"].tolist()
    return NeuronSet.of(indices, scores=scores)


def _mean(values: pd.Series) -> str:
    mean = values.mean()
    return "not defined (one prompt)" if np.isnan(mean) else f"{mean:.2f}"
