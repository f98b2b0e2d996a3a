"""Elimination: switch off the neurons that matter most, see which matter then, and go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from neuronwise.attribute.problem import Problem
from neuronwise.errors import InvalidArgumentError
from neuronwise.sites import NeuronSet, Site, Sites

__all__ = ["Elimination", "eliminate"]


@dataclass(frozen=True)
class Elimination:
    """The neurons in the order in which they were switched off, for each group of examples.

    Args:
        sites: The sites; neurons are numbered through all of them in this order.
        order: Number of the neuron that went at each rank, int64 ``(group, k)``.
        drops: What the target lost when it went, float64 ``(group, k)``; a step's loss is shared by its neurons in
            proportion to their first-order scores, so that a group's drops add up to what all k together cost.
        values: The target with 0, ``step``, ... neurons off, mean over the group's examples, ``(group, steps + 1)``.
    """

    sites: Sites
    order: Tensor
    drops: Tensor
    values: Tensor

    def neurons(self, group: int = 0, k: int | None = None) -> NeuronSet:
        """Return the first k neurons of a group, all by default, each with its drop as score."""
        order, drops = self.order[group, :k], self.drops[group, :k]
        starts = torch.tensor([0, *(site.width for site in self.sites)]).cumsum(0)
        indices: dict[Site, list[int]] = {}
        scores: dict[Site, list[float]] = {}
        for number, site in enumerate(self.sites):
            here = (order >= starts[number]) & (order < starts[number + 1])
            if here.any():
                index = order[here] - starts[number]
                by_index = index.argsort()
                indices[site] = index[by_index].tolist()
                scores[site] = drops[here][by_index].tolist()
        return NeuronSet.of(indices, scores=scores)


def eliminate(problem: Problem, k: int, *, step: int = 5, groups: Tensor | None = None) -> Elimination:
    """Find neurons that a target does not survive without, one set for each group of examples.

    All scores of single neurons overlook those that cover for each other: while one is there the other seems of no
    use. So the first-order scores ``w_i * dF/dw_i`` are taken again after every ``step`` neurons switched off, summed
    over positions and averaged over the group's examples, and the next ``step`` are the largest then: recursive feature
    elimination (Guyon et al. 2002, https://doi.org/10.1023/A:1012487302797) from the other end. It costs one forward
    and one backward pass for every step.

    Args:
        problem: The model on a batch, with the target: a log probability, as a probability near 1 has no gradient.
        k: Neurons a group.
        step: Neurons switched off at a time.
        groups: For every example the number of its group, from 0, int64 ``(example,)``; None takes all as one. The
            prompts of a fact are a group.

    Raises:
        InvalidArgumentError: If k or step is less than 1, or k more than there are neurons.
    """
    total = sum(site.width for site in problem.sites)
    if k < 1 or step < 1 or k > total:
        raise InvalidArgumentError(f"k must be from 1 to {total} and step at least 1, not {k} and {step}.")
    group = torch.zeros(problem.count, dtype=torch.long) if groups is None else groups
    count = int(group.max()) + 1
    order = torch.zeros((count, k), dtype=torch.long)
    drops = torch.zeros((count, k), dtype=torch.float64)
    keep = torch.ones((count, total), dtype=problem.value.dtype)
    values = []
    for start in range(0, k, step):
        now, scores = _first_order(problem, keep, group)
        values.append(now)
        scores = scores.masked_fill(keep == 0, -torch.inf)
        best = scores.topk(min(step, k - start), dim=1)
        order[:, start : start + step] = best.indices
        drops[:, start : start + step] = best.values
        keep.scatter_(1, best.indices, 0.0)
    values.append(_means(_run(problem, keep, group)[0], group))
    values_of = torch.stack(values, 1)
    for number, start in enumerate(range(0, k, step)):
        part = drops[:, start : start + step]
        shares = part.clamp(min=0) + 1e-30
        lost = values_of[:, number] - values_of[:, number + 1]
        drops[:, start : start + step] = lost.unsqueeze(1) * shares / shares.sum(1, keepdim=True)
    return Elimination(problem.sites, order, drops, values_of)


def _first_order(problem: Problem, keep: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Return each group's mean target, and the mean first-order score of every neuron, ``(group, neuron)``."""
    value, products = _run(problem, keep, group)
    return _means(value, group), _means(torch.cat([products[site] for site in problem.sites], 1), group)


def _run(problem: Problem, keep: Tensor, group: Tensor) -> tuple[Tensor, Mapping[Site, Tensor]]:
    parts = torch.split(keep[group], [site.width for site in problem.sites], 1)
    found = problem.along_input(factors=dict(zip(problem.sites, parts, strict=True)))
    products = {
        site: (found.activations[site][:, 0].double() * found.gradients[site][:, 0].double()).sum(1).cpu()
        for site in problem.sites
    }
    return found.value[:, 0].double().cpu(), products


def _means(values: Tensor, group: Tensor) -> Tensor:
    """Return the mean over each group's examples."""
    count = int(group.max()) + 1
    sums = torch.zeros((count, *values.shape[1:]), dtype=values.dtype).index_add_(0, group, values)
    sizes = torch.bincount(group, minlength=count).to(sums)
    return sums / sizes.reshape(-1, *[1] * (values.dim() - 1))
