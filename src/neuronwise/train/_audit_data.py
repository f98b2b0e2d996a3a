"""What an audit trains and measures on: examples in any form, in batches; losses and metrics for the usual ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuronwise.data import Corpus
from neuronwise.data import corpus as make_corpus
from neuronwise.errors import DataError, InvalidArgumentError

__all__ = ["Examples", "Loss", "Metric", "Split", "default_loss", "default_metric", "split_of"]

#: ``loss(model, batch)`` returns the mean loss of a batch, ``()``.
Loss = Callable[[nn.Module, Any], Tensor]
#: ``metric(model, batches)`` returns a number, or several by name, of all held-out batches.
Metric = Callable[[nn.Module, Iterable[Any]], Any]

_IGNORED = -100  # the target that cross-entropy leaves out
_MOST_CLASSES = 100  # of targets that are also taken as the classes that neurons may stand for


@dataclass(frozen=True)
class Examples:
    """Examples along the first axis of tensors: one tensor, several by name, or a pair of inputs and targets.

    Args:
        tree: A tensor, a mapping of tensors, or a tuple of those.
    """

    tree: Any

    @classmethod
    def of(cls, data: Any, what: str = "data") -> Examples:
        """Return examples of tensors or arrays; arrays of float64 become float32, as most models are.

        Raises:
            DataError: If there are no examples, or a different number in different tensors.
        """
        if isinstance(data, list):
            data = tuple(data)
        made = cls(_mapped(lambda value: _tensor(value, what), data))
        sizes = {len(leaf) for leaf in _leaves(made.tree)}
        if len(sizes) != 1 or sizes == {0}:
            raise DataError(
                f"The tensors of {what} must have the same number of examples, not {sorted(sizes)}."
            )
        return made

    def __len__(self) -> int:
        return len(next(_leaves(self.tree)))

    @property
    def inputs(self) -> Any:
        """What the model is given: the first of a pair, else all."""
        return self.tree[0] if isinstance(self.tree, tuple) else self.tree

    @property
    def classes(self) -> Tensor | None:
        """The targets, where they are whole numbers: of examples ``(n,)`` or positions ``(n, position)``."""
        if not isinstance(self.tree, tuple) or not isinstance(self.tree[-1], Tensor):
            return None
        target = self.tree[-1]
        return None if target.is_floating_point() or target.dim() > 2 else target

    def take(self, rows: Tensor, device: torch.device | None = None) -> Any:
        """Return a batch: some examples, in the form that the data were given in."""
        return _mapped(lambda leaf: leaf[rows].to(device), self.tree)

    def part(self, rows: Tensor) -> Examples:
        """Return some examples."""
        return Examples(self.take(rows))

    def batches(self, size: int, device: torch.device | None = None) -> Iterator[Any]:
        """Yield all examples in their order."""
        for rows in torch.split(torch.arange(len(self)), size):
            yield self.take(rows, device)

    def corpus(self, labels: Tensor | None, name: str) -> Corpus:
        """Return the inputs as a corpus, with the class of every example or position."""
        return make_corpus(self.inputs, labels=None if labels is None else labels.cpu(), name=name)

    def digest(self) -> str:
        """Return a hash of all numbers."""
        found = hashlib.sha256()
        for leaf in _leaves(self.tree):
            found.update(f"{leaf.dtype} {tuple(leaf.shape)}".encode())
            found.update(leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    def __repr__(self) -> str:
        shapes = [tuple(leaf.shape) for leaf in _leaves(self.tree)]
        return f"<Examples: {len(self)} of shapes {shapes}>"


@dataclass(frozen=True)
class Split:
    """What one seed trains on and is measured on.

    Args:
        train: Examples to train on.
        test: Held-out examples.
        measured: Inputs that neurons are measured on; None for those of ``test``.
        labels: Their classes, or None.
    """

    train: Examples
    test: Examples
    measured: Examples | None = None
    labels: Tensor | None = None

    @property
    def shown(self) -> Examples:
        """The held-out inputs that neurons are measured on."""
        return self.test if self.measured is None else self.measured

    def digest(self) -> str:
        """Return a hash of all numbers that are trained and measured on."""
        parts = [self.train.tree, self.test.tree]
        if self.measured is not None:
            parts += [self.measured.tree, self.labels]
        return Examples(tuple(parts)).digest()


def split_of(data: Any, held_out: Any, measured: Any) -> Callable[[int], Split]:
    """Return a function from a seed to what it trains on and is measured on.

    Args:
        data: Examples, or a pair of such: to train on and held out.
        held_out: A share of the data, drawn anew for every seed, or examples of their own.
        measured: Inputs and their classes to measure neurons on; None for the held-out examples and their targets.

    Raises:
        DataError: If there are too few examples.
        InvalidArgumentError: If the share is none.
    """
    if _is_pair_of_parts(data):
        data, held_out = data
    whole = Examples.of(data)
    other = None if isinstance(held_out, int | float) else Examples.of(held_out, "held_out")
    if other is None and not 0 < held_out < 1:
        raise InvalidArgumentError(f"held_out must be a share between 0 and 1, or examples, not {held_out}.")
    classes = _are_classes(whole.classes)
    shown = None if measured is None else Examples.of(measured, "measured_on")
    if shown is not None and shown.classes is None:
        raise InvalidArgumentError("measured_on must be a pair of inputs and their classes, whole numbers.")
    if len(whole) < 4:
        raise DataError(f"There are {len(whole)} examples, too few to train on some and hold out others.")

    def made(seed: int) -> Split:
        train, test = (whole, other) if other is not None else _drawn(whole, float(held_out), seed)
        if shown is not None:
            return Split(train, test, Examples(shown.inputs), shown.classes)
        return Split(train, test, None, test.classes if classes else None)

    return made


def default_loss(model: nn.Module, batch: Any) -> Tensor:
    """Return the loss that the form of the batch suggests.

    A pair ``(x, y)`` with whole-number ``y`` (of examples or positions; -100 is left out): cross-entropy of
    ``model(x)``; with other ``y``: mean squared error. Token ids ``(example, position)``: cross-entropy of the next
    token. A mapping: ``model(**batch).loss``, as transformers' models give it.

    Raises:
        InvalidArgumentError: If it suggests none.
    """
    if isinstance(batch, Mapping):
        loss = getattr(model(**batch), "loss", None)
        if not isinstance(loss, Tensor):
            raise InvalidArgumentError(
                "The model returns no loss for these named inputs: add labels to them, or give loss=."
            )
        return loss
    if isinstance(batch, Tensor):
        if batch.is_floating_point() or batch.dim() != 2:
            raise InvalidArgumentError(
                "Data of one tensor must be token ids (example, position); else give a pair (x, y), or loss=."
            )
        scores = output_of(model, batch)[:, :-1]
        return nn.functional.cross_entropy(scores.flatten(0, 1), batch[:, 1:].flatten())
    x, y = batch
    out = output_of(model, x)
    if y.is_floating_point():
        return nn.functional.mse_loss(out.reshape(y.shape), y)
    if out.dim() == y.dim() + 1 and out.shape[:-1] == y.shape:
        return nn.functional.cross_entropy(out.flatten(0, -2), y.flatten(), ignore_index=_IGNORED)
    return nn.functional.cross_entropy(out, y, ignore_index=_IGNORED)


def default_metric(examples: Examples) -> Metric:
    """Return the metric that the form of the examples suggests: accuracy for classes, R2 for numbers, else none."""
    tree = examples.tree
    if not isinstance(tree, tuple) or not isinstance(tree[-1], Tensor):
        return lambda model, batches: {}
    return _r2 if tree[-1].is_floating_point() else _accuracy


def output_of(model: nn.Module, x: Any) -> Tensor:
    """Return what the model makes of inputs: its output, or the logits of transformers' outputs."""
    found = model(**x) if isinstance(x, Mapping) else model(x)
    found = getattr(found, "logits", found)
    if isinstance(found, tuple):
        found = found[0]
    if not isinstance(found, Tensor):
        raise InvalidArgumentError(
            f"The model returns a {type(found).__name__}, not a tensor: give loss= and metric=."
        )
    return found


