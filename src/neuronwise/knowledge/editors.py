"""Editors: the ways to edit a fact, each as a function of the fact, ready for the evaluator."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from neuronwise.data import Fact, answer_id
from neuronwise.edit import Patch, erase_slots, fine, key_covariances, memit, rome, update_slots
from neuronwise.errors import FactError, InvalidArgumentError, closest
from neuronwise.knowledge.located import KnowledgeNeurons
from neuronwise.sites import NeuronSet, Sites, find_sites

__all__ = ["EDITORS", "editors"]

Editor = Callable[[Fact], Patch]

#: What each way needs beside the model and the fact.
EDITORS: Mapping[str, str] = MappingProxyType(
    {
        "update_slots": "located neurons; moves their value slots from the old answer to the new one",
        "erase_slots": "located neurons; empties their value slots",
        "fine": "located neurons; trains their value slots and nothing else",
        "rome": "a layer and a corpus; changes its down projection by a rank-one matrix",
        "memit": "layers and a corpus; changes their down projections together",
    }
)
_OF_NEURONS = ("update_slots", "erase_slots", "fine")
_MADE_BY: Mapping[str, Callable[..., Patch]] = {
    "update_slots": update_slots,
    "erase_slots": erase_slots,
    "fine": fine,
    "rome": rome,
    "memit": memit,
}


def editors(
    model: nn.Module,
    tokenizer: Any,
    names: Iterable[str],
    *,
    located: KnowledgeNeurons | Mapping[str, NeuronSet] | None = None,
    k: int | None = None,
    layers: Iterable[int] | None = None,
    corpus: Any = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Editor]:
    """Return ways to edit a fact by name, each a function of a fact that returns a patch.

    They are what :func:`neuronwise.edit.evaluate_edit` compares, and what ``neuronwise facts edit`` runs.

    Args:
        model: A language model.
        tokenizer: Its tokenizer.
        names: Names in :data:`EDITORS`.
        located: The neurons of each fact, for the ways that change neurons.
        k: Only the first k neurons of each fact, by rank, instead of those that its prompts share.
        layers: The layers for ``rome`` (the first one) and ``memit``; default: the middle one, and the middle third.
        corpus: Text, from which the covariance of a layer's keys is taken, for ``rome`` and ``memit``.
        settings: Further arguments of each way, ``{name: {argument: value}}``.

    Raises:
        InvalidArgumentError: If there is no such way, it lacks what it needs, or it takes no such argument.

    Example:
        ``evaluate_edit(model, tokenizer, facts, editors(model, tokenizer, ["rome"], corpus=corpus))``
    """
    wanted = list(dict.fromkeys(names))
    given = dict(settings or {})
    for name in (*wanted, *given):
        if name not in EDITORS:
            raise InvalidArgumentError(f"There is no way to edit {name!r}. {closest(name, EDITORS)}")
    for name, arguments in given.items():
        takes = _keywords(_MADE_BY[name])
        unknown = sorted(set(arguments) - set(takes))
        if unknown:
            raise InvalidArgumentError(
                f"{name} takes no argument {unknown[0]!r}. {closest(unknown[0], takes)}"
            )
    sets = _sets(located, k)
    sites = _layers(model, layers)
    if sets is None and (missing := [name for name in wanted if name in _OF_NEURONS]):
        raise InvalidArgumentError(f"{missing[0]} needs located neurons: give what locate has found.")
    covariances = None
    if needy := [name for name in wanted if name in ("rome", "memit")]:
        if corpus is None:
            raise InvalidArgumentError(f"{needy[0]} needs a corpus, to see which keys a layer has.")
        covariances = key_covariances(model, corpus, sites)
    made: dict[str, Editor] = {}
    for name in wanted:
        made[name] = _Editor(name, model, tokenizer, sets, sites, covariances, dict(given.get(name, {})))
    return made


class _Editor:
    """One way with all it needs."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        tokenizer: Any,
        sets: Mapping[str, NeuronSet] | None,
        sites: Sites,
        covariances: Any,
        settings: dict[str, Any],
    ) -> None:
        self.name, self.model, self.tokenizer = name, model, tokenizer
        self.sets, self.sites, self.covariances, self.settings = sets, sites, covariances, settings

    def __call__(self, fact: Fact) -> Patch:
        match self.name:
            case "update_slots":
                add = None if fact.new_answer is None else answer_id(self.tokenizer, fact.new_answer)
                old = answer_id(self.tokenizer, fact.answer)
                return update_slots(
                    self.model, self._neurons(fact), remove=old, add=add, fact=fact, **self.settings
                )
            case "erase_slots":
                return erase_slots(self.model, self._neurons(fact), fact=fact, **self.settings)
            case "fine":
                return fine(self.model, self.tokenizer, fact, self._neurons(fact), **self.settings)
            case "rome":
                site = self.sites[len(self.sites) // 2]
                return rome(
                    self.model, self.tokenizer, fact, site, covariance=self.covariances[site], **self.settings
                )
            case _:
                return memit(
                    self.model, self.tokenizer, fact, self.sites, covariance=self.covariances, **self.settings
                )

    def _neurons(self, fact: Fact) -> NeuronSet:
        assert self.sets is not None
        if fact.id not in self.sets or not len(self.sets[fact.id]):
            raise FactError(f"No neurons have been located for the fact {fact.id!r}.")
        # Located neurons are addresses; the model's own sites know the weights that they write through.
        own = {site.name: site for site in find_sites(self.model)}
        found = self.sets[fact.id]
        return NeuronSet.of({own.get(site.name, site): found.indices(site) for site in found.sites})


def _sets(
    located: KnowledgeNeurons | Mapping[str, NeuronSet] | None, k: int | None
) -> Mapping[str, NeuronSet] | None:
    if isinstance(located, KnowledgeNeurons):
        return located.sets(k=k, refined=k is None)
    return located


def _layers(model: nn.Module, layers: Iterable[int] | None) -> Sites:
    """Return the layers asked for, or the middle third."""
    every = find_sites(model)
    if layers is None:
        third = max(1, len(every) // 3)
        start = (len(every) - third) // 2
        return every[start : start + third]
    chosen = Sites(site for layer in layers for site in every.layer(layer))
    if not len(chosen):
        raise InvalidArgumentError(f"No layer was named; the model has {len(every)}, from 0.")
    return chosen


def _keywords(function: Callable[..., Patch]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
