"""One call that makes a corpus of whatever a user has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from neuronwise.data._datasets import from_dataset
from neuronwise.data._memory import from_arrays, from_list, from_stream
from neuronwise.data._options import ACCEPTED, Options
from neuronwise.data._paths import from_path
from neuronwise.data.corpus import Corpus
from neuronwise.data.text import Transform
from neuronwise.errors import DataError, InvalidArgumentError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["corpus"]


def corpus(
    source: Any,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    text_field: str | None = None,
    label_fields: Sequence[str] | None = None,
    labels: Any = None,
    max_length: int | None = None,
    long: Literal["truncate", "split"] = "truncate",
    stride: int = 0,
    add_special_tokens: bool = True,
    separator: str | None = None,
    split: str | None = None,
    size: int | tuple[int, int] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    transform: Transform | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    name: str | None = None,
) -> Corpus:
    """Make a corpus of a file, a folder, an array, a list or any other iterable.

    ========================  ====================================================================================
    source                    examples
    ========================  ====================================================================================
    ``.txt``, ``.txt.gz``     the lines, or the pieces between ``separator``
    ``.jsonl``, ``.json``     the objects (or strings) of JSON lines, plain or ``.gz``, or of one JSON list
    ``.conllu``               the sentences; every token has the labels of its word
    folder of datasets        the rows of a Hugging Face dataset that was saved with ``save_to_disk``
    folder of images          the images; the folder below is the label ``class``
    ``.npy``, ``.npz``        rows along the first axis; several arrays in one file are named inputs
    array, tensor             the same; a mapping of arrays gives named inputs
    list, iterable            texts, rows with a text, or tensors; an iterable can be read only forwards, once
    ``"stories"``             300 stories that come with the package
    ========================  ====================================================================================

    Texts that are blank are left out. Texts may also be lists of words, with a list of labels each.

    Args:
        source: What to make a corpus of; a corpus is returned as it is.
        tokenizer: The model's transformers tokenizer; texts need one.
        text_field: The field of the text in rows; ``"text"`` by default.
        label_fields: Fields of rows that hold a class, or one a word. In CoNLL-U columns or features such as
            ``Number``; the default there is ``upos``, ``xpos`` and ``deprel``.
        labels: For arrays and lists: a class an example, or a mapping of fields to those; the field is called
            ``"label"`` by default.
        max_length: The most tokens of a text; the tokenizer's own limit by default.
        long: ``"truncate"`` cuts longer texts, ``"split"`` makes several examples of them.
        stride: Tokens that the pieces of a split text share.
        add_special_tokens: Whether the tokenizer adds its special tokens.
        separator: For text files: what stands between two texts; a line end by default.
        split: Which split of a datasets folder with several.
        size: For images: crop and resize to ``(height, width)``, or to a square.
        mean: For images: subtracted from each channel.
        std: For images: each channel is divided by this.
        transform: Called with the inputs of each example (for image folders: with the Pillow image); returns those
            to use.
        on_error: What to do with a bad record of a file: ``"raise"``, or ``"skip"`` and count it.
        name: A short name for reports.

    Raises:
        DataError: If the source is of no accepted kind, missing or broken.
        EmptyCorpusError: If there is nothing in it.
        InvalidArgumentError: If an option does not go with the source.
        MissingExtraError: If reading it needs an optional package.

    Example:
        >>> digits = corpus(np.eye(3), labels=["a", "b", "a"])
        >>> digits
        <ArrayCorpus 'array': 3 examples, labels label>
        >>> digits.examples(1, 2)[0].labels["label"]
        tensor(1)
    """
    if on_error not in ("raise", "skip"):
        raise InvalidArgumentError(f"on_error must be 'raise' or 'skip', not {on_error!r}.")
    options = Options(
        tokenizer=tokenizer,
        text_field=text_field,
        label_fields=None if label_fields is None else tuple(label_fields),
        labels=labels,
        max_length=max_length,
        long=long,
        stride=stride,
        add_special_tokens=add_special_tokens,
        separator=separator,
        split=split,
        size=size,
        mean=mean,
        std=std,
        transform=transform,
        on_error=on_error,
        name=name,
    )
    if isinstance(source, Corpus):
        return source
    if isinstance(source, str | Path):
        return from_path(source, options)
    if isinstance(source, np.ndarray | Tensor) or (
        isinstance(source, Mapping) and all(isinstance(v, np.ndarray | Tensor) for v in source.values())
    ):
        return from_arrays(source, options, name or "array")
    if type(source).__module__.partition(".")[0] == "datasets" and hasattr(source, "column_names"):
        return from_dataset(source, options, name or "dataset")
    if hasattr(source, "to_numpy") and hasattr(source, "columns"):
        raise DataError(
            f"A table ({type(source).__name__}) does not say which columns the model takes. Pass those as an array, "
            "corpus(table[[...]].to_numpy('float32'), labels=table['class']), or texts as a list, "
            "corpus(list(table['text']))."
        )
    if isinstance(source, list | tuple):
        return from_list(source, options)
    if isinstance(source, Iterable) and not isinstance(source, Mapping | bytes):
        return from_stream(iter(source), options)
    raise DataError(f"Cannot make a corpus of {type(source).__name__}. {ACCEPTED}")
