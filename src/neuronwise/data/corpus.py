"""What a model is shown: examples, batches of them, and the corpus that they come from."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from neuronwise.errors import DataError, InvalidArgumentError

__all__ = ["Batch", "Corpus", "Example", "Inputs", "batches"]

Inputs = Mapping[str, Tensor] | Tensor
T = TypeVar("T")

# Examples read at a time when a corpus is walked through from the start.
_BLOCK = 256


def is_sequence(tensor: Tensor) -> bool:
    """Return whether a tensor without a batch axis is a row of token ids."""
    return tensor.ndim == 1 and tensor.dtype in (torch.int64, torch.int32)


@dataclass(frozen=True, slots=True)
class Example:
    """One example, as the model takes it but without the batch axis.

    Args:
        index: Its number in the corpus.
        inputs: Keyword inputs by name, or one positional tensor.
        length: Number of positions (tokens); 1 for arrays and images, which are never padded.
        tokens: One string a position, for display, or None.
        labels: Class ids by field, scalar or ``(position,)``; -1 where there is none.
    """

    index: int
    inputs: Inputs
    length: int = 1
    tokens: tuple[str, ...] | None = None
    labels: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def token_ids(self) -> Tensor | None:
        """Token ids ``(position,)``: the input ``input_ids``, or a positional tensor of integers, or None."""
        if isinstance(self.inputs, Mapping):
            return self.inputs.get("input_ids")
        return self.inputs if is_sequence(self.inputs) else None


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Examples of about one length, padded and stacked.

    Args:
        inputs: Keyword inputs by name, or one positional tensor; batch axis first.
        mask: ``(batch, position)``, True at real positions; None when nothing is padded.
        indices: ``(batch,)``, the number of each example in its corpus.
        lengths: ``(batch,)``, the number of real positions of each example.
        labels: Class ids by field, ``(batch,)`` or ``(batch, position)``; -1 at padding and where none is.
        tokens: The display strings of each example, without padding, or None.
        token_ids: ``(batch, position)``, padded, or None when the inputs are not tokens.
    """

    inputs: Inputs
    mask: Tensor | None
    indices: Tensor
    lengths: Tensor
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    tokens: tuple[tuple[str, ...], ...] | None = None
    token_ids: Tensor | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def to(self, device: str | torch.device, *, dtype: torch.dtype | None = None) -> Batch:
        """Return the batch on another device.

        Args:
            device: Where the inputs, mask and ids shall be.
            dtype: Cast floating-point inputs to this; None leaves them as they are.
        """

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype if tensor.is_floating_point() else None)

        inputs = (
            {name: move(tensor) for name, tensor in self.inputs.items()}
            if isinstance(self.inputs, Mapping)
            else move(self.inputs)
        )
        return replace(
            self,
            inputs=inputs,
            mask=None if self.mask is None else self.mask.to(device),
            indices=self.indices.to(device),
            lengths=self.lengths.to(device),
            labels={name: ids.to(device) for name, ids in self.labels.items()},
            token_ids=None if self.token_ids is None else self.token_ids.to(device),
        )


