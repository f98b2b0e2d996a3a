"""The batches of a corpus, ready for a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from neuronwise.data import Batch, Corpus, batches
from neuronwise.errors import DataError, InvalidArgumentError
from neuronwise.hooks import batch_mismatch, device_of

__all__ = ["batches_for", "explained"]

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


@contextmanager
def explained(model: nn.Module, batch: Batch) -> Iterator[None]:
    """Say in words what it means if the model looks up a token or a position that it does not have.

    Raises:
        DataError: In place of torch's error.
    """
    try:
        yield
    except (IndexError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "out of bounds" not in str(error):
            raise
        config: Any = getattr(model, "config", None)
        tokens, positions = (
            getattr(config, name, None) for name in ("vocab_size", "max_position_embeddings")
        )
        found = (
            "" if batch.token_ids is None else f", and its highest token id is {int(batch.token_ids.max())}"
        )
        has = (
            ""
            if tokens is None
            else f" The model's configuration states {tokens} tokens, {positions} positions."
        )
        raise DataError(
            f"The model cannot look up a number of the batch ({error}). The longest example has "
            f"{int(batch.lengths.max())} positions{found}.{has} Cut the texts, corpus(..., max_length=), and use the "
            "tokenizer that belongs to the model."
        ) from error
