"""Intervene: change the values of neurons while the model runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from neuronwise.errors import InvalidArgumentError, closest
from neuronwise.hooks._positions import Positions
from neuronwise.hooks._tap import Tap
from neuronwise.hooks.interventions import INTERVENTIONS, Change, Intervention, Spot
from neuronwise.hooks.model import refuse_uncatchable, sequence_first
from neuronwise.sites import NeuronSet, Site, Sites

__all__ = ["intervene"]


def intervene(
    model: nn.Module,
    neurons: NeuronSet | Sites | Site,
    how: str | Intervention | Change,
    value: Any = None,
    *,
    positions: Any = None,
) -> AbstractContextManager[None]:
    """Change the values of neurons while the model runs inside a ``with`` block.

    The change is made out of place, in the activation's dtype and on its device, and is differentiable;
    weights are not touched. The hooks come off when the block ends, also after an exception. Blocks can be
    nested, on the same site too: the first entered acts first.

    With activation checkpointing the backward pass computes activations again: call ``backward()`` **inside
    the block**, or the recomputed values are those without the intervention.

    Args:
        model: The model, or a part of it; the sites' paths start there.
        neurons: Which neurons; a site or several sites mean all of theirs.
        how: ``"zero"``, ``"mean"``, ``"scale"``, ``"set"``, ``"add"``, ``"patch"``; an :class:`Intervention`;
            or a function ``(values, call)`` to the new values, with the chosen neurons on the last axis.
        value: What the named intervention needs: one number; one per chosen neuron, in the set's order;
            ``{site or its name: one per neuron of the site}``; for ``"patch"`` a :class:`Capture` of another
            run, or ``{site: tensor}``. Learnable tensors get gradients.
        positions: Where along the sequence: None (everywhere), a whole number, a sequence of them, a slice,
            or a boolean mask of the activation's shape without its neuron axis. All but masks need
            activations ``(batch, position, neuron)``, or ``(position, batch, neuron)`` at an RNN without
            ``batch_first``.

    Raises:
        SiteNotFoundError: If the model has no module of a site's path, or ``value`` has nothing for a site.
        CompiledModelError: If hooks on the model would be skipped.
        InvalidArgumentError: If an argument does not fit.
        SiteNotReachedError: At the end of the block, if the model ran and never came by a site.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> site = Site("2", "input", width=3)
        >>> with intervene(model, NeuronSet.of({site: [0, 2]}), "zero"):
        ...     output = model(torch.ones(4, 2))
        >>> with intervene(model, site, "scale", 0.0):
        ...     bool((model(torch.ones(4, 2)) == model[2].bias).all())
        True
    """
    refuse_uncatchable(model)
    chosen = neurons if isinstance(neurons, NeuronSet) else NeuronSet.of(Sites.of(neurons))
    if not len(chosen):
        raise InvalidArgumentError("There is no neuron in the set to intervene on, so nothing would change.")
    intervention = _intervention(how, value)
    where = Positions.of(positions)
    changes: dict[Site, _Applied] = {}
    offset = 0
    for site in chosen.sites:
        spot = Spot(site, chosen.indices(site), offset, len(chosen))
        change = intervention.at(spot) if isinstance(intervention, Intervention) else intervention
        changes[site] = _Applied(spot, change, where, sequence_first=sequence_first(site.module(model)))
        offset += len(spot.indices)

    def touch(site: Site, tensor: Tensor, call: int | None) -> Tensor:
        return changes[site](tensor, call)

    return _applied(Tap(model, Sites(chosen.sites), touch=touch, recompute=True))


@contextmanager
def _applied(tap: Tap) -> Iterator[None]:
    with tap:
        yield
    missed = tap.missed()
    # A pass that did not finish (a stopped capture, an error that the block handled) may have missed sites
    # rightly.
    if tap.finished and missed:
        raise tap.not_reached(missed)


def _intervention(how: Any, value: Any) -> Intervention | Change:
    if not isinstance(how, str):
        if not isinstance(how, Intervention) and not callable(how):
            raise InvalidArgumentError(
                f"how must be one of {', '.join(INTERVENTIONS)}, an Intervention, or a function of (values, "
                f"call), not {type(how).__name__}."
            )
        if value is not None:
            raise InvalidArgumentError(f"value goes with a named intervention; {how!r} has its own.")
        own: Intervention | Change = how
        return own
    if how not in INTERVENTIONS:
        raise InvalidArgumentError(f"There is no intervention {how!r}. {closest(how, INTERVENTIONS)}")
    kind: Any = INTERVENTIONS[how]
    if not dataclasses.fields(kind):
        if value is not None:
            raise InvalidArgumentError(f"{how!r} takes no value. Did you mean 'set'?")
        made: Intervention = kind()
    elif value is None:
        raise InvalidArgumentError(f"{how!r} needs {kind.needs}. Pass it as value=.")
    else:
        made = kind(value)
    return made


class _Applied:
    """A change, applied to the chosen neurons and positions of a whole activation."""

    def __init__(
        self, spot: Spot, change: Change, positions: Positions | None, *, sequence_first: bool
    ) -> None:
        self._site = spot.site
        self._change = change
        self._positions = positions
        self._sequence_first = sequence_first
        self._index = None if len(spot.indices) == spot.site.width else torch.tensor(spot.indices)

    def __call__(self, tensor: Tensor, call: int | None) -> Tensor:
        """Return the activation with the change made, out of place."""
        axis = self._site.axis
        if self._index is None:
            result = self._changed(tensor.movedim(axis, -1), call).movedim(-1, axis)
        else:
            if self._index.device != tensor.device:
                self._index = self._index.to(tensor.device)
            values = tensor.index_select(axis, self._index).movedim(axis, -1)
            changed = self._changed(values, call).movedim(-1, axis)
            result = tensor.index_copy(axis, self._index, changed)
        # The model may go on with view(), which needs the layout that it had.
        return result.contiguous() if tensor.is_contiguous() else result

    def _changed(self, values: Tensor, call: int | None) -> Tensor:
        changed = self._fit(self._change(values, call), values)
        if self._positions is None:
            return changed
        mask = self._positions.mask(
            values.shape[:-1], values.device, site=self._site.name, sequence_first=self._sequence_first
        )
        return torch.where(mask.unsqueeze(-1), changed, values)

    def _fit(self, changed: object, values: Tensor) -> Tensor:
        if not isinstance(changed, Tensor):
            raise InvalidArgumentError(
                f"{self._site.name}: an intervention must return a tensor, not {type(changed).__name__}."
            )
        changed = changed.to(values)
        if changed.shape == values.shape:
            return changed
        try:
            return changed.expand_as(values).clone()
        except RuntimeError as error:
            raise InvalidArgumentError(
                f"{self._site.name}: the intervention returned shape {tuple(changed.shape)} for values of "
                f"shape {tuple(values.shape)} (chosen neurons last)."
            ) from error
