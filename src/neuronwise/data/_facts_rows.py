"""One row of a batch of prompts: special tokens, the slot, and what the model is given of the answer."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from neuronwise.data._facts_answers import special_frame, token_ids
from neuronwise.data._facts_types import SLOT
from neuronwise.errors import FactError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Row", "RowMaker"]

# What T5 and its kin put in the place of missing text.
_SENTINEL = "<extra_id_0>"


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt: the ids of its inputs, and where the first token of its answer is predicted."""

    inputs: dict[str, list[int]]
    first: int


class RowMaker:
    """Makes the rows of a batch, for one tokenizer and model.

    Args:
        tokenizer: The tokenizer.
        model: The model.
        limit: The most tokens of a row, or None.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, model: nn.Module, limit: int | None) -> None:
        self.tokenizer, self.limit = tokenizer, limit
        self.config = getattr(model, "config", None)
        self.head, self.tail = special_frame(tokenizer)
        ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        # Padding is masked, so any token will do where the tokenizer has none for it.
        self.pad = int(next(number for number in ids if number is not None))

    def masked(self, texts: Sequence[str]) -> list[Row]:
        """Return rows with the mask in the slot."""
        if self.tokenizer.mask_token is None:
            raise FactError(
                f"{type(self.tokenizer).__name__} has no mask token, which a masked model needs. "
                "If the model is causal, say so with style='causal'."
            )
        return self._filled(texts, self.tokenizer.mask_token, self.tokenizer.mask_token_id)

    def causal(self, texts: Sequence[str], prefixes: list[list[int]], answers: list[list[int]]) -> list[Row]:
        """Return rows that end before the answer's last token."""
        rows = []
        for text, prefix, answer in zip(texts, prefixes, answers, strict=True):
            ids = self._ending(text, self.head + prefix, answer[:-1])
            rows.append(Row({"input_ids": ids}, len(self.head) + len(prefix) - 1))
        return rows

    def seq2seq(self, texts: Sequence[str], prefixes: list[list[int]], answers: list[list[int]]) -> list[Row]:
        """Return rows for an encoder and a decoder."""
        start = getattr(self.config, "decoder_start_token_id", None)
        if start is None:
            raise FactError(
                "The model's configuration has no decoder_start_token_id to begin the answer with."
            )
        sentinel = self.tokenizer.get_vocab().get(_SENTINEL)
        if sentinel is None:
            begin, rows = [start], []
            for text, prefix in zip(texts, prefixes, strict=True):
                rows.append(Row({"input_ids": self._ending(text, self.head + prefix, self.tail)}, 0))
        else:
            begin = [start, sentinel]
            rows = self._filled(texts, _SENTINEL, sentinel)
        return [
            Row({**row.inputs, "decoder_input_ids": begin + answer[:-1]}, len(begin) - 1)
            for row, answer in zip(rows, answers, strict=True)
        ]

    def _filled(self, texts: Sequence[str], filler: str, number: int) -> list[Row]:
        """Return rows with a special token in the slot; what is too long behind it is cut off."""
        rows = []
        room = None if self.limit is None else max(self.limit - len(self.head) - len(self.tail), 0)
        whole = token_ids(self.tokenizer, [text.replace(SLOT, filler) for text in texts])
        for text, ids in zip(texts, whole, strict=True):
            if ids.count(number) != 1:
                raise FactError(
                    f"With {filler} in its slot the prompt {text!r} has that token {ids.count(number)} times; "
                    "it must be there once."
                )
            place = ids.index(number)
            if room is not None and place >= room:
                raise self._cut(text, len(self.head) + place + 1 + len(self.tail))
            rows.append(Row({"input_ids": self.head + ids[:room] + self.tail}, len(self.head) + place))
        return rows

    def _ending(self, text: str, ids: list[int], more: list[int]) -> list[int]:
        """Return the ids of a text that ends where the slot is, and what comes after them."""
        _nothing_after(text)
        if not ids:
            raise FactError(
                f"The prompt {text!r} begins with the slot and the tokenizer adds no token before it, so there is "
                "nothing to predict the answer from."
            )
        if self.limit is not None and len(ids) + len(more) > self.limit:
            raise self._cut(text, len(ids) + len(more))
        return ids + more

    def _cut(self, text: str, length: int) -> FactError:
        short = text if len(text) <= 60 else f"{text[:25]}...{text[-30:]}"
        return FactError(
            f"The prompt {short!r} is too long: up to its slot it takes {length} tokens and {self.limit} are allowed, "
            "so the slot would be cut off. Shorten the text before it, or raise max_length= where that is the limit."
        )


def _nothing_after(text: str) -> None:
    after = text.partition(SLOT)[2]
    if not all(letter.isspace() or unicodedata.category(letter).startswith("P") for letter in after):
        raise FactError(
            f"The prompt {text!r} goes on after its slot, with {after.strip()!r}, which a model that writes on cannot "
            "see. Choose a prompt that ends with the slot."
        )
