"""Targets: the one number of a model's output that neurons are credited for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from neuronwise.errors import InvalidArgumentError
from neuronwise.sites import Site

__all__ = [
    "Answered",
    "Answers",
    "LogProbability",
    "LogitDifference",
    "NeuronActivation",
    "Outputs",
    "Probability",
    "Target",
    "TargetFunction",
    "as_target",
]

TargetFunction = Callable[[Any, Tensor], Tensor]
"""A target of the user's own: ``(output, examples)`` to one number a row, ``(row,)``.

The model runs on many rows at once. ``examples`` says for each row which example of the batch it is a variant of.
"""


class Answered(Protocol):
    """Prompts with answers: what :func:`neuronwise.data.encode` returns, or :class:`Answers`."""

    @property
    def answers(self) -> Tensor:
        """Token ids ``(example, token)``; -1 where an answer is shorter."""

    @property
    def positions(self) -> Tensor:
        """Where in the logits each token is predicted, ``(example, token)``; -1 where an answer is shorter."""


@dataclass(frozen=True)
class Answers:
    """Token ids and the positions of the logits that predict them, for inputs made by hand.

    Args:
        answers: Token ids, ``(example,)`` or ``(example, token)``.
        positions: Position of the logits that predict each, of the same shape; counted from 0.

    Raises:
        InvalidArgumentError: If the shapes differ, or a position is negative.
    """

    answers: Tensor
    positions: Tensor

    def __post_init__(self) -> None:
        answers, positions = torch.as_tensor(self.answers), torch.as_tensor(self.positions)
        if answers.shape != positions.shape or answers.dim() not in (1, 2) or not answers.numel():
            raise InvalidArgumentError(
                "answers and positions must both be (example,) or (example, token); they are "
                f"{tuple(answers.shape)} and {tuple(positions.shape)}."
            )
        if ((positions < 0) & (answers >= 0)).any():
            raise InvalidArgumentError(
                "Positions count from 0. In a padded batch the last real token is not at -1; give its index."
            )
        object.__setattr__(self, "answers", answers.reshape(len(answers), -1).long())
        object.__setattr__(self, "positions", positions.reshape(len(positions), -1).long())


@dataclass(frozen=True)
class Outputs:
    """What a target sees of one forward pass.

    Args:
        output: What the model returned.
        examples: For every row, the number of its example, int64 ``(row,)``.
        logits: Logits at the target's positions, ``(row, token, vocabulary)``; None if it has no positions.
        activations: What came by the target's ``taps``, ``{site name: (row, position, neuron)}``.
    """

    output: Any
    examples: Tensor
    logits: Tensor | None = None
    activations: Mapping[str, Tensor] = field(default_factory=dict)


class Target(ABC):
    """A scalar of the model for every row of a batch."""

    #: Positions of the logits that it reads, ``(example, token)``, -1 where there are fewer; None: it reads no logits.
    positions: Tensor | None = None
    #: Sites whose activations it reads.
    taps: tuple[Site, ...] = ()

    @abstractmethod
    def value(self, seen: Outputs) -> Tensor:
        """Return the target of every row, ``(row,)``, differentiable."""


class LogProbability(Target):
    """Log probability of the answer: the sum over its tokens, each after those before it (teacher forcing).

    Args:
        prompts: The answers and where they are predicted.
    """

    def __init__(self, prompts: Answered) -> None:
        self.answers = prompts.answers
        self.positions = prompts.positions

    def value(self, seen: Outputs) -> Tensor:
        """Return log P of every row."""
        wanted = self.answers.to(seen.examples.device)[seen.examples].to(_logits(seen).device)
        logits = _logits(seen)
        if not wanted.lt(logits.shape[-1]).all():
            raise InvalidArgumentError(
                f"Answer {int(wanted.max())} is outside the vocabulary of {logits.shape[-1]} tokens."
            )
        logits = logits if logits.dtype == torch.float64 else logits.float()
        chosen = logits.gather(-1, wanted.clamp(min=0).unsqueeze(-1))[..., 0] - logits.logsumexp(-1)
        return torch.where(wanted >= 0, chosen, 0.0).sum(-1)


class Probability(LogProbability):
    """Probability of the answer, as in Dai et al. (2022, https://arxiv.org/abs/2104.08696).

    It saturates near 1, and its gradient vanishes there: :class:`LogProbability` goes on.
    """

    def value(self, seen: Outputs) -> Tensor:
        """Return P of every row."""
        return super().value(seen).exp()


class LogitDifference(Target):
    """Logit of the answer less that of another token, at the position of the answer's first token.

    Args:
        prompts: The answers and where they are predicted.
        others: Token ids to compare with, ``(example,)``, or one for all.
    """

    def __init__(self, prompts: Answered, others: Tensor | int) -> None:
        first = prompts.answers[:, :1]
        self.answers = torch.cat([first, torch.as_tensor(others).reshape(-1, 1).expand(len(first), 1)], 1)
        self.positions = prompts.positions[:, :1]

    def value(self, seen: Outputs) -> Tensor:
        """Return the difference of every row."""
        pair = self.answers.to(seen.examples.device)[seen.examples]
        logits = _logits(seen)[:, 0]
        chosen = logits.gather(1, pair.to(logits.device))
        return chosen[:, 0] - chosen[:, 1]


class NeuronActivation(Target):
    """Activation of a neuron: what do the neurons of lower layers do for one further up?

    Args:
        site: Its site.
        neuron: Its index.
        position: Where along the sequence, counted from 0: one for all, or one an example.
        sum_of: Further neurons of the same site whose activations are added.

    Raises:
        InvalidArgumentError: If the site has no such neuron.
    """

    def __init__(
        self, site: Site, neuron: int, position: int | Tensor = 0, *, sum_of: tuple[int, ...] = ()
    ) -> None:
        outside = [index for index in (neuron, *sum_of) if not 0 <= index < site.width]
        if outside:
            raise InvalidArgumentError(
                f"{site.name} has {site.width} neurons; there is no neuron {outside[0]}."
            )
        self.site = site
        self.neurons = (neuron, *sum_of)
        self.position = torch.as_tensor(position)
        self.taps = (site,)

    def value(self, seen: Outputs) -> Tensor:
        """Return the activation of every row."""
        values = seen.activations[self.site.name]
        at = self.position.expand(int(seen.examples.max()) + 1) if self.position.dim() == 0 else self.position
        rows = torch.arange(len(values), device=values.device)
        return values[rows, at.to(seen.examples.device)[seen.examples].to(values.device)][
            :, list(self.neurons)
        ].sum(-1)


class _Function(Target):
    """A user's own function."""

    def __init__(self, function: TargetFunction) -> None:
        self.function = function

    def value(self, seen: Outputs) -> Tensor:
        value = self.function(seen.output, seen.examples)
        if not isinstance(value, Tensor) or value.shape != seen.examples.shape:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InvalidArgumentError(
                f"A target must return one number a row, a tensor of shape {tuple(seen.examples.shape)}; yours "
                f"returned {got}. It is called with (output, examples)."
            )
        return value


def as_target(target: Target | TargetFunction) -> Target:
    """Return a target, made from a function if need be.

    Raises:
        InvalidArgumentError: If it is neither.
    """
    if isinstance(target, Target):
        return target
    if callable(target):
        return _Function(target)
    raise InvalidArgumentError(
        f"target must be a Target or a function of (output, examples), not {type(target).__name__}. For a language "
        "model: Probability(prompts) or LogProbability(prompts)."
    )


def _logits(seen: Outputs) -> Tensor:
    if seen.logits is None:
        raise InvalidArgumentError(
            f"The model returned a {type(seen.output).__name__} without logits. Load it with its language-model "
            "head, or give a target of your own: a function of (output, examples)."
        )
    return seen.logits
