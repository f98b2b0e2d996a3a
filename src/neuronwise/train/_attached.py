"""What is attached to a model for the length of its training: hooks on and off, sites, masks, processes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from neuronwise.errors import InvalidArgumentError, SiteNotReachedError
from neuronwise.hooks import Transform, device_of, sequence_first
from neuronwise.observe.statistics import Layout
from neuronwise.sites import Site, Sites, find_sites

__all__ = ["Attached", "Mask", "batch_axis", "not_reached", "processes", "reduction", "sites_of"]


class Attached:
    """An object whose hooks are on a model while it is attached, and come off with its end.

    A subclass sets ``model`` and ``_transform``.
    """

    model: nn.Module
    _transform: Transform
    _finalizer: weakref.finalize[Any, Any] | None = None

    @property
    def is_attached(self) -> bool:
        """Whether the hooks are on the model."""
        return self._transform.attached

    def attach(self) -> None:
        """Set the hooks; :meth:`detach`, or the end of this object, takes them off.

        Raises:
            HookError: If they are on already, or another one with a method is attached to a site.
            CompiledModelError: If the model was compiled before.
        """
        release = self._transform.attach()
        self._move(device_of(self.model))
        self._finalizer = weakref.finalize(self, release)
        self._finalizer.atexit = False

    def detach(self) -> None:
        """Take the hooks off, and forget a step that was begun. Statistics stay."""
        if self._finalizer is not None:
            self._finalizer.detach()
            self._finalizer = None
        self._transform.detach()
        self.discard()

    @contextmanager
    def attached(self) -> Iterator[Self]:
        """Attach for a ``with`` block; the hooks come off at its end, also after an exception."""
        self.attach()
        try:
            yield self
        finally:
            self.detach()

    def discard(self) -> None:
        """Forget the forward passes since the last step, as if they had not been."""
        raise NotImplementedError

    def _move(self, device: torch.device) -> None:
        raise NotImplementedError


class Mask:
    """Which positions are real: as was said, else as found among the model's arguments."""

    def __init__(self) -> None:
        self._given: Tensor | None = None
        self._found: Tensor | None = None

    def expect(self, mask: Tensor | None) -> None:
        """Take this one for the next forward passes."""
        self._given = mask

    def begin(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Look for a mask among the model's arguments, as transformers are given one."""
        mask = kwargs.get("attention_mask")
        self._found = mask if isinstance(mask, Tensor) and mask.dim() == 2 else None

    def forget(self) -> None:
        """Forget both."""
        self._given = self._found = None

    def of(self, tensor: Tensor, layout: Layout) -> Tensor | None:
        """Return the mask for a tensor: one that was given must fit, one that was found may be of something else."""
        if self._given is not None:
            return self._given.to(tensor.device)
        mask = self._found
        if mask is None:
            return None
        before, after = layout.around(tuple(tensor.shape))
        fits = mask.shape == (tensor.shape[layout.batch_axis], before * after)
        return mask.to(tensor.device) if fits else None


def sites_of(model: nn.Module, sites: Any) -> Sites:
    """Return the sites that are meant.

    Raises:
        SiteNotFoundError: If the model has no such sites.
        InvalidArgumentError: If there are none.
    """
    if sites is None:
        found = find_sites(model)
    elif isinstance(sites, str) or (isinstance(sites, Sequence) and sites and isinstance(sites[0], str)):
        found = find_sites(model, sites)
    else:
        found = Sites.of(sites)
    if not len(found):
        raise InvalidArgumentError("There is no site to train. nw.find_sites(model) lists those of a model.")
    return found


def batch_axis(site: Site, model: nn.Module) -> int:
    """Return the axis of a site's tensors that counts examples."""
    return 1 if sequence_first(site.module(model)) else 0


def not_reached(missed: Iterable[Site], when: str) -> SiteNotReachedError:
    """Return the error for sites that no forward pass came by."""
    names = [site.name for site in missed]
    return SiteNotReachedError(
        f"No forward pass in training mode came by {', '.join(names[:5])}{', ...' if len(names) > 5 else ''} {when}. "
        "Attach before the model runs (and before torch.compile), call model.train(), call the modules themselves "
        "rather than their forward(), and see with nw.check(model, batch) which sites are reached."
    )


def processes(group: Any, distributed: bool) -> int:
    """Return how many processes train together."""
    if not (distributed and torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 1
    return torch.distributed.get_world_size(group)


def reduction(group: Any, distributed: bool) -> Callable[[Tensor, Literal["sum", "max"]], Tensor] | None:
    """Return what reduces a tensor over the processes; None where there is one."""
    if processes(group, distributed) == 1:
        return None

    def reduce(tensor: Tensor, how: Literal["sum", "max"]) -> Tensor:
        operation = torch.distributed.ReduceOp.SUM if how == "sum" else torch.distributed.ReduceOp.MAX
        torch.distributed.all_reduce(tensor, operation, group=group)
        return tensor

    return reduce
