"""The interventions: what can be done to the values of chosen neurons while the model runs.

A new one is a frozen data class with the method ``at``, and a row in :data:`INTERVENTIONS` if it shall have
a name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuronwise.errors import HookError, InvalidArgumentError, SiteAxisError, SiteNotFoundError, closest
from neuronwise.hooks.capture import Capture
from neuronwise.sites import Site

__all__ = [
    "INTERVENTIONS",
    "Add",
    "Change",
    "Intervention",
    "Mean",
    "Patch",
    "Scale",
    "Set",
    "Spot",
    "Value",
    "Zero",
]

Change: TypeAlias = Callable[[Tensor, int | None], Tensor]
"""``(values, call)`` to the new values: ``(..., neuron)`` of the chosen neurons in, the same shape or one
that broadcasts to it out. Must not change ``values`` in place. ``call`` counts the module's calls in one
forward pass, and is None where checkpointing recomputes one of several calls."""

Value: TypeAlias = float | Tensor | NDArray[Any] | Sequence[float] | Mapping[Any, Any]
"""One number for all neurons; one per chosen neuron in the set's order; or ``{site or its name: one per
neuron of the site}``."""


@dataclass(frozen=True)
class Spot:
    """The chosen neurons of one site.

    Args:
        site: The site.
        indices: The chosen neurons there, sorted, ``(chosen,)``.
        offset: How many neurons of the whole set come before those of this site.
        total: How many neurons the whole set has.
    """

    site: Site
    indices: NDArray[np.int64]
    offset: int
    total: int


@runtime_checkable
class Intervention(Protocol):
    """What :func:`intervene` needs: a change for each site, asked for before any hook is set."""

    def at(self, spot: Spot) -> Change:
        """Return the change for the chosen neurons of one site; raise here what can be known beforehand."""
        ...


@dataclass(frozen=True)
class Zero:
    """Set to exactly 0, also where the value was NaN or infinite."""

    def at(self, spot: Spot) -> Change:
        """Return the change."""
        return lambda values, call: torch.zeros_like(values)


@dataclass(frozen=True)
class Set:
    """Set to ``value``."""

    value: Value
    needs: ClassVar[str] = "the value to set: a number, one per neuron, or {site: one per neuron of the site}"

    def at(self, spot: Spot) -> Change:
        """Return the change."""
        amount = _amount(self.value, spot)

        def change(values: Tensor, call: int | None) -> Tensor:
            # A copy, so that a later in-place operation of the model does not reach the caller's tensor.
            return amount(values).expand_as(values).clone()

        return change


@dataclass(frozen=True)
class Mean(Set):
    """Set to the neuron's mean over a corpus, which ``value`` gives (mean ablation)."""

    needs: ClassVar[str] = (
        "the means: {site: mean of each neuron of the site}, such as activity.means() of an observed corpus, "
        "or one mean per chosen neuron"
    )


@dataclass(frozen=True)
class Scale:
    """Multiply by ``value``."""

    value: Value
    needs: ClassVar[str] = "the factor: a number, one per neuron, or {site: one per neuron of the site}"

    def at(self, spot: Spot) -> Change:
        """Return the change."""
        amount = _amount(self.value, spot)
        return lambda values, call: values * amount(values)


@dataclass(frozen=True)
class Add:
    """Add ``value``."""

    value: Value
    needs: ClassVar[str] = (
        "the amount to add: a number, one per neuron, or {site: one per neuron of the site}"
    )

    def at(self, spot: Spot) -> Change:
        """Return the change."""
        amount = _amount(self.value, spot)
        return lambda values, call: values + amount(values)


@dataclass(frozen=True)
class Patch:
    """Set to the values that the neurons had in another run (activation patching).

    Args:
        value: A capture of that run, or ``{site or its name: tensor}``. Its tensors have the shape of the
            activations that they replace; a batch of one serves any batch. Several calls captured are put
            back call by call.
    """

    value: Capture | Mapping[Any, Tensor] = field(repr=False)
    needs: ClassVar[str] = "the other run: a capture of it, or {site: tensor of the activation's shape}"

    def at(self, spot: Spot) -> Change:
        """Return the change."""
        site = spot.site
        sources = _sources(self.value, site)
        index = None if len(spot.indices) == site.width else torch.tensor(spot.indices)
        chosen = [_select(tensor, site, index) for tensor in sources]

        def change(values: Tensor, call: int | None) -> Tensor:
            if len(chosen) > 1 and (call is None or call >= len(chosen)):
                raise HookError(
                    f"{site.name}: the run to patch from has {len(chosen)} calls, and this is call {call}. "
                    "Patch one call, with a site that names it; and switch activation checkpointing off."
                )
            source = chosen[0 if len(chosen) == 1 else call or 0].to(values)
            if source.dim() != values.dim() or source.shape[1:] != values.shape[1:]:
                raise _unlike(site, source, values)
            if source.shape[0] not in (1, values.shape[0]):
                raise _unlike(site, source, values)
            return source.expand_as(values).clone()

        return change


