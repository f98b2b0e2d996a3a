"""Prompts under many changes at once: every row of a batch has neurons of its own multiplied."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from neuronwise.data import Prompts
from neuronwise.errors import InvalidArgumentError, NeuronwiseError, closest
from neuronwise.hooks import (
    Intervention,
    Spot,
    call_model,
    device_of,
    grow,
    intervene,
    keep_positions,
    untouched,
)
from neuronwise.hooks.interventions import Change
from neuronwise.sites import NeuronSet, Site, Sites, unembedding_layer

__all__ = ["Measured", "Where", "as_reference", "in_encoder", "multiplied"]

Where = Literal["slot", "all"]
"""Where neurons are changed: at the positions from which the answer is predicted, or everywhere."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What a model says to prompts, as it is and under every change.

    Args:
        log_p: Log probability of each prompt's answer as the model is, ``(prompt,)``.
        right: Whether every token of it is the most likely one, ``(prompt,)``.
        log_p_after: The same under the changes, ``(factor, set, prompt)``.
        right_after: ``(factor, set, prompt)``.
    """

    log_p: NDArray[np.float64]
    right: NDArray[np.bool_]
    log_p_after: NDArray[np.float64]
    right_after: NDArray[np.bool_]


def multiplied(
    model: nn.Module,
    prompts: Prompts,
    sets: Sequence[NeuronSet],
    factors: Sequence[float],
    *,
    reference: Mapping[str, Tensor] | None = None,
    positions: Where = "slot",
    max_tokens: int = 8192,
) -> Measured:
    """Run prompts with every set of neurons multiplied by every factor, in as few forward passes as the limit allows.

    All sets and factors go through the model as rows of one batch, and a row joins it at the first block that holds a
    neuron of its set.

    Args:
        model: A language model; it is as it was afterwards.
        prompts: The prompts.
        sets: The sets of neurons; none may be empty.
        factors: What a neuron's distance from its reference is multiplied by.
        reference: ``{site name: (neuron,)}``; None is 0.
        positions: ``"slot"`` or ``"all"``.
        max_tokens: The most positions of a batch, over all its rows.

    Raises:
        InvalidArgumentError: If ``positions`` is neither, or the model gives no logits.
    """
    if positions not in ("slot", "all"):
        raise InvalidArgumentError(
            f"There are no positions {positions!r}. {closest(str(positions), ['slot', 'all'])}"
        )
    runner = _Runner(model, prompts.to(device_of(model)), sets, factors, reference, positions)
    count, shape = len(prompts), (len(factors), len(sets), len(prompts))
    log_p, right = np.empty(count), np.empty(count, dtype=bool)
    log_p_after, right_after = np.empty(shape), np.empty(shape, dtype=bool)
    with torch.no_grad(), untouched(model):
        for examples, variants in _chunks(count, len(factors) * len(sets), _room(prompts, max_tokens)):
            found = runner.run(examples, variants)
            here = examples.numpy()
            log_p[here], right[here] = found[0][: len(here)], found[1][: len(here)]
            factor, chosen = np.divmod(variants.numpy(), len(sets))
            for values, out in ((found[0], log_p_after), (found[1], right_after)):
                changed = values[len(here) :].reshape(len(variants), len(here))
                out[factor[:, None], chosen[:, None], here[None]] = changed
    return Measured(log_p, right, log_p_after, right_after)


def as_reference(given: Mapping[Any, Any] | None, sets: Iterable[NeuronSet]) -> dict[str, Tensor] | None:
    """Return a reference ``{site or its name: one value a neuron}`` as tensors by the names of the sets' sites.

    Raises:
        InvalidArgumentError: If a site is missing, or has not one value a neuron.
    """
    if given is None:
        return None
    by_name = {str(site): values for site, values in given.items()}
    found: dict[str, Tensor] = {}
    for site in {site for one in sets for site in one.sites}:
        if site.name not in by_name:
            raise InvalidArgumentError(
                f"The reference has nothing for {site.name}. {closest(site.name, by_name)}"
            )
        values = torch.as_tensor(np.asarray(by_name[site.name]))
        if values.shape != (site.width,):
            raise InvalidArgumentError(
                f"The reference of {site.name} has shape {tuple(values.shape)}; it must be ({site.width},)."
            )
        found[site.name] = values
    return found


def _room(prompts: Prompts, max_tokens: int) -> int:
    if max_tokens < 1:
        raise InvalidArgumentError(f"max_tokens must be at least 1, not {max_tokens}.")
    return max(2, max_tokens // max(tensor.shape[1] for tensor in prompts.inputs.values()))


def _chunks(count: int, variants: int, room: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield examples and variants whose rows, the untouched ones included, fit into a batch."""
    examples = max(1, min(count, room // (1 + variants)))
    each = max(1, min(variants, room // examples - 1))
    for start in range(0, count, examples):
        chosen = torch.arange(start, min(count, start + examples))
        for first in range(0, max(variants, 1), each):
            yield chosen, torch.arange(first, min(variants, first + each))


class _Runner:
    """The model with its prompts and sets; see :func:`multiplied`. Variant v is factor v // sets of set v % sets."""

    def __init__(
        self,
        model: nn.Module,
        prompts: Prompts,
        sets: Sequence[NeuronSet],
        factors: Sequence[float],
        reference: Mapping[str, Tensor] | None,
        positions: Where,
    ) -> None:
        self.model, self.prompts, self.sets, self.factors = model, prompts, list(sets), list(factors)
        self.reference, self.positions = reference, positions
        self.union = NeuronSet.of([neuron for one in sets for neuron in one])
        sites = {site.name: site for one in sets for site in one.sites}
        self.paths = list(dict.fromkeys(["", *(_block(model, site) for site in Sites(sites.values()))]))
        self.entries = [
            min((self.paths.index(_block(model, site)) for site in one.sites), default=0) for one in sets
        ]
        self.head = unembedding_layer(model)
        # Keys and values of a cache would have as many rows as the batch began with.
        names = inspect.signature(model.forward).parameters
        self.options: dict[str, Any] = {"use_cache": False} if "use_cache" in names else {}

    def run(self, examples: Tensor, variants: Tensor) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return log P and whether it is right: first of the examples as they are, then variant by variant."""
        while True:
            try:
                return self._grown(examples, variants)
            except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
                plain = self.paths == [""] and self.head is None
                if plain or isinstance(error, NeuronwiseError | torch.OutOfMemoryError):
                    raise
            # The model does not take rows that join later, or positions that leave early: ask less of it.
            if self.paths != [""]:
                self.paths, self.entries = [""], [0] * len(self.sets)
            else:
                self.head = None

    def _grown(self, examples: Tensor, variants: Tensor) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        count = len(examples)
        entry = torch.tensor([self.entries[v % len(self.sets)] for v in variants.tolist()], dtype=torch.long)
        order = entry.argsort(stable=True)
        every = torch.arange(count)
        joining = {path: every.repeat(int((entry == number).sum())) for number, path in enumerate(self.paths)}
        start = torch.cat([every, joining.pop("")])
        rows = torch.cat([every, every.repeat(len(order))])
        change = _Multiply(
            self, examples[rows], torch.cat([every * 0 - 1, variants[order].repeat_interleave(count)])
        )
        prompts = self.prompts.select(examples[start])
        wanted = self.prompts.positions.cpu()[examples[rows]].clamp(min=0)
        with ExitStack() as stack:
            stack.enter_context(grow(self.model, joining, start=start))
            if len(order):
                stack.enter_context(intervene(self.model, self.union, change))
            if self.head is not None:
                stack.enter_context(keep_positions(self.head, lambda: wanted))
            output = call_model(self.model, {**prompts.inputs, **self.options})
        log_p, right = _answers(self._logits(output, wanted), self.prompts.answers[examples[rows]])
        back = torch.cat([every, count + (order.argsort()[:, None] * count + every).flatten()])
        return log_p[back].numpy(), right[back].numpy()

    def _logits(self, output: Any, wanted: Tensor) -> Tensor:
        """Return the logits at the positions wanted, ``(row, token, vocabulary)``."""
        logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
        if not isinstance(logits, Tensor) or logits.dim() != 3 or len(logits) != len(wanted):
            shape = f" of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else ""
            what = f"logits{shape}" if isinstance(logits, Tensor) else f"a {type(output).__name__}"
            raise InvalidArgumentError(
                f"The model returns {what}, not logits (row, position, token). Load it with its language-model head."
            )
        if self.head is not None:
            if logits.shape[:2] != wanted.shape:
                raise RuntimeError("The head does not treat positions apart.")
            return logits
        at = wanted.to(logits.device)
        return logits[torch.arange(len(at), device=at.device)[:, None], at]


class _Multiply(Intervention):
    """Multiplies in every row the neurons of its own set by its own factor; rows of variant -1 stay as they are."""

    def __init__(self, runner: _Runner, examples: Tensor, variants: Tensor) -> None:
        self.runner, self.examples = runner, examples
        none = variants < 0
        self.chosen = torch.where(none, 0, variants % len(runner.sets))
        factors = torch.tensor([*runner.factors, 1.0], dtype=torch.float64)
        self.factor = factors[torch.where(none, len(runner.factors), variants // len(runner.sets))]

    def at(self, spot: Spot) -> Change:
        """Return the change for one site."""
        runner, site = self.runner, spot.site
        member = torch.from_numpy(np.stack([np.isin(spot.indices, one.indices(site)) for one in runner.sets]))
        factors = torch.where(member[self.chosen], self.factor[:, None], 1.0)
        means = None if runner.reference is None else runner.reference[site.name][spot.indices]

        def change(values: Tensor, call: int | None) -> Tensor:
            # Rows join in this order, so those that are here already are the first ones.
            rows = len(values)
            shape = (rows, *[1] * (values.dim() - 2), values.shape[-1])
            factor = factors[:rows].to(values).reshape(shape)
            zero = torch.zeros((), dtype=values.dtype, device=values.device)
            origin = zero if means is None else means.to(values)
            # What is not moved, or moved all the way, is so exactly, and whatever the value was.
            moved = torch.where(factor == 0, origin, origin + factor * (values - origin))
            changed = torch.where(factor == 1, values, moved)
            if values.dim() != 3:
                return changed
            return torch.where(self._mask(site, values).unsqueeze(-1), changed, values)

        return change

    def _mask(self, site: Site, values: Tensor) -> Tensor:
        """Return where the rows that are here are changed, ``(row, position)``."""
        rows, length = values.shape[:2]
        if self.runner.positions == "all" or in_encoder(self.runner.model, site):
            return torch.ones((rows, length), dtype=torch.bool, device=values.device)
        slots = self.runner.prompts.positions[self.examples[:rows].to(self.runner.prompts.positions.device)]
        mask = torch.zeros((rows, length + 1), dtype=torch.bool, device=slots.device)
        mask.scatter_(1, torch.where(slots >= 0, slots, length), True)
        return mask[:, :length].to(values.device)


def _answers(logits: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """Return log P of every row's answer, float64, and whether each of its tokens is the most likely one."""
    wanted = answers.to(logits.device)
    real = wanted >= 0
    if int(wanted.max()) >= logits.shape[-1]:
        raise InvalidArgumentError(
            f"Answer {int(wanted.max())} is outside the vocabulary of {logits.shape[-1]} tokens."
        )
    exact = logits.double()
    chosen = exact.gather(-1, wanted.clamp(min=0)[..., None])[..., 0] - exact.logsumexp(-1)
    right = (logits.argmax(-1) == wanted) | ~real
    return torch.where(real, chosen, 0.0).sum(1).cpu(), right.all(1).cpu()


def in_encoder(model: nn.Module, site: Site) -> bool:
    """Return whether a site is in an encoder, whose positions are not those of the answer."""
    coded = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    return bool(coded) and "encoder" in site.path.split(".")


def _block(model: nn.Module, site: Site) -> str:
    """Return the path of the block of a list of layers that a site is in, where rows can join; "" for the start."""
    if site.call is not None or site.layer is None or not site.stack or in_encoder(model, site):
        return ""
    path = f"{site.stack}.{site.layer}"
    inside = f"{site.path}.".startswith(f"{path}.")
    return path if inside and isinstance(model.get_submodule(site.stack), nn.ModuleList) else ""
