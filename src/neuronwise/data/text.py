"""Corpora of texts: records made into tokens, lazily, block by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from neuronwise.data.corpus import Corpus, Example
from neuronwise.data.parsers import LabelValue, TextRecord
from neuronwise.data.records import Records
from neuronwise.data.tokens import token_strings, tokenizer_hash
from neuronwise.errors import DataError, InvalidArgumentError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["NO_LIMIT", "TextCorpus", "TextEncoder", "Transform"]

Transform = Callable[[Any], Any]

# Tokenizers without a limit state a very large number as theirs.
NO_LIMIT = 1_000_000

# Records made into tokens at a time when the windows of a whole corpus are counted.
_BLOCK = 512


class TextEncoder:
    """Make examples of text records with a transformers tokenizer.

    Args:
        tokenizer: The tokenizer.
        max_length: The most tokens an example may have; None takes the tokenizer's own limit, if it has one.
        long: ``"truncate"`` cuts what is longer; ``"split"`` makes several examples of it, so that nothing is
            lost.
        stride: Tokens that consecutive pieces of a split text share.
        add_special_tokens: Whether the tokenizer adds its special tokens, such as ``<s>``.
        transform: Called with the inputs of each example; returns those to use.

    Raises:
        InvalidArgumentError: If the lengths do not fit together.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int | None = None,
        long: Literal["truncate", "split"] = "truncate",
        stride: int = 0,
        add_special_tokens: bool = True,
        transform: Transform | None = None,
    ) -> None:
        if long not in ("truncate", "split"):
            raise InvalidArgumentError(f"long must be 'truncate' or 'split', not {long!r}.")
        limit = getattr(tokenizer, "model_max_length", None) if max_length is None else max_length
        self.max_length = int(limit) if limit is not None and limit < NO_LIMIT else None
        added = tokenizer.num_special_tokens_to_add() if add_special_tokens else 0
        if self.max_length is not None and self.max_length <= added + stride:
            raise InvalidArgumentError(
                f"max_length={self.max_length} leaves no room beside {added} special tokens and stride={stride}."
            )
        if stride < 0:
            raise InvalidArgumentError(f"stride must be 0 or more, not {stride}.")
        if long == "split" and not tokenizer.is_fast:
            raise InvalidArgumentError(
                "long='split' needs a fast tokenizer (one with is_fast), which this is not."
            )
        self.tokenizer = tokenizer
        self.long = long
        self.stride = stride
        self.add_special_tokens = add_special_tokens
        self.transform = transform
        self._shown: dict[int, str] = {}

    @property
    def pad(self) -> int:
        """The tokenizer's padding id; 0 where it has none, which does no harm under a mask."""
        return int(self.tokenizer.pad_token_id or 0)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What determines the tokens, ready for JSON."""
        return {
            "tokenizer": type(self.tokenizer).__name__,
            "tokenizer_sha256": tokenizer_hash(self.tokenizer),
            "max_length": self.max_length,
            "long": self.long,
            "stride": self.stride,
            "add_special_tokens": self.add_special_tokens,
            "transform": name_of(self.transform),
        }

    def encode(
        self, records: Sequence[TextRecord], labels: Mapping[str, tuple[str, ...]]
    ) -> list[list[Example]]:
        """Return the examples of each record: one, or several where a long text is split.

        The examples are not numbered yet. A record longer than the limit that is cut has the rest of it dropped.

        Args:
            records: Texts, or words.
            labels: Class names by field; ids count into them.

        Raises:
            DataError: If a text has no tokens, or the tokenizer is not a fast one where words have to be told apart.
        """
        ids = {
            name: {value: number for number, value in enumerate(classes)} for name, classes in labels.items()
        }
        examples: list[list[Example]] = [[] for _ in records]
        for words in (False, True):
            chosen = [n for n, record in enumerate(records) if isinstance(record.text, tuple) == words]
            if not chosen:
                continue
            encoded = self._tokenize([records[n].text for n in chosen], words)
            sources = encoded.get("overflow_to_sample_mapping", range(len(chosen)))
            for row, source in enumerate(sources):
                record = records[chosen[source]]
                word_ids = encoded.word_ids(row) if words else None
                examples[chosen[source]].append(self._example(encoded, row, record, word_ids, ids))
        return examples

    def _tokenize(self, texts: list[Any], words: bool) -> Any:
        fast = self.tokenizer.is_fast
        if words and not fast:
            raise DataError(
                f"Words need a fast tokenizer, which {type(self.tokenizer).__name__} is not: it does not say which "
                "token comes from which word."
            )
        if words and self._glues_words:
            texts = [[word if n == 0 else f" {word}" for n, word in enumerate(text)] for text in texts]
        return self.tokenizer(
            texts,
            is_split_into_words=words,
            add_special_tokens=self.add_special_tokens,
            truncation=self.max_length is not None,
            max_length=self.max_length,
            stride=self.stride if fast else 0,
            return_overflowing_tokens=fast and self.max_length is not None,
            return_attention_mask=False,
        )

    @cached_property
    def _glues_words(self) -> bool:
        """Whether words come out without spaces between them, as with byte-level tokenizers such as GPT-2's."""
        encoded = self.tokenizer(["a", "a"], is_split_into_words=True, add_special_tokens=False)
        return not any(" " in token for token in self._strings(list(encoded["input_ids"])))

    def _example(
        self,
        encoded: Any,
        row: int,
        record: TextRecord,
        word_ids: Sequence[int | None] | None,
        ids: Mapping[str, Mapping[str, int]],
    ) -> Example:
        tokens = list(encoded["input_ids"][row])
        if not tokens:
            raise DataError(f"The tokenizer makes no tokens of the text {record.text!r}. Leave it out.")
        inputs = {
            name: torch.tensor(encoded[name][row])
            for name in ("input_ids", "token_type_ids")
            if name in encoded
        }
        return Example(
            index=0,
            inputs=inputs if self.transform is None else self.transform(inputs),
            length=len(tokens),
            tokens=self._strings(tokens),
            labels={name: _ids(record.labels[name], ids[name], word_ids) for name in ids},
        )

    def _strings(self, tokens: list[int]) -> tuple[str, ...]:
        new = [token for token in dict.fromkeys(tokens) if token not in self._shown]
        self._shown.update(zip(new, token_strings(self.tokenizer, new), strict=True))
        return tuple(self._shown[token] for token in tokens)


