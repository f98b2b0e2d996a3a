"""Which entries a method acts on: the highest scores, those above a threshold, or as many at random."""

from __future__ import annotations

import torch
from torch import Tensor

from neuronwise.train.view import View

__all__ = ["by_chance", "highest", "uniform"]

_WORD = 0xFFFFFFFF


def highest(score: Tensor, count: int) -> Tensor:
    """Return True at the highest positive scores of every row, ``(row, entry)``.

    Args:
        score: Scores ``(row, entry)``; what must not be chosen has a score that is not positive.
        count: How many of each row; all positive ones where a row has fewer.
    """
    count = min(count, score.shape[1])
    if count == 1:  # much cheaper than a general selection
        place = score.argmax(1, keepdim=True)
    else:
        place = score.topk(count, 1, sorted=False).indices
    chosen = torch.zeros_like(score, dtype=torch.bool).scatter(1, place, True)
    return chosen & (score > 0)


def by_chance(view: View, share: float | Tensor) -> Tensor:
    """Return True at a share of the real entries, chosen at random."""
    chosen = uniform(view.values, view.seed) > 1 - share
    return chosen if view.real is None else chosen & view.real


def uniform(values: Tensor, seed: int) -> Tensor:
    """Return a number in (0, 1) for every entry, float32, that depends on nothing but the values and the seed.

    So a control that chooses at random needs no generator: activation checkpointing chooses the same again, a resumed
    run goes on as an uninterrupted one, and the random state of the program is left alone. A checksum of the values'
    bits tells batches, calls and layers apart; a hash of place and checksum gives the number.

    Args:
        values: Any floating-point tensor.
        seed: Another seed, another choice.
    """
    values = values.detach()
    word = {2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()]
    checksum = values.view(word).sum(dtype=torch.int64)
    salt = _mix((checksum & _WORD) ^ ((checksum >> 32) & _WORD))
    place = torch.arange(values.numel(), device=values.device, dtype=torch.int64)
    salted = _mix((place + seed * 0x9E3779B1) & _WORD) ^ salt
    number = _mix(_mix(salted) + ((place >> 32) & _WORD) & _WORD)
    return ((number >> 8).to(torch.float32) + 0.5).mul_(2.0**-24).view(values.shape)


def _mix(word: Tensor) -> Tensor:
    """Return a hash of 32-bit words held in int64 (products stay below 2**63)."""
    word = ((word >> 16) ^ word) * 0x45D9F3B & _WORD
    word = ((word >> 16) ^ word) * 0x45D9F3B & _WORD
    return (word >> 16) ^ word
