"""DeepLIFT with the rescale rule, where it is exact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from neuronwise.attribute.method import Method, Scores
from neuronwise.attribute.problem import Problem
from neuronwise.errors import InvalidArgumentError
from neuronwise.hooks import Intervention, Spot, intervene, replace_outputs
from neuronwise.hooks.interventions import Change
from neuronwise.sites import Site

__all__ = ["DeepLift"]

_ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid,
    nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid, nn.Tanhshrink,
)  # fmt: skip
_HUGGING_FACE = "transformers.activations"
# Below this difference between an input and its reference, relative to the larger, the slope is the derivative.
_LEAST = {torch.float64: 1e-9, torch.float32: 1e-4}


@dataclass(frozen=True)
class DeepLift(Method):
    """``(w_i - r_i) * m_i``, m_i the multiplier of the rescale rule (Shrikumar et al. 2017).

    https://arxiv.org/abs/1704.02685. The model runs twice, with a site's neurons as they are and at their reference;
    going backwards, an elementwise activation f has the slope (f(b) - f(a)) / (b - a) between the two runs, not its
    derivative. Where all between the neurons and the target is linear or such a module (``nn.ReLU``, ``nn.GELU``,
    ``nn.SiLU``, ``nn.Tanh``, ``nn.Sigmoid`` and their like, and the activation modules of Transformers), the scores of
    a site add up to F(w) - F(r). Products (attention, gates), norms, a softmax and functions that are no modules would
    need rules of their own; there the gap says by how much the scores are wrong. Two forward passes and a backward pass
    a site.

    Args:
        exact: Raise an error where the gap is larger than the tolerance; else it is only reported.
        tolerance: The largest gap accepted, as a part of the largest F(w) - F(r) of the example.
    """

    name: ClassVar[str] = "deeplift"

    exact: bool = True
    tolerance: float = 1e-3

    def scores(self, problem: Problem, reference: Mapping[Site, Tensor]) -> Scores:
        """Return the scores of every neuron, with the gaps.

        Raises:
            InvalidArgumentError: If the gap is too large and ``exact`` is true.
        """
        values, starts, gaps = {}, [], []
        for site in problem.sites:
            multipliers, ends = self._multipliers(problem, reference[site], site)
            moved = problem.activations[site].double() - reference[site].double()
            values[site] = moved * multipliers.double()
            starts.append(ends.cpu())
            gaps.append(values[site].sum((1, 2)).cpu() - (problem.value - ends).double().cpu())
        start, gap = torch.stack(starts), torch.stack(gaps)
        accepted = self._accepted(problem, start)
        converged = gap.abs() <= accepted
        if self.exact and not converged.all():
            at = int((gap.abs() - accepted).amax(1).argmax())
            raise InvalidArgumentError(
                f"DeepLIFT's rescale rule is not exact here: the scores of {problem.sites[at].name} miss the change "
                f"of the target by {float(gap[at].abs().max()):.2g}, because something between it and the target is "
                "neither linear nor an elementwise activation module (a norm, attention, a gate, a softmax). Take "
                "IntegratedGradients, whose scores add up in any model, or DeepLift(exact=False)."
            )
        return Scores(
            values,
            paths=[(site,) for site in problem.sites],
            start=start.double(),
            gap=gap,
            nodes=torch.zeros(gap.shape, dtype=torch.long),
            converged=converged,
        )

    def _accepted(self, problem: Problem, start: Tensor) -> Tensor:
        drops = (problem.value.cpu() - start).abs().double().amax(0, keepdim=True)
        rounding = 256 * torch.finfo(start.dtype).eps * problem.value.abs().double().cpu()
        return torch.maximum(self.tolerance * drops, rounding.clamp(min=1e-30)).expand(len(start), -1)

    def _multipliers(self, problem: Problem, reference: Tensor, site: Site) -> tuple[Tensor, Tensor]:
        """Return the multipliers of one site, ``(example, position, neuron)``, and the target at its reference."""
        found, ends = [], []
        for examples in torch.split(torch.arange(problem.count), problem.rows_at_once(2)):
            pair = _Pair(problem, site, examples, reference)
            with (
                intervene(problem.model, site, pair),
                replace_outputs(problem.model, _activations(problem.model), pair.rescaled),
                torch.enable_grad(),
            ):
                value = problem.run(torch.cat([examples, examples]))
            slopes = torch.zeros_like(pair.leaf)
            if value.requires_grad:
                (reached,) = torch.autograd.grad(value[: len(examples)].sum(), pair.leaf, allow_unused=True)
                slopes = slopes if reached is None else reached
            found.append(slopes)
            ends.append(value[len(examples) :].detach())
        problem.cost.backwards += problem.count
        return torch.cat(found), torch.cat(ends)


class _Pair(Intervention):
    """Every example twice: with a site's neurons as they are, open to gradients, and at the reference."""

    def __init__(self, problem: Problem, site: Site, examples: Tensor, reference: Tensor) -> None:
        self.leaf = problem.activations[site][examples].clone().requires_grad_()
        self._values = torch.cat([self.leaf, reference[examples]])
        self._place = problem.placing(site, torch.cat([examples, examples]))
        self._half = len(examples)

    def at(self, spot: Spot) -> Change:
        """Return the change: the values at their positions."""
        return lambda values, call: self._place(values, self._values)

    def rescaled(self, module: nn.Module, given: Tensor, output: Tensor) -> Tensor:
        """Return an activation's output, whose slope is the one between the two runs."""
        if not given.requires_grad:
            return output
        b, a = given[: self._half], given[self._half :].detach()
        to, from_ = output[: self._half].detach(), output[self._half :].detach()
        step = b.detach() - a
        small = step.abs() <= _LEAST.get(step.dtype, 1e-2) * torch.maximum(b.detach().abs(), a.abs()).clamp(
            min=1e-6
        )
        slope = torch.where(small, _derivative(module, a), (to - from_) / torch.where(small, 1.0, step))
        # The value is the module's own; the part that is added is zero and carries the slope.
        carried = slope * (b - b.detach())
        return torch.cat([to + carried, from_])


def _derivative(module: nn.Module, at: Tensor) -> Tensor:
    point = at.clone().requires_grad_()
    with torch.enable_grad():
        copied = point.clone()  # modules may work in place
        (slope,) = torch.autograd.grad(module.forward(copied).sum(), point)
    return slope


def _activations(model: nn.Module) -> dict[str, nn.Module]:
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, _ELEMENTWISE) or type(module).__module__ == _HUGGING_FACE
    }
