"""Group selectivity: which neurons are active for some groups of texts or classes, and not for others (LAPE)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neuronwise.errors import InvalidArgumentError, closest
from neuronwise.observe import Activity
from neuronwise.sites import NeuronSet, Site

__all__ = ["GroupSelectivity", "group_selectivity"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class GroupSelectivity:
    """How selective every neuron is among groups.

    Args:
        groups: Names of the groups.
        fractions: How often each neuron is active in each group, ``{site: (group, neuron)}``.
        entropy: Entropy of these fractions over the groups, in nats, ``{site: (neuron,)}``: 0 for a neuron that is
        active
            in one group only, log(groups) for one that is active in all alike; NaN for one that is never active.
        bar: The fraction above which a neuron counts as active for a group.
        neurons: For each group, the selective neurons that are active for it; their scores are log(groups) less the
            entropy.
    """

    groups: tuple[str, ...]
    fractions: Mapping[Site, Floats]
    entropy: Mapping[Site, Floats]
    bar: float
    neurons: Mapping[str, NeuronSet]

    @property
    def selective(self) -> NeuronSet:
        """The selective neurons of all groups."""
        found = NeuronSet()
        for chosen in self.neurons.values():
            found = found | chosen
        return found

    def to_frame(self) -> pd.DataFrame:
        """Return one row a neuron: site, layer, neuron, entropy, selective, and ``active_<group>`` for each group."""
        chosen = self.selective
        parts = []
        for site, entropy in self.entropy.items():
            selective = np.zeros(site.width, dtype=bool)
            selective[chosen.indices(site)] = True
            part = pd.DataFrame(
                {
                    "site": site.name,
                    "layer": pd.array([site.layer] * site.width, dtype="Int64"),
                    "neuron": np.arange(site.width),
                    "entropy": entropy,
                    "selective": selective,
                }
            )
            for name, fractions in zip(self.groups, self.fractions[site], strict=True):
                part[f"active_{name}"] = fractions
            parts.append(part)
        return pd.concat(parts, ignore_index=True)

    def __repr__(self) -> str:
        counts = ", ".join(f"{name}: {len(chosen)}" for name, chosen in self.neurons.items())
        return f"<GroupSelectivity: {len(self.selective)} selective neurons ({counts})>"


def group_selectivity(
    active: Mapping[str, Activity | Mapping[Site, Any]], *, bar: float = 0.95, keep: float = 0.01
) -> GroupSelectivity:
    """Find the neurons that are active for few of several groups (languages, domains, classes).

    With p the share of positions at which a neuron is active in each group, and p' = p / sum(p), the entropy is
    H = -sum(p' log p') (Tang et al. 2024, https://arxiv.org/abs/2402.16438, "language activation probability entropy").
    Neurons whose largest p is not above the bar, a quantile of all p, are left out; of the others those with the least
    entropy are kept, and belong to every group in which p is above the bar. Ties go to the neuron that comes first. It
    needs no target and no gradients.

    Args:
        active: For each group, an :class:`~neuronwise.observe.Activity` with the reducer ``"active"``, or fractions,
            ``{site: (neuron,)}``.
        bar: Quantile of all fractions; the paper's 95th percentile.
        keep: Share of all neurons to keep, at least one; the paper's 1 %.

    Raises:
        InvalidArgumentError: If there are fewer than two groups, they differ in their sites, a fraction is not between
            0 and 1, or ``bar`` or ``keep`` is not.
        AddressError: If an activity has no fractions.

    Example:
        >>> site = Site("mlp", "input", width=3)
        >>> found = group_selectivity({"en": {site: [0.9, 0.5, 0.0]}, "fr": {site: [0.1, 0.5, 0.0]}}, bar=0.5)
        >>> found.entropy[site].round(6), len(found.neurons["en"]), len(found.neurons["fr"])
        (array([0.325083, 0.693147,      nan]), 1, 0)
    """
    if len(active) < 2:
        raise InvalidArgumentError(f"Selectivity needs at least two groups, not {len(active)}.")
    if not 0 <= bar < 1 or not 0 < keep <= 1:
        raise InvalidArgumentError(
            f"bar must be at least 0 and less than 1, keep more than 0 and at most 1; they are {bar} and {keep}."
        )
    groups = tuple(str(name) for name in active)
    given = [_fractions(name, values) for name, values in active.items()]
    fractions = {site: _stacked(groups, given, site) for site in given[0]}
    for name, others in zip(groups, given, strict=True):
        extra = next((site for site in others if site not in fractions), None)
        if extra is not None:
            raise InvalidArgumentError(
                f"Group {name!r} has the site {extra.name}, group {groups[0]!r} has not."
            )
    entropy = {site: _entropy(values) for site, values in fractions.items()}
    flat = np.concatenate([values.ravel() for values in fractions.values()])
    limit = float(np.quantile(flat, bar))
    every = np.concatenate(list(entropy.values()))
    highest = np.concatenate([values.max(0) for values in fractions.values()])
    candidates = np.where((highest > limit) & ~np.isnan(every), every, np.inf)
    count = max(1, round(keep * len(every)))
    order = np.argsort(candidates, kind="stable")[:count]
    kept = np.zeros(len(every), dtype=bool)
    kept[order[np.isfinite(candidates[order])]] = True
    ends = np.cumsum([site.width for site in fractions])[:-1]
    parts = dict(zip(fractions, np.split(kept, ends), strict=True))
    neurons = {
        name: _of_group(number, fractions, entropy, parts, limit) for number, name in enumerate(groups)
    }
    return GroupSelectivity(
        groups, MappingProxyType(fractions), MappingProxyType(entropy), limit, MappingProxyType(neurons)
    )


def _fractions(name: str, given: Activity | Mapping[Site, Any]) -> dict[Site, Floats]:
    values = given.statistic("active") if isinstance(given, Activity) else given
    found = {}
    for site, numbers in values.items():
        if not isinstance(site, Site):
            raise InvalidArgumentError(
                f"Fractions go by site, not by {type(site).__name__}: {{site: (neuron,)}}."
            )
        array = np.asarray(numbers, dtype=np.float64)
        if array.shape != (site.width,) or not ((array >= 0) & (array <= 1)).all():
            raise InvalidArgumentError(
                f"Group {name!r}, {site.name}: there must be {site.width} fractions between 0 and 1, not an array of "
                f"shape {array.shape}" + (f" from {array.min():g} to {array.max():g}." if array.size else ".")
            )
        found[site] = array
    if not found:
        raise InvalidArgumentError(f"Group {name!r} has no site.")
    return found


def _stacked(groups: tuple[str, ...], given: list[dict[Site, Floats]], site: Site) -> Floats:
    for name, values in zip(groups, given, strict=True):
        if site not in values:
            names = [other.name for other in values]
            raise InvalidArgumentError(
                f"Group {name!r} has nothing for {site.name}. {closest(site.name, names)}"
            )
    return np.stack([values[site] for values in given])


def _entropy(fractions: Floats) -> Floats:
    """Return the entropy over groups in nats, ``(group, neuron)`` to ``(neuron,)``; NaN where all are 0."""
    total = fractions.sum(0)
    share = np.divide(fractions, total, out=np.full_like(fractions, np.nan), where=total > 0)
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    found: Floats = np.abs((share * logs).sum(0))
    return found


def _of_group(
    number: int,
    fractions: Mapping[Site, Floats],
    entropy: Mapping[Site, Floats],
    kept: Mapping[Site, NDArray[np.bool_]],
    limit: float,
) -> NeuronSet:
    chosen = {
        site: np.flatnonzero(kept[site] & (values[number] > limit)) for site, values in fractions.items()
    }
    scores = {site: np.log(len(fractions[site])) - entropy[site][indices] for site, indices in chosen.items()}
    return NeuronSet.of(chosen, scores=scores)
