"""Which neurons of a site rise and fall together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuronwise.errors import InvalidArgumentError
from neuronwise.observe._groups import Floats
from neuronwise.observe.activations import Activations
from neuronwise.observe.reducer import Reducer

__all__ = ["CoActivation"]

_STREAM = 2
_PIECE = 256  # positions multiplied at a time, so that intermediate arrays stay small
_BLOCK = 1024  # neurons whose correlations with all others are held at once


class CoActivation(Reducer):
    r"""Each neuron's strongest correlations with other neurons of its site.

    Table ``coactivation``: ``neuron``, ``other``, ``correlation``, ``correlation_se``; the ``pairs`` largest
    magnitudes a neuron.

    Up to ``full`` neurons the whole matrix of co-moments is kept and the correlations are those of the data;
    ``correlation_se`` is :math:`(1 - r^2)/\sqrt{n - 1}`, as for independent normal positions. Wider sites keep every
    neuron's inner products with ``sketch`` random sign vectors over positions instead: memory grows with the width,
    not its square, and a correlation is known to about :math:`\sqrt{(1 + r^2)/\text{sketch}}`, which is what
    ``correlation_se`` then holds. The strongest pairs are chosen by the same noisy values, so differences of a few
    standard errors mean nothing there.

    Args:
        pairs: Partners reported a neuron.
        full: Widest site whose whole matrix is kept.
        sketch: Random sign vectors for wider sites.

    Raises:
        InvalidArgumentError: If an argument is less than 1.

    Source: D. Achlioptas, "Database-friendly random projections", JCSS 66 (2003).
    """

    name: ClassVar[str] = "coactivation"

    def __init__(self, pairs: int = 10, *, full: int = 1024, sketch: int = 512) -> None:
        if min(pairs, full, sketch) < 1:
            raise InvalidArgumentError("pairs, full and sketch must be at least 1.")
        self.pairs = pairs
        self.full = full
        self.sketch = sketch
        # All sums are over positions of x - shift, in float64. The second factor of ``cross`` is x itself or the signs.
        self._state: dict[str, Tensor] = {}

    def fresh(self) -> Self:
        """Return an empty reducer with the same settings."""
        new = super().fresh()
        new._state = {}
        return new

    @property
    def started(self) -> bool:
        """Whether it has seen any activations."""
        return bool(self._state)

    def update(self, activations: Activations) -> None:
        """Take in one batch. A neuron with a value that is not finite has no correlations from then on."""
        rows, valid = activations.rows, activations.valid
        if not len(rows):
            return
        if not self._state:
            known = rows if valid is None else torch.where(valid, rows, torch.nan)
            self._state["shift"] = torch.nan_to_num(known.nanmean(0)).double()
        width = rows.shape[1]
        signs = None if width <= self.full else self._signs(activations, rows)
        second = width if signs is None else self.sketch
        new = {
            "n": torch.tensor([float(len(rows))], dtype=torch.float64, device=rows.device),
            "spoiled": rows.new_zeros(width) if valid is None else (~valid).any(0).to(rows.dtype),
            "sum": rows.new_zeros(width),
            "square": rows.new_zeros(width),
            "other": rows.new_zeros(second),
            "cross": rows.new_zeros((width, second)),
        }
        shift = self._state["shift"].to(rows.dtype)
        for start in range(0, len(rows), _PIECE):
            deviation = rows[start : start + _PIECE] - shift
            if valid is not None:
                deviation.masked_fill_(~valid[start : start + _PIECE], 0.0)
            other = deviation if signs is None else signs[start : start + _PIECE]
            new["sum"] += deviation.sum(0)
            new["other"] += other.sum(0)
            new["cross"].addmm_(deviation.T, other)
            new["square"] += deviation.square_().sum(0)  # last: it overwrites the deviations
        self._add({name: value.double() for name, value in new.items()})

    def merge(self, other: Self) -> None:
        """Take in what another has seen."""
        if not other._state:
            return
        if not self._state:
            self._state = other._state
            return
        theirs = dict(other._state)
        delta = theirs.pop("shift") - self._state["shift"]  # x - mine = (x - theirs) + delta
        n, total = theirs["n"], theirs["sum"]
        full = len(delta) <= self.full
        other_delta = delta if full else torch.zeros_like(theirs["other"])
        theirs["square"] = theirs["square"] + 2 * delta * total + n * delta**2
        theirs["cross"] = (
            theirs["cross"]
            + torch.outer(delta, theirs["other"])
            + torch.outer(total, other_delta)
            + n * torch.outer(delta, other_delta)
        )
        theirs["other"] = theirs["other"] + n * other_delta
        theirs["sum"] = total + n * delta
        self._add(theirs)

    def result(self) -> Mapping[str, pd.DataFrame]:
        """Return each neuron's strongest partners."""
        if not self._state or len(self._state["sum"]) < 2:
            return {}
        width = len(self._state["sum"])
        frames = [self._partners(start, min(start + _BLOCK, width)) for start in range(0, width, _BLOCK)]
        return {"coactivation": pd.concat(frames, ignore_index=True)}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state as tensors."""
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state."""
        self._state = dict(state)

    def correlations(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return the correlations of the neurons from ``start`` to ``stop`` with all, ``(stop - start, neuron)``.

        NaN for neurons that never vary or were not always finite. From the sketch, they are estimates and can exceed 1
        in magnitude.
        """
        s = self._state
        n = s["n"]
        cross = s["cross"] - torch.outer(s["sum"], s["other"]) / n
        variance = (s["square"] - s["sum"] ** 2 / n).clamp(min=0.0)
        noise = s["square"].clamp(min=1e-300) * 1e-7  # deviations are float32: less than this is rounding
        known = (variance > noise) & (s["spoiled"] == 0)
        scale = torch.where(known, variance, torch.nan).rsqrt()
        if len(s["sum"]) <= self.full:
            inner = cross[start:stop]
        else:
            inner = cross[start:stop] @ cross.T / cross.shape[1]
        return (inner * scale[start:stop, None] * scale).cpu().numpy()

    def _signs(self, activations: Activations, like: Tensor) -> Tensor:
        bits = torch.randint(0, 2, (len(like), self.sketch), generator=activations.batch.generator(_STREAM))
        return (2 * bits - 1).to(like)

    def _add(self, new: Mapping[str, Tensor]) -> None:
        for key, value in new.items():
            own = self._state.get(key)
            self._state[key] = value if own is None else own + value

    def _partners(self, start: int, stop: int) -> pd.DataFrame:
        matrix = self.correlations(start, stop)
        width = matrix.shape[1]
        matrix[np.arange(stop - start), np.arange(start, stop)] = np.nan
        k = min(self.pairs, width - 1)
        row, other = _largest(np.nan_to_num(np.abs(matrix), nan=-1.0), k)
        correlation = np.clip(matrix[row, other], -1.0, 1.0)
        n = float(self._state["n"])
        if width <= self.full:
            error = (1.0 - correlation**2) / np.sqrt(max(n - 1.0, 1.0))
        else:
            error = np.sqrt((1.0 + correlation**2) / self.sketch)
        columns = {"neuron": row + start, "other": other, "correlation": correlation}
        return pd.DataFrame({**columns, "correlation_se": error})


def _largest(values: Floats, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and columns of the ``k`` largest values of every row, the largest first, of equal ones the first.

    Negative values stand for none, so a row can have fewer.
    """
    # A full sort of every row would cost many times more.
    least = np.partition(values, values.shape[1] - k, axis=1)[:, -k]
    row, column = np.nonzero((values >= least[:, None]) & (values >= 0.0))
    order = np.lexsort((column, -values[row, column], row))
    row, column = row[order], column[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    return row[place < k], column[place < k]
