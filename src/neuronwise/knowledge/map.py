"""The knowledge map: a fact's neurons in all layers, and what those of lower layers do for those further up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from neuronwise.attribute import (
    METHODS,
    LogProbability,
    Method,
    NeuronActivation,
    Probability,
    Problem,
    Scores,
    score,
)
from neuronwise.data import Fact, Facts, Prompts, encode, model_card, token_strings
from neuronwise.errors import InvalidArgumentError, closest
from neuronwise.hooks import device_of, frozen_parameters, untouched
from neuronwise.knowledge._rows import in_encoder
from neuronwise.sites import NeuronSet, Site, Sites, find_sites
from neuronwise.store import Manifest, Result

__all__ = ["KnowledgeMap", "knowledge_map"]

_TARGETS = {"probability": Probability, "log_probability": LogProbability}


class KnowledgeMap(Result):
    """A fact's neurons over all layers, and how those of lower layers feed those of higher ones.

    Tables: ``map_nodes`` (the neurons), ``map_edges`` (what each contributes to the activation of those in higher
    layers), ``map_positions`` (summed scores by layer and position, if they were asked for).
    """

    kind: ClassVar[str] = "knowledge_map"
    main_table: ClassVar[str] = "map_nodes"

    @property
    def gap(self) -> float:
        """The largest completeness gap of an edge's target as a part of its activation; NaN without one."""
        nodes = self.tables["map_nodes"]
        shares = nodes["gap"] / nodes["activation"].abs()
        return float(shares.max()) if shares.notna().any() else float("nan")

    def neurons(self, sites: Sites) -> NeuronSet:
        """Return the neurons of the map with their scores, at the sites of a model."""
        return NeuronSet.from_frame(self.tables["map_nodes"], sites)

    def strongest(self, count: int = 10) -> pd.DataFrame:
        """Return the edges of the largest size, the largest first."""
        edges = self.tables["map_edges"]
        order = edges["score"].abs().sort_values(ascending=False, kind="stable").index[:count]
        return edges.loc[order].reset_index(drop=True)

    def summary(self) -> str:
        """Return what was found in a few lines of text."""
        nodes, edges = self.tables["map_nodes"], self.tables["map_edges"]
        lines = [f"{len(nodes)} neurons in {nodes['site'].nunique()} layers, {len(edges)} edges"]
        for row in self.strongest(3).itertuples():
            lines.append(f"{row.site}[{row.neuron}] -> {row.to_site}[{row.to_neuron}]: {row.score:+.4g}")
        if np.isfinite(self.gap):
            lines.append(f"largest gap {self.gap:.2g} of the activation")
        return "\n".join(lines)


