"""Transform: pass the tensors of sites through a function while a model trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from neuronwise.errors import HookError, SiteAxisError
from neuronwise.hooks._first import find_tensor
from neuronwise.hooks._tap import _Hook, _validate
from neuronwise.hooks.model import refuse_uncatchable
from neuronwise.sites import Site, Sites

__all__ = ["Start", "Transform", "TransformFunction", "transform"]

TransformFunction = Callable[[Site, Tensor, Tensor | None, bool], Tensor]
"""``(site, tensor, given, again)`` to the tensor that the model goes on with; the very same tensor leaves it alone.

``given`` is the first tensor that the module was called with where the site is an output, None where it is an input.
``again`` tells that activation checkpointing runs this part once more within the backward pass.
"""

Start = Callable[[tuple[Any, ...], Mapping[str, Any]], None]
"""Called with the model's arguments whenever a forward pass of the model starts."""


def transform(
    model: nn.Module,
    sites: Site | Sites,
    function: TransformFunction,
    *,
    on_start: Start | None = None,
    exclusive: bool = False,
) -> Transform:
    """Pass the tensors of sites through a function, from :meth:`Transform.attach` until :meth:`Transform.detach`.

    Unlike :func:`intervene`, this is made for training: it is not bound to one ``with`` block, tells the function what
    activation checkpointing recomputes, and can be traced by ``torch.compile`` without a graph break if the function
    can. Attach first and compile then. A model that was compiled meanwhile is compiled anew when the transform is
    detached.

    Args:
        model: The model, or a part of it; the sites' paths start there.
        sites: Where.
        function: What is done there. The hooks hold it, so it should not hold the object whose end detaches them.
        on_start: What is done whenever a forward pass of the model starts, but not when a part of it runs again.
        exclusive: Refuse a tensor that another exclusive transform is attached to.

    Returns:
        The transform, not attached; ``with transform(...):`` attaches it for a block.

    Raises:
        SiteNotFoundError: If the model has no module of a site's path.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> site = Site("1", "output", width=3)
        >>> with transform(model, site, lambda site, tensor, given, again: tensor * 0):
        ...     bool((model(torch.ones(4, 2)) == model[2].bias).all())
        True
    """
    return Transform(model, Sites.of(sites), function, on_start=on_start, exclusive=exclusive)


