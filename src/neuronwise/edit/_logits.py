"""Probabilities of answers, read from a model's output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from neuronwise.errors import InvalidArgumentError

if TYPE_CHECKING:
    from neuronwise.data import Prompts

__all__ = ["first_log_probs", "logits_of", "token_log_probs"]


def logits_of(output: Any) -> Tensor:
    """Return the logits ``(row, position, token)`` of an output.

    Raises:
        InvalidArgumentError: If it has none.
    """
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.ndim != 3:
        raise InvalidArgumentError(
            f"The model returns a {type(output).__name__} without logits (row, position, token). Editing facts needs a "
            "model with a language-model head."
        )
    return logits


def token_log_probs(output: Any, prompts: Prompts) -> tuple[Tensor, Tensor]:
    """Return each answer token's log probability, and whether it is the most likely token.

    Args:
        output: Output for ``prompts.inputs``.
        prompts: The prompts.

    Returns:
        Log probabilities ``(row, answer token)``, 0 where an answer is shorter; and bool of the same shape, True there.
    """
    at = prompts.positions.to(logits_of(output).device)
    rows = torch.arange(len(at), device=at.device)[:, None]
    chosen = torch.log_softmax(logits_of(output)[rows, at.clamp(min=0)].float(), -1)
    answers = prompts.answers.to(at.device)
    real = answers >= 0
    values = chosen.gather(-1, answers.clamp(min=0)[..., None])[..., 0]
    return torch.where(real, values, torch.zeros_like(values)), (chosen.argmax(-1) == answers) | ~real


def first_log_probs(output: Any, prompts: Prompts) -> Tensor:
    """Return the log probabilities of all tokens where the answer's first token is predicted, ``(row, token)``."""
    logits = logits_of(output)
    at = prompts.positions[:, 0].to(logits.device)
    return torch.log_softmax(logits[torch.arange(len(at), device=at.device), at].float(), -1)
