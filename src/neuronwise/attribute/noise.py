"""Noise wrappers: the mean of any score over noisy weights, noisy inputs, or both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from neuronwise.attribute._inputs import has_floats, with_floats
from neuronwise.attribute.integrated import IntegratedGradients
from neuronwise.attribute.method import Method, Scores
from neuronwise.attribute.problem import Problem
from neuronwise.attribute.reference import Reference
from neuronwise.errors import InvalidArgumentError
from neuronwise.hooks import capture
from neuronwise.sites import Site

__all__ = ["FusionGrad", "NoiseGrad", "SmoothGrad"]

_Solve = Callable[[Problem], Scores]


@dataclass(frozen=True)
class _Averaged(Method):
    """The mean of a method's scores over noisy copies of a problem."""

    method: Method = field(default_factory=IntegratedGradients)

    def scores(self, problem: Problem, reference: Mapping[Site, Tensor]) -> Scores:
        """Return the mean scores, compared with a reference that stays the same under noise."""
        return self._mean(problem, lambda noisy: self.method.scores(noisy, reference))

    def solve(self, problem: Problem, reference: Reference) -> Scores:
        """Return the mean scores; another run as reference is run under the same noisy weights."""
        return self._mean(problem, lambda noisy: self.method.solve(noisy, reference))

    def _mean(self, problem: Problem, solve: _Solve) -> Scores:
        raise NotImplementedError


@dataclass(frozen=True)
class NoiseGrad(_Averaged):
    """Mean of a score over models whose every weight is multiplied by its own draw from N(1, std^2).

    Bykov et al. (2022, https://arxiv.org/abs/2106.10185). It keeps what does not hang on the exact weights, and stands
    in for some further paraphrases of a prompt. Too much noise destroys the model: choose ``std`` by what the target
    loses (0.05 to 0.1 for small language models; the paper 0.2 to 0.4 for image classifiers). The weights are put back
    bit for bit, also after an exception, and torch's random state is not used.

    Gap and reference in the completeness table are means over the samples; ``converged`` says that all samples did.

    Args:
        method: The score.
        samples: How many noisy models.
        std: Standard deviation of the factors. 0 gives the plain score exactly.
        seed: Seed of the noise.

    Raises:
        InvalidArgumentError: If ``samples`` or ``std`` is out of range.
    """

    name: ClassVar[str] = "noise_grad"

    samples: int = 10
    std: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.samples, self.std)

    def _mean(self, problem: Problem, solve: _Solve) -> Scores:
        if self.std == 0:
            return solve(problem)
        drawn = torch.Generator().manual_seed(self.seed)
        return _mean_of(_noisy_models(problem, solve, self.samples, self.std, drawn))


@dataclass(frozen=True)
class SmoothGrad(_Averaged):
    """Mean of a score over inputs with noise from N(0, (std * s)^2).

    Smilkov et al. (2017, https://arxiv.org/abs/1706.03825). The noise is added to the floating-point inputs or, where
    there are none (token ids), to the output of the input embedding; s is the standard deviation of all their numbers
    in the batch, so ``std`` is relative and has no unit. The neurons' activations change with the input, so this is the
    mean over neighbouring examples.

    Args:
        method: The score.
        samples: How many noisy inputs.
        std: Standard deviation of the noise as a part of the input's. 0 gives the plain score exactly.
        seed: Seed of the noise.

    Raises:
        InvalidArgumentError: If ``samples`` or ``std`` is out of range.
    """

    name: ClassVar[str] = "smooth_grad"

    samples: int = 10
    std: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.samples, self.std)

    def _mean(self, problem: Problem, solve: _Solve) -> Scores:
        if self.std == 0:
            return solve(problem)
        drawn = torch.Generator().manual_seed(self.seed)
        return _mean_of(_noisy_inputs(problem, solve, self.samples, self.std, drawn))


