"""The search methods by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from neuronwise.discover.genetic import Genetic
from neuronwise.discover.group import Group
from neuronwise.discover.interactions import Interactions
from neuronwise.discover.low_rank import LowRank
from neuronwise.discover.method import Method
from neuronwise.discover.scales import Scales
from neuronwise.discover.shared import Shared
from neuronwise.errors import InvalidArgumentError, closest

__all__ = ["METHODS", "method_of"]

#: A new method is a file of its own, an import above and a line here.
METHODS: Mapping[str, Callable[[], Method]] = MappingProxyType(
    {
        "genetic": Genetic,
        "group": Group,
        "interactions": Interactions,
        "low_rank": LowRank,
        "scales": Scales,
        "shared": Shared,
    }
)


def method_of(method: str | Method) -> Method:
    """Return a method by its name, with default settings; one that is a method already is returned as it is.

    Raises:
        InvalidArgumentError: If there is no such method.
    """
    if not isinstance(method, str):
        if not isinstance(method, Method):
            raise InvalidArgumentError(
                f"method must be one of {', '.join(METHODS)}, or a Method, not {method!r}."
            )
        return method
    if method not in METHODS:
        raise InvalidArgumentError(f"There is no search method {method!r}. {closest(method, METHODS)}")
    return METHODS[method]()
