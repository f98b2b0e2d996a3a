"""Mean activation of every neuron for every class of a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from neuronwise.errors import InvalidArgumentError
from neuronwise.observe.activations import Activations
from neuronwise.observe.reducer import Reducer

__all__ = ["ClassMeans"]


class ClassMeans(Reducer):
    """Mean and its standard error for each class of one label field, of tokens (a part of speech) or of examples.

    Table ``class_means``: ``neuron``, ``field``, ``label``, ``n``, ``mean``, ``mean_se``. The standard error takes
    positions as independent. Positions without a label are left out.

    Args:
        field: The label field of the corpus, such as ``"upos"`` or ``"class"``.
        classes: Names of the classes, in the order of their numbers (``corpus.labels[field]``).

    Raises:
        InvalidArgumentError: If there are no classes.
    """

    name: ClassVar[str] = "class_means"

    def __init__(self, field: str, classes: Sequence[str]) -> None:
        if not classes:
            raise InvalidArgumentError(f"The label field {field!r} has no classes.")
        self.field = field
        self.classes = tuple(classes)
        self._n: Tensor | None = None  # (class, neuron)
        self._mean = torch.empty(0)
        self._m2 = torch.empty(0)

    @property
    def started(self) -> bool:
        """Whether it has seen any activations."""
        return self._n is not None

    def update(self, activations: Activations) -> None:
        """Take in one batch."""
        labels = activations.row_labels(self.field)
        if labels is None:
            raise InvalidArgumentError(f"The corpus has no label field {self.field!r}.")
        if len(labels) and int(labels.max()) >= len(self.classes):
            raise InvalidArgumentError(
                f"The label field {self.field!r} has class {int(labels.max())}, but only {len(self.classes)} classes "
                "were named."
            )
        if not len(labels):
            return
        width = activations.values.shape[-1]
        zeros = torch.zeros((len(self.classes), width), dtype=torch.float64, device=labels.device)
        n, first, second = zeros.clone(), zeros.clone(), zeros
        shift = activations.shift
        start = 0
        for chunk, valid in activations.double_chunks():
            label = labels[start : start + len(chunk)].to(chunk.device)
            start += len(chunk)
            keep = label >= 0
            chunk -= shift
            ones = torch.ones_like(chunk) if valid is None else valid.double()
            values = chunk * ones
            n.index_add_(0, label[keep], ones[keep])
            first.index_add_(0, label[keep], values[keep])
            second.index_add_(0, label[keep], values[keep] ** 2)
        mean = first / n.clamp(min=1.0)
        self._absorb(n, shift + mean, (second - n * mean**2).clamp_(min=0.0))

    def merge(self, other: Self) -> None:
        """Take in what another has seen."""
        if other._n is not None:
            self._absorb(other._n, other._mean, other._m2)

    def result(self) -> Mapping[str, pd.DataFrame]:
        """Return one row for every neuron and class that was seen."""
        if self._n is None:
            return {}
        n, mean, m2 = (t.cpu().numpy().T for t in (self._n, self._mean, self._m2))  # (neuron, class)
        neuron, label = np.nonzero(n)
        n, mean, m2 = n[neuron, label], mean[neuron, label], m2[neuron, label]
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.sqrt(m2 / (n - 1) / n)
        names = np.array(self.classes, dtype=object)[label]
        columns = {
            "neuron": neuron,
            "field": self.field,
            "label": names,
            "n": n.astype(np.int64),
            "mean": mean,
        }
        return {"class_means": pd.DataFrame({**columns, "mean_se": error})}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state as tensors."""
        return {} if self._n is None else {"n": self._n, "mean": self._mean, "m2": self._m2}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state."""
        if state:
            self._n, self._mean, self._m2 = state["n"], state["mean"], state["m2"]

    def _absorb(self, n: Tensor, mean: Tensor, m2: Tensor) -> None:
        """Merge counts, means and sums of squared deviations (Chan et al. 1979)."""
        if self._n is None:
            self._n, self._mean, self._m2 = n, torch.where(n > 0, mean, 0.0), m2
            return
        total = self._n + n
        delta = torch.where((n > 0) & (self._n > 0), mean - self._mean, 0.0)
        share = n / total.clamp(min=1.0)
        self._m2 = self._m2 + m2 + delta**2 * self._n * share
        self._mean = torch.where(self._n == 0, torch.where(n > 0, mean, 0.0), self._mean + delta * share)
        self._n = total
