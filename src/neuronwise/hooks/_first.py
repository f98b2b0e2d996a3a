"""The first tensor of whatever a module takes or returns, and how to put another in its place."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

__all__ = ["find_tensor"]


def find_tensor(value: Any) -> tuple[Tensor, Callable[[Tensor], Any]] | None:
    """Find the first tensor in a value, depth first.

    Args:
        value: A tensor, a ``PackedSequence``, or tuples, lists, mappings (a ``ModelOutput`` is one) and data
            classes of such.

    Returns:
        The tensor, and a function that returns the value with another tensor in its place: of the same type,
        the value itself unchanged. None if there is no tensor.
    """
    if isinstance(value, Tensor):
        return value, _itself
    if isinstance(value, PackedSequence):
        return value.data, lambda new: value._replace(data=new)
    if isinstance(value, Mapping):
        return _find_in(value.items(), lambda key, new: _with_item(value, key, new))
    if isinstance(value, tuple | list):
        return _find_in(enumerate(value), lambda at, new: _with_element(value, at, new))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        members = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return _find_in(members, lambda name, new: dataclasses.replace(value, **{name: new}))
    return None


def _itself(new: Tensor) -> Tensor:
    return new


def _find_in(
    items: Iterable[tuple[Any, Any]], put: Callable[[Any, Any], Any]
) -> tuple[Tensor, Callable[[Tensor], Any]] | None:
    for key, item in items:
        found = find_tensor(item)
        if found is not None:
            tensor, rebuild = found
            return tensor, lambda new: put(key, rebuild(new))  # noqa: B023 - returned at once, never rebound
    return None


def _with_item(value: Mapping[Any, Any], key: Any, new: Any) -> Any:
    if isinstance(value, MutableMapping):
        changed = copy.copy(value)
        changed[key] = new
        return changed
    make: Any = type(value)
    return make({**value, key: new})


def _with_element(value: tuple[Any, ...] | list[Any], at: int, new: Any) -> Any:
    items = [*value[:at], new, *value[at + 1 :]]
    make: Any = type(value)
    return make(*items) if hasattr(value, "_fields") else make(items)