@dataclass(frozen=True)
class FusionGrad(_Averaged):
    """Mean of a score over noisy models and, for each, noisy inputs (Bykov et al. 2022): NoiseGrad and SmoothGrad.

    Args:
        method: The score.
        samples: How many noisy models.
        input_samples: How many noisy inputs for each.
        std: Standard deviation of the weights' factors; see :class:`NoiseGrad`.
        input_std: Standard deviation of the input's noise as a part of the input's; see :class:`SmoothGrad`.
        seed: Seed of the noise.

    Raises:
        InvalidArgumentError: If a number of samples or a standard deviation is out of range.
    """

    name: ClassVar[str] = "fusion_grad"

    samples: int = 10
    input_samples: int = 1
    std: float = 0.1
    input_std: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.samples, self.std)
        _check(self.input_samples, self.input_std)

    def _mean(self, problem: Problem, solve: _Solve) -> Scores:
        if self.std == 0 and self.input_std == 0:
            return solve(problem)
        drawn = torch.Generator().manual_seed(self.seed)

        def smoothed(noisy: Problem) -> Scores:
            if self.input_std == 0:
                return solve(noisy)
            return _mean_of(_noisy_inputs(noisy, solve, self.input_samples, self.input_std, drawn))

        if self.std == 0:
            return _mean_of(smoothed(problem) for _ in range(self.samples))
        return _mean_of(_noisy_models(problem, smoothed, self.samples, self.std, drawn))


def _check(samples: int, std: float) -> None:
    if samples < 1 or not 0 <= std < float("inf"):
        raise InvalidArgumentError(
            f"There must be at least 1 sample and a standard deviation of 0 or more, not {samples} and {std}."
        )


def _noisy_models(
    problem: Problem, solve: _Solve, samples: int, std: float, drawn: torch.Generator
) -> Iterator[Scores]:
    for _ in range(samples):
        with _noisy_weights(problem.model, std, drawn):
            yield _solved(problem, problem.again(), solve)


def _noisy_inputs(
    problem: Problem, solve: _Solve, samples: int, std: float, drawn: torch.Generator
) -> Iterator[Scores]:
    floats = has_floats(problem.inputs)
    clean = {} if floats else _embedded(problem)
    for _ in range(samples):
        if floats:
            noisy = problem.again(
                inputs=with_floats(problem.inputs, lambda values: values + _noise(values, std, drawn))
            )
        else:
            noise = {site: [_noise(values, std, drawn) for values in calls] for site, calls in clean.items()}
            noisy = problem.again(input_noise=noise)
        yield _solved(problem, noisy, solve)


def _solved(problem: Problem, noisy: Problem, solve: _Solve) -> Scores:
    found = solve(noisy)
    for name in ("forwards", "backwards"):
        setattr(problem.cost, name, getattr(problem.cost, name) + getattr(noisy.cost, name))
    problem.cost.largest = max(problem.cost.largest, noisy.cost.largest)
    return found


def _embedded(problem: Problem) -> dict[Site, list[Tensor]]:
    """Return what the input embeddings give, once for each time that they run."""
    with torch.no_grad(), capture(problem.model, problem.embeddings, copy=True) as cap:
        problem.run()
    return {site: cap.calls(site) for site in problem.embeddings}


def _noise(like: Tensor, std: float, drawn: torch.Generator) -> Tensor:
    noise = torch.randn(like.shape, generator=drawn, dtype=torch.float64)
    return (noise * std * float(like.double().std())).to(like)


@contextmanager
def _noisy_weights(model: nn.Module, std: float, drawn: torch.Generator) -> Iterator[None]:
    """Multiply every floating-point parameter by noise inside a ``with`` block."""
    weights = [weight for weight in model.parameters() if weight.is_floating_point()]
    kept = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            for weight in weights:
                factors = 1 + std * torch.randn(weight.shape, generator=drawn, dtype=torch.float32)
                weight.mul_(factors.to(weight))
        yield
    finally:
        with torch.no_grad():
            for weight, values in zip(weights, kept, strict=True):
                weight.copy_(values)


def _mean_of(samples: Iterator[Scores]) -> Scores:
    """Return the mean of scores; converged where all are."""
    every: list[Scores] = list(samples)

    def mean(parts: Sequence[Tensor]) -> Tensor:
        return torch.stack([part.double() for part in parts]).mean(0)

    first: Any = every[0]
    return Scores(
        {site: mean([sample.values[site] for sample in every]) for site in first.values},
        paths=first.paths,
        start=mean([sample.start for sample in every]),
        gap=mean([sample.gap for sample in every]),
        nodes=torch.stack([sample.nodes for sample in every]).amax(0),
        converged=torch.stack([sample.converged for sample in every]).all(0),
    )
