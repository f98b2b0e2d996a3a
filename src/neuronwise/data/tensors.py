"""Arrays and class labels brought into the form of an example."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from neuronwise.data.corpus import Example, Inputs, is_sequence
from neuronwise.data.text import Transform
from neuronwise.data.tokens import token_strings
from neuronwise.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["as_tensor", "class_ids", "example_of", "hash_inputs"]


def as_tensor(value: Any) -> Tensor:
    """Return a tensor of an array, a list of numbers or a number; a tensor is returned as it is.

    Raises:
        DataError: If it is nothing of that kind.
    """
    if isinstance(value, Tensor):
        return value.detach()
    try:
        # A copy, as torch refuses memory that must not be written to.
        return torch.from_numpy(np.array(value))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"Cannot make a tensor of {type(value).__name__} {str(value)[:60]!r}: {error}"
        ) from error


def example_of(
    row: Any,
    number: int,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    transform: Transform | None = None,
    labels: Mapping[str, Tensor] | None = None,
) -> Example:
    """Make an example of an array, or of several by the name of the model's argument.

    Args:
        row: An array without a batch axis, or a mapping of them.
        number: The example's number.
        tokenizer: Shows the tokens, where the inputs are token ids.
        transform: Called with the inputs; returns those to use.
        labels: Class ids by field.
    """
    inputs: Inputs
    inputs = {str(k): as_tensor(v) for k, v in row.items()} if isinstance(row, Mapping) else as_tensor(row)
    if transform is not None:
        inputs = transform(inputs)
    example = Example(number, inputs, 1, None, labels or {})
    ids = example.token_ids
    if ids is None or not is_sequence(ids):
        return example
    if not len(ids):
        raise DataError(f"Example {number} has no tokens. Leave it out.")
    tokens = None if tokenizer is None else token_strings(tokenizer, ids)
    return Example(number, inputs, len(ids), tokens, labels or {})


def class_ids(values: Any, name: str) -> tuple[tuple[str, ...], Tensor]:
    """Return the names of the classes in labels, in order, and the label of every example as a number.

    Args:
        values: Whole numbers or strings, ``(example,)`` or ``(example, position)``; a number below 0 means none.
        name: The label field, for messages.

    Returns:
        The class names, and the ids, int64, of the shape of ``values``; -1 where there is no label.

    Raises:
        DataError: If the labels are not classes.

    Example:
        >>> class_ids([7, 3, -1, 7], "digit")
        (('3', '7'), tensor([ 1,  0, -1,  1]))
    """
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    if array.dtype.kind not in "iubU" or array.ndim == 0:
        raise DataError(
            f"The labels {name!r} must be classes, whole numbers or strings, one for each example; "
            f"got {array.dtype} of shape {array.shape}."
        )
    unique, inverse = np.unique(array, return_inverse=True)
    none = int((unique < 0).sum()) if array.dtype.kind == "i" else 0
    ids = np.maximum(inverse.reshape(array.shape).astype(np.int64) - none, -1)
    return tuple(str(value) for value in unique[none:]), torch.from_numpy(ids)


def hash_inputs(digest: hashlib._Hash, inputs: Mapping[str, Any] | Sequence[Any] | Any) -> None:
    """Add one example's arrays to a hash: names, types, shapes and bytes."""
    for name, value in inputs.items() if isinstance(inputs, Mapping) else [("", inputs)]:
        tensor = as_tensor(value).cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
