"""Corpora of what is in memory already: arrays, lists and other iterables."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from neuronwise.data._options import ACCEPTED, ROW_OPTIONS, TEXT_OPTIONS, Options, kind_of
from neuronwise.data.arrays import ArrayCorpus
from neuronwise.data.corpus import Corpus, Example
from neuronwise.data.parsers import RowParser
from neuronwise.data.records import RowRecords
from neuronwise.data.stream import StreamCorpus
from neuronwise.data.tensors import class_ids, example_of
from neuronwise.data.text import TextCorpus, TextEncoder
from neuronwise.errors import DataError, EmptyCorpusError

__all__ = ["from_arrays", "from_list", "from_stream"]


def from_arrays(
    inputs: Any,
    options: Options,
    name: str,
    *,
    path: Path | None = None,
    labels: Mapping[str, Any] | None = None,
) -> Corpus:
    options.only("An array", "labels", *(("label_fields",) if path else ()))
    classes = {
        field: class_ids(values, field)
        for field, values in {**_named(options.labels), **(labels or {})}.items()
    }
    return ArrayCorpus(
        inputs,
        name=name,
        labels={field: names for field, (names, _) in classes.items()},
        ids={field: ids for field, (_, ids) in classes.items()},
        tokenizer=options.tokenizer,
        transform=options.transform,
        path=path,
    )


def from_list(items: Sequence[Any], options: Options) -> Corpus:
    name = options.name or "list"
    if not items:
        raise EmptyCorpusError(f"The corpus {name!r} is an empty list. Give at least one example.")
    if not _is_text(items[0], options):
        _check_tensors(items[0])
        options.only("A list of tensors", "labels")
        return from_arrays(items, options, name)
    options.only("A list of texts", *ROW_OPTIONS, "labels")
    encoder = options.encoder(f"The list {name!r}")
    parser = options.rows()
    if options.labels is not None:
        named = {field: _plain(values) for field, values in _named(options.labels).items()}
        sizes = {field: len(values) for field, values in named.items() if len(values) != len(items)}
        if sizes:
            raise DataError(f"There are {len(items)} texts but labels for {sizes}. Give one for each text.")
        extra = [dict(zip(named, values, strict=True)) for values in zip(*named.values(), strict=True)]
        items = [
            {**(item if isinstance(item, Mapping) else {parser.text_field: item}), **more}
            for item, more in zip(items, extra, strict=True)
        ]
        parser = RowParser(parser.text_field, (*parser.label_fields, *named))
    records = RowRecords(items, parser=parser, where=f"The list {name!r}", skip_bad=options.skip_bad)
    return TextCorpus(records, encoder, name=name, kind=kind_of(records))


def from_stream(items: Iterator[Any], options: Options) -> Corpus:
    name = options.name or "stream"
    first = next(items, None)
    if first is None:
        raise EmptyCorpusError(f"The corpus {name!r} has no examples. Give an iterable with at least one.")
    items = itertools.chain([first], items)
    if _is_text(first, options):
        options.only("A stream of texts", *TEXT_OPTIONS, "text_field")
        encoder = options.encoder(f"The stream {name!r}")
        encode = _TextBlocks(encoder, options.rows())
        return StreamCorpus(items, encode, name=name, kind="text", pad=encoder.pad, settings=encoder.settings)
    _check_tensors(first)
    options.only("A stream of tensors")
    tokenizer, transform = options.tokenizer, options.transform

    def encode_tensors(block: list[Any]) -> list[Example]:
        return [example_of(row, 0, tokenizer=tokenizer, transform=transform) for row in block]

    pad = int(getattr(tokenizer, "pad_token_id", None) or 0)
    return StreamCorpus(items, encode_tensors, name=name, kind="array", pad=pad)


class _TextBlocks:
    """Make examples of blocks of texts or rows, however many come of each."""

    def __init__(self, encoder: TextEncoder, parser: RowParser) -> None:
        self._encoder = encoder
        self._parser = parser

    def __call__(self, block: list[Any]) -> list[Example]:
        records = [record for record in map(self._parser, block) if not record.blank]
        windows = self._encoder.encode(records, {})
        keep = None if self._encoder.long == "split" else 1
        return [example for pieces in windows for example in pieces[:keep]]


def _is_text(item: Any, options: Options) -> bool:
    if isinstance(item, str):
        return True
    if not isinstance(item, Mapping):
        return False
    text = item.get(options.text_field or "text")
    return isinstance(text, str | list | tuple) or not all(_is_numeric(value) for value in item.values())


def _check_tensors(item: Any) -> None:
    values = list(item.values()) if isinstance(item, Mapping) else [item]
    if not values or not all(_is_numeric(value) for value in values):
        raise DataError(f"Cannot make an example of {type(item).__name__} {str(item)[:60]!r}. {ACCEPTED}")


def _is_numeric(value: Any) -> bool:
    if isinstance(value, Tensor):
        return True
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biufc"
    if isinstance(value, list | tuple):
        return bool(value) and all(_is_numeric(entry) for entry in value)
    return isinstance(value, int | float)


def _named(labels: Any) -> dict[str, Any]:
    if labels is None:
        return {}
    return dict(labels) if isinstance(labels, Mapping) else {"label": labels}


def _plain(values: Any) -> list[Any]:
    return list(values.tolist()) if isinstance(values, np.ndarray | Tensor) else list(values)
