"""Integrated gradients: how much of the target a neuron brings on the way from its reference to what it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from neuronwise.attribute.method import Method, Scores
from neuronwise.attribute.problem import Group, Problem
from neuronwise.attribute.quadrature import quadrature
from neuronwise.errors import InvalidArgumentError
from neuronwise.sites import Site

__all__ = ["IntegratedGradients"]

_FIRST, _MOST = 4, 64


@dataclass(frozen=True)
class IntegratedGradients(Method):
    """Integrated gradients over activations (Dai et al. 2022, https://arxiv.org/abs/2104.08696, equation 3).

    The activations w of a layer's neurons at the chosen positions move together on a straight line from the reference
    r to what they are: ``score_i = (w_i - r_i) * integral of dF/dw_i (r + a (w - r)) da``, a from 0 to 1. For each
    layer by itself the scores add up to F(w) - F(r) (completeness; the Aumann-Shapley value of the layer's neurons).
    The formula printed in the paper moves one neuron alone, which is :class:`Ablation` exactly; both public codes do
    what is done here.

    Args:
        joint: Move the neurons of all sites together: one path, one sum for the whole map, scores of different layers
            comparable, and the cost does not grow with the square of the number of layers.
        rule: The quadrature, a name in ``neuronwise.attribute.RULES``.
        nodes: Number of nodes; None doubles it from 4 (at most 64) for each example and layer until the completeness
            gap is small enough.
        tolerance: The largest gap accepted with ``nodes=None``, as a part of the largest F(w) - F(r) of the example.

    Raises:
        InvalidArgumentError: If there is no such rule, or ``nodes`` is too small for it.
    """

    name: ClassVar[str] = "integrated_gradients"

    joint: bool = False
    rule: str = "gauss_legendre"
    nodes: int | None = None
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        quadrature(self.rule, _FIRST if self.nodes is None else self.nodes)
        if not self.tolerance > 0:
            raise InvalidArgumentError(f"tolerance must be more than 0, not {self.tolerance}.")

    def scores(self, problem: Problem, reference: Mapping[Site, Tensor]) -> Scores:
        """Return the scores of every neuron, with the gaps."""
        paths: list[tuple[Site, ...]] = [(site,) for site in problem.sites]
        if self.joint:
            paths = [tuple(problem.sites)]
        count = self.nodes or _FIRST
        totals = {site: torch.zeros_like(w, dtype=torch.float64) for site, w in problem.activations.items()}
        shape = (len(paths), problem.count)
        used = torch.zeros(shape, dtype=torch.long)
        gaps = torch.zeros(shape, dtype=torch.float64)
        open_ = torch.ones(shape, dtype=torch.bool)
        # The target at the reference is had from rows of the first run: another one would cost as much again.
        start = self._integrate(problem, reference, paths, count, open_, totals, first=True)
        drops = problem.value - start  # (path, example)
        accepted = self._accepted(problem, drops).cpu()
        while True:
            sums = torch.stack([sum_of(totals, path) for path in paths])
            gaps = torch.where(open_, sums.cpu() - drops.double().cpu(), gaps)
            used[open_] = count
            open_ &= gaps.abs() > accepted
            if self.nodes is not None or not open_.any() or count >= _MOST:
                break
            count *= 2
            self._integrate(problem, reference, paths, count, open_, totals)
        converged = gaps.abs() <= accepted
        return Scores(totals, paths=paths, start=start.cpu(), gap=gaps, nodes=used, converged=converged)

    def _integrate(
        self,
        problem: Problem,
        reference: Mapping[Site, Tensor],
        paths: list[tuple[Site, ...]],
        count: int,
        wanted: Tensor,
        totals: dict[Site, Tensor],
        *,
        first: bool = False,
    ) -> Tensor:
        """Put the sums of a rule with ``count`` nodes in place for the paths and examples wanted.

        Returns:
            If it is the first run, the target with a path's sites at their reference, ``(path, example)``.
        """
        points, weights = (torch.from_numpy(part) for part in quadrature(self.rule, count))
        groups, chosen = [], []
        for path, which in zip(paths, wanted, strict=True):
            examples = which.nonzero()[:, 0]
            if len(examples):
                groups.append(_on_path(problem, reference, path, examples, points))
                chosen.append((path, examples))
        if first:
            every = torch.arange(problem.count)
            groups += [
                Group(every, {site: reference[site] for site in path}, gradients=False) for path in paths
            ]
        evaluated = problem.evaluate(groups)
        for (path, examples), found in zip(chosen, evaluated, strict=False):
            for site in path:
                slopes = found.gradients[site].double()
                slopes = slopes.reshape(len(examples), count, *slopes.shape[1:])
                mean = torch.einsum("ekpn,k->epn", slopes, weights.to(slopes.device))
                moved = problem.activations[site][examples].double() - reference[site][examples].double()
                totals[site][examples] = moved * mean
        if not first:
            return torch.empty(0)
        return torch.stack([found.value for found in evaluated[len(chosen) :]])

    def _accepted(self, problem: Problem, drops: Tensor) -> Tensor:
        """Return the gap accepted for every path and example: the tolerance, but not below what rounding allows."""
        scale = drops.abs().amax(0, keepdim=True).double()
        rounding = 64 * torch.finfo(drops.dtype).eps * problem.value.abs().double().clamp(min=1e-30)
        return torch.maximum(self.tolerance * scale, rounding.expand_as(scale)).expand_as(drops)


def sum_of(totals: Mapping[Site, Tensor], path: tuple[Site, ...]) -> Tensor:
    """Return the sum of all scores of some sites, ``(example,)``."""
    return torch.stack([totals[site].sum((1, 2)) for site in path]).sum(0)


def _on_path(
    problem: Problem,
    reference: Mapping[Site, Tensor],
    path: tuple[Site, ...],
    examples: Tensor,
    points: Tensor,
) -> Group:
    """Return one row for every example and node, examples outermost."""
    values = {}
    for site in path:
        start, end = reference[site][examples], problem.activations[site][examples]
        share = points.to(start).reshape(1, -1, 1, 1)
        values[site] = (start.unsqueeze(1) + share * (end - start).unsqueeze(1)).flatten(0, 1)
    return Group(examples.repeat_interleave(len(points)), values)