class Transform:
    """What :func:`transform` returns: the hooks, on or off."""

    def __init__(
        self,
        model: nn.Module,
        sites: Sites,
        function: TransformFunction,
        *,
        on_start: Start | None,
        exclusive: bool,
    ) -> None:
        self._model = model
        self._function = function
        self._on_start = on_start
        self._exclusive = exclusive
        self._points: dict[tuple[nn.Module, str], list[Site]] = {}
        for site in sites:
            self._points.setdefault((site.module(model), site.tensor), []).append(site)
        # Only calls that a site names are counted: a number that grows would be compiled into the graph.
        self._counted = {
            point: sites for point, sites in self._points.items() if any(s.call is not None for s in sites)
        }
        self._handles: ExitStack | None = None
        self._gate = _Gate()

    @property
    def attached(self) -> bool:
        """Whether the hooks are on."""
        return self._handles is not None

    def attach(self) -> Callable[[], None]:
        """Set the hooks.

        Returns:
            What takes them off again; it holds neither this object nor the function's owner, may be called more than
            once, and so can be a finalizer.

        Raises:
            HookError: If they are on already, or, among exclusive transforms, another one is on a site's tensor.
            CompiledModelError: If hooks on the model would be skipped.
        """
        if self._handles is not None:
            raise HookError("This is attached already. Detach it first, or make another one.")
        refuse_uncatchable(self._model)
        if self._exclusive:
            self._refuse_second()
        self._gate = _Gate()
        with ExitStack() as handles:
            handles.callback(self._gate.shut)
            start = self._model.register_forward_pre_hook(_Hook(self._model, self._start), with_kwargs=True)
            handles.callback(start.remove)
            for (module, tensor), sites in self._points.items():
                handles.callback(self._attach(module, tensor, sites).remove)
            self._handles = handles.pop_all()
        return self._handles.close

    def detach(self) -> None:
        """Take the hooks off, if they are on."""
        if self._handles is not None:
            self._handles.close()
            self._handles = None

    def __enter__(self) -> Transform:
        self.attach()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def _attach(self, module: nn.Module, tensor: str, sites: list[Site]) -> Any:
        point, gate = (
            _Point(module, sites, self._function, counted=(module, tensor) in self._counted),
            self._gate,
        )
        gate.points.append(point)

        def before(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return point((args, kwargs), None) if gate.open else None

        def after(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            return point(output, (args, kwargs)) if gate.open else None

        if tensor == "input":
            return module.register_forward_pre_hook(
                _TransformHook(module, before, self._exclusive), with_kwargs=True
            )
        return module.register_forward_hook(_TransformHook(module, after, self._exclusive), with_kwargs=True)

    def _start(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._gate.open or _in_backward():
            return
        for point in self._gate.points:
            point.restart()
        if self._on_start is not None:
            self._on_start(args, kwargs)

    def _refuse_second(self) -> None:
        for (module, tensor), sites in self._points.items():
            hooks = module._forward_pre_hooks if tensor == "input" else module._forward_hooks
            if any(isinstance(hook, _TransformHook) and hook.exclusive for hook in hooks.values()):
                raise HookError(
                    f"{sites[0].name}: something that trains these neurons is attached here already. Detach it first "
                    "(an object whose with-block or variable still lives keeps its hooks), or choose other sites."
                )


class _Gate:
    """Whether the transform is on: an attribute that a compiled model checks before it runs what it traced."""

    def __init__(self) -> None:
        self.open = True
        self.points: list[_Point] = []

    def shut(self) -> None:
        self.open = False


class _Point:
    """One tensor of one module, and the sites there."""

    def __init__(
        self, module: nn.Module, sites: list[Site], function: TransformFunction, *, counted: bool
    ) -> None:
        self._kind = type(module).__name__
        self._module = module
        self._sites = sites
        self._function = function
        self._counted = counted
        self._calls = 0
        self._most = 0

    def restart(self) -> None:
        if self._counted:
            self._calls = 0

    def __call__(self, value: Any, arguments: Any) -> Any:
        again = _in_backward()
        sites = self._wanted(again) if self._counted else self._sites
        found = find_tensor(value)
        if found is None:
            raise SiteAxisError(
                f"{self._sites[0].name}: {self._kind} has no tensor {self._sites[0].tensor} in this call, but "
                f"{type(value).__name__}. Choose another module or its other tensor."
            )
        tensor, rebuild = found
        given = None if arguments is None else find_tensor(arguments)
        new = tensor
        for site in sites:
            _validate(site, new, self._module)
            new = self._function(site, new, None if given is None else given[0], again)
        return None if new is tensor else rebuild(new)

    def _wanted(self, again: bool) -> list[Site]:
        """Return the sites that this call belongs to, and count it."""
        if again:
            if self._most > 1:
                raise HookError(
                    f"Activation checkpointing runs {self._sites[0].path!r} again in the backward pass, and since the "
                    f"module ran {self._most} times it is not known which call this is. Switch checkpointing off, or "
                    "take sites without a call number."
                )
            call = 0
        else:
            call = self._calls
            self._calls = call + 1
            self._most = max(self._most, call + 1)
        return [site for site in self._sites if site.call is None or site.call == call]


class _TransformHook(_Hook):
    """The hook of a transform, which another one can know by its type."""

    def __init__(self, module: nn.Module, function: Callable[..., Any], exclusive: bool) -> None:
        super().__init__(module, function)
        self.exclusive = exclusive


def _in_backward() -> bool:
    """Whether this runs within a backward pass, as what activation checkpointing recomputes does."""
    if torch.compiler.is_compiling():
        return False  # a compiled model recomputes without running hooks
    current: int = torch._C._current_graph_task_id()
    return current != -1
