"""A random sample of a site's activations beside the statistics of other examples, in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from neuronwise.errors import InvalidArgumentError
from neuronwise.observe.activations import Activations
from neuronwise.observe.reducer import Reducer
from neuronwise.observe.statistics import Unit

__all__ = ["RowSample"]

_STREAM = 77  # of the batch's random numbers: the same rows are drawn at every site
_SHARES = {"both": 0.5, "reference": 1.0, "sample": 0.0}


class RowSample(Reducer):
    """Keeps a random sample of rows, every row as likely, and the mean and variance of the rows of *other* examples.

    Which examples are for the statistics and which may be sampled is drawn by the examples' numbers, so no example (and
    no text) is on both sides. Any split of the corpus gives the same sample. Memory: ``rows`` x neurons x 4 bytes.

    Args:
        rows: Rows to keep, at most.
        unit: What counts as one neuron, as in :class:`~neuronwise.observe.RunningStatistics`.
        role: ``"both"``: half of the examples for the statistics, half for the sample; ``"reference"`` or ``"sample"``:
            all for one of them.
        labels: The corpus's label field whose classes are kept with the rows.
        seed: Seed of the halves.

    Raises:
        InvalidArgumentError: If an argument is not what it must be.
    """

    name: ClassVar[str] = "sample"

    def __init__(
        self,
        rows: int = 20_000,
        *,
        unit: Unit = "feature",
        role: str = "both",
        labels: str | None = None,
        seed: int = 0,
    ) -> None:
        if rows < 2:
            raise InvalidArgumentError(f"The sample must have at least 2 rows, not {rows}.")
        if role not in _SHARES:
            raise InvalidArgumentError(f"role must be one of {', '.join(_SHARES)}, not {role!r}.")
        if unit not in ("feature", "element", "pooled"):
            raise InvalidArgumentError(f"unit must be 'feature', 'element' or 'pooled', not {unit!r}.")
        self.rows, self.unit, self.role, self.labels, self.seed = rows, unit, role, labels, seed
        self._count: Tensor | None = None
        self._mean, self._m2 = torch.empty(0), torch.empty(0)
        self._kept: dict[str, Tensor] = {}

    @property
    def started(self) -> bool:
        """Whether it has seen any activations."""
        return self._count is not None

    def update(self, activations: Activations) -> None:
        """Take in one batch. Rows with a value that is NaN or infinite are left out."""
        rows, examples, labels, keys = self._rows(activations)
        finite = torch.isfinite(rows).all(1)
        if not bool(finite.all()):
            rows, examples, labels, keys = (part[finite] for part in (rows, examples, labels, keys))
        first = self._first(examples)
        known = rows[first].double()
        n = torch.tensor(float(len(known)), dtype=torch.float64, device=rows.device)
        mean = (
            known.mean(0)
            if len(known)
            else torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
        )
        self._absorb(n, mean, (known - mean).square().sum(0))
        other = ~first
        self._keep(
            {
                "rows": rows[other].float(),
                "examples": examples[other],
                "labels": labels[other],
                "keys": keys[other],
            }
        )

    def merge(self, other: Self) -> None:
        """Take in what another has seen."""
        if other._count is not None:
            self._absorb(other._count, other._mean, other._m2)
            self._keep(other._kept)

    def result(self) -> Mapping[str, pd.DataFrame]:
        """Return the statistics of every neuron: ``mean``, ``std`` (divisor n - 1) and ``n`` of the reference half."""
        if self._count is None:
            return {}
        mean, variance = self.statistics()
        frame = {"reference_mean": mean.cpu().numpy(), "reference_std": variance.sqrt().cpu().numpy()}
        return {"neurons": pd.DataFrame({**frame, "reference_n": float(self._count)})}

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and unbiased variance of every neuron over the reference rows, float64 ``(neuron,)``."""
        assert self._count is not None
        return self._mean, self._m2 / (self._count - 1).clamp(min=1.0)

    @property
    def count(self) -> int:
        """Number of reference rows."""
        return 0 if self._count is None else int(self._count)

    def sampled(self) -> dict[str, Tensor]:
        """Return ``rows`` (row, neuron), ``examples`` and ``labels`` (row,), in the order of the examples."""
        if not self._kept:
            return {}
        order = torch.argsort(self._kept["examples"] + self._kept["keys"])
        return {name: part[order] for name, part in self._kept.items() if name != "keys"}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state as tensors."""
        if self._count is None:
            return {}
        return {"count": self._count, "mean": self._mean, "m2": self._m2, **self._kept}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state."""
        if state:
            self._count, self._mean, self._m2 = state["count"], state["mean"], state["m2"]
            self._kept = {name: state[name] for name in ("rows", "examples", "labels", "keys")}

    def _rows(self, activations: Activations) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return one row a sample, its example, its class (-1 for none) and its random key."""
        values, mask, batch = activations.values, activations.mask, activations.batch
        examples = batch.examples.to(values.device)
        if self.unit == "feature":
            rows, numbers = activations.rows, examples[activations.row_examples]
            labels = None if self.labels is None else activations.row_labels(self.labels)
        else:
            numbers = examples
            labels = None if self.labels is None else batch.labels.get(self.labels)
            if labels is not None and labels.dim() > 1:
                raise InvalidArgumentError(
                    f"The labels {self.labels!r} are of positions; with unit={self.unit!r} an example is one sample. "
                    "Use unit='feature', or labels of examples."
                )
            rows = self._pooled(values, mask) if self.unit == "pooled" else self._elements(values, mask)
        if labels is None:
            labels = torch.full_like(numbers, -1)
        keys = torch.rand(len(rows), generator=batch.generator(_STREAM), dtype=torch.float64)
        return rows, numbers, labels.to(values.device), keys.to(values.device)

    def _pooled(self, values: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return values.mean(1)
        n = mask.sum(1, keepdim=True).clamp(min=1)
        return values.masked_fill(~mask.unsqueeze(-1), 0.0).sum(1) / n

    def _elements(self, values: Tensor, mask: Tensor | None) -> Tensor:
        flat = values.reshape(len(values), -1)
        if mask is not None or (self._count is not None and self._mean.shape[0] != flat.shape[1]):
            raise InvalidArgumentError(
                "Examples of different length do not have the same elements (unit='element'). Pad or crop them to one "
                "length, or use unit='feature', which takes every position as a sample and any length."
            )
        return flat

    def _first(self, examples: Tensor) -> Tensor:
        """Return which rows are for the statistics: drawn by the number of the example alone."""
        share = _SHARES[self.role]
        if share in (0.0, 1.0):
            return torch.full_like(examples, bool(share), dtype=torch.bool)
        numbers, inverse = torch.unique(examples, return_inverse=True)
        drawn = [
            np.random.SeedSequence([self.seed, int(number)]).generate_state(1)[0] % 2
            for number in numbers.tolist()
        ]
        return torch.tensor(drawn, dtype=torch.bool, device=examples.device)[inverse]

    def _absorb(self, n: Tensor, mean: Tensor, m2: Tensor) -> None:
        """Merge count, mean and sum of squared deviations (Chan et al. 1979)."""
        if self._count is None:
            self._count, self._mean, self._m2 = n, mean, m2
            return
        total = self._count + n
        delta = mean - self._mean
        share = n / total.clamp(min=1.0)
        self._m2 = self._m2 + m2 + delta.square() * self._count * share
        self._mean = self._mean + delta * share
        self._count = total

    def _keep(self, new: Mapping[str, Tensor]) -> None:
        """Keep the rows with the smallest keys of all that were seen."""
        if self._kept and len(self._kept["keys"]) == self.rows:
            lower = new["keys"] < self._kept["keys"].max()
            if not bool(lower.any()):
                return
            new = {name: part[lower] for name, part in new.items()}
        joined = {
            name: torch.cat([self._kept[name], part]) if self._kept else part for name, part in new.items()
        }
        if len(joined["keys"]) > self.rows:
            chosen = joined["keys"].topk(self.rows, largest=False).indices
            joined = {name: part[chosen] for name, part in joined.items()}
        self._kept = joined
