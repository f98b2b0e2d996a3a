r"""Editing value slots: the vectors that chosen neurons write, rewritten without training.

Updating (Dai et al. 2022, https://arxiv.org/abs/2104.08696): the slot v of every knowledge neuron moves away from the
old answer's word embedding and towards the new one's,

    v <- v - s1 * e(old) + s2 * e(new).

The paper prints it with s1 = 1 and s2 = 8. Its official code makes both relative to the slot,
s1 = |v| / |e(old)| and s2 = 8 |v| / |e(new)| (``variant="relative"``); the replication of EleutherAI takes the raw
embeddings times 2 (``variant="raw"``). Erasing sets the slot to zero, or to the embedding of the unknown token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from neuronwise.edit._slots import Slots, known_site, slots_of
from neuronwise.edit.patch import Patch
from neuronwise.errors import InvalidArgumentError, NeuronIndexError
from neuronwise.sites import NeuronSet, Site, Sites, unembedding

__all__ = ["erase_slots", "set_slot", "update_slots"]

#: A token id, or the vector itself, ``(width,)``.
Word = int | Sequence[int] | Tensor

_STRENGTHS = {"relative": (1.0, 8.0), "raw": (2.0, 2.0)}


def update_slots(
    model: nn.Module,
    neurons: NeuronSet,
    *,
    remove: Word | None = None,
    add: Word | None = None,
    strengths: tuple[float, float] | None = None,
    variant: Literal["relative", "raw"] = "relative",
    embedding: Literal["input", "output"] = "input",
    fact: Any = None,
) -> Patch:
    """Move the neurons' value slots away from one word and towards another.

    Args:
        model: A model with token embeddings, or any model if both words are given as vectors. It is not changed.
        neurons: The neurons, such as the knowledge neurons of a fact.
        remove: The old answer: its token id, or a vector ``(width,)``; None removes nothing.
        add: The new answer, likewise.
        strengths: How much of the old word is subtracted and of the new one added; default: (1, 8) for the relative
            variant (the paper's), (2, 2) for the raw one (EleutherAI's).
        variant: ``"relative"``: in units of the slot's length over the word's; ``"raw"``: of the embedding itself.
        embedding: Which embedding of the token: ``"input"`` (the paper's) or ``"output"``, the unembedding.
        fact: Noted in the patch: a mapping, or an object with ``to_dict()``.

    Returns:
        A :class:`Patch`; its control is the same edit of random neurons.

    Raises:
        InvalidArgumentError: If there is no neuron or no word, an answer has several tokens, or widths do not fit.
        SiteNotFoundError: If it is not known which weight a site writes through.
    """
    if variant not in _STRENGTHS:
        raise InvalidArgumentError(f"variant must be 'relative' or 'raw', not {variant!r}.")
    if remove is None and add is None:
        raise InvalidArgumentError("Neither remove= nor add= is given, so nothing would change.")
    by = _STRENGTHS[variant] if strengths is None else (float(strengths[0]), float(strengths[1]))
    words = [
        (sign * strength, _vector(model, word, embedding))
        for sign, strength, word in ((-1.0, by[0], remove), (1.0, by[1], add))
        if word is not None
    ]
    changes = []
    for slots in slots_of(model, neurons):
        values = _fitting(slots.read(model).double().cpu(), slots, [vector for _, vector in words])
        lengths = values.norm(dim=1, keepdim=True)
        new = values
        for factor, vector in words:
            scale = lengths / vector.norm() if variant == "relative" else 1.0
            new = new + factor * scale * vector
        changes.append(slots.change(model, new))
    settings = {"strengths": list(by), "variant": variant, "embedding": embedding}
    again = partial(
        update_slots, remove=remove, add=add, strengths=by, variant=variant, embedding=embedding, fact=fact
    )
    return Patch.of(
        model,
        changes,
        "update_slots",
        parameters=settings | {"remove": _noted(remove), "add": _noted(add), "neurons": listed(neurons)},
        facts=noted_facts(fact),
        remake=partial(for_random, again, neurons),
    )


def erase_slots(
    model: nn.Module,
    neurons: NeuronSet,
    *,
    to: Literal["zero", "unknown"] = "zero",
    unknown: Word | None = None,
    embedding: Literal["input", "output"] = "input",
    fact: Any = None,
) -> Patch:
    """Empty the neurons' value slots, so that they write nothing, or the unknown token.

    Args:
        model: Any model; for ``"unknown"`` one with token embeddings. It is not changed.
        neurons: The neurons; the paper takes the 20 most frequent ones of a relation's facts.
        to: ``"zero"`` (the paper's), or ``"unknown"``, the word embedding of the unknown token (EleutherAI's).
        unknown: The unknown token's id (``tokenizer.unk_token_id``), or a vector.
        embedding: Which embedding of that token, ``"input"`` or ``"output"``.
        fact: Noted in the patch.

    Returns:
        A :class:`Patch`; its control is the same edit of random neurons.

    Raises:
        InvalidArgumentError: If there is no neuron, or ``unknown`` is missing or not wanted.
        SiteNotFoundError: If it is not known which weight a site writes through.
    """
    if to not in ("zero", "unknown"):
        raise InvalidArgumentError(f"to must be 'zero' or 'unknown', not {to!r}.")
    if (to == "unknown") != (unknown is not None):
        raise InvalidArgumentError(
            "to='unknown' needs unknown=, the id of the unknown token (tokenizer.unk_token_id), and to='zero' takes "
            "none."
        )
    vector = None if unknown is None else _vector(model, unknown, embedding)
    changes = []
    for slots in slots_of(model, neurons):
        values = slots.read(model)
        if vector is None:
            changes.append(slots.change(model, torch.zeros_like(values)))
        else:
            _fitting(values, slots, [vector])
            changes.append(slots.change(model, vector.expand(values.shape)))
    settings = {"to": to, "embedding": embedding}
    again = partial(erase_slots, to=to, unknown=unknown, embedding=embedding, fact=fact)
    return Patch.of(
        model,
        changes,
        "erase_slots",
        parameters=settings | {"unknown": _noted(unknown), "neurons": listed(neurons)},
        facts=noted_facts(fact),
        remake=partial(for_random, again, neurons),
    )


def set_slot(model: nn.Module, site: Site, neuron: int, vector: Tensor | Sequence[float]) -> Patch:
    """Write one neuron's value slot by hand.

    Args:
        model: Any model. It is not changed.
        site: The neuron's site.
        neuron: Its index there.
        vector: The new value slot, as ``site.value_vectors(model)[neuron]`` is shaped.

    Raises:
        NeuronIndexError: If the site has no such neuron.
        InvalidArgumentError: If the vector has another shape.
        SiteNotFoundError: If it is not known which weight the site writes through.
    """
    if not 0 <= neuron < site.width:
        raise NeuronIndexError(
            f"{site.name} has the neurons 0 to {site.width - 1}; there is no neuron {neuron}."
        )
    neurons = NeuronSet.of({known_site(model, site): np.array([neuron])})
    (slots,) = slots_of(model, neurons)
    old = slots.read(model)
    new = torch.as_tensor(vector).detach()
    if new.shape != old.shape[1:]:
        raise InvalidArgumentError(
            f"The value slot of {site.name}[{neuron}] has shape {tuple(old.shape[1:])}, the vector {tuple(new.shape)}."
        )
    change = slots.change(model, new[None])
    return Patch.of(model, [change], "set_slot", parameters={"neurons": listed(neurons)})


def listed(neurons: NeuronSet) -> dict[str, list[int]]:
    """Return a set as plain names and numbers, for the record."""
    return {site.name: neurons.indices(site).tolist() for site in neurons.sites}


def noted_facts(fact: Any) -> list[dict[str, Any]]:
    """Return what a patch notes of a fact, several, or none: everything but paraphrases and probes."""
    if fact is None:
        return []
    if isinstance(fact, list | tuple):
        return [noted for one in fact for noted in noted_facts(one)]
    values = fact.to_dict() if hasattr(fact, "to_dict") else dict(fact)
    return [{name: value for name, value in values.items() if name not in ("held_out", "probes", "contrast")}]


def for_random(method: Callable[..., Patch], neurons: NeuronSet, model: nn.Module, seed: int) -> Patch:
    """Run a method, called as ``method(model=..., neurons=...)``, on as many random neurons of the same layers."""
    return method(model=model, neurons=neurons.matched_random(Sites(neurons.sites), seed=seed))


def _vector(model: nn.Module, word: Word, embedding: str) -> Tensor:
    """Return a word's embedding ``(width,)`` in float64 on the CPU."""
    if isinstance(word, Tensor) and word.is_floating_point():
        vector = word.detach().double().cpu()
        if vector.ndim != 1:
            raise InvalidArgumentError(
                f"A word's vector must have one axis, not shape {tuple(vector.shape)}."
            )
    else:
        token = _one_token(word)
        table = _table(model, embedding)
        if not 0 <= token < len(table):
            raise InvalidArgumentError(f"There is no token {token}: the embedding has {len(table)}.")
        vector = table[token].detach().double().cpu()
    if not float(vector.norm()) > 0:
        raise InvalidArgumentError(
            "The word's vector is zero or not a number, so nothing can be moved towards it."
        )
    return vector


def _one_token(word: Word) -> int:
    tokens = [word] if isinstance(word, int) else [int(token) for token in word]
    if len(tokens) != 1:
        raise InvalidArgumentError(
            f"A value slot is edited with one token, and the answer has {len(tokens)}: {tokens}. Choose an answer "
            "of one token, pass a vector, or use rome, memit or fine, which write several."
        )
    return int(tokens[0])


def _table(model: nn.Module, embedding: str) -> Tensor:
    if embedding not in ("input", "output"):
        raise InvalidArgumentError(f"embedding must be 'input' or 'output', not {embedding!r}.")
    weight: Any
    if embedding == "output":
        weight = unembedding(model)
    else:
        get: Any = getattr(model, "get_input_embeddings", None)
        weight = getattr(get(), "weight", None) if callable(get) else None
    if not isinstance(weight, Tensor):
        raise InvalidArgumentError(
            f"{type(model).__name__} does not say what its {embedding} embedding is (get_{embedding}_embeddings). Pass "
            "the words as vectors."
        )
    return weight


def _fitting(values: Tensor, slots: Slots, vectors: Sequence[Tensor]) -> Tensor:
    for vector in vectors:
        if values.shape[1:] != vector.shape:
            raise InvalidArgumentError(
                f"The value slots in {slots.parameter} have shape {tuple(values.shape[1:])}, the word's vector "
                f"{tuple(vector.shape)}. Pass vectors of the slots' own width."
            )
    return values


def _noted(word: Word | None) -> Any:
    if word is None or isinstance(word, int):
        return word
    return (
        "a vector"
        if isinstance(word, Tensor) and word.is_floating_point()
        else [int(token) for token in word]
    )
