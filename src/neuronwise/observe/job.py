"""What an engine runs to observe a corpus: blocks of it go through the model and into an observer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuronwise.data import Corpus
from neuronwise.engine import Block
from neuronwise.hooks import device_of, untouched
from neuronwise.observe._batches import batches_for, explained
from neuronwise.observe.observer import Observer, batch_info, reducer_key
from neuronwise.observe.reducer import Reducer
from neuronwise.sites import Sites

__all__ = ["ObserverJob"]


class ObserverJob:
    """The job that an engine runs: it holds the model and the corpus, and folds blocks into an observer.

    Args:
        model: The model.
        corpus: Its examples.
        sites: Where to observe.
        reducers: What each site's activations are reduced to.
        batch_size: Examples in a batch.
        max_tokens: Tokens of an example, at most; None for what the model takes.
        block_size: Examples in a block, for the fingerprint.
        seed: Where chance begins.
        model_hash: SHA-256 of the model's weights, for the fingerprint.
    """

    def __init__(
        self,
        model: nn.Module,
        corpus: Corpus,
        sites: Sites,
        reducers: Sequence[Reducer],
        batch_size: int,
        max_tokens: int | None,
        block_size: int | None,
        seed: int,
        model_hash: str | None,
    ) -> None:
        self.block_size = block_size
        self.model, self.corpus, self.sites, self.reducers = model, corpus, sites, reducers
        self.batch_size, self.max_tokens, self.seed, self.model_hash = (
            batch_size,
            max_tokens,
            seed,
            model_hash,
        )

    def start(self) -> Observer:
        """Return an observer that has seen nothing."""
        return Observer(self.sites, self.reducers)

    def run(self, state: Observer, block: Block) -> bool:
        """Observe one block; say whether there was anything in it."""
        block_number, first, last = block
        number, stop = 0, False
        with torch.no_grad(), untouched(self.model):
            for batch in batches_for(
                self.model, self.corpus, first, last, batch_size=self.batch_size, max_tokens=self.max_tokens
            ):
                state.expect(batch_info(batch, number=number, block=block_number, seed=self.seed))
                with state.attached(self.model, stop=stop) as cap, explained(self.model, batch):
                    cap.run(batch.inputs)
                # The first pass runs to its end. It raises where a site was not reached; and where each was reached
                # just once, later passes can end with the last of them.
                if number == 0:
                    calls = [len(cap.calls(site)) for site in self.sites]
                    stop = max(calls) == 1 and all(site.kind == "ffn" for site in self.sites)
                number += 1
        return number > 0

    def merge(self, state: Observer, other: Observer) -> None:
        """Take in what another observer has seen."""
        state.merge(other)

    def dump(self, state: Observer) -> dict[str, Tensor]:
        """Return what an observer has seen as tensors."""
        return state.state_dict()

    def restore(self, tensors: Mapping[str, Tensor]) -> Observer:
        """Return an observer from its tensors."""
        observer = self.start()
        device = device_of(self.model)
        observer.load_state_dict({name: tensor.to(device) for name, tensor in tensors.items()})
        return observer

    def settings(self) -> dict[str, Any]:
        """Return what the result depends on besides model and corpus, as plain numbers and texts."""
        return {
            "block_size": self.block_size,
            "reducers": {reducer_key(reducer): reducer.settings() for reducer in self.reducers},
            "batch_size": self.batch_size,
            "max_tokens": self.max_tokens,
        }

    def fingerprint(self) -> str:
        """Return a text that differs wherever the result could."""
        sites = [(site.name, site.width, site.axis) for site in self.sites]
        return json.dumps(
            [self.settings(), sites, self.seed, self.model_hash, self.corpus.fingerprint], sort_keys=True
        )
