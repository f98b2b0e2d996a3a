"""KnowledgeNeurons: what locating the neurons of many facts has found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

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
        spans, rows = self._rows
        if fact not in spans:
            raise FactError(f"There is no fact {fact!r} in this result. {closest(fact, self.ids)}")
        if side not in ("most", "least"):
            raise InvalidArgumentError(f"side must be 'most' or 'least', not {side!r}.")
        own = {name: values[spans[fact]] for name, values in rows.items()}
        chosen = np.flatnonzero((own["most"] == (side == "most")) & (own["refined"] | (not refined)))
        chosen = chosen[np.argsort(own["rank"][chosen], kind="stable")][:k]
        return _set_of(self._sites, own["place"][chosen], own["neuron"][chosen], own["score"][chosen])

    def sets(self, *, side: str = "most", k: int | None = None, refined: bool = True) -> dict[str, NeuronSet]:
        """Return the neurons of every fact, ``{fact id: set}``; see :meth:`neurons`."""
        return {fact: self.neurons(fact, side=side, k=k, refined=refined) for fact in self.ids}

    def commonest(self, relation: str, k: int = 20) -> NeuronSet:
        """Return the neurons that most facts of a relation have, scored by how many: what is erased to erase it.

        Args:
            relation: Name of the relation.
            k: How many; the paper takes 20. Equal numbers rank by site and index.

        Raises:
            FactError: If there is no such relation.
        """
        facts = self.tables["facts"]
        known = sorted(set(facts["relation"].astype(str)))
        if relation not in known:
            raise FactError(f"There is no relation {relation!r} in this result. {closest(relation, known)}")
        mine = facts.loc[facts["relation"] == relation, "fact"]
        frame = self.tables["fact_neurons"]
        frame = frame[frame["refined"] & (frame["side"] == "most") & frame["fact"].isin(mine)]
        counts = frame.groupby(["site", "neuron"], observed=True).size().rename("score").reset_index()
        counts = counts.sort_values(["score", "site", "neuron"], ascending=[False, True, True]).head(k)
        columns = (counts[name].to_numpy() for name in ("neuron", "score"))
        return _set_of(self._sites, self._places(counts["site"]), *columns)

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
        shared = [
            f"{row[column]:.2f} {where}"
            for column, where in (("shared_within", "within a relation"), ("shared_across", "across"))
            if np.isfinite(row[column])
        ]
        return [f"neurons shared by two facts: {', '.join(shared)}"] if shared else []

    @cached_property
    def _sites(self) -> tuple[Site, ...]:
        return tuple(self.sites)

    @cached_property
    def _rows(self) -> tuple[Mapping[str, slice], Mapping[str, NDArray[Any]]]:
        """Where each fact's rows are, and the columns: plain arrays, as there may be tens of thousands of facts."""
        frame = self.tables["fact_neurons"]  # sorted by fact
        codes, names = pd.factorize(frame["fact"])
        starts = np.searchsorted(codes, np.arange(len(names) + 1))
        spans = {fact: slice(0, 0) for fact in self.ids}
        spans |= {str(name): slice(starts[at], starts[at + 1]) for at, name in enumerate(names)}
        columns = {name: frame[name].to_numpy() for name in ("rank", "neuron", "score", "refined")}
        columns["most"] = (frame["side"] == "most").to_numpy()
        columns["place"] = self._places(frame["site"])
        return spans, columns

    def _places(self, names: pd.Series) -> NDArray[np.int64]:
        """Return the number of each site that is named."""
        places = {site.name: place for place, site in enumerate(self._sites)}
        return np.asarray(names.map(places), dtype=np.int64)


def _set_of(
    sites: Sequence[Site], places: NDArray[np.int64], neurons: NDArray[Any], scores: NDArray[Any]
) -> NeuronSet:
    """Return the set of neurons given by the numbers of their sites, their indices and their scores."""
    by_site = {sites[place]: places == place for place in np.unique(places)}
    return NeuronSet.of(
        {site: neurons[at] for site, at in by_site.items()},
        scores={site: scores[at].astype(np.float64) for site, at in by_site.items()},
    )


def _mean(values: pd.Series) -> str:
    mean = values.mean()
    return "not defined (one prompt)" if np.isnan(mean) else f"{mean:.2f}"