class TextCorpus(Corpus):
    """Text records seen through a tokenizer.

    Args:
        records: Where the texts are.
        encoder: Makes examples of them.
        name: A short name for reports.
        kind: ``"text"``, or ``"words"`` where the texts come as words.
    """

    def __init__(self, records: Records, encoder: TextEncoder, *, name: str, kind: str = "text") -> None:
        self.name = name
        self.kind = kind
        self.labels = records.labels
        self.pad = encoder.pad
        self._records = records
        self._encoder = encoder
        self._cut: set[int] = set()

    def length(self) -> int:
        """Return the number of examples; a corpus that splits long texts makes all tokens once to know it."""
        return len(self._records) if self._windows is None else int(self._windows[-1])

    @cached_property
    def _windows(self) -> np.ndarray[Any, np.dtype[np.int64]] | None:
        """The number of examples before each record, and of all; None where a record is an example."""
        if self._encoder.long == "truncate":
            return None
        counts = [
            len(windows)
            for start in range(0, len(self._records), _BLOCK)
            for windows in self._encoder.encode(self._records.read(start, start + _BLOCK), self.labels)
        ]
        return np.cumsum([0, *counts], dtype=np.int64)

    def examples(self, start: int, stop: int) -> list[Example]:
        """Return the examples ``start`` to ``stop - 1``; fewer, or none, at the end."""
        start, stop = max(start, 0), min(stop, self.length())
        if start >= stop:
            return []
        if self._windows is None:
            encoded = self._encoder.encode(self._records.read(start, stop), self.labels)
            self._cut.update(number for number, windows in enumerate(encoded, start) if len(windows) > 1)
            return [replace(windows[0], index=number) for number, windows in enumerate(encoded, start)]
        first = int(np.searchsorted(self._windows, start, side="right")) - 1
        last = int(np.searchsorted(self._windows, stop, side="left"))
        encoded = self._encoder.encode(self._records.read(first, last), self.labels)
        flat = [example for windows in encoded for example in windows]
        before = int(self._windows[first])
        return [replace(flat[number - before], index=number) for number in range(start, stop)]

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that makes tokens of the texts."""
        return self._encoder.tokenizer

    def token_strings(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Return one string a token id, for display."""
        return token_strings(self.tokenizer, ids)

    def identity(self) -> dict[str, Any]:
        """Return the hash of the texts and the settings of the tokenizer."""
        return self._identity

    @cached_property
    def _identity(self) -> dict[str, Any]:
        classes = {name: list(names) for name, names in self.labels.items()}
        return {
            "content_sha256": self._records.content_hash(),
            "label_fields": classes,
            **self._encoder.settings,
        }

    def describe(self) -> dict[str, Any]:
        """Return a description for a manifest.

        ``truncated`` counts the texts cut among those read so far; None with a slow tokenizer, which does not say.
        """
        truncated = len(self._cut) if self._encoder.tokenizer.is_fast else None
        return {**super().describe(), "skipped": self._records.skipped, "truncated": truncated}


def name_of(function: Transform | None) -> str | None:
    """Return a name for a function that does not change from run to run."""
    if function is None:
        return None
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', None) or type(function).__module__}.{name}"


def _ids(value: LabelValue, ids: Mapping[str, int], word_ids: Sequence[int | None] | None) -> Tensor:
    """Return class ids: one for the example, or one a token, that of the word it is part of."""
    if not isinstance(value, tuple):
        return torch.tensor(-1 if value is None else ids[value])
    of_word = [-1 if name is None else ids[name] for name in value]
    return torch.tensor([-1 if word is None else of_word[word] for word in word_ids or ()], dtype=torch.int64)
