"""What an edit does to a model's prediction of text that has nothing to do with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neuronwise.data import Batch, Corpus, batches
from neuronwise.data import corpus as make_corpus
from neuronwise.edit._contexts import is_causal
from neuronwise.edit._logits import logits_of
from neuronwise.edit.patch import Patch
from neuronwise.errors import EmptyCorpusError, InvalidArgumentError
from neuronwise.hooks import batch_mismatch, call_model, untouched

__all__ = ["Text", "TextFigures"]

_READ = 256
_KEPT_ELEMENTS = 1 << 26  # log probabilities of the base model that are kept: 256 MiB of float32
_MASKED_SHARE = 0.15


@dataclass(frozen=True)
class TextFigures:
    """Means over the tokens predicted: negative log likelihood before and after, and KL(base || edited), in nats."""

    tokens: int
    nll_before: float
    nll_after: float
    kl: float


class Text:
    """A corpus as a language model predicts it: every next token, or a seeded 15 % of the tokens behind a mask."""

    def __init__(self, model: nn.Module, tokenizer: Any, corpus: Any, *, batch_size: int, seed: int) -> None:
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            raise InvalidArgumentError(
                "An encoder-decoder has no likelihood of plain text. Leave corpus= out; prompts are measured all the "
                "same."
            )
        self.model = model
        self.corpus = corpus if isinstance(corpus, Corpus) else make_corpus(corpus, tokenizer=tokenizer)
        device = next(model.parameters()).device
        generator = torch.Generator().manual_seed(seed)
        self._places: list[tuple[dict[str, Tensor], Tensor, Tensor]] = []
        start = 0
        while examples := self.corpus.examples(start, start + _READ):
            start += len(examples)
            for batch in batches(examples, batch_size=batch_size, pad=self.corpus.pad):
                inputs, where, targets = _predicted(batch, model, tokenizer, generator)
                moved = {name: tensor.to(device) for name, tensor in inputs.items()}
                batch_mismatch(model, moved)
                self._places.append((moved, where.to(device), targets.to(device)))
        self.tokens = sum(int(where.sum()) for _, where, _ in self._places)
        if not self.tokens:
            raise EmptyCorpusError(f"The corpus {self.corpus.name!r} has no token to predict.")
        self._base: dict[int, Tensor] = {}

    def measure(self, patch: Patch | None) -> TextFigures:
        """Return the figures for a patch; without one, those of the model as it is."""
        sums = torch.zeros(3, dtype=torch.float64)
        with torch.no_grad(), untouched(self.model):
            for number, (_, _, targets) in enumerate(self._places):
                base = new = self._before(number)
                if patch is not None:
                    with patch.applied(self.model):
                        new = self._log_probs(number)
                picked = [-log.gather(1, targets[:, None]).cpu().double().sum() for log in (base, new)]
                kl = (base.exp() * (base - new)).sum(1).cpu().double().sum()
                sums += torch.stack([*picked, kl])
        before, after, kl_sum = (sums / self.tokens).tolist()
        return TextFigures(self.tokens, before, after, kl_sum)

    def _before(self, number: int) -> Tensor:
        if number in self._base:
            return self._base[number]
        found = self._log_probs(number)
        if sum(kept.numel() for kept in self._base.values()) + found.numel() <= _KEPT_ELEMENTS:
            self._base[number] = found
        return found

    def _log_probs(self, number: int) -> Tensor:
        inputs, where, _ = self._places[number]
        return torch.log_softmax(logits_of(call_model(self.model, inputs))[where].float(), -1)


def _predicted(
    batch: Batch, model: nn.Module, tokenizer: Any, generator: torch.Generator
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Return inputs, the positions of the logits that are looked at ``(batch, position)``, and the tokens there."""
    ids = batch.token_ids
    if ids is None:
        raise InvalidArgumentError("The likelihood of text needs a corpus of tokens.")
    real = torch.ones_like(ids, dtype=torch.bool) if batch.mask is None else batch.mask
    inputs = dict(batch.inputs) if isinstance(batch.inputs, Mapping) else {"input_ids": ids}
    if is_causal(model):
        where = torch.zeros_like(real)
        where[:, :-1] = real[:, 1:]
        return inputs, where, ids[:, 1:][where[:, :-1]]
    special = torch.tensor(sorted(set(tokenizer.all_special_ids)), dtype=torch.int64)
    free = real & ~torch.isin(ids, special)
    drawn = torch.rand(ids.shape, generator=generator).masked_fill(~free, 2.0)
    # At least one of every text, else short ones would never be looked at.
    where = free & ((drawn < _MASKED_SHARE) | (drawn == drawn.min(1, keepdim=True).values))
    return {**inputs, "input_ids": ids.masked_fill(where, tokenizer.mask_token_id)}, where, ids[where]
