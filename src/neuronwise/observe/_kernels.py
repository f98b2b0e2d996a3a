"""The hottest loops of observing, compiled by Numba where it is installed (extra ``fast``).

Each reads the activations once and keeps its sums in registers and cache, where torch needs a pass and a float64 copy
an operation. Without Numba the reducers do the same with torch; the results agree to rounding.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["count_above", "peaks", "power_sums", "usable"]

_Kernel = Callable[..., None]


def usable(rows: Tensor) -> bool:
    """Whether the compiled loops can take these rows."""
    plain = (
        rows.device.type == "cpu" and rows.dtype in (torch.float32, torch.float64) and rows.is_contiguous()
    )
    return plain and _installed()


def peaks(values: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Return each example's lowest and highest activation, ``(example, neuron)``, and whether all are finite.

    Where not all are finite, the extremes mean nothing.

    Args:
        values: Activations ``(example, position, neuron)``.
    """
    low, high = values[:, 0].clone(), values[:, 0].clone()
    taint = np.zeros(values.shape[2], dtype=low.numpy().dtype)
    _peaks_kernel()(values.numpy(), low.numpy(), high.numpy(), taint)
    return low, high, not taint.any()


def power_sums(rows: Tensor, shift: Tensor, order: int) -> list[Tensor]:
    """Return the sums over rows of ``(x - shift)**p`` for p = 1 to ``order``, each float64 ``(neuron,)``.

    Args:
        rows: Finite activations ``(row, neuron)``.
        shift: What is subtracted, float64 ``(neuron,)``.
        order: 2, 3 or 4.
    """
    sums = [torch.zeros_like(shift) for _ in range(order)]
    arrays = [total.numpy() for total in sums]
    two, four = _sums_kernels()
    if order == 2:
        two(rows.numpy(), shift.numpy(), *arrays)
    else:
        arrays += [np.zeros_like(arrays[0])] * (4 - order)
        four(rows.numpy(), shift.numpy(), *arrays)
    return sums


def count_above(rows: Tensor, threshold: float, *, absolute: bool) -> Tensor:
    """Return how many rows exceed the threshold, float64 ``(neuron,)``."""
    total = np.zeros(rows.shape[1], dtype=np.int32)
    limit = rows.numpy().dtype.type(threshold)
    _count_kernel()(rows.numpy(), limit, absolute, total)
    return torch.from_numpy(total.astype(np.float64))


@cache
def _installed() -> bool:
    try:
        importlib.import_module("numba")
    except ImportError:
        return False
    return True


def _compile(function: Callable[..., None]) -> Any:
    import numba

    # Reordering sums and fusing multiply-add are what makes them fast; NaN and infinity keep their meaning.
    return numba.njit(
        function, nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"}
    )


@cache
def _peaks_kernel() -> _Kernel:
    @_compile
    def peaks(values: Any, low: Any, high: Any, taint: Any) -> None:
        for example in range(values.shape[0]):
            rows, least, most = values[example], low[example], high[example]
            whole = len(rows) - len(rows) % 4
            for i in range(0, whole, 4):
                for j in range(rows.shape[1]):
                    a, b, c, d = rows[i, j], rows[i + 1, j], rows[i + 2, j], rows[i + 3, j]
                    least[j] = min(least[j], min(min(a, b), min(c, d)))
                    most[j] = max(most[j], max(max(a, b), max(c, d)))
                    taint[j] += (a * 0 + b * 0) + (c * 0 + d * 0)  # NaN for what is not finite, else 0
            for i in range(whole, len(rows)):
                for j in range(rows.shape[1]):
                    least[j] = min(least[j], rows[i, j])
                    most[j] = max(most[j], rows[i, j])
                    taint[j] += rows[i, j] * 0

    kernel: _Kernel = peaks
    return kernel


@cache
def _sums_kernels() -> tuple[_Kernel, _Kernel]:
    @_compile
    def two(rows: Any, shift: Any, first: Any, second: Any) -> None:
        whole = len(rows) - len(rows) % 4
        for i in range(0, whole, 4):  # four rows at a time quarter the traffic of the sums
            for j in range(rows.shape[1]):
                a, b = rows[i, j] - shift[j], rows[i + 1, j] - shift[j]
                c, d = rows[i + 2, j] - shift[j], rows[i + 3, j] - shift[j]
                first[j] += (a + b) + (c + d)
                second[j] += (a * a + b * b) + (c * c + d * d)
        for i in range(whole, len(rows)):
            for j in range(rows.shape[1]):
                a = rows[i, j] - shift[j]
                first[j] += a
                second[j] += a * a

    @_compile
    def four(rows: Any, shift: Any, first: Any, second: Any, third: Any, fourth: Any) -> None:
        whole = len(rows) - len(rows) % 2
        for i in range(0, whole, 2):
            for j in range(rows.shape[1]):
                a, b = rows[i, j] - shift[j], rows[i + 1, j] - shift[j]
                aa, bb = a * a, b * b
                first[j] += a + b
                second[j] += aa + bb
                third[j] += a * aa + b * bb
                fourth[j] += aa * aa + bb * bb
        for i in range(whole, len(rows)):
            for j in range(rows.shape[1]):
                a = rows[i, j] - shift[j]
                aa = a * a
                first[j] += a
                second[j] += aa
                third[j] += a * aa
                fourth[j] += aa * aa

    return two, four


@cache
def _count_kernel() -> _Kernel:
    @_compile
    def count(rows: Any, threshold: Any, absolute: bool, total: Any) -> None:
        for i in range(len(rows)):
            if absolute:
                for j in range(rows.shape[1]):
                    total[j] += np.int32(abs(rows[i, j]) > threshold)
            else:
                for j in range(rows.shape[1]):
                    total[j] += np.int32(rows[i, j] > threshold)

    kernel: _Kernel = count
    return kernel
