"""From what a pass has found to tables: which neurons are shared, how sets overlap, which neurons many facts have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from neuronwise.data import Facts
from neuronwise.knowledge.selection import Refinement, adapted_share, shared_by
from neuronwise.sites import Sites

if TYPE_CHECKING:
    from neuronwise.knowledge.locate import Found

__all__ = ["HUB_SHARE", "tables_of"]

# Dai et al. leave out neurons of more than a tenth of a relation's facts when they update one of them.
HUB_SHARE = 0.1
# Of a relation, if at least this part of the facts that have a neuron belongs to it.
_MOSTLY = 0.8
_SETS_AT_ONCE = 512


def tables_of(
    found: Found, facts: Facts, sites: Sites, rule: Refinement, *, eliminated: bool
) -> dict[str, pd.DataFrame]:
    """Return the tables of a result."""
    order = np.argsort(found.numbers, kind="stable")
    numbers = [found.numbers[at] for at in order]
    known = pd.DataFrame(
        {
            "fact": [facts[number].id for number in numbers],
            "relation": [facts[number].relation for number in numbers],
            "subject": [facts[number].subject for number in numbers],
            "answer": [facts[number].answer for number in numbers],
        }
    )
    names = ("prompts", "p", "log_p", "right", "jaccard", "r1_squared", "gap")
    figures = np.array([found.figures[at] for at in order])
    known = known.assign(**{name: figures[:, column] for column, name in enumerate(names)})
    known["prompts"] = known["prompts"].astype(int)
    neurons = _neurons([found.entries[at] for at in order], known["fact"].tolist())
    known["share"], rounds = _shares(known, neurons, rule, eliminated=eliminated)
    prompts_of = known.set_index("fact")["prompts"]
    share_of = known.set_index("fact")["share"]
    needed = prompts_of.loc[neurons["fact"]].to_numpy()
    neurons["refined"] = True
    for share in () if eliminated else np.unique(share_of):
        here = share_of.loc[neurons["fact"]].to_numpy() == share
        enough = shared_by(neurons["prompts"].to_numpy(), needed, Refinement(float(share), rule.rule))
        neurons.loc[here, "refined"] = enough[here]
    refined = neurons[neurons["refined"] & (neurons["side"] == "most")]
    known["neurons"] = refined.groupby("fact").size().reindex(known["fact"], fill_value=0).to_numpy()
    numbers_of, member = _membership(refined, known["fact"].tolist())
    return {
        "sites": sites.to_frame(),
        "facts": known,
        "fact_neurons": _named(neurons, sites),
        "relations": _relations(known, member, rounds),
        "hubs": _hubs(known, member, numbers_of, sites),
        "fact_problems": pd.DataFrame(
            [(facts[number].id, reason) for number, reason in sorted(found.problems.items())],
            columns=["fact", "reason"],
        ),
    }


def _neurons(entries: list[NDArray[np.float64]], facts: list[str]) -> pd.DataFrame:
    """Return one row for every neuron kept; ``number`` counts through all sites."""
    rows = np.concatenate([np.zeros((0, 5)), *entries])
    frame = pd.DataFrame(rows, columns=["side", "number", "prompts", "score", "rank"])
    frame.insert(0, "fact", np.repeat(facts, [len(part) for part in entries]))
    frame["side"] = np.where(frame["side"] == 0, "most", "least")
    return frame.astype({"number": np.int64, "prompts": np.int64, "rank": np.int64})


def _shares(
    known: pd.DataFrame, neurons: pd.DataFrame, rule: Refinement, *, eliminated: bool
) -> tuple[NDArray[np.float64], dict[str, tuple[float, int]]]:
    """Return the share of prompts asked for in each fact, and share and rounds of each relation."""
    if eliminated:
        return np.full(len(known), np.nan), {}
    if rule.size is None:
        return np.full(len(known), rule.share), dict.fromkeys(known["relation"].astype(str), (rule.share, 0))
    most = neurons[neurons["side"] == "most"]
    counts = {fact: part["prompts"].to_numpy() for fact, part in most.groupby("fact")}
    found = {}
    for relation, part in known.groupby("relation"):
        empty = np.zeros(0, dtype=np.int64)
        each = [counts.get(fact, empty) for fact in part["fact"]]
        found[str(relation)] = adapted_share(each, part["prompts"].tolist(), rule)
    return np.array([found[relation][0] for relation in known["relation"]]), found


def _named(neurons: pd.DataFrame, sites: Sites) -> pd.DataFrame:
    """Return the table with site, layer and index in the place of the number."""
    place, index = _places(neurons["number"].to_numpy(), sites)
    frame = neurons.drop(columns="number")
    frame["site"] = np.array([site.name for site in sites], dtype=object)[place]
    frame["layer"] = pd.array([sites[int(at)].layer for at in place], dtype="Int32")
    frame["neuron"] = index
    return frame


def _places(numbers: NDArray[np.int64], sites: Sites) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the number of the site, and the index in it, of neurons counted through all sites."""
    starts = np.cumsum([0, *(site.width for site in sites)])
    place = np.searchsorted(starts, numbers, side="right") - 1
    return place, numbers - starts[place]


