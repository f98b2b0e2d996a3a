"""Rules for an integral from 0 to 1: Gauss-Legendre, and those that published codes use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from neuronwise.errors import InvalidArgumentError, closest

__all__ = ["RULES", "quadrature"]

_Rule = Callable[[int], tuple[NDArray[np.float64], NDArray[np.float64]]]


def _gauss_legendre(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    points, weights = np.polynomial.legendre.leggauss(count)
    return (points + 1) / 2, weights / 2


def _equal(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return points, np.full(len(points), 1 / len(points))


def _trapezoid(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    weights = np.full(count, 1.0)
    weights[[0, -1]] = 0.5
    return np.linspace(0, 1, count), weights / weights.sum()


RULES: Mapping[str, _Rule] = MappingProxyType(
    {
        "gauss_legendre": _gauss_legendre,
        "left": lambda count: _equal(np.arange(count) / count),
        "right": lambda count: _equal((np.arange(count) + 1) / count),
        "midpoint": lambda count: _equal((np.arange(count) + 0.5) / count),
        "trapezoid": _trapezoid,
        "eleuther": lambda count: _equal(np.linspace(0, 1, count)),
    }
)


def quadrature(rule: str, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the nodes in [0, 1] and the weights of a rule, both float64 ``(count,)``.

    ``gauss_legendre`` converges geometrically where the integrand is analytic (GELU, SiLU), ``midpoint`` and
    ``trapezoid`` as 1 / count**2, the rest as 1 / count. ``left`` is what the code of Dai et al. (2022,
    https://arxiv.org/abs/2104.08696) computes, ``right`` what their paper writes, and ``eleuther`` what the package
    ``knowledge-neurons`` computes: both ends, all with the same weight.

    Args:
        rule: A name in ``RULES``.
        count: Number of nodes; at least 2 for ``trapezoid`` and ``eleuther``, which use both ends.

    Raises:
        InvalidArgumentError: If there is no such rule, or too few nodes.

    Example:
        >>> nodes, weights = quadrature("gauss_legendre", 3)
        >>> float(abs(weights @ nodes**5 - 1 / 6)) < 1e-15
        True
    """
    if rule not in RULES:
        raise InvalidArgumentError(f"There is no rule {rule!r} for integrals. {closest(rule, RULES)}")
    least = 2 if rule in ("trapezoid", "eleuther") else 1
    if count < least:
        raise InvalidArgumentError(f"The rule {rule!r} needs at least {least} nodes, not {count}.")
    return RULES[rule](count)