def knowledge_map(
    model: nn.Module,
    tokenizer: Any,
    fact: Fact,
    neurons: NeuronSet | int = 5,
    *,
    sites: Site | Sites | None = None,
    method: str | Method = "joint_integrated_gradients",
    target: Literal["probability", "log_probability"] = "probability",
    heat_map: bool = True,
    multi_token: bool = False,
    memory: int = 1 << 30,
    model_name: str | None = None,
) -> KnowledgeMap:
    """Draw up the map of a fact: its neurons in every layer, and which of them feed which further up.

    The edge from a neuron to one of a higher layer is its share of that neuron's activation at the slot, by the
    same attribution with the activation as target: on the joint path, all feed-forward neurons of all lower layers
    grow from 0 together, and their scores add up to the activation less what is left without them (``start``). An edge
    is then what goes there directly, through the residual stream and attention, not by way of neurons in between. All
    scores are means over the fact's prompts.

    Args:
        model: A language model. It runs in evaluation mode and is bit-identical afterwards.
        tokenizer: Its tokenizer.
        fact: The fact.
        neurons: Its neurons, with scores or without; or how many of each layer to take, those with the largest scores
            of either sign.
        sites: Whose neurons; by default the feed-forward neurons that ``find_sites`` finds (those of the decoder, in an
            encoder-decoder).
        method: A name in ``neuronwise.attribute.METHODS``, or a :class:`neuronwise.attribute.Method`.
        target: What the neurons' scores are about; edges are about activations.
        heat_map: Also score the neurons at every position, summed for each layer.
        multi_token: Allow an answer of several tokens; edges are then about the slot of the first.
        memory: Bytes that attribution may take; see :func:`neuronwise.attribute`.
        model_name: Name for the record.

    Raises:
        FactError: If a prompt cannot be encoded.
        SiteNotFoundError: If a neuron is at a site that is not among the sites.
        InvalidArgumentError: If an argument does not fit.
    """
    found = find_sites(model) if sites is None else Sites.of(sites)
    places = Sites(site for site in found if not in_encoder(model, site))
    if target not in _TARGETS:
        raise InvalidArgumentError(f"There is no target {target!r}. {closest(str(target), _TARGETS)}")
    prompts = encode(tokenizer, model, fact.prompts, fact.answer, multi_token=multi_token)
    work = _Work(model, prompts.to(device_of(model)), places, _method(method), memory)
    with untouched(model), frozen_parameters(model):
        scores, p = work.scores(target)
        chosen = _nodes(neurons, scores, places)
        tables = work.tables(chosen)
        if heat_map:
            tables["map_positions"] = work.positions(target, tokenizer)
    parameters = {
        "method": work.method.name,
        "settings": repr(work.method),
        "target": target,
        "value": p,
        "neurons": neurons if isinstance(neurons, int) else "given",
        "multi_token": multi_token,
        "sites": [site.name for site in places],
        "prompts": list(fact.prompts),
    }
    manifest = Manifest(
        "knowledge_map",
        {"name": "knowledge_map", "parameters": parameters},
        model=model_card(model, model_name),
        data={**Facts([fact]).describe(), "fact": fact.id, "answer": fact.answer},
    )
    return KnowledgeMap(tables, manifest)


