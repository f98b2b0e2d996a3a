"""Redundant neurons: those that a fact does not miss, because others stand in for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from neuronwise.attribute import IntegratedGradients, Probability, Problem, score
from neuronwise.data import Fact, Facts, encode, model_card
from neuronwise.errors import InvalidArgumentError
from neuronwise.hooks import device_of, frozen_parameters, untouched
from neuronwise.knowledge._rows import multiplied
from neuronwise.sites import NeuronSet, Site, Sites, find_sites
from neuronwise.store import Manifest, Result

__all__ = ["Redundancy", "redundancy"]


class Redundancy(Result):
    """Which of a fact's strongest neurons stand in for each other.

    Tables: ``redundant_neurons`` (the k strongest on the joint path, and what each alone is missed by),
    ``redundant_pairs`` (every pair of them: what is lost without one, the other, and both).
    """

    kind: ClassVar[str] = "redundancy"
    main_table: ClassVar[str] = "redundant_pairs"

    @property
    def p(self) -> float:
        """Mean probability of the answer over the prompts, with nothing suppressed."""
        return float(self.manifest.action["parameters"]["p"])

    @property
    def covered(self) -> pd.DataFrame:
        """The neurons whose score is high and whose own suppression hardly shows."""
        frame = self.tables["redundant_neurons"]
        return frame[frame["covered"]].reset_index(drop=True)

    @property
    def pairs(self) -> pd.DataFrame:
        """The pairs that cover for each other, the largest synergy first."""
        frame = self.tables["redundant_pairs"]
        return frame[frame["covers"]].sort_values("synergy", ascending=False, ignore_index=True)

    def summary(self) -> str:
        """Return what was found in a few lines of text."""
        neurons, pairs = self.tables["redundant_neurons"], self.tables["redundant_pairs"]
        lines = [
            f"P = {self.p:.4f}; {len(self.covered)} of the {len(neurons)} strongest neurons are covered for by others, "
            f"{len(self.pairs)} of {len(pairs)} pairs cover for each other"
        ]
        for row in pairs.sort_values("synergy", ascending=False).head(3).itertuples():
            lines.append(
                f"{row.site}[{row.neuron}] and {row.other_site}[{row.other}]: P falls by {row.drop:.4f} and "
                f"{row.drop_other:.4f} alone, by {row.drop_both:.4f} together"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class _Criteria:
    """When a pair covers for each other, and a neuron is covered for."""

    keep: float
    lose: float
    share: float

    def check(self) -> None:
        for name in ("keep", "lose", "share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidArgumentError(f"{name} is a share from 0 to 1, not {getattr(self, name)}.")

    def covers(
        self, p: float, first: NDArray[np.float64], other: NDArray[np.float64], both: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Return for each pair whether either alone keeps the fact and both together lose it, from the falls of P."""
        alone = np.maximum(first, other) <= (1 - self.keep) * p
        found: NDArray[np.bool_] = alone & (both > self.lose * p)
        return found


