"""The batches of a corpus, ready for a model."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from neuronwise.data import Batch, Corpus, batches
from neuronwise.errors import InvalidArgumentError
from neuronwise.hooks import batch_mismatch, device_of

__all__ = ["batches_for"]

_READ = 256  # examples read, and sorted by length, at a time


def batches_for(
    model: nn.Module,
    corpus: Corpus,
    start: int = 0,
    stop: int | None = None,
    *,
    batch_size: int,
    max_tokens: int | None,
) -> Iterator[Batch]:
    """Yield the examples ``start`` to ``stop - 1`` (to the end, if None) in batches on the model's device.

    Raises:
        InvalidArgumentError: If the model is on the meta device, where it has no numbers.
        BatchMismatchError: If a batch does not have the dtype that the model takes.
    """
    device = device_of(model)
    if any(p.is_meta for p in model.parameters()) and not any(
        hasattr(m, "_hf_hook") for m in model.modules()
    ):
        raise InvalidArgumentError(
            "The model is on the meta device and has no numbers. Load its weights first."
        )
    while stop is None or start < stop:
        examples = corpus.examples(start, start + _READ if stop is None else min(start + _READ, stop))
        if not examples:
            return
        start += len(examples)
        for batch in batches(examples, batch_size=batch_size, max_tokens=max_tokens, pad=corpus.pad):
            moved = batch.to(device)
            batch_mismatch(model, moved.inputs)
            yield moved
