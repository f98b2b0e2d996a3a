"""Corpora of arrays and of lists of tensors."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from neuronwise.data.corpus import Corpus, Example
from neuronwise.data.images import picture_of
from neuronwise.data.tensors import as_tensor, example_of, hash_inputs
from neuronwise.data.text import Transform, name_of
from neuronwise.errors import DataError, EmptyCorpusError, UnsafeFileError
from neuronwise.files import sha256_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ArrayCorpus", "load_arrays"]


class ArrayCorpus(Corpus):
    """Examples along the first axis of arrays, or in a list of tensors.

    Args:
        inputs: An array ``(example, ...)`` or a list of arrays, or several by the name of the model's argument.
        name: A short name for reports.
        labels: Class names by field.
        ids: Class ids by field, ``(example,)`` or ``(example, position)``.
        tokenizer: Shows the tokens, where the inputs are token ids.
        transform: Called with the inputs of each example; returns those to use.
        path: The file that the arrays came from; a pickled corpus then carries the path in place of the arrays.

    Raises:
        DataError: If the inputs and labels have different numbers of examples.
        EmptyCorpusError: If there are none.
    """

    def __init__(
        self,
        inputs: Any,
        *,
        name: str,
        labels: Mapping[str, tuple[str, ...]] | None = None,
        ids: Mapping[str, Tensor] | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        transform: Transform | None = None,
        path: Path | None = None,
    ) -> None:
        self.name = name
        self.kind = "array"
        self.labels = labels or {}
        self.pad = int(getattr(tokenizer, "pad_token_id", None) or 0)
        self._inputs = inputs
        self._names = tuple(inputs) if isinstance(inputs, Mapping) else None
        self._ids = ids or {}
        self._tokenizer = tokenizer
        self._transform = transform
        self._path = path
        columns = list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]
        if any(getattr(column, "ndim", 1) == 0 for column in columns):
            raise DataError("An array without axes has no examples. Give an array (example, ...).")
        sizes = [len(column) for column in [*columns, *self._ids.values()]]
        if len(set(sizes)) > 1:
            raise DataError(f"The inputs and labels have different numbers of examples: {sizes}.")
        if not sizes or not sizes[0]:
            raise EmptyCorpusError(f"The corpus {name!r} has no examples. Give at least one.")
        self._length = sizes[0]

    def length(self) -> int:
        """Return the number of examples."""
        return self._length

    def examples(self, start: int, stop: int) -> list[Example]:
        """Return the examples ``start`` to ``stop - 1``; fewer, or none, at the end."""
        return [
            example_of(
                self._row(number),
                number,
                tokenizer=self._tokenizer,
                transform=self._transform,
                labels={field: ids[number] for field, ids in self._ids.items()},
            )
            for number in range(self._length)[max(start, 0) : max(stop, 0)]
        ]

    def image(self, index: int) -> bytes | None:
        """Return a small PNG of an array that has the form of a picture, ``(channel, h, w)`` or ``(h, w)``."""
        row = self._row(index)
        return None if isinstance(row, Mapping) else picture_of(as_tensor(row))

    def identity(self) -> dict[str, Any]:
        """Return the hash of the arrays and their labels, and the transform."""
        return self._identity

    @cached_property
    def _identity(self) -> dict[str, Any]:
        labels = hashlib.sha256()
        for field, ids in sorted(self._ids.items()):
            labels.update(f"{field} {self.labels[field]}".encode())
            hash_inputs(labels, ids)
        if self._path is None:
            digest = hashlib.sha256()
            for number in range(self._length):
                hash_inputs(digest, self._row(number))
            content = digest.hexdigest()
        else:
            content = sha256_file(self._path)
        return {
            "content_sha256": content,
            "labels_sha256": labels.hexdigest(),
            "inputs": None if self._names is None else list(self._names),
            "transform": name_of(self._transform),
        }

    def _row(self, number: int) -> Any:
        arrays = self._arrays()
        return arrays[number] if self._names is None else {name: arrays[name][number] for name in self._names}

    def _arrays(self) -> Any:
        if self._inputs is None and self._path is not None:
            arrays = {name: array for name, array in load_arrays(self._path).items() if name not in self._ids}
            self._inputs = next(iter(arrays.values())) if self._names is None else arrays
        return self._inputs

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ if self._path is None else {**self.__dict__, "_inputs": None}


def load_arrays(path: Path) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    """Read an ``.npy`` file (left on disk, read where needed) or all arrays of an ``.npz`` file, by name.

    Raises:
        UnsafeFileError: If it holds Python objects, which only a pickle can bring back.
        DataError: If it cannot be read.
    """
    try:
        if path.suffix == ".npy":
            return {"": np.load(path, mmap_mode="r", allow_pickle=False)}
        with path.open("rb") as file:
            read = np.load(file, allow_pickle=False)
            return {name: read[name] for name in read.files} if hasattr(read, "files") else {"": read}
    except ValueError as error:
        if "pickle" in str(error) or "object" in str(error):
            raise UnsafeFileError(
                f"{path} holds Python objects (a pickle), and loading those could run any code. "
                "Save plain numbers instead: numpy.save(path, array.astype(float))."
            ) from error
        raise DataError(f"{path} is not a NumPy file: {error}") from error
    except (OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"Cannot read {path}: {error}") from error
