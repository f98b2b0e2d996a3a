"""What is done to activations while rows of a problem run: values put, multiplied, made leaves of a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from neuronwise.hooks import Growth, Intervention, Spot
from neuronwise.hooks.interventions import Change
from neuronwise.sites import Site, Sites

__all__ = ["Leaves", "Noise", "Rows", "Scaled", "flattened", "placed"]


class Noise(Intervention):
    """Adds noise to the outputs of the input embeddings."""

    def __init__(self, noise: Mapping[Site, Sequence[Tensor]], examples: Callable[[], Tensor]) -> None:
        self._noise = noise
        self._examples = examples

    def at(self, spot: Spot) -> Change:
        """Return the change for one embedding."""
        given = self._noise[spot.site]
        return lambda values, call: values + given[call or 0][self._examples()].to(values)


class Rows(Intervention):
    """Puts given values into the rows that they belong to, at every site."""

    def __init__(self, sites: Sites, base: Tensor) -> None:
        self._sites = sites
        self._base = base
        self._growth = Growth(torch.arange(len(base)))
        self._parts: dict[Site, list[tuple[int, Tensor, Tensor]]] = {}

    @property
    def sites(self) -> list[Site]:
        """The sites at which something is put."""
        return [site for site in self._sites if site in self._parts]

    def put(self, site: Site, start: int, values: Tensor, positions: Tensor) -> None:
        """Put values ``(row, position, neuron)`` at positions ``(row, position)`` of the rows from ``start``."""
        self._parts.setdefault(site, []).append((start, values, positions))

    def follow(self, growth: Growth) -> None:
        """Learn from a growing batch which rows there are."""
        self._growth = growth

    def examples(self) -> Tensor:
        """Return the number of each row's example."""
        return self._base[self._growth.examples]

    def completed(self, values: Tensor) -> Tensor:
        """Return a tap's rows with those that joined later, which are like their example there."""
        return torch.cat([values, values[self._growth.examples[len(values) :]]])

    def at(self, spot: Spot) -> Change:
        """Return the change for one site."""
        parts = sorted(self._parts[spot.site], key=lambda part: part[0])

        def change(values: Tensor, call: int | None) -> Tensor:
            flat = flattened(values)
            pieces, done = [], 0
            for start, new, positions in parts:
                stop = start + len(new)
                pieces += [flat[done:start], placed(flat[start:stop], new, positions)]
                done = stop
            return torch.cat([*pieces, flat[done:]]).reshape(values.shape)

        return change


class Scaled(Intervention):
    """Multiplies neurons of each row at the positions that are scored."""

    def __init__(self, parts: Mapping[Site, tuple[Tensor, Tensor]], examples: Tensor) -> None:
        self._parts = parts
        self._examples = examples

    def at(self, spot: Spot) -> Change:
        """Return the change for one site."""
        factors, positions = (part[self._examples] for part in self._parts[spot.site])

        def change(values: Tensor, call: int | None) -> Tensor:
            flat = flattened(values)
            chosen = torch.zeros(len(flat), flat.shape[1] + 1, dtype=torch.bool)
            chosen.scatter_(1, torch.where(positions >= 0, positions, flat.shape[1]), True)
            chosen = chosen[:, : flat.shape[1]].to(flat.device).unsqueeze(-1)
            return torch.where(chosen, flat * factors.to(flat).unsqueeze(1), flat).reshape(values.shape)

        return change


def placed(old: Tensor, new: Tensor, positions: Tensor) -> Tensor:
    """Return ``old`` (row, T, neuron) with ``new`` (row, P, neuron) at positions (row, P); -1 is nowhere."""
    rows, length = old.shape[:2]
    if length == 1 and new.shape[1] == 1:
        return new
    source = torch.full((rows, length + 1), -1, dtype=torch.long)
    places = torch.where(positions >= 0, positions, length).cpu()
    source.scatter_(1, places, torch.arange(new.shape[1]).expand(rows, -1))
    source = source[:, :length].to(old.device)
    chosen = new.gather(1, source.clamp(min=0).unsqueeze(-1).expand(-1, -1, new.shape[2]))
    return torch.where((source >= 0).unsqueeze(-1), chosen, old)


def flattened(values: Tensor) -> Tensor:
    """Return activations with the neurons last as ``(row, position, neuron)``."""
    return values.reshape(values.shape[0], -1, values.shape[-1])


class Leaves(Intervention):
    """Makes the gradient flow from every site, and keeps what it flows to; the values stay as they are."""

    def __init__(self) -> None:
        self._kept: dict[Site, Tensor] = {}

    def tensor(self, site: Site) -> Tensor:
        """Return a site's activations with the neurons last, which gradients can be asked for."""
        return self._kept[site]

    def at(self, spot: Spot) -> Change:
        """Return the change for one site."""

        def change(values: Tensor, call: int | None) -> Tensor:
            if not values.is_floating_point():
                return values
            kept = values if values.requires_grad else values.detach().requires_grad_()
            self._kept[spot.site] = kept
            return kept.clone()  # what follows may overwrite it in place

        return change