class Corpus(ABC):
    """A numbered collection of examples that can be read block by block.

    A corpus can be pickled, so that worker processes read their own blocks; streams of unknown length cannot.
    Make one with :func:`neuronwise.data.corpus`, or subclass this: give the four attributes and implement
    :meth:`length`, :meth:`examples` and :meth:`identity`.

    Attributes:
        name: A short name for reports.
        kind: ``"text"``, ``"words"``, ``"array"``, ``"image"`` or ``"examples"``.
        labels: Label field -> names of its classes; class ids count into them.
        pad: The token id that padding positions get.
    """

    name: str
    kind: str
    labels: Mapping[str, tuple[str, ...]]
    pad: int = 0

    @abstractmethod
    def length(self) -> int | None:
        """Return the number of examples, or None when it is not known before the end."""

    @abstractmethod
    def examples(self, start: int, stop: int) -> list[Example]:
        """Return the examples ``start`` to ``stop - 1``; fewer, or none, at the end."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return what determines the examples, ready for JSON: a hash of the content and the settings."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the content and of every setting that changes the examples; not of the file's place."""
        text = json.dumps(self.identity(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return a description for a manifest, ready for JSON."""
        return {
            "name": self.name,
            "kind": self.kind,
            "examples": self.length(),
            "labels": {name: list(classes) for name, classes in self.labels.items()},
            "fingerprint": self.fingerprint,
            **self.identity(),
        }

    def image(self, index: int) -> bytes | None:
        """Return a small PNG picture of an example, or None where an example is not a picture."""
        return None

    def part(self, start: int, stop: int | None = None) -> Corpus:
        """Return the examples ``start`` to ``stop - 1`` (to the end, if None) as a corpus.

        Choose neurons on one part and measure them on another. Examples keep their numbers.

        Raises:
            InvalidArgumentError: If ``start`` is negative or ``stop`` is not after it.
        """
        from neuronwise.data.part import Part

        return Part(self, start, stop)

    def token_strings(self, ids: Sequence[int]) -> tuple[str, ...] | None:
        """Return one string a token id, for display, or None where the corpus does not know them."""
        return None

    def __len__(self) -> int:
        length = self.length()
        if length is None:
            raise TypeError(
                f"The length of the corpus {self.name!r} is not known, as it is read from a stream. "
                "Read it with examples(start, stop), or pass a list."
            )
        return length

    def __iter__(self) -> Iterator[Example]:
        start = 0
        while block := self.examples(start, start + _BLOCK):
            yield from block
            start += len(block)

    def __repr__(self) -> str:
        length = self.length()
        size = "a stream of examples" if length is None else f"{length:,} examples"
        fields = f", labels {', '.join(self.labels)}" if self.labels else ""
        return f"<{type(self).__name__} {self.name!r}: {size}{fields}>"


def batches(
    examples: Sequence[Example],
    *,
    batch_size: int = 16,
    max_tokens: int | None = None,
    pad: int | None = None,
) -> Iterator[Batch]:
    """Group examples of about one length into padded batches.

    The examples are sorted by length (those of one length stay in the order given), so that little is padded.
    Padding is on the right, where no real position of a causal model can see it.

    Args:
        examples: The examples of one corpus.
        batch_size: The most examples a batch may have.
        max_tokens: The most positions a batch may have, padding included; an example longer than that is a
            batch of its own.
        pad: The token id at padding positions; None takes 0. A corpus knows its own: ``pad=corpus.pad``.

    Yields:
        Batches, shortest examples first. ``attention_mask`` is among keyword inputs when something is padded.

    Raises:
        InvalidArgumentError: If ``batch_size`` or ``max_tokens`` is below 1.
        DataError: If the examples do not fit together: different inputs, or arrays of different shapes.

    Example:
        >>> short, long = Example(0, torch.tensor([5, 6]), 2), Example(1, torch.tensor([7, 8, 9]), 3)
        >>> [batch.inputs.tolist() for batch in batches([long, short])]
        [[[5, 6, 0], [7, 8, 9]]]
    """
    if batch_size < 1 or (max_tokens is not None and max_tokens < 1):
        raise InvalidArgumentError(
            f"batch_size and max_tokens must be at least 1, not {batch_size} and {max_tokens}."
        )
    return _groups(sorted(examples, key=lambda example: example.length), batch_size, max_tokens, pad or 0)


def _groups(ordered: list[Example], batch_size: int, max_tokens: int | None, pad: int) -> Iterator[Batch]:
    group: list[Example] = []
    for example in ordered:
        # The newcomer is the longest so far: it decides how wide the batch would be.
        too_wide = max_tokens is not None and (len(group) + 1) * example.length > max_tokens
        if group and (too_wide or len(group) == batch_size):
            yield _collate(group, pad)
            group = []
        group.append(example)
    if group:
        yield _collate(group, pad)


def _collate(group: list[Example], pad: int) -> Batch:
    lengths = [example.length for example in group]
    width = max(lengths)
    mask = None
    if min(lengths) < width:
        mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    first = group[0].inputs
    inputs: Inputs
    if isinstance(first, Mapping):
        inputs, mask = _collate_named(group, first, mask, pad, width)
    else:
        inputs = _stack(_positional(group), lengths, width, pad)
    ids = _all_or_none([example.token_ids for example in group])
    tokens = _all_or_none([example.tokens for example in group])
    return Batch(
        inputs=inputs,
        mask=mask,
        indices=torch.tensor([example.index for example in group], dtype=torch.int64),
        lengths=torch.tensor(lengths, dtype=torch.int64),
        labels={
            name: _stack([example.labels[name] for example in group], lengths, width, -1).long()
            for name in _common_names([example.labels for example in group], "labels")
        },
        tokens=None if tokens is None else tuple(tokens),
        token_ids=None if ids is None else _stack(ids, lengths, width, pad, "token ids").long(),
    )


def _all_or_none(values: Sequence[T | None]) -> list[T] | None:
    present = [value for value in values if value is not None]
    return present if len(present) == len(values) else None


def _collate_named(
    group: list[Example], first: Mapping[str, Tensor], mask: Tensor | None, pad: int, width: int
) -> tuple[dict[str, Tensor], Tensor | None]:
    lengths = [example.length for example in group]
    rows = [example.inputs for example in group if isinstance(example.inputs, Mapping)]
    if len(rows) < len(group):
        raise DataError("Some examples have named inputs and others one tensor; a corpus must have one form.")
    inputs = {
        name: _stack([row[name] for row in rows], lengths, width, _filling(name, pad), name)
        for name in _common_names(rows, "inputs")
    }
    given = inputs.get("attention_mask")
    if given is not None and given.ndim == 2:
        # The user's own mask may hide positions inside an example too.
        attended = given != 0
        mask = None if bool(attended.all()) else attended
    elif mask is not None and "input_ids" in first:
        inputs["attention_mask"] = mask.long()
    return inputs, mask


def _filling(name: str, pad: int) -> int:
    """Return what padding positions get in the input of that name."""
    if name.endswith("input_ids"):
        return pad
    # The class that losses leave out; everything else, such as an attention mask, gets 0.
    return -100 if name == "labels" else 0


def _positional(group: list[Example]) -> list[Tensor]:
    tensors = [example.inputs for example in group if isinstance(example.inputs, Tensor)]
    if len(tensors) < len(group):
        raise DataError("Some examples have named inputs and others one tensor; a corpus must have one form.")
    return tensors


def _common_names(rows: Sequence[Mapping[str, Tensor]], what: str) -> list[str]:
    names = list(rows[0])
    for row in rows:
        if set(row) != set(names):
            raise DataError(
                f"The examples of a batch have different {what}: {sorted(names)} and {sorted(row)}. "
                "Give every example the same."
            )
    return names


def _stack(
    tensors: Sequence[Tensor], lengths: Sequence[int], width: int, fill: int, name: str = "inputs"
) -> Tensor:
    """Stack tensors; those whose first axis counts positions are filled up to ``width`` first.

    It does so where it has the length of its example in all examples. In one alone that can be chance, such as with a
    picture of three channels beside a text of three tokens.
    """
    padded = list(tensors)
    counted = all(t.ndim > 0 and len(t) == length for t, length in zip(tensors, lengths, strict=True))
    if counted and min(lengths) < width:
        padded = [
            torch.nn.functional.pad(tensor, [0, 0] * (tensor.ndim - 1) + [0, width - len(tensor)], value=fill)
            for tensor in tensors
        ]
    shapes = {tuple(tensor.shape) for tensor in padded}
    if len(shapes) > 1:
        raise DataError(
            f"The {name} of a batch have different shapes: {sorted(shapes)}. Bring them to one shape first "
            "(for images: corpus(..., size=224)), or use batch_size=1."
        )
    return torch.stack(padded)