def redundancy(
    model: nn.Module,
    tokenizer: Any,
    fact: Fact,
    *,
    k: int = 20,
    sites: Site | Sites | None = None,
    keep: float = 0.8,
    lose: float = 0.5,
    share: float = 0.5,
    tolerance: float = 1e-3,
    multi_token: bool = False,
    memory: int = 1 << 30,
    max_tokens: int = 8192,
    model_name: str | None = None,
) -> Redundancy:
    """Find the neurons of a fact that single suppression and attribution layer by layer miss, and their stand-ins.

    Two neurons may each be able to express a fact ("degenerate" neurons, Chen et al. 2024,
    https://arxiv.org/abs/2308.13198). Integrated gradients on the joint path over all layers, where all neurons grow
    together, give credit to both; suppressing one alone changes little. Here the k strongest on that path are
    suppressed alone and in all pairs (at the slot; all other neurons respond), and the fall of P, the mean
    probability of the answer over the fact's prompts, is compared: synergy = fall of both - fall of one - fall of the
    other.

    A pair *covers* for each other if either alone leaves at least ``keep`` of P and both together take more than
    ``lose`` of it. A neuron is *covered* for if its fall is less than ``share`` of its score, which is what it would be
    if the neurons did not interact.

    Costs k (k + 1) / 2 forward passes a prompt, in batches, beside the attribution.

    Args:
        model: A language model. It runs in evaluation mode and is bit-identical afterwards.
        tokenizer: Its tokenizer.
        fact: The fact.
        k: How many neurons, those with the largest scores.
        sites: Whose neurons; by default the feed-forward neurons that ``find_sites`` finds.
        keep: Least share of P that either alone must leave.
        lose: Share of P that both together must take more than.
        share: Share of its score that a neuron's fall must stay below.
        tolerance: Accepted completeness gap of the scores; see :class:`neuronwise.attribute.IntegratedGradients`.
        multi_token: Allow an answer of several tokens.
        memory: Bytes that attribution may take; see :func:`neuronwise.attribute`.
        max_tokens: The most positions of a batch of suppressed rows.
        model_name: Name for the record.

    Raises:
        FactError: If a prompt cannot be encoded.
        InvalidArgumentError: If an argument does not fit.
    """
    if k < 2:
        raise InvalidArgumentError(f"There are pairs of at least 2 neurons; k cannot be {k}.")
    criteria = _Criteria(keep, lose, share)
    criteria.check()
    places = find_sites(model) if sites is None else Sites.of(sites)
    prompts = encode(tokenizer, model, fact.prompts, fact.answer, multi_token=multi_token).to(
        device_of(model)
    )
    with untouched(model), frozen_parameters(model):
        problem = Problem(model, prompts.inputs, Probability(prompts), places, memory=memory)
        found = score(problem, IntegratedGradients(joint=True, tolerance=tolerance))
    scores = {site: values.sum(1).mean(0).cpu().numpy() for site, values in found.values.items()}
    strongest = NeuronSet.of({site: range(site.width) for site in scores}, scores=scores).top(k)
    order = sorted(strongest, key=lambda neuron: -scores[neuron[0]][neuron[1]])
    pairs = list(combinations(range(len(order)), 2))
    sets = [NeuronSet.of([one]) for one in order] + [NeuronSet.of([order[a], order[b]]) for a, b in pairs]
    measured = multiplied(model, prompts, sets, (0.0,), max_tokens=max_tokens)
    p = float(np.exp(measured.log_p).mean())
    falls = p - np.exp(measured.log_p_after[0]).mean(1)
    parameters = {
        "p": p, "k": k, "keep": keep, "lose": lose, "share": share, "prompts": len(prompts), "tolerance": tolerance,
        "multi_token": multi_token,
        "gap": float(found.gap.abs().max()), "sites": [site.name for site in places],
    }  # fmt: skip
    manifest = Manifest(
        "redundancy",
        {"name": "redundancy", "parameters": parameters},
        model=model_card(model, model_name),
        data={**Facts([fact]).describe(), "fact": fact.id, "answer": fact.answer},
    )
    return Redundancy(_tables(order, pairs, scores, falls, p, criteria), manifest)


def _tables(
    order: list[tuple[Site, int]],
    pairs: list[tuple[int, int]],
    scores: Mapping[Site, NDArray[np.float64]],
    falls: NDArray[np.float64],
    p: float,
    criteria: _Criteria,
) -> dict[str, pd.DataFrame]:
    single, both = falls[: len(order)], falls[len(order) :]
    score = np.array([scores[site][neuron] for site, neuron in order])
    neurons = pd.DataFrame(
        {
            "rank": range(len(order)),
            "site": [site.name for site, _ in order],
            "layer": pd.array([site.layer for site, _ in order], dtype="Int32"),
            "neuron": [neuron for _, neuron in order],
            "score": score,
            "drop": single,
            "covered": single < criteria.share * score,
        }
    )
    one, other = (np.array(side, dtype=int) for side in zip(*pairs, strict=True))
    table = pd.DataFrame(
        {
            "site": [order[at][0].name for at in one],
            "neuron": [order[at][1] for at in one],
            "other_site": [order[at][0].name for at in other],
            "other": [order[at][1] for at in other],
            "drop": single[one],
            "drop_other": single[other],
            "drop_both": both,
            "synergy": both - single[one] - single[other],
            "covers": criteria.covers(p, single[one], single[other], both),
        }
    )
    return {"redundant_neurons": neurons, "redundant_pairs": table}
