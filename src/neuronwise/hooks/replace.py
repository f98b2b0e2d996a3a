"""Replace what modules return, knowing what they were given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from neuronwise.hooks._tap import _Hook
from neuronwise.hooks.model import refuse_uncatchable

__all__ = ["replace_outputs"]


@contextmanager
def replace_outputs(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    change: Callable[[nn.Module, Tensor, Tensor], Tensor],
) -> Iterator[None]:
    """Replace the outputs of modules that take one tensor and return one, inside a ``with`` block.

    Args:
        model: The model.
        modules: Modules in it, by path.
        change: ``(module, input, output)`` to what is returned instead. A module that works in place gets a copy of its
            input, so both are whole.

    Raises:
        CompiledModelError: If hooks on the model would be skipped.
    """
    refuse_uncatchable(model)
    given: dict[nn.Module, list[Tensor]] = {}

    def attach(module: nn.Module) -> list[Any]:
        def before(args: tuple[Any, ...]) -> tuple[Any, ...]:
            given.setdefault(module, []).append(args[0])
            return (args[0].clone(), *args[1:]) if getattr(module, "inplace", False) else args

        def after(args: tuple[Any, ...], output: Tensor) -> Tensor:
            return change(module, given[module].pop(), output)

        return [
            module.register_forward_pre_hook(_Hook(module, before)),
            module.register_forward_hook(_Hook(module, after)),
        ]

    with ExitStack() as handles:
        for module in modules.values():
            for handle in attach(module):
                handles.callback(handle.remove)
        yield
