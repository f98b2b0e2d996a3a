"""Random changes of the size of a given one."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from neuronwise.edit._changes import Change, LowRank

__all__ = ["random_change"]


def random_change(change: Change | LowRank, weight: Tensor, seed: int) -> Change | LowRank:
    """Return a change of the same parameter, as large, but in random places and directions.

    A low-rank change becomes a random product of the same rank and Frobenius norm; of changed slices as many others
    (where there are enough) move by random vectors, each as long as one of the given ones.

    Args:
        change: The change to be matched.
        weight: The parameter as it is now.
        seed: Same seed, same change; what is drawn for one parameter does not depend on others.
    """
    generator = torch.Generator().manual_seed(seed * 2**32 + zlib.crc32(change.parameter.encode()))
    if isinstance(change, LowRank):
        left = torch.randn(change.left.shape, generator=generator, dtype=torch.float64)
        right = torch.randn(change.right.shape, generator=generator, dtype=torch.float64)
        drawn = LowRank(change.parameter, left, right, change.base)
        return LowRank(change.parameter, left * (change.norm() / drawn.norm()), right, change.base)
    index = change.index
    if index is not None:
        order = torch.randperm(weight.shape[change.axis], generator=generator)
        free = order[~torch.isin(order, index)]
        index = torch.cat([free, order[torch.isin(order, index)]])[: len(index)].sort().values
    bare = Change(change.parameter, change.old, change.old, index, change.axis)
    old = bare.kept(weight).cpu()
    step = torch.randn(old.shape, generator=generator, dtype=torch.float64).movedim(change.axis, 0)
    length = (change.new.double() - change.old.double()).movedim(change.axis, 0).flatten(1).norm(dim=1)
    flat = step.flatten(1)
    step = (flat * (length / flat.norm(dim=1))[:, None]).view_as(step).movedim(0, change.axis)
    return Change(change.parameter, old, (old.double() + step).to(old.dtype), index, change.axis)
