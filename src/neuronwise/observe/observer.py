"""The observer: reducers attached to the sites of a model, fed by whatever runs the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from neuronwise.data import Batch
from neuronwise.errors import InvalidArgumentError, NeuronwiseError
from neuronwise.hooks import Capture, capture, sequence_first
from neuronwise.observe.activations import Activations, BatchInfo
from neuronwise.observe.reducer import Reducer
from neuronwise.sites import Site, Sites

__all__ = ["Observer", "batch_info"]


class Observer:
    """Reducers for every site, and the hook that feeds them.

    Use it where you run the model yourself, one forward pass a batch; :func:`neuronwise.observe` does so for a whole
    corpus::

        observer = Observer(sites, [Moments(), Extremes()])
        with observer.attached(model):
            for batch in batches:
                observer.expect(BatchInfo(examples=batch.indices, mask=batch.mask))
                model(**batch.inputs)

    Modules that run several times within the pass are seen every time. A second pass over the same batch would count
    it twice, so it is an error (a :class:`~neuronwise.errors.NeuronwiseError` from the model's call): say
    :meth:`expect` before each.

    Args:
        sites: The sites to watch.
        reducers: The statistics wanted, each once; every site gets an empty one of its own.

    Raises:
        InvalidArgumentError: If two reducers have the same name and settings cannot be told apart in a table.
    """

    def __init__(self, sites: Sites, reducers: Sequence[Reducer]) -> None:
        keys = [reducer_key(reducer) for reducer in reducers]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise InvalidArgumentError(
                f"Reducers given twice: {', '.join(twice)}. One of each kind is enough."
            )
        self.sites = sites
        self.reducers: dict[str, dict[str, Reducer]] = {
            site.name: {key: reducer.fresh() for key, reducer in zip(keys, reducers, strict=True)}
            for site in sites
        }
        #: Positions seen and values that were not finite, a neuron; ``{site name: (neuron,) int64}``.
        self.seen: dict[str, Tensor] = {
            site.name: torch.zeros(site.width, dtype=torch.int64) for site in sites
        }
        self.nonfinite: dict[str, Tensor] = {
            name: torch.zeros_like(count) for name, count in self.seen.items()
        }
        self._batch: BatchInfo | None = None
        self._batch_pass: int | None = None  # the forward pass that the batch came by in
        self._capture: Capture | None = None
        self._expected = 0
        self._sequence_first: set[str] = set()

    @contextmanager
    def attached(self, model: nn.Module, *, stop: bool = False) -> Iterator[Capture]:
        """Watch the model inside a ``with`` block.

        With ``stop``, run it with the capture's ``run``, which ends the forward pass after the last site.
        """
        self._sequence_first = {site.name for site in self.sites if sequence_first(site.module(model))}
        try:
            with capture(model, self.sites, reduce=self._reduce, stop=stop) as cap:
                self._capture = cap
                yield cap
        finally:
            self._batch = self._capture = None

    def expect(self, batch: BatchInfo) -> None:
        """Say which batch the next forward pass is about; batches without a number are counted."""
        self._batch = batch if batch.number is not None else replace(batch, number=self._expected)
        self._batch_pass = None
        self._expected += 1

    def merge(self, other: Observer) -> None:
        """Take in everything that another observer of the same sites and reducers has seen."""
        for site in self.sites:
            self.seen[site.name] += other.seen[site.name]
            self.nonfinite[site.name] += other.nonfinite[site.name]
            for key, reducer in self.reducers[site.name].items():
                reducer.merge(other.reducers[site.name][key])

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything as tensors by name."""
        state: dict[str, Tensor] = {}
        for site in self.sites:
            state[f"{site.name}/seen"] = self.seen[site.name]
            state[f"{site.name}/nonfinite"] = self.nonfinite[site.name]
            for key, reducer in self.reducers[site.name].items():
                state |= {
                    f"{site.name}/{key}/{part}": tensor for part, tensor in reducer.state_dict().items()
                }
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state that an observer of the same sites and reducers has returned."""
        for site in self.sites:
            self.seen[site.name] = state[f"{site.name}/seen"]
            self.nonfinite[site.name] = state[f"{site.name}/nonfinite"]
            for key, reducer in self.reducers[site.name].items():
                prefix = f"{site.name}/{key}/"
                reducer.load_state_dict(
                    {k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)}
                )

    def _reduce(self, site: Site, tensor: Tensor) -> None:
        batch = self._current()
        with torch.no_grad():
            activations = Activations(site, tensor, batch, sequence_first=site.name in self._sequence_first)
            self._count(site, activations)
            for reducer in self.reducers[site.name].values():
                reducer.update(activations)

    def _current(self) -> BatchInfo:
        """Return the batch that this forward pass is about."""
        if self._batch is None:
            raise NeuronwiseError("Call observer.expect(BatchInfo(...)) before each forward pass.")
        running = 0 if self._capture is None else self._capture.passes
        if self._batch_pass not in (None, running):
            raise NeuronwiseError(
                "A second forward pass after one observer.expect(...): its batch would count twice. Call "
                "observer.expect(BatchInfo(...)) before each forward pass, and run passes that are not to be "
                "observed outside the block."
            )
        self._batch_pass = running
        return self._batch

    def _count(self, site: Site, activations: Activations) -> None:
        self.seen[site.name] += len(activations.rows)
        if activations.valid is not None:
            self.nonfinite[site.name] += (~activations.valid).sum(0).cpu()


def reducer_key(reducer: Reducer) -> str:
    """Return the name under which a reducer's state is kept: class means are told apart by their field."""
    field = getattr(reducer, "field", None)
    return reducer.name if field is None else f"{reducer.name}.{field}"


def batch_info(batch: Batch, *, number: int = 0, block: int = 0, seed: int = 0) -> BatchInfo:
    """Return what reducers need to know of a corpus's batch."""
    inputs = batch.inputs if isinstance(batch.inputs, Mapping) else {}
    towers: dict[str, tuple[Tensor | None, Tensor | None]] = {
        name.removesuffix("_input_ids"): (None, ids)
        for name, ids in inputs.items()
        if name.endswith("_input_ids")
    }
    for name, mask in inputs.items():
        if name.endswith("_attention_mask"):
            tower = name.removesuffix("_attention_mask")
            towers[tower] = (mask.bool(), towers.get(tower, (None, None))[1])
    return BatchInfo(
        examples=batch.indices,
        mask=batch.mask,
        token_ids=batch.token_ids,
        labels=batch.labels,
        number=number,
        block=block,
        seed=seed,
        towers=towers,
    )