INTERVENTIONS: Mapping[str, Callable[..., Intervention]] = MappingProxyType(
    {"add": Add, "mean": Mean, "patch": Patch, "scale": Scale, "set": Set, "zero": Zero}
)
"""The interventions by name."""


def _amount(value: Value, spot: Spot) -> Callable[[Tensor], Tensor]:
    """Check a value against the neurons; return what gives it in an activation's dtype and device."""
    source = value
    if isinstance(value, Mapping):
        source = _of_site(value, spot.site)
    numbers = source if isinstance(source, Tensor) else _as_tensor(source, spot.site)
    if numbers.dim() == 0:
        return lambda values: numbers.to(values)
    expected = spot.site.width if isinstance(value, Mapping) else spot.total
    if tuple(numbers.shape) != (expected,):
        what = "one value per neuron of the site" if isinstance(value, Mapping) else "one per chosen neuron"
        raise InvalidArgumentError(
            f"{spot.site.name}: expected one number, or {what}, shape ({expected},); got shape "
            f"{tuple(numbers.shape)}."
        )
    if isinstance(value, Mapping):
        index = torch.tensor(spot.indices, device=numbers.device)
        return lambda values: numbers[index].to(values)
    # Cut when used, so that a parameter that is trained meanwhile is followed, and its gradient with it.
    return lambda values: numbers[spot.offset : spot.offset + len(spot.indices)].to(values)


def _as_tensor(value: Any, site: Site) -> Tensor:
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise TypeError
        return torch.tensor(array)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"{site.name}: {type(value).__name__} is not a value for neurons. Give a number, an array or "
            "tensor of one per chosen neuron, or {site: one per neuron of the site}."
        ) from error


def _of_site(values: Mapping[Any, Any], site: Site) -> Any:
    """Look up a site, or its name, in a mapping."""
    for key in (site, site.name):
        if key in values:
            return values[key]
    known = [key.name if isinstance(key, Site) else str(key) for key in values]
    raise SiteNotFoundError(f"No value was given for the site {site.name!r}. {closest(site.name, known)}")


def _sources(value: Any, site: Site) -> list[Tensor]:
    """Return the tensors to patch from, one per call of the module."""
    if not isinstance(value, Mapping):
        raise InvalidArgumentError(f"patch needs {Patch.needs}, not {type(value).__name__}.")
    if not isinstance(value, Capture):
        tensors = [_of_site(value, site)]
    elif site.call is not None and site not in value and (every := f"{site.path}:{site.tensor}") in value:
        # The other run was captured in every call, and one of them is wanted.
        tensors = [value[every, site.call]]
    else:
        tensors = value.calls(site)
    wrong = [tensor for tensor in tensors if not isinstance(tensor, Tensor)]
    if wrong:
        raise InvalidArgumentError(f"{site.name}: patch needs tensors, not {type(wrong[0]).__name__}.")
    return tensors


def _select(tensor: Tensor, site: Site, index: Tensor | None) -> Tensor:
    """Return the chosen neurons, ``(..., chosen)``."""
    if not -tensor.dim() <= site.axis < tensor.dim() or tensor.shape[site.axis] != site.width:
        raise SiteAxisError(
            f"{site.name}: the tensor to patch from has shape {tuple(tensor.shape)}, without the site's "
            f"{site.width} neurons on axis {site.axis}. It must have the shape of the activation that it "
            "replaces."
        )
    moved = tensor.movedim(site.axis, -1)
    return moved if index is None else moved.index_select(-1, index.to(tensor.device))


def _unlike(site: Site, source: Tensor, values: Tensor) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{site.name}: cannot patch values of shape {tuple(values.shape)} (neurons last) with values of "
        f"shape {tuple(source.shape)}. Run both on inputs of the same shape; only a batch of one is repeated."
    )
