"""One attribution problem: a model, a batch, a target, and the neurons that may take credit for it.

Every method asks a problem for the same thing: what is the target, and its gradient, when some neurons have other
values than they have? :meth:`Problem.evaluate` answers for thousands of such *rows* in as few forward and backward
passes as the memory allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from neuronwise.attribute._changes import Leaves, Noise, Rows, Scaled, flattened, placed
from neuronwise.attribute._forms import Form, Prefix, entry_of, prefix_of, select_rows, shareable
from neuronwise.attribute._inputs import batch_size, embedding_sites, has_floats, with_floats, without_cache
from neuronwise.attribute._positions import PositionsLike, resolve_positions
from neuronwise.attribute._saved import SavedBytes, nothing
from neuronwise.attribute.targets import Outputs, Target
from neuronwise.errors import HookError, InvalidArgumentError, NeuronwiseError, closest
from neuronwise.hooks import (
    call_model,
    capture,
    grow,
    intervene,
    keep_positions,
    refuse_uncatchable,
    sequence_first,
)
from neuronwise.sites import Site, Sites, unembedding_layer

__all__ = [
    "AlongInput",
    "Cost",
    "Evaluated",
    "Group",
    "Problem",
]

# What a backward pass works with, beside what is kept for it, is about as large again (measured).
_WORKING = 2
_LEAST_PREFIX = 4  # tokens before the last; sharing fewer is not worth a run of their own
_CLOSE = {torch.float64: 1e-8, torch.float32: 1e-3}


@dataclass(frozen=True)
class Group:
    """Rows in which some sites have other values than they have.

    Args:
        examples: For every row, the number of the example it is a variant of, int64 ``(row,)``.
        values: The values at the chosen positions, ``{site: (row, position, neuron)}``.
        gradients: Whether gradients by these values are wanted; without, its gradients are 0.
    """

    examples: Tensor
    values: Mapping[Site, Tensor]
    gradients: bool = True


@dataclass(frozen=True)
class Evaluated:
    """The target of every row of a group, ``(row,)``, and its gradients, ``{site: (row, position, neuron)}``."""

    value: Tensor
    gradients: Mapping[Site, Tensor]


@dataclass(frozen=True)
class AlongInput:
    """What happens on the way to the input.

    Args:
        value: The target, ``(example, point)``.
        activations: At the scored positions, ``{site: (example, point, position, neuron)}``.
        gradients: Of the target by these activations, of the same shape.
    """

    value: Tensor
    activations: Mapping[Site, Tensor]
    gradients: Mapping[Site, Tensor]


@dataclass
class Cost:
    """What has been computed so far, in forward passes of one example through all layers.

    Args:
        forwards: Forward passes.
        backwards: Backward passes to activations; each costs about as much as a forward pass.
        largest: The most rows that were in memory at once, each counted by the layers it went through.
    """

    forwards: float = 0.0
    backwards: float = 0.0
    largest: float = 0.0


@dataclass(frozen=True)
class _Item:
    """Some rows of one group, in one run."""

    group: int
    rows: slice
    examples: Tensor
    values: Mapping[Site, Tensor]
    entry: int
    gradients: bool


@dataclass(frozen=True)
class _Clean:
    value: Tensor
    activations: Mapping[Site, Tensor]
    row_bytes: float


class Problem:
    """A model on a batch with a target: evaluates it with other values at some sites.

    Args:
        model: The model, in evaluation mode, its parameters frozen (see :func:`frozen_parameters`).
        inputs: The batch, as for :func:`neuronwise.hooks.call_model`; its tensors' first axis counts examples.
        target: The scalar of every example.
        sites: The sites whose neurons are scored, in the order in which the model comes by them.
        positions: Which positions: None (the target's; all, where it has none), ``"all"``, whole numbers for all
            examples (negative ones count from the last real token), or int64 ``(example, position)``.
        memory: How many bytes a run may take for activations and their gradients.
        form: ``"auto"``, ``"prefix"``, ``"growing"`` or ``"wide"``; see ``docs/explanation``.
        input_noise: Added to the outputs of the input embeddings, for each of :attr:`embeddings` one tensor
            ``(example, position, width)`` a call.

    Raises:
        InvalidArgumentError: If an argument does not fit.
        CompiledModelError: If hooks on the model would be skipped.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        target: Target,
        sites: Sites,
        *,
        positions: PositionsLike = None,
        memory: int = 1 << 30,
        form: Form = "auto",
        input_noise: Mapping[Site, Sequence[Tensor]] | None = None,
    ) -> None:
        refuse_uncatchable(model)
        forms = ("auto", "prefix", "growing", "wide")
        if form not in forms:
            raise InvalidArgumentError(f"There is no form {form!r} of the batch. {closest(form, forms)}")
        if memory < 1:
            raise InvalidArgumentError(f"memory is a number of bytes, at least 1, not {memory}.")
        if not len(sites):
            raise InvalidArgumentError(
                "There is no site to attribute to. nw.find_sites(model) lists those of a model."
            )
        for site in sites:
            if sequence_first(site.module(model)):
                raise InvalidArgumentError(
                    f"{site.name}: attribution needs the batch first; use batch_first=True."
                )
        self.model = model
        self.inputs = without_cache(model, inputs)
        self.target = target
        self.sites = sites
        self.memory = memory
        self.form = form
        self._may_change = form == "auto"
        self.input_noise = input_noise
        self.cost = Cost()
        self.count = batch_size(self.inputs)
        self.asked_positions = positions
        #: Positions that are scored, ``{site: (example, position)}``; -1 where an example has fewer.
        self.positions: dict[Site, Tensor] = {}
        self._head: nn.Module | None = None if target.positions is None else unembedding_layer(model)
        self._entries = {site: entry_of(model, site) for site in sites}
        if target.positions is not None and len(target.positions) != self.count:
            raise InvalidArgumentError(
                f"The target has answers for {len(target.positions)} examples, the batch has {self.count}."
            )

    @property
    def value(self) -> Tensor:
        """The target of every example, ``(example,)``."""
        return self._clean.value

    @property
    def activations(self) -> Mapping[Site, Tensor]:
        """What the neurons are, ``{site: (example, position, neuron)}``; 0 at positions an example does not have."""
        return self._clean.activations

    def valid(self, site: Site) -> Tensor:
        """True where an example has a position, ``(example, position)``."""
        self._clean  # noqa: B018 - positions are known when the model has run once
        return self.positions[site] >= 0

    def evaluate(self, groups: Sequence[Group], *, gradients: bool = True) -> list[Evaluated]:
        """Return the target of every row, and its gradient with respect to the values that the row was given.

        Rows share what they have in common: a row joins the batch at the first layer in which it differs.
        """
        kept = [
            Evaluated(
                self.value.new_zeros(len(group.examples)),
                {site: torch.zeros_like(values) for site, values in group.values.items()}
                if gradients
                else {},
            )
            for group in groups
        ]
        for base, items in self._plan(groups):
            values, found = self._run(base, items, gradients=gradients)
            for item, value, slopes in zip(items, values, found, strict=True):
                kept[item.group].value[item.rows] = value
                for site, slope in slopes.items():
                    kept[item.group].gradients[site][item.rows] = slope
        return kept

    def along_input(
        self,
        points: Sequence[float] = (1.0,),
        start: Tensor | float = 0.0,
        *,
        factors: Mapping[Site, Tensor] | None = None,
    ) -> AlongInput:
        """Return what happens at points of the straight path from a start to the input, one forward and backward each.

        The input is every floating-point tensor of the batch or, where there is none (token ids), the output of the
        input embedding. The point 1 is the input as it is.

        Args:
            points: Where on the path.
            start: The start, of the input's shape or one that broadcasts to it.
            factors: What the neurons are multiplied by at the scored positions, ``{site: (example, neuron)}``: 0
                switches one off.
        """
        shares = torch.tensor(list(points), dtype=torch.float64)
        examples = torch.arange(self.count).repeat_interleave(len(shares))
        along = shares.repeat(self.count)
        size = self.rows_at_once()
        parts = [
            self._point_rows(examples[at : at + size], along[at : at + size], start, factors or {})
            for at in range(0, len(examples), size)
        ]
        self.cost.forwards += len(examples)
        self.cost.backwards += len(examples)

        def joined(pieces: Sequence[Tensor]) -> Tensor:
            whole = torch.cat(list(pieces))
            return whole.reshape(self.count, len(shares), *whole.shape[1:])

        values, activations, slopes = zip(*parts, strict=True)
        return AlongInput(
            joined(values),
            {site: joined([part[site] for part in activations]) for site in self.sites},
            {site: joined([part[site] for part in slopes]) for site in self.sites},
        )

    def run(self, examples: Tensor | None = None) -> Tensor:
        """Run the model on rows of the batch as they are, and return the target, ``(row,)``.

        Interventions and captures that are open act; gradients are recorded where the caller has switched them on.

        Args:
            examples: For every row, the number of its example; by default every example once.
        """
        self._clean  # noqa: B018 - how the head is called is known when the model has run once
        rows = torch.arange(self.count) if examples is None else examples
        self.cost.forwards += len(rows)
        with self._noise(lambda: rows):
            return self._target_of(select_rows(self.inputs, rows, self.count), rows)

    def placing(self, site: Site, examples: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Return what puts values ``(row, position, neuron)`` into a site's activations at the positions scored.

        Args:
            site: The site.
            examples: For every row, the number of its example.
        """
        positions = self.positions[site][examples]
        return lambda values, new: placed(flattened(values), new.to(values), positions).reshape(values.shape)

    def rows_at_once(self, each: int = 1) -> int:
        """Return for how many examples, with so many rows each, a backward pass fits into the memory; at least 1."""
        return max(1, int(self.memory / (_WORKING * self._clean.row_bytes * each)))

    def again(
        self, *, inputs: Any = None, input_noise: Mapping[Site, Sequence[Tensor]] | None = None
    ) -> Problem:
        """Return the same problem to be solved anew, after weights have changed or for another batch or noise.

        Args:
            inputs: Another batch of the same shape.
            input_noise: See the class.
        """
        return Problem(
            self.model,
            self.inputs if inputs is None else inputs,
            self.target,
            self.sites,
            positions=self.asked_positions,
            memory=self.memory,
            form=self.form,
            input_noise=self.input_noise if input_noise is None else input_noise,
        )

    def _target_of(self, inputs: Any, examples: Tensor) -> Tensor:
        """Call the model on a batch and return the target of every row."""
        with ExitStack() as stack:
            seen = self._taps(stack)
            if self._head is not None:
                stack.enter_context(keep_positions(self._head, lambda: self._wanted(examples)))
            output = call_model(self.model, inputs)
            logits = self._logits(output, examples, sliced=self._head is not None)
            return self.target.value(Outputs(output, examples, logits, seen()))

    def _point_rows(
        self, examples: Tensor, shares: Tensor, start: Tensor | float, factors: Mapping[Site, Tensor]
    ) -> tuple[Tensor, dict[Site, Tensor], dict[Site, Tensor]]:
        """Run one row for every example and point; return the target, and activations and gradients at the sites."""
        inputs = select_rows(self.inputs, examples, self.count)
        moved = bool((shares != 1).any())

        def towards(values: Tensor, call: int | None = None) -> Tensor:
            share = shares.to(values).reshape(-1, *[1] * (values.dim() - 1))
            begin = start if isinstance(start, float | int) else start.to(values)
            begin = (
                begin[examples] if isinstance(begin, Tensor) and begin.shape[:1] == (self.count,) else begin
            )
            return begin + share * (values - begin)

        with ExitStack() as stack:
            stack.enter_context(self._noise(lambda: examples))
            if moved and has_floats(inputs):
                inputs = with_floats(inputs, towards)
            elif moved:
                stack.enter_context(intervene(self.model, self.embeddings, towards))
            if factors:
                scaled = Scaled({site: (factors[site], self.positions[site]) for site in factors}, examples)
                stack.enter_context(intervene(self.model, Sites(factors), scaled))
            leaves = Leaves()
            stack.enter_context(intervene(self.model, self.sites, leaves))
            stack.enter_context(torch.enable_grad())
            value = self._target_of(inputs, examples)
        tensors = [leaves.tensor(site) for site in self.sites]
        reached: Sequence[Tensor | None] = [None] * len(tensors)
        if value.requires_grad:
            reached = torch.autograd.grad(value.sum(), tensors, allow_unused=True)
        activations = {
            site: self._picked(site, tensor, examples, neurons_last=True)
            for site, tensor in zip(self.sites, tensors, strict=True)
        }
        slopes = {
            site: torch.zeros_like(activations[site])
            if slope is None
            else self._picked(site, slope, examples, neurons_last=True)
            for site, slope in zip(self.sites, reached, strict=True)
        }
        return value.detach(), activations, slopes

    def _picked(self, site: Site, tensor: Tensor, examples: Tensor, *, neurons_last: bool = False) -> Tensor:
        """Return a site's rows at the positions that are scored, ``(row, position, neuron)``."""
        flat = flattened(tensor.detach() if neurons_last else tensor.detach().movedim(site.axis, -1))
        positions = self.positions[site][examples].to(flat.device)
        picked = flat[torch.arange(len(flat), device=flat.device).unsqueeze(1), positions.clamp(min=0)]
        return picked * (positions >= 0).to(picked).unsqueeze(-1)

    @cached_property
    def _clean(self) -> _Clean:
        """Run the batch as it is: the target, the activations, and what a row takes in memory."""
        if self._head is not None:
            clean = self._run_clean(self._head)
            if clean is not None:
                return clean
            self._head = None
        clean = self._run_clean(None)
        assert clean is not None
        return clean

    def _run_clean(self, head: nn.Module | None) -> _Clean | None:
        counted = SavedBytes(self.model)
        examples = torch.arange(self.count)
        with ExitStack() as stack:
            stack.enter_context(self._noise(lambda: examples))
            cap = stack.enter_context(capture(self.model, self.sites, reduce=self._read))
            seen = self._taps(stack)
            stack.enter_context(intervene(self.model, self.sites, Leaves()))
            if head is not None:
                stack.enter_context(keep_positions(head, lambda: self._wanted(examples)))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(torch.autograd.graph.saved_tensors_hooks(counted, nothing))
            output = call_model(self.model, self.inputs)
            logits = self._logits(output, examples, sliced=head is not None)
            if head is not None and logits is None:
                return None
            value = self.target.value(Outputs(output, examples, logits, seen()))
        self.cost.forwards += self.count
        return _Clean(
            value.detach(), {site: cap[site] for site in self.sites}, max(counted.total / self.count, 1.0)
        )

    def _read(self, site: Site, tensor: Tensor) -> Tensor:
        """Return a site's activations at the chosen positions, ``(example, position, neuron)``."""
        flat = flattened(tensor.detach().movedim(site.axis, -1))
        if flat.shape[0] != self.count:
            raise InvalidArgumentError(
                f"{site.name}: the first axis of {tuple(tensor.shape)} should count the {self.count} examples of the "
                "batch. Choose a site before the batch axis is moved or folded."
            )
        self.positions[site] = resolve_positions(
            self.asked_positions,
            self.target,
            self.model,
            self.inputs,
            site,
            count=self.count,
            length=flat.shape[1],
        )
        return self._picked(site, tensor, torch.arange(self.count))

    def _plan(self, groups: Sequence[Group]) -> Iterator[tuple[Tensor, list[_Item]]]:
        """Yield runs, each with its examples and its rows, none larger than the memory allows."""
        form = self.form_used
        prefix = self._last_positions if form == "prefix" else None
        entries = [self._entry(group) for group in groups]
        limit = max(self.memory / (_WORKING * self._bytes(form)), 1.0)
        order = (
            range(self.count) if prefix is None else sorted(range(self.count), key=lambda e: int(prefix[e]))
        )
        weights = torch.zeros(self.count, dtype=torch.float64)
        shares = [self._share(entry) for entry in entries]
        for group, share in zip(groups, shares, strict=True):
            weights += torch.bincount(group.examples, minlength=self.count).double() * share
        block: list[int] = []
        for example in (e for e in order if weights[e] > 0):
            differs = bool(block) and prefix is not None and int(prefix[block[0]]) != int(prefix[example])
            if block and (differs or float(weights[block].sum() + weights[example]) + len(block) + 1 > limit):
                yield from self._pieces(groups, entries, shares, block, limit)
                block = []
            block.append(example)
        if block:
            yield from self._pieces(groups, entries, shares, block, limit)

    def _pieces(
        self, groups: Sequence[Group], entries: list[int], shares: list[float], block: list[int], limit: float
    ) -> Iterator[tuple[Tensor, list[_Item]]]:
        """Yield the rows of a block of examples, in several runs where one example alone is too large."""
        base = torch.tensor(block)
        items: list[_Item] = []
        filled = float(len(block))
        for number, (group, entry, share) in enumerate(zip(groups, entries, shares, strict=True)):
            wanted = torch.isin(group.examples, base).nonzero()[:, 0]
            while len(wanted):
                room = max(int((limit - filled) / share), 1 if not items else 0)
                if room == 0:
                    yield base, items
                    items, filled = [], float(len(block))
                    continue
                rows, wanted = wanted[:room], wanted[room:]
                items += _runs(number, entry, group, rows)
                filled += len(rows) * share
        if items:
            yield base, items

    def _run(
        self, base: Tensor, items: list[_Item], *, gradients: bool
    ) -> tuple[list[Tensor], list[dict[Site, Tensor]]]:
        """Run some rows; with form "auto", go on with a form that asks less of the model where one does not work."""
        while True:
            form = self.form_used
            try:
                return self._run_as(form, base, items, gradients=gradients)
            except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
                told = isinstance(error, NeuronwiseError) and not isinstance(error, HookError)
                if (
                    not self._may_change
                    or form == "wide"
                    or told
                    or isinstance(error, torch.OutOfMemoryError)
                ):
                    raise
            self.form = "growing" if form == "prefix" else "wide"
            if self.form == "wide":
                items = [replace(item, entry=0) for item in items]

    def _run_as(
        self, form: Form, base: Tensor, items: list[_Item], *, gradients: bool
    ) -> tuple[list[Tensor], list[dict[Site, Tensor]]]:
        items_in_order = sorted(range(len(items)), key=lambda at: items[at].entry)
        local = torch.zeros(self.count, dtype=torch.long)
        local[base] = torch.arange(len(base))
        joining: dict[str, list[Tensor]] = {path: [] for path in self._paths}
        rows = Rows(self.sites, base)
        starts: dict[int, int] = {}
        leaves: dict[tuple[int, Site], Tensor] = {}
        stop = len(base)
        for at in items_in_order:
            item = items[at]
            joining[self._paths[item.entry]].append(local[item.examples])
            starts[at], stop = stop, stop + len(item.examples)
            for site, values in item.values.items():
                leaf = values.detach().clone().requires_grad_(gradients and item.gradients)
                if leaf.requires_grad:
                    leaves[at, site] = leaf
                rows.put(site, starts[at], leaf, self._where(site, item.examples, form))
        value = self._forward(form, base, joining, rows, gradients=gradients)
        self._compare(value[: len(base)].detach(), base)
        self._count(form, items, len(base), gradients=gradients)
        found: list[dict[Site, Tensor]] = [{} for _ in items]
        if leaves and value.requires_grad:  # it does not where the target looks at nothing above the sites
            wanted = [
                value[starts[at] : starts[at] + len(items[at].examples)] for at in {at for at, _ in leaves}
            ]
            slopes = torch.autograd.grad(torch.cat(wanted).sum(), list(leaves.values()), allow_unused=True)
            for (at, site), slope in zip(leaves, slopes, strict=True):
                if slope is not None:
                    found[at][site] = slope
        detached = value.detach()
        return [
            detached[starts[at] : starts[at] + len(item.examples)] for at, item in enumerate(items)
        ], found

    def _forward(
        self, form: Form, base: Tensor, joining: Mapping[str, list[Tensor]], rows: Rows, *, gradients: bool
    ) -> Tensor:
        """Run the model on the base rows and all that join, and return the target of every row."""
        entries = {path: torch.cat(parts) if parts else base[:0] for path, parts in joining.items()}
        start = torch.cat([torch.arange(len(base)), entries.pop("")])
        inputs = select_rows(self.inputs, base, self.count)
        last = form == "prefix"
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad() if gradients else torch.no_grad())
            prefix: Prefix | None = None
            if last:
                assert self._last_positions is not None
                with torch.no_grad():
                    prefix = prefix_of(self.model, inputs, int(self._last_positions[base[0]]))
                inputs = prefix.inputs
            growth = stack.enter_context(grow(self.model, entries, start=start))
            rows.follow(growth)
            if prefix is not None:
                prefix.follow(growth)
            inputs = select_rows(inputs, start, len(base))
            stack.enter_context(self._noise(rows.examples))
            if rows.sites:
                stack.enter_context(intervene(self.model, Sites(rows.sites), rows))
            seen = self._taps(stack)
            if self._head is not None:
                stack.enter_context(
                    keep_positions(self._head, lambda: self._wanted(rows.examples(), last=last))
                )
            output = call_model(self.model, inputs)
            examples = rows.examples()
            logits = self._logits(output, examples, sliced=self._head is not None, last=last)
            activations = {name: rows.completed(values) for name, values in seen().items()}
            return self.target.value(Outputs(output, examples, logits, activations))

    def _where(self, site: Site, examples: Tensor, form: Form) -> Tensor:
        positions = self.positions[site][examples]
        return positions.clamp(max=0) if form == "prefix" else positions  # one token a row

    def _wanted(self, examples: Tensor, *, last: bool = False) -> Tensor:
        assert self.target.positions is not None
        positions = self.target.positions[examples.to(self.target.positions.device)].clamp(min=0)
        return torch.zeros_like(positions) if last else positions

    def _logits(self, output: Any, examples: Tensor, *, sliced: bool, last: bool = False) -> Tensor | None:
        """Return the logits at the target's positions, ``(row, token, vocabulary)``, or None if there are none."""
        if self.target.positions is None:
            return None
        logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
        if logits is None and isinstance(output, tuple) and output and isinstance(output[0], Tensor):
            logits = output[0]
        if not isinstance(logits, Tensor) or logits.dim() != 3:
            return None
        wanted = self._wanted(examples, last=last).to(logits.device)
        if sliced:
            return logits if logits.shape[:2] == wanted.shape else None
        if int(wanted.max()) >= logits.shape[1]:
            raise InvalidArgumentError(
                f"The target reads the logits at position {int(wanted.max())}; there are {logits.shape[1]} positions."
            )
        return logits[torch.arange(len(wanted), device=logits.device).unsqueeze(1), wanted]

    def _taps(self, stack: ExitStack) -> Callable[[], dict[str, Tensor]]:
        """Read the sites that the target reads."""
        if not self.target.taps:
            return dict
        cap = stack.enter_context(
            capture(self.model, self.target.taps, reduce=lambda site, t: flattened(t.movedim(site.axis, -1)))
        )
        return lambda: {site.name: cap[site] for site in self.target.taps}

    def _noise(self, examples: Callable[[], Tensor]) -> AbstractContextManager[None]:
        """Add the input noise to the input embedding."""
        noise = self.input_noise
        if noise is None:
            return ExitStack()  # type: ignore[return-value] # a context that does nothing
        return intervene(self.model, Sites(list(noise)), Noise(noise, examples))

    @cached_property
    def embeddings(self) -> Sites:
        """The outputs of the modules that look up the input embedding; several where encoder and decoder share it.

        Raises:
            InvalidArgumentError: If there is none.
        """
        sites = embedding_sites(self.model)
        with torch.no_grad(), capture(self.model, sites, reduce=lambda site, tensor: True) as cap:
            call_model(self.model, self.inputs)
        self.cost.forwards += self.count
        return Sites([site for site in sites if site in cap])

    def _compare(self, value: Tensor, base: Tensor) -> None:
        """See that sharing layers has not changed the target: rows must not know of each other."""
        clean = self.value[base]
        close = _CLOSE.get(clean.dtype, 5e-2)
        if not torch.allclose(
            value, clean, rtol=close, atol=close * float(clean.abs().max()), equal_nan=True
        ):
            raise HookError(
                f"The {self.form_used} batch gives the target {value.tolist()[:3]} where the model gives "
                f"{clean.tolist()[:3]}: its rows do not stay apart. Use form='wide', or one example at a time."
            )

    @cached_property
    def _paths(self) -> list[str]:
        """Where rows can join: from the start, "", and at the blocks, in the model's order.

        All blocks of a list count, also those that no row joins at: what the model hands to each of them (a mask, say)
        must grow with the rows.
        """
        stacks = {path.rpartition(".")[0] for path in self._entries.values() if path}
        order = [
            f"{name}.{number}"
            for name, module in self.model.named_modules()
            if name in stacks and isinstance(module, nn.ModuleList)
            for number in range(len(module))
        ]
        return ["", *order]

    @property
    def form_used(self) -> Form:
        """The form of the batch: the one asked for, or the one that shares most."""
        self._clean  # noqa: B018 - positions are known when the model has run once
        if self.form in ("auto", "prefix") and self._last_positions is not None:
            return "prefix"
        if self.form == "prefix":
            raise InvalidArgumentError(
                "form='prefix' needs a causal language model of Hugging Face's, and neurons and target at the last "
                "token of each prompt, which must not be its first."
            )
        return "growing" if self.form == "auto" else self.form

    def _entry(self, group: Group) -> int:
        """Return where a group's rows join: at the first block in which they differ."""
        return (
            0
            if self.form_used == "wide"
            else min(self._paths.index(self._entries[site]) for site in group.values)
        )

    def _share(self, entry: int) -> float:
        """Return which part of the layers a row goes through."""
        return 1.0 if entry == 0 else 1.0 - (entry - 1) / (len(self._paths) - 1)

    @cached_property
    def _last_positions(self) -> Tensor | None:
        """Each prompt's last position, where nothing but it is looked at and all before it can be shared."""
        ends = self.target.positions
        if ends is None or ends.shape[1] != 1 or self.target.taps or self.input_noise is not None:
            return None
        same = all(torch.equal(where, ends.to(where.device)) for where in self.positions.values())
        least = 1 if self.form == "prefix" else _LEAST_PREFIX
        if not same or int(ends.min()) < least or not shareable(self.model, self.inputs):
            return None
        return ends[:, 0]

    def _bytes(self, form: Form) -> float:
        """Return how many bytes one row through all layers keeps for the backward pass."""
        whole = self._clean.row_bytes
        if form != "prefix":
            return whole
        assert self._last_positions is not None
        config = self.model.config
        length = int(self._last_positions.max()) + 1
        hidden, layers = int(config.hidden_size), int(config.num_hidden_layers)  # type: ignore[union-attr, arg-type]
        element = next(self.model.parameters()).element_size()
        return (
            whole / length + 2.0 * layers * hidden * length * element
        )  # its own token, and copies of keys and values

    def _count(self, form: Form, items: list[_Item], base: int, *, gradients: bool) -> None:
        per_token = 1.0
        if form == "prefix":
            assert self._last_positions is not None
            per_token = 1.0 / (float(self._last_positions.double().mean()) + 1)
            self.cost.forwards += base * (1 - per_token)
        rows = sum(len(item.examples) * self._share(item.entry) for item in items)
        self.cost.forwards += (rows + base) * per_token
        if gradients:
            with_gradients = [item for item in items if item.gradients]
            rows_back = sum(len(item.examples) * self._share(item.entry) for item in with_gradients)
            self.cost.backwards += rows_back * per_token
        self.cost.largest = max(self.cost.largest, rows + base)


def _runs(number: int, entry: int, group: Group, rows: Tensor) -> list[_Item]:
    """Return items of neighbouring rows."""
    breaks = ((rows[1:] - rows[:-1]) != 1).nonzero()[:, 0] + 1
    items = []
    for part in torch.tensor_split(rows, breaks):
        where = slice(int(part[0]), int(part[-1]) + 1)
        values = {site: given[where] for site, given in group.values.items()}
        items.append(_Item(number, where, group.examples[where], values, entry, group.gradients))
    return items
