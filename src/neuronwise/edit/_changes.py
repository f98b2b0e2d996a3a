"""What a patch does to one parameter: new values for some slices, or the sum with a product of two thin factors."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from neuronwise.errors import InvalidArgumentError

__all__ = ["Change", "LowRank", "digest"]


@dataclass(frozen=True, eq=False)
class Change:
    """New values for slices of a parameter, or for all of it.

    Args:
        parameter: Full name of the parameter.
        old: What was there, in the parameter's own orientation.
        new: What comes there; same shape and type.
        index: Which rows (``axis=0``) or columns (``axis=1``), sorted; None means the whole parameter.
        axis: The axis that ``index`` counts along.

    Raises:
        InvalidArgumentError: If shapes or types do not fit together.
    """

    parameter: str
    old: Tensor
    new: Tensor
    index: Tensor | None = None
    axis: int = 0

    def __post_init__(self) -> None:
        for name in ("old", "new", "index"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _own(value))
        if self.old.shape != self.new.shape or self.old.dtype != self.new.dtype:
            raise InvalidArgumentError(
                f"Old and new values of {self.parameter} differ: {tuple(self.old.shape)} {self.old.dtype} and "
                f"{tuple(self.new.shape)} {self.new.dtype}."
            )
        if self.index is not None and self.old.shape[self.axis] != len(self.index):
            raise InvalidArgumentError(
                f"There are {len(self.index)} places in {self.parameter}, but values for "
                f"{self.old.shape[self.axis]}."
            )

    def misfit(self, weight: Tensor, *, fresh: bool) -> str | None:
        """Return why the change does not belong on this parameter, or None if it does.

        Args:
            weight: The parameter.
            fresh: Whether it should still have the old values.
        """
        shape = list(self.old.shape)
        if self.index is not None:
            inside = len(self.index) == 0 or int(self.index.max()) < weight.shape[self.axis]
            shape[self.axis] = weight.shape[self.axis]
            if not inside:
                return f"it has only {weight.shape[self.axis]} places on axis {self.axis}"
        if list(weight.shape) != shape or weight.dtype != self.old.dtype:
            return f"it has shape {tuple(weight.shape)} and type {weight.dtype}"
        if fresh and not _same_bits(self.kept(weight).cpu(), self.old):
            return "it has other values there than those the patch was made for"
        return None

    def kept(self, weight: Tensor) -> Tensor:
        """Return a copy of what the change overwrites."""
        if self.index is None:
            return weight.detach().clone()
        return weight.detach().index_select(self.axis, self.index.to(weight.device))

    def write(self, weight: Tensor) -> None:
        """Write the new values into the parameter."""
        self._put(weight, self.new)

    def restore(self, weight: Tensor, kept: Tensor) -> None:
        """Write back what :meth:`kept` returned."""
        self._put(weight, kept)

    def _put(self, weight: Tensor, values: Tensor) -> None:
        with torch.no_grad():
            moved = values.to(weight.device)
            if self.index is None:
                weight.copy_(moved)
            else:
                weight.index_copy_(self.axis, self.index.to(weight.device), moved)

    def norm(self) -> float:
        """Frobenius norm of the change."""
        return float((self.new.double() - self.old.double()).norm())

    def same_as(self, other: Change | LowRank) -> bool:
        """Return whether both are the same change, bit for bit."""
        if not isinstance(other, Change) or (self.parameter, self.axis) != (other.parameter, other.axis):
            return False
        mine, theirs = self.index, other.index
        same_places = theirs is None if mine is None else theirs is not None and torch.equal(mine, theirs)
        return same_places and _same_bits(self.old, other.old) and _same_bits(self.new, other.new)


@dataclass(frozen=True, eq=False)
class LowRank:
    """The sum of a parameter and ``left @ right``, computed in float64 on the CPU and rounded once.

    Args:
        parameter: Full name of the parameter, a matrix.
        left: ``(rows, rank)``; kept in float64.
        right: ``(rank, columns)``; kept in float64.
        base: SHA-256 of the parameter's bytes that the update was computed for.

    Raises:
        InvalidArgumentError: If the factors do not fit together.
    """

    parameter: str
    left: Tensor
    right: Tensor
    base: str

    def __post_init__(self) -> None:
        for name in ("left", "right"):
            object.__setattr__(self, name, _own(getattr(self, name)).double())
        if self.left.ndim != 2 or self.right.ndim != 2 or self.left.shape[1] != self.right.shape[0]:
            raise InvalidArgumentError(
                f"The factors of {self.parameter} have shapes {tuple(self.left.shape)} and "
                f"{tuple(self.right.shape)}; they must be (rows, rank) and (rank, columns)."
            )

    def misfit(self, weight: Tensor, *, fresh: bool) -> str | None:
        """Return why the change does not belong on this parameter, or None if it does; see :class:`Change`."""
        shape = (self.left.shape[0], self.right.shape[1])
        if tuple(weight.shape) != shape or not weight.is_floating_point():
            return f"it has shape {tuple(weight.shape)} and type {weight.dtype}"
        if fresh and digest(weight) != self.base:
            return "it has other values than those the patch was made for"
        return None

    def kept(self, weight: Tensor) -> Tensor:
        """Return a copy of the parameter."""
        return weight.detach().clone()

    def write(self, weight: Tensor) -> None:
        """Add the product to the parameter."""
        with torch.no_grad():
            total = weight.detach().cpu().double() + self.left @ self.right
            weight.copy_(total.to(weight.dtype))

    def restore(self, weight: Tensor, kept: Tensor) -> None:
        """Write back what :meth:`kept` returned."""
        with torch.no_grad():
            weight.copy_(kept)

    def norm(self) -> float:
        """Frobenius norm of the product."""
        # |A B|^2 = trace(A^T A B B^T), without making the product.
        return math.sqrt(max(float(((self.left.T @ self.left) * (self.right @ self.right.T)).sum()), 0.0))

    def same_as(self, other: Change | LowRank) -> bool:
        """Return whether both are the same change, bit for bit."""
        return (
            isinstance(other, LowRank)
            and (self.parameter, self.base) == (other.parameter, other.base)
            and _same_bits(self.left, other.left)
            and _same_bits(self.right, other.right)
        )


def digest(weight: Tensor) -> str:
    """Return the SHA-256 of a tensor's bytes."""
    return hashlib.sha256(_bytes(weight.detach().cpu()).numpy().data).hexdigest()


def _own(tensor: Tensor) -> Tensor:
    """Return a copy on the CPU that nobody else holds."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _same_bits(one: Tensor, two: Tensor) -> bool:
    # By bytes, not by ==: NaN equals itself here, and 0.0 is not -0.0.
    return one.dtype == two.dtype and one.shape == two.shape and torch.equal(_bytes(one), _bytes(two))
