"""Editors: the ways to edit a fact, each as a function of the fact, ready for the evaluator."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from torch import nn

from neuronwise.data import Fact, answer_id
from neuronwise.edit import Patch, erase_slots, fine, key_covariances, memit, rome, update_slots
from neuronwise.errors import FactError, InvalidArgumentError, SiteNotFoundError, closest
from neuronwise.knowledge.located import KnowledgeNeurons
from neuronwise.sites import NeuronSet, Site, Sites, find_sites

__all__ = ["EDITORS", "editors", "neurons_of"]

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
# What an editor gives its method by itself.
_GIVEN = ("fact", "remove", "add", "covariance")
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
        located: The neurons of each fact, by its id, for the ways that change neurons.
        k: Only the first k neurons of each fact, by rank, instead of those that its prompts share.
        layers: The layers for ``rome`` (the first one named) and ``memit``; default: the middle one, and the middle
            third.
        corpus: Text, from which the covariance of a layer's keys is taken, for ``rome`` and ``memit``.
        settings: Further arguments of each way, ``{name: {argument: value}}``.

    Raises:
        InvalidArgumentError: If there is no such way, it lacks what it needs, or it takes no such argument.
        SiteNotFoundError: If a layer is not there.

    Example:
        ``evaluate_edit(model, tokenizer, facts, editors(model, tokenizer, ["rome"], corpus=corpus))``
    """
    wanted = list(dict.fromkeys(names))
    given = {name: dict(arguments) for name, arguments in (settings or {}).items()}
    for name in (*wanted, *given):
        if name not in EDITORS:
            raise InvalidArgumentError(f"There is no way to edit {name!r}. {closest(name, EDITORS)}")
    for name, arguments in given.items():
        if name not in wanted:
            raise InvalidArgumentError(
                f"There are settings for {name}, which is not one of the ways asked for."
            )
        _check_settings(name, arguments)
    sets = _sets(located, k)
    if sets is None and (missing := [name for name in wanted if name in _OF_NEURONS]):
        raise InvalidArgumentError(f"{missing[0]} needs located neurons: give what locate has found.")
    chosen: dict[str, Sites] = {}
    if needy := [name for name in wanted if name in ("rome", "memit")]:
        if corpus is None:
            raise InvalidArgumentError(f"{needy[0]} needs a corpus, to see which keys a layer has.")
        chosen = {name: _layers(model, layers, single=name == "rome") for name in needy}
    used = Sites(dict.fromkeys(site for sites in chosen.values() for site in sites))
    covariances = key_covariances(model, corpus, used, tokenizer=tokenizer) if used else {}
    return {
        name: _Editor(name, model, tokenizer, sets, chosen.get(name), covariances, given.get(name, {}))
        for name in wanted
    }


def neurons_of(model: nn.Module, neurons: NeuronSet) -> NeuronSet:
    """Return located neurons, which are addresses only, with the model's own sites, which know their weights.

    Raises:
        SiteNotFoundError: If the model has no such site: they were located in another model.
        NeuronIndexError: If a site has fewer neurons.
    """
    own = {site.name: site for site in find_sites(model)}
    for site in neurons.sites:
        if site.name not in own:
            raise SiteNotFoundError(
                f"This model has no site {site.name!r}; were the neurons located in another one? "
                f"{closest(site.name, own)}"
            )
    return NeuronSet.of({own[site.name]: neurons.indices(site) for site in neurons.sites})


class _Editor:
    """One way with all it needs."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        tokenizer: Any,
        sets: Mapping[str, NeuronSet] | None,
        sites: Sites | None,
        covariances: Mapping[Site, Any],
        settings: Mapping[str, Any],
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
                assert self.sites is not None
                site = self.sites[0]
                return rome(
                    self.model, self.tokenizer, fact, site, covariance=self.covariances[site], **self.settings
                )
            case _:
                assert self.sites is not None
                return memit(
                    self.model, self.tokenizer, fact, self.sites, covariance=self.covariances, **self.settings
                )

    def _neurons(self, fact: Fact) -> NeuronSet:
        assert self.sets is not None
        if fact.id not in self.sets or not len(self.sets[fact.id]):
            raise FactError(f"No neurons have been located for the fact {fact.id!r}.")
        return neurons_of(self.model, self.sets[fact.id])


def _sets(
    located: KnowledgeNeurons | Mapping[str, NeuronSet] | None, k: int | None
) -> Mapping[str, NeuronSet] | None:
    if isinstance(located, KnowledgeNeurons):
        return located.sets(k=k, refined=k is None)
    if located is None or k is None:
        return located
    return {fact: neurons.top(k) for fact, neurons in located.items()}


def _layers(model: nn.Module, layers: Iterable[int] | None, *, single: bool) -> Sites:
    """Return the layers asked for (the first of them), or the middle third (the middle one)."""
    every = find_sites(model)
    if layers is None:
        third = 1 if single else max(1, len(every) // 3)
        start = (len(every) - third) // 2
        return every[start : start + third]
    chosen = [site for layer in layers for site in every.layer(layer)]
    if not chosen:
        raise InvalidArgumentError(f"No layer was named; the model has {len(every)}, from 0.")
    return Sites(chosen[:1] if single else sorted(set(chosen), key=list(every).index))


def _check_settings(name: str, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that the way does not take, or that are of another type, before any work."""
    function = _MADE_BY[name]
    parameters = inspect.signature(function).parameters.values()
    takes = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY and one.name not in _GIVEN]
    hints = get_type_hints(function)
    for argument, value in arguments.items():
        if argument not in takes:
            raise InvalidArgumentError(f"{name} takes no argument {argument!r}. {closest(argument, takes)}")
        if not _fits(value, hints[argument]):
            wanted = inspect.formatannotation(hints[argument])
            raise InvalidArgumentError(f"{argument} of {name} must be {wanted}, not {value!r}.")


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value is of the type of an argument; a list, as JSON has, does for a tuple."""
    inside = get_args(hint)
    match get_origin(hint):
        case origin if origin in (Union, UnionType):
            return any(_fits(value, one) for one in inside)
        case origin if origin is Literal:
            return value in inside
        case origin if origin is tuple:
            pair = isinstance(value, list | tuple) and len(value) == len(inside)
            return pair and all(map(_fits, value, inside))
        case origin if origin is Sequence:
            several = isinstance(value, Sequence) and not isinstance(value, str)
            return several and all(_fits(one, inside[0]) for one in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return hint is Any or isinstance(value, hint)
