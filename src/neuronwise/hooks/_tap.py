"""The one primitive under capture and intervene: a function attached to the tensors of sites."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.utils.module_tracker import ModuleTracker

from neuronwise.errors import HookError, SiteAxisError, SiteNotReachedError
from neuronwise.hooks._first import find_tensor
from neuronwise.hooks.model import refuse_uncatchable
from neuronwise.sites import Site, Sites

__all__ = ["Tap", "Touch"]

Touch = Callable[[Site, Tensor, int | None], Tensor | None]
"""What is done at a site: ``(site, tensor, call)`` to a replacement, or to None to leave the tensor alone.

``call`` counts the calls of the module in the present forward pass from 0; it is None where activation
checkpointing recomputes one of several calls, because it is not known which.
"""

_Point = tuple[int, str]


class Tap:
    """A function at each site's tensor, for as long as the ``with`` block lasts.

    Calls are counted for each tensor of each module and start again with every forward pass of the model
    given. Activation checkpointing runs parts of the model again in the backward pass; these runs count for
    nothing.

    Args:
        model: The model whose forward pass starts the counting; paths of the sites start there.
        sites: Where to attach.
        touch: What to do there.
        recompute: Call the function in recomputed passes too. Interventions need it, since recomputed values
            must equal the first ones; captures must not see a batch twice.
        on_start: Called whenever a forward pass of the model starts.

    Raises:
        SiteNotFoundError: If the model has no module of a site's path.
        CompiledModelError: If hooks on the model would be skipped.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Sites,
        *,
        touch: Touch,
        recompute: bool = False,
        on_start: Callable[[], None] | None = None,
    ) -> None:
        refuse_uncatchable(model)
        self._model = model
        self._touch = touch
        self._recompute = recompute
        self._on_start = on_start
        self._modules = {site: site.module(model) for site in sites}
        self._by_point: dict[_Point, list[Site]] = {}
        for site in sites:
            self._by_point.setdefault(self._point(site), []).append(site)
        self._calls: dict[_Point, int] = defaultdict(int)
        self._most: dict[_Point, int] = defaultdict(int)
        self._tracker = ModuleTracker()
        self._handles: ExitStack | None = None
        self.started = 0
        self.finished = 0

    def __enter__(self) -> Tap:
        if self._handles is not None:
            raise HookError("This context is open already. Make another one to nest it.")
        with ExitStack() as handles:
            # The model's own hook comes before those of sites on the model itself, so that counts are fresh.
            start = self._model.register_forward_pre_hook(_Hook(self._model, self._start))
            handles.callback(start.remove)
            for point, sites in self._by_point.items():
                handles.callback(self._attach(point, sites).remove)
            finish = self._model.register_forward_hook(_Hook(self._model, self._finish))
            handles.callback(finish.remove)
            self._handles = handles.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handles is not None:
            self._handles.close()
            self._handles = None

    @property
    def open(self) -> bool:
        """Whether the hooks are on."""
        return self._handles is not None

    def calls(self, site: Site) -> int:
        """How often the latest forward pass came by the site's tensor, whichever call the site means."""
        return self._calls.get(self._point(site), 0)

    def missed(self) -> list[Site]:
        """The sites that no forward pass came by since the tap was made."""
        return [site for site in self._modules if self._most.get(self._point(site), 0) <= (site.call or 0)]

    def not_reached(self, sites: list[Site]) -> SiteNotReachedError:
        """Return the error that says why the sites may have been missed."""
        names = ", ".join(site.name for site in sites[:5]) + (", ..." if len(sites) > 5 else "")
        if not self.started and not any(self._most.values()):
            return SiteNotReachedError(
                f"Nothing came by {names}: the model has not run in this block. Call the model inside the "
                "block."
            )
        late = [site for site in sites if 0 < self._most.get(self._point(site), 0) <= (site.call or 0)]
        if late:
            site, count = late[0], self._most[self._point(late[0])]
            return SiteNotReachedError(
                f"{site.name} asks for call {site.call} (they count from 0), but {site.path!r} ran {count} "
                f"time(s) in a forward pass. Choose a call below {count}."
            )
        kinds = sorted({type(self._modules[site]).__name__ for site in sites})
        return SiteNotReachedError(
            f"The model ran, but never called the module of {names} ({', '.join(kinds)}), so a hook there "
            "does nothing. Usual reasons: the parent uses only its weights (nn.MultiheadAttention never "
            "calls its out_proj; a fused fast path does not call its parts), calls module.forward(x) instead "
            "of module(x), runs inside torch.compile, or takes another branch for this input. Choose a site "
            "on a module around it; nw.check(model, batch) tells which sites are reached."
        )

    def _point(self, site: Site) -> _Point:
        return id(self._modules[site]), site.tensor

    def _attach(self, point: _Point, sites: list[Site]) -> Any:
        module = self._modules[sites[0]]

        def before(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return self._at(point, sites, (args, kwargs))

        def after(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            return self._at(point, sites, output)

        if sites[0].tensor == "input":
            return module.register_forward_pre_hook(_Hook(module, before), with_kwargs=True)
        return module.register_forward_hook(_Hook(module, after), with_kwargs=True)

    def _start(self, args: Any) -> None:
        if not self._tracker.is_bw:
            self._calls.clear()
            self.started += 1
            if self._on_start is not None:
                self._on_start()

    def _finish(self, args: Any, output: Any) -> None:
        if not self._tracker.is_bw:
            self.finished += 1

    def _at(self, point: _Point, sites: list[Site], value: Any) -> Any:
        """Run the function for every site at one tensor; return the new value, or None."""
        if self._tracker.is_bw:
            if not self._recompute:
                return None
            call = self._recomputed_call(point, sites)
        else:
            call = self._calls[point]
            self._calls[point] = call + 1
            self._most[point] = max(self._most[point], call + 1)
        wanted = [site for site in sites if site.call is None or site.call == call]
        if not wanted:
            return None
        found = find_tensor(value)
        if found is None:
            raise SiteAxisError(
                f"{sites[0].name}: {type(self._modules[sites[0]]).__name__} has no tensor {sites[0].tensor} "
                f"in this call, but {type(value).__name__}. Choose another module or its other tensor."
            )
        tensor, rebuild = found
        changed = False
        for site in wanted:
            _validate(site, tensor, self._modules[site])
            replacement = self._touch(site, tensor, call)
            if replacement is not None:
                tensor, changed = replacement, True
        return rebuild(tensor) if changed else None

    def _recomputed_call(self, point: _Point, sites: list[Site]) -> int | None:
        if self._most[point] <= 1:
            return 0
        chosen = [site.name for site in sites if site.call is not None]
        if chosen:
            raise HookError(
                f"Activation checkpointing runs {sites[0].path!r} again in the backward pass, and since the "
                f"module ran {self._most[point]} times it is not known which call this is, which {chosen[0]} "
                "depends on. Switch checkpointing off, or intervene on every call."
            )
        return None


class _Hook:
    """A function as a hook of one module, and of no copy of that module.

    A deep or pickled copy of the model gets a hook that does nothing; a shallow copy shares this one, which
    looks at whom it is called for.
    """

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        self._module = module
        self._function = function

    def __call__(self, module: nn.Module, *arguments: Any) -> Any:
        return self._function(*arguments) if module is self._module else None

    def __reduce__(self) -> tuple[Callable[[], Callable[..., None]], tuple[()]]:
        return _inert_hook, ()


def _inert(*arguments: Any) -> None:
    return None


def _inert_hook() -> Callable[..., None]:
    return _inert


def _validate(site: Site, tensor: Tensor, module: nn.Module) -> None:
    if tensor.is_nested:
        raise SiteAxisError(
            f"{site.name}: {type(module).__name__} got a nested tensor, which has no common shape. Switch "
            "the nested fast path off: nn.TransformerEncoder(..., enable_nested_tensor=False) or "
            "torch.backends.mha.set_fastpath_enabled(False)."
        )
    shape, axis = tuple(tensor.shape), site.axis
    if not -len(shape) <= axis < len(shape) or shape[axis] != site.width:
        fits = [at for at, size in enumerate(shape) if size == site.width]
        hint = f"Axis {fits[0]} would fit." if fits else "No axis has that size."
        raise SiteAxisError(
            f"{site.name}: expected {site.width} neurons on axis {axis} of the {site.tensor} of "
            f"{type(module).__name__}, got a tensor of shape {shape}. {hint} Correct the site's axis or "
            "width, or choose its other tensor."
        )
