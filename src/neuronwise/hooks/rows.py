"""Rows that join a batch while the model runs, and positions that leave before the head.

Attribution runs many variants of the same examples that differ only from some layer on. :func:`grow` lets them share
the layers below: further rows, copies of the first ones, are appended where a block begins. :func:`keep_positions`
spares the unembedding the positions that nobody asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from neuronwise.errors import InvalidArgumentError
from neuronwise.hooks._tap import _Hook
from neuronwise.hooks.model import refuse_uncatchable

__all__ = ["Growth", "grow", "keep_positions", "replicated"]


class Growth:
    """The rows of a batch that grows.

    Args:
        start: For every row with which the forward pass starts, the number of its example, int64 ``(row,)``. Row e is
            example e as long as there are examples; variants of them follow.
    """

    def __init__(self, start: Tensor) -> None:
        self.start = start
        #: The same for every row that is there now.
        self.examples: Tensor = start

    def restart(self) -> None:
        """Go back to the first rows, for another forward pass."""
        self.examples = self.start

    def enter(self, joining: Tensor, arguments: Any) -> Any:
        """Return a block's arguments with rows for the examples ``joining`` appended to every tensor that has rows."""
        before = len(self.examples)
        if not len(joining) and before == len(self.start):
            return arguments
        self.examples = torch.cat([self.examples, joining])
        hidden = _first_tensor(arguments)
        return _mapped(arguments, lambda tensor: self._grown(tensor, before, joining, tensor is hidden))

    def _grown(self, tensor: Tensor, before: int, joining: Tensor, is_hidden: bool) -> Tensor:
        # A float matrix that is not the hidden state counts positions, not rows (rotary angles, say).
        if not is_hidden and tensor.dim() < (3 if tensor.is_floating_point() else 2):
            return tensor
        rows, first = tensor.shape[0], len(self.start)
        if rows == before and before > first:
            return torch.cat([tensor, tensor[joining.to(tensor.device)]]) if len(joining) else tensor
        if rows == first:
            return replicated(tensor, torch.cat([torch.arange(first), self.examples[first:]]))
        return tensor if rows != 1 else replicated(tensor, self.examples)


@contextmanager
def grow(model: nn.Module, entries: Mapping[str, Tensor], *, start: Tensor) -> Iterator[Growth]:
    """Append rows to the batch where blocks begin, inside a ``with`` block.

    At the block ``path`` one row joins for each number in ``entries[path]``: a copy of that example's row as it enters
    the block. Outputs have the rows in this order.

    Args:
        model: The model. Blocks must keep rows apart, and all that lies behind a block must take any number of rows.
        entries: Numbers of the examples that join, int64, by the path of the block; may be empty.
        start: Numbers of the examples in the batch that the model is called with: 0, 1, ... and then variants of them.

    Raises:
        CompiledModelError: If hooks on the model would be skipped.
    """
    refuse_uncatchable(model)
    growth = Growth(start)

    def restart(arguments: Any) -> None:
        growth.restart()

    with ExitStack() as handles:
        handles.callback(model.register_forward_pre_hook(_Hook(model, restart)).remove)
        for path, joining in entries.items():
            block = model.get_submodule(path)

            def enter(args: Any, kwargs: Any, joining: Tensor = joining) -> Any:
                return growth.enter(joining, (args, kwargs))

            hook = block.register_forward_pre_hook(_Hook(block, enter), with_kwargs=True)
            handles.callback(hook.remove)
        yield growth


@contextmanager
def keep_positions(module: nn.Module, positions: Callable[[], Tensor]) -> Iterator[None]:
    """Let a module see only some positions of its input ``(row, position, ...)``, inside a ``with`` block.

    Args:
        module: A module that treats positions apart, such as the unembedding.
        positions: Returns the positions wanted of each row, int64 ``(row, wanted)``; called when the module runs.

    Raises:
        InvalidArgumentError: If the module runs and there is no such position.
    """

    def select(args: tuple[Any, ...]) -> tuple[Any, ...]:
        first, *rest = args
        chosen = positions().to(first.device)
        if int(chosen.max()) >= first.shape[1]:
            raise InvalidArgumentError(
                f"The target reads the logits at position {int(chosen.max())}; there are {first.shape[1]} positions."
            )
        rows = torch.arange(len(chosen), device=first.device).unsqueeze(1)
        return (first[rows, chosen], *rest)

    handle = module.register_forward_pre_hook(_Hook(module, select))
    try:
        yield
    finally:
        handle.remove()


def replicated(tensor: Tensor, examples: Tensor) -> Tensor:
    """Return the rows ``examples`` of a tensor; without copying where it has only one."""
    if tensor.shape[0] == 1:
        return tensor.expand(len(examples), *tensor.shape[1:])
    return tensor[examples.to(tensor.device)]


def _first_tensor(arguments: Any) -> Tensor | None:
    args, kwargs = arguments
    for value in (*args, kwargs.get("hidden_states"), *kwargs.values()):
        if isinstance(value, Tensor):
            return value
    return None


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return tuples, lists and dictionaries of tensors with every tensor changed; other objects as they are."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) is tuple:
        return tuple(_mapped(item, change) for item in value)
    if type(value) is list:
        return [_mapped(item, change) for item in value]
    if type(value) is dict:
        return {key: _mapped(item, change) for key, item in value.items()}
    return value
