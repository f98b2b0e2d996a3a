"""Capture: read the tensors of sites while the model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from neuronwise.errors import (
    AmbiguousCallError,
    HookError,
    InvalidArgumentError,
    OverwrittenError,
    SiteNotFoundError,
    closest,
)
from neuronwise.hooks._tap import Tap
from neuronwise.hooks.model import call_model
from neuronwise.sites import Site, Sites

__all__ = ["Capture", "capture"]

Key = Site | str | tuple[Site | str, int]


def capture(
    model: nn.Module,
    sites: Site | Iterable[Site],
    *,
    reduce: Callable[[Site, Tensor], Any] | None = None,
    copy: bool = False,
    stop: bool = False,
) -> Capture:
    """Read the tensors of sites while the model runs inside a ``with`` block.

    The hooks come off when the block ends, also after an exception; what was read stays readable. Kept is
    what the latest forward pass of ``model`` brought by each site. Contexts act in the order in which they
    are entered: a capture inside an intervention sees the changed values, a capture around it those before
    the change.

    Args:
        model: The model, or a part of it; the sites' paths start there. It is not changed.
        sites: A site or several.
        reduce: ``(site, tensor)`` to whatever should be kept instead of the tensor; runs in the hook. It must
            not change the tensor.
        copy: Keep a copy. Without it a reference is kept, which costs nothing, is on the autograd path
            (``torch.autograd.grad(loss, cap[site])`` works, except inside reentrant activation
            checkpointing), and cannot be read any more once the model has overwritten it in place. Tensors
            made in inference mode are always copied.
        stop: Stop the forward pass as soon as every site has been seen, to save the rest of it (of a site
            with a call number, that call; otherwise the first call). The model call then does not return:
            **the lines after it in the block do not run**, and the block ends without an error. To go on in
            the block, run the model with :meth:`Capture.run`.

    Returns:
        The context manager; in the block and after it, a mapping from sites (or their names) to tensors.

    Raises:
        SiteNotFoundError: If the model has no module of a site's path.
        CompiledModelError: If hooks on the model would be skipped.
        InvalidArgumentError: If there is no site.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> site = Site("2", "input", width=3)
        >>> with capture(model, site) as cap:
        ...     output = model(torch.ones(4, 2))
        >>> cap[site].shape, cap["2:input"] is cap[site]
        (torch.Size([4, 3]), True)
    """
    return Capture(model, Sites.of(sites), reduce=reduce, copy=copy, stop=stop)


class Capture(Mapping[Key, Any]):
    """What :func:`capture` read: a mapping from sites, or their names, to tensors (or what ``reduce`` made).

    ``cap[site]`` is the one value of the site; ``cap[site, 1]`` that of the second call of a module that ran
    several times; ``cap.calls(site)`` the values of all calls. ``site in cap`` tells whether anything was
    read.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Sites,
        *,
        reduce: Callable[[Site, Tensor], Any] | None,
        copy: bool,
        stop: bool,
    ) -> None:
        if not sites:
            raise InvalidArgumentError(
                "No site to capture was given. nw.find_sites(model) lists those of a model."
            )
        self._model = model
        self._sites = {site.name: site for site in sites}
        self._reduce = reduce
        self._copy = copy
        self._stop = stop
        self._kept: dict[Site, dict[int, _Kept]] = {}
        self._tap = Tap(model, sites, touch=self._keep, on_start=self._kept.clear)

    def __enter__(self) -> Capture:
        self._tap.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._tap.__exit__(kind, error, trace)
        return isinstance(error, _Stopped) and error.owner is self

    def run(self, batch: Any) -> Any:
        """Run the model on a batch, and come back also where ``stop=True`` ends the forward pass early.

        Args:
            batch: A mapping (keyword arguments), a tuple or list (positional arguments), or the only
            argument.

        Returns:
            The model's output, or None where the pass was stopped.

        Raises:
            HookError: If the capture's block is not open.
        """
        if not self._tap.open:
            raise HookError(
                "The capture is not open. Call run() inside: with capture(...) as cap: cap.run(batch)"
            )
        try:
            return call_model(self._model, batch)
        except _Stopped as stopped:
            if stopped.owner is not self:
                raise
            return None

    @property
    def passes(self) -> int:
        """How many forward passes of the model have begun in the block; recomputed parts count for nothing."""
        return self._tap.started

    def calls(self, site: Site | str) -> list[Any]:
        """Return the values of every call of the site in the latest forward pass, in order.

        Raises:
            SiteNotFoundError: If the site was not asked for.
            SiteNotReachedError: If the latest forward pass never came by it.
            OverwrittenError: If a value was overwritten in place since.
        """
        found = self._find(site)
        return [self._read(found, call) for call in self._reached(found)]

    def __getitem__(self, key: Key) -> Any:
        """Return the value of a site, or of one call of a site.

        Raises:
            SiteNotFoundError: If the site was not asked for.
            SiteNotReachedError: If the latest forward pass never came by it.
            AmbiguousCallError: If there were several calls and none was named, or not the one that was.
            OverwrittenError: If the value was overwritten in place since.
        """
        name, call = key if isinstance(key, tuple) else (key, None)
        site = self._find(name)
        kept = self._reached(site)
        if call is None and len(kept) == 1:
            call = next(iter(kept))
        if call is None or call not in kept:
            asked = "no call was named" if call is None else f"call {call} is not among them"
            raise AmbiguousCallError(
                f"{site.name} was read in {len(kept)} calls of one forward pass, {sorted(kept)}, and "
                f"{asked}. Read one with cap[site, {min(kept)}], or all with cap.calls(site). (Calls count "
                "from the start of the captured model's forward pass; if only a part of it was called, "
                "capture that part.)"
            )
        return self._read(site, call)

    def __iter__(self) -> Iterator[Site]:
        return iter(self._sites.values())

    def __len__(self) -> int:
        return len(self._sites)

    def __contains__(self, key: object) -> bool:
        name, call = key if isinstance(key, tuple) and len(key) == 2 else (key, None)
        name = name.name if isinstance(name, Site) else name
        if not isinstance(name, str) or name not in self._sites:
            return False
        kept = self._kept.get(self._sites[name], {})
        return bool(kept) if call is None else call in kept

    def __repr__(self) -> str:
        state = "open" if self._tap.open else "closed"
        return f"<Capture: {len(self._kept)} of {len(self._sites)} sites read, {state}>"

    def _find(self, key: Site | str) -> Site:
        name = key.name if isinstance(key, Site) else key
        if name not in self._sites:
            raise SiteNotFoundError(f"{name!r} is not among the captured sites. {closest(name, self._sites)}")
        return self._sites[name]

    def _reached(self, site: Site) -> dict[int, _Kept]:
        if site not in self._kept:
            raise self._tap.not_reached([site])
        return self._kept[site]

    def _read(self, site: Site, call: int) -> Any:
        kept = self._kept[site][call]
        if kept.version is not None and kept.value._version != kept.version:
            raise OverwrittenError(
                f"The model has overwritten the tensor of {site.name} in place (such as by "
                "nn.ReLU(inplace=True)) after it was captured. Capture a copy, capture(..., copy=True), or "
                "take what you need in the hook with reduce=."
            )
        return kept.value

    def _keep(self, site: Site, tensor: Tensor, call: int | None) -> None:
        if call is not None:
            self._kept.setdefault(site, {})[call] = self._make(site, tensor)
        if self._stop and len(self._kept) == len(self._sites):
            raise _Stopped(self)

    def _make(self, site: Site, tensor: Tensor) -> _Kept:
        if self._reduce is not None:
            # Checkpointing counts what is saved for the backward pass and would miss this when it recomputes;
            # under hooks of our own it is not counted.
            shield = torch.autograd.graph.saved_tensors_hooks(_same, _same)
            with shield if torch.is_grad_enabled() else nullcontext():
                value = self._reduce(site, tensor)
            return _Kept(value, value._version if _is_alias(value, tensor) else None)
        if self._copy or tensor.is_inference():
            return _Kept(tensor.clone(), None)
        return _Kept(tensor, tensor._version)


class _Kept(NamedTuple):
    """A value, and the version of the tensor it refers to (None for what cannot be overwritten)."""

    value: Any
    version: int | None


class _Stopped(BaseException):
    """Ends a forward pass early; not an Exception, so that a model's own error handling lets it through."""

    def __init__(self, owner: Capture) -> None:
        super().__init__("forward pass stopped after the last captured site")
        self.owner = owner


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _is_alias(value: Any, tensor: Tensor) -> bool:
    """Whether a value is a view into the tensor, so that an in-place operation on one changes the other."""
    if not isinstance(value, Tensor) or value.is_inference():
        return False
    return value is tensor or value.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