@dataclass(frozen=True)
class _Work:
    """The model with the fact's prompts."""

    model: nn.Module
    prompts: Prompts
    sites: Sites
    method: Method
    memory: int

    def scores(self, target: str) -> tuple[dict[Site, NDArray[np.float64]], float]:
        """Return the score of every neuron for the answer, and the target; means over the prompts."""
        problem = self._answer(target)
        found = score(problem, self.method)
        means = {site: _array(found, site).sum(1).mean(0) for site in self.sites}
        return means, float(problem.value.double().mean())

    def positions(self, target: str, tokenizer: Any) -> pd.DataFrame:
        """Return the table ``map_positions``."""
        problem = self._answer(target, positions="all")
        found = score(problem, self.method)
        ids = self.prompts.inputs.get("decoder_input_ids", self.prompts.inputs["input_ids"]).cpu().numpy()
        shown = {token: token_strings(tokenizer, [token])[0] for token in np.unique(ids).tolist()}
        parts = []
        for site in self.sites:
            values, where = _array(found, site), problem.positions[site].cpu().numpy()
            prompt, column = np.nonzero(where >= 0)
            position = where[prompt, column]
            own = values[prompt, column]
            parts.append(
                pd.DataFrame(
                    {
                        "prompt": prompt,
                        "site": site.name,
                        "layer": pd.array([site.layer] * len(prompt), dtype="Int32"),
                        "position": position,
                        "token": [shown[token] for token in ids[prompt, position].tolist()],
                        "positive": own.clip(min=0).sum(1),
                        "negative": own.clip(max=0).sum(1),
                    }
                )
            )
        return pd.concat(parts, ignore_index=True)

    def tables(self, chosen: NeuronSet) -> dict[str, pd.DataFrame]:
        """Return the tables of nodes and edges."""
        nodes: list[dict[str, Any]] = []
        edges: list[dict[str, Any]] = []
        for site in (site for site in self.sites if len(chosen.indices(site))):
            lower = Sites(one for one in self.sites[: self.sites.index(site)] if _below(one, site))
            for neuron, value in zip(chosen.indices(site).tolist(), _of(chosen, site), strict=True):
                node, fed = self._fed(site, neuron, lower, chosen)
                name = {"site": site.name, "layer": site.layer, "neuron": neuron, "score": value}
                nodes.append({**name, **node})
                edges += fed
        columns = ["site", "neuron", "to_site", "to_neuron", "score", "score_sd"]
        frame = pd.DataFrame(nodes).astype({"layer": "Int32"})
        return {"map_nodes": frame, "map_edges": pd.DataFrame(edges, columns=columns)}

    def _fed(
        self, site: Site, neuron: int, lower: Sites, chosen: NeuronSet
    ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Return what one neuron is, and what those further down contribute to it."""
        slot = self.prompts.positions[:, :1].cpu()
        target = NeuronActivation(site, neuron, slot[:, 0])
        sources = lower if len(lower) else Sites([site])
        problem = Problem(
            self.model, self.prompts.inputs, target, sources, positions=slot, memory=self.memory
        )
        value = float(problem.value.double().mean())
        if not len(lower):
            return {"activation": value, "start": value, "explained": 0.0, "gap": np.nan}, []
        found = score(problem, self.method)
        edges = [
            {
                "site": source.name,
                "neuron": index,
                "to_site": site.name,
                "to_neuron": neuron,
                "score": float(each.mean()),
                "score_sd": float(each.std(ddof=1)) if len(each) > 1 else np.nan,
            }
            for source in lower
            for index in chosen.indices(source).tolist()
            for each in [_array(found, source)[:, 0, index]]
        ]
        one_path = len(found.paths) == 1
        node = {
            "activation": value,
            "start": float(found.start.double().mean()) if one_path else np.nan,
            "explained": float(sum(edge["score"] for edge in edges)),
            "gap": float(found.gap.double().abs().max()),
        }
        return node, edges

    def _answer(self, target: str, positions: str | None = None) -> Problem:
        """Return the problem of the answer."""
        return Problem(
            self.model,
            self.prompts.inputs,
            _TARGETS[target](self.prompts),
            self.sites,
            positions=positions,
            memory=self.memory,
        )


def _method(method: str | Method) -> Method:
    if isinstance(method, Method):
        return method
    if method not in METHODS:
        raise InvalidArgumentError(
            f"There is no attribution method {method!r}. {closest(str(method), METHODS)}"
        )
    return METHODS[method]()


def _nodes(neurons: NeuronSet | int, scores: Mapping[Site, NDArray[np.float64]], sites: Sites) -> NeuronSet:
    """Return the neurons of the map, with scores."""
    if isinstance(neurons, NeuronSet):
        if not len(neurons):
            raise InvalidArgumentError("There is no neuron to put into the map: the set is empty.")
        own, values = {}, {}
        for site in neurons.sites:
            place, indices, given = sites[site.name], neurons.indices(site), neurons.scores(site)
            own[place], values[place] = indices, scores[place][indices] if given is None else given
        return NeuronSet.of(own, scores=values)
    if neurons < 1:
        raise InvalidArgumentError(f"A map needs at least 1 neuron of each layer, not {neurons}.")
    best = {
        site: np.sort(np.argsort(-np.abs(values), kind="stable")[:neurons]) for site, values in scores.items()
    }
    return NeuronSet.of(best, scores={site: scores[site][indices] for site, indices in best.items()})


def _below(one: Site, other: Site) -> bool:
    """Return whether one site, which comes earlier, is in a lower layer than another."""
    return (one.stack, one.layer) != (other.stack, other.layer) or one.layer is None


def _array(found: Scores, site: Site) -> NDArray[np.float64]:
    values: NDArray[np.float64] = found.values[site].double().cpu().numpy()
    return values


def _of(chosen: NeuronSet, site: Site) -> list[float]:
    values = chosen.scores(site)
    assert values is not None  # the map's neurons have scores
    return [float(value) for value in values]