def _membership(refined: pd.DataFrame, facts: list[str]) -> tuple[NDArray[np.int64], sparse.csr_array]:
    """Return the neurons that some fact has, and which fact has which, ``(fact, neuron)``, 1 or 0.

    Sparse, as tens of thousands of facts have a handful each of as many neurons.
    """
    row = {fact: at for at, fact in enumerate(facts)}
    numbers, column = np.unique(refined["number"].to_numpy(), return_inverse=True)
    at = np.array([row[fact] for fact in refined["fact"]], dtype=np.int64)
    shape = (len(facts), len(numbers))
    return numbers, sparse.csr_array((np.ones(len(at)), (at, column)), shape=shape)


def _relations(
    known: pd.DataFrame, member: sparse.csr_array, rounds: dict[str, tuple[float, int]]
) -> pd.DataFrame:
    """Return set sizes and overlaps. Pairs are not looped over: a sum over pairs is a square less the diagonal.

    Facts without a relation belong to none: they count in the last row, and as facts of another relation only.
    """
    rows = []
    total = np.asarray(member.sum(axis=0))
    for relation, part in known.groupby("relation", sort=True):
        if relation == "":
            continue
        mine = member[part.index.to_numpy()]
        inside = np.asarray(mine.sum(axis=0))
        n, outside = len(part), len(known) - len(part)
        share, moved = rounds.get(str(relation), (np.nan, 0))
        rows.append(
            {
                "relation": str(relation),
                "facts": n,
                "share": share,
                "rounds": moved,
                "neurons": mine.sum() / n,
                "shared_within": (inside @ inside - mine.sum()) / (n * (n - 1)) if n > 1 else np.nan,
                "jaccard_within": _jaccard_of_pairs(mine),
                "shared_across": inside @ (total - inside) / (n * outside) if outside else np.nan,
            }
        )
    columns = [
        "relation", "facts", "share", "rounds", "neurons", "shared_within", "jaccard_within", "shared_across",
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=columns)
    sizes = frame["facts"].astype(np.int64)
    pairs, others = sizes * (sizes - 1), sizes * (len(known) - sizes)
    every = {
        "relation": "",
        "facts": len(known),
        "share": np.nan,
        "rounds": 0,
        "neurons": member.sum() / len(known),
        "shared_within": _weighted(frame["shared_within"], pairs),
        "jaccard_within": _weighted(frame["jaccard_within"], pairs),
        "shared_across": _weighted(frame["shared_across"], others),
    }
    return pd.DataFrame([*rows, every], columns=columns)


def _jaccard_of_pairs(sets: sparse.csr_array) -> float:
    """Return the mean Jaccard index of all pairs of sets; pairs of empty sets count as 1."""
    n = sets.shape[0]
    if n < 2:
        return float("nan")
    sizes = np.asarray(sets.sum(axis=1))
    total = 0.0
    for start in range(0, n, _SETS_AT_ONCE):
        both = (sets[start : start + _SETS_AT_ONCE] @ sets.T).toarray()
        either = sizes[start : start + _SETS_AT_ONCE, None] + sizes - both
        total += float(np.divide(both, either, out=np.ones_like(both), where=either > 0).sum())
    return float((total - n) / (n * (n - 1)))  # a set and itself have the index 1


def _weighted(values: pd.Series, weights: pd.Series) -> float:
    known = values.notna() & (weights > 0)
    return float(np.average(values[known], weights=weights[known])) if known.any() else float("nan")


def _hubs(
    known: pd.DataFrame, member: sparse.csr_array, numbers: NDArray[np.int64], sites: Sites
) -> pd.DataFrame:
    """Return the neurons that more than a tenth of some relation's facts have, and at least two of these."""
    columns = [
        "site", "layer", "neuron", "kind", "relation", "facts", "share", "share_of_relation", "relations",
    ]  # fmt: skip
    if not len(numbers) or len(known) < 2:
        return pd.DataFrame(columns=columns)
    relations, of = np.unique(known["relation"].to_numpy(dtype=str), return_inverse=True)
    ones = (np.ones(len(of)), (of, np.arange(len(of))))
    counts = (sparse.csr_array(ones, shape=(len(relations), len(of))) @ member).tocsc()
    sizes = np.bincount(of)
    share_of_relation = (sparse.diags_array(1 / sizes) @ counts).max(axis=0).toarray().ravel()
    largest = counts.max(axis=0).toarray().ravel()
    most = np.asarray(counts.argmax(axis=0)).ravel()
    facts = np.asarray(counts.sum(axis=0))
    chosen = np.flatnonzero((share_of_relation > HUB_SHARE) & (largest > 1))
    place, index = _places(numbers[chosen], sites)
    # Facts without a relation have none that a neuron could be of.
    of_one = (largest >= _MOSTLY * facts) & (relations[most] != "")
    return pd.DataFrame(
        {
            "site": np.array([sites[int(at)].name for at in place], dtype=object),
            "layer": pd.array([sites[int(at)].layer for at in place], dtype="Int32"),
            "neuron": index,
            "kind": np.where(of_one[chosen], "relation", "hub"),
            "relation": relations[most[chosen]],
            "facts": facts[chosen].astype(int),
            "share": facts[chosen] / len(known),
            "share_of_relation": share_of_relation[chosen],
            "relations": np.diff(counts.indptr)[chosen],
        },
        columns=columns,
    )
