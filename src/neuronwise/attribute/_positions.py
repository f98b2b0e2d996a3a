"""Which positions of which site are scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuronwise.attribute.targets import Target
from neuronwise.errors import InvalidArgumentError
from neuronwise.sites import Site

__all__ = ["PositionsLike", "resolve_positions"]

PositionsLike = None | str | int | Sequence[int] | Tensor
"""None, ``"all"``, whole numbers for every example, or int64 ``(example, position)``."""


def resolve_positions(
    asked: PositionsLike,
    target: Target,
    model: nn.Module,
    inputs: Any,
    site: Site,
    *,
    count: int,
    length: int,
) -> Tensor:
    """Return the positions of every example at one site, int64 ``(example, position)``, -1 where it has fewer.

    Raises:
        InvalidArgumentError: If they do not fit the site, or one is padding.
    """
    if length == 1:
        return torch.zeros((count, 1), dtype=torch.long)
    mask = _mask(model, inputs, site, count, length)
    if asked is None:
        # The target's positions count along the decoder; an encoder's neurons act from anywhere.
        asked = "all" if target.positions is None or _of_encoder(model, site) else target.positions
    if isinstance(asked, str):
        if asked != "all":
            raise InvalidArgumentError(f'positions must be "all", whole numbers or a tensor, not {asked!r}.')
        every = torch.arange(length).expand(count, -1)
        return every.clone() if mask is None else torch.where(mask, every, -1)
    given = torch.as_tensor(asked)
    if given.is_floating_point() or given.dtype == torch.bool or given.dim() > 2 or not given.numel():
        raise InvalidArgumentError(
            f"positions must be whole numbers, one for all or (example, position), not {given.dtype} of shape "
            f"{tuple(given.shape)}."
        )
    given = given.cpu().long()
    if given.dim() == 2:
        if len(given) != count:
            raise InvalidArgumentError(f"positions has {len(given)} rows, the batch {count} examples.")
        positions = given
    else:
        positions = _from_the_end(given.reshape(1, -1).expand(count, -1), mask, length)
    _check(positions, mask, site, length)
    return positions


def _from_the_end(positions: Tensor, mask: Tensor | None, length: int) -> Tensor:
    """Count negative positions from the last real token of each example."""
    if mask is None:
        return torch.where(positions < 0, positions + length, positions)
    last = (mask.long() * torch.arange(length)).amax(1, keepdim=True)
    return torch.where(positions < 0, last + 1 + positions, positions)


def _check(positions: Tensor, mask: Tensor | None, site: Site, length: int) -> None:
    if positions.max() >= length or positions.min() < -1:
        bad = int(positions.max() if positions.max() >= length else positions.min())
        raise InvalidArgumentError(
            f"{site.name} has {length} positions (0 to {length - 1}); there is no {bad}."
        )
    if (positions < 0).all(1).any():
        raise InvalidArgumentError(f"{site.name}: an example has no position to score.")
    if mask is not None:
        padded = (positions >= 0) & ~mask.gather(1, positions.clamp(min=0))
        if padded.any():
            example = int(padded.any(1).nonzero()[0])
            raise InvalidArgumentError(
                f"Position {int(positions[example][padded[example]][0])} of example {example} is padding. Give each "
                "example's own last token, as neuronwise.data.encode does, or negative positions, which count from it."
            )


def _mask(model: nn.Module, inputs: Any, site: Site, count: int, length: int) -> Tensor | None:
    """Return which positions are real, bool ``(example, position)``, or None if it is not known or all are."""
    if not isinstance(inputs, Mapping):
        return None
    coded = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    name = "decoder_attention_mask" if coded and not _of_encoder(model, site) else "attention_mask"
    mask = inputs.get(name)
    if not isinstance(mask, Tensor) or mask.shape != (count, length):
        return None
    real = mask.bool().cpu()
    return None if bool(real.all()) else real


def _of_encoder(model: nn.Module, site: Site) -> bool:
    coded = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    return bool(coded) and "encoder" in site.path.split(".")
