"""The value slots of a set of neurons: where in which parameter they lie."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neuronwise.edit._changes import Change
from neuronwise.errors import InvalidArgumentError, SiteNotFoundError
from neuronwise.sites import NeuronSet, Site, WeightSlice, find_sites

__all__ = ["Slots", "known_site", "slots_of"]


@dataclass(frozen=True, eq=False)
class Slots:
    """Value slots in one parameter.

    Args:
        parameter: Its full name.
        axis: The axis that counts neurons: 0 for Conv1D, 1 for ``nn.Linear``.
        index: Where on that axis, sorted, each once, int64 ``(slot,)``.
    """

    parameter: str
    axis: int
    index: Tensor

    def read(self, model: nn.Module) -> Tensor:
        """Return a copy of the slots, ``(slot, ...)``."""
        return self._places(model).movedim(self.axis, 0)

    def change(self, model: nn.Module, new: Tensor) -> Change:
        """Return the change that writes ``new``, ``(slot, ...)``, rounded to the parameter's type."""
        old = self._places(model)
        return Change(self.parameter, old, new.movedim(0, self.axis).to(old), self.index, self.axis)

    def _places(self, model: nn.Module) -> Tensor:
        weight = model.get_parameter(self.parameter).detach()
        return weight.index_select(self.axis, self.index.to(weight.device))


def slots_of(model: nn.Module, neurons: NeuronSet) -> list[Slots]:
    """Return the value slots of the neurons, those in one parameter together.

    Raises:
        InvalidArgumentError: If there is no neuron, or the weights are not floating-point numbers.
        SiteNotFoundError: If it is not known which weight a site writes through.
    """
    if not len(neurons):
        raise InvalidArgumentError("There is no neuron in the set, so there is no value slot to edit.")
    places: dict[tuple[str, int], list[Tensor]] = {}
    for site in neurons.sites:
        writes = _writes(model, site)
        index = torch.from_numpy(neurons.indices(site)) + writes.start
        places.setdefault((writes.parameter, writes.axis), []).append(index)
    # A layer that runs several times has a site for each call, and all of them the same slots.
    found = [Slots(name, axis, torch.unique(torch.cat(parts))) for (name, axis), parts in places.items()]
    for slots in found:
        weight = model.get_parameter(slots.parameter)
        if not weight.is_floating_point() or weight.is_meta:
            raise InvalidArgumentError(
                f"{slots.parameter} holds {weight.dtype} on {weight.device}; value slots must be floating-point "
                "numbers with values. Load the model unquantised and off the meta device."
            )
    return found


def known_site(model: nn.Module, site: Site) -> Site:
    """Return the site as the model has it; one read from a table is an address only and does not know its weight.

    Raises:
        SiteNotFoundError: If it is not known which weight it writes through.
    """
    if site.writes is not None:
        return site
    for found in find_sites(model):
        if found.name == site.name and found.writes is not None:
            return found
    raise SiteNotFoundError(
        f"It is not known which weight the neurons of {site.name} write through, so there is nothing to edit. "
        "Sites found by the table of architectures or by structure know it: nw.find_sites(model)."
    )


def _writes(model: nn.Module, site: Site) -> WeightSlice:
    writes = known_site(model, site).writes
    assert writes is not None
    writes.view(model)  # an unknown parameter is an error that lists the closest
    return writes