def _accuracy(model: nn.Module, batches: Iterable[Any]) -> dict[str, float]:
    right = total = 0
    for x, y in batches:
        out = output_of(model, x)
        best = out.argmax(-1 if out.shape[:-1] == y.shape else 1)
        real = y != _IGNORED
        right += int(((best == y) & real).sum())
        total += int(real.sum())
    return {"accuracy": right / max(1, total)}


def _r2(model: nn.Module, batches: Iterable[Any]) -> dict[str, float]:
    pairs = [(output_of(model, x).reshape(y.shape), y) for x, y in batches]
    out, target = (torch.cat(parts).double() for parts in zip(*pairs, strict=True))
    return {"r2": float(1 - (out - target).square().sum() / (target - target.mean(0)).square().sum())}


def _are_classes(targets: Tensor | None) -> bool:
    """Return whether targets can be the classes of a measure: at least two, and not as many as words."""
    if targets is None:
        return False
    known = torch.unique(targets)
    return 2 <= int((known >= 0).sum()) <= _MOST_CLASSES


def _drawn(whole: Examples, share: float, seed: int) -> tuple[Examples, Examples]:
    from sklearn.model_selection import train_test_split

    target = whole.classes
    by_class = None
    if target is not None and target.dim() == 1:
        classes = target.cpu().numpy()
        # Every class in both parts, where each has two examples.
        by_class = classes if np.unique(classes, return_counts=True)[1].min() > 1 else None
    rows = np.arange(len(whole))
    train, test = train_test_split(rows, test_size=share, stratify=by_class, random_state=seed)
    return whole.part(torch.from_numpy(train)), whole.part(torch.from_numpy(test))


def _is_pair_of_parts(data: Any) -> bool:
    """Return whether data are examples to train on and held-out ones, both in a form of several tensors."""
    return (
        isinstance(data, tuple)
        and len(data) == 2
        and all(isinstance(part, tuple | list) and len(part) == 2 and _is_array(part[-1]) for part in data)
    )


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _tensor(value: Any, what: str) -> Tensor:
    try:
        tensor = value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    except (TypeError, ValueError) as error:
        raise DataError(f"Cannot make a tensor of {what}, {type(value).__name__}: {error}") from error
    if tensor.dim() == 0:
        raise DataError(f"A number without axes in {what} has no examples. Give arrays (example, ...).")
    return tensor.float() if tensor.dtype == torch.float64 and not isinstance(value, Tensor) else tensor


def _mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    if isinstance(tree, tuple):
        return tuple(_mapped(function, part) for part in tree)
    if isinstance(tree, Mapping):
        return {name: _mapped(function, part) for name, part in tree.items()}
    return function(tree)


def _leaves(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, tuple):
        for part in tree:
            yield from _leaves(part)
    elif isinstance(tree, Mapping):
        yield from _leaves(tuple(tree.values()))
    else:
        yield tree
