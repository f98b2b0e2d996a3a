"""The vector that a layer should write so that the model gives the new answer (ROME's v*, MEMIT's z)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from neuronwise.data import SLOT, Fact, Prompts, encode
from neuronwise.edit._contexts import behind_prefixes, edit_positions
from neuronwise.edit._frozen import guest
from neuronwise.edit._logits import first_log_probs, token_log_probs
from neuronwise.errors import InvalidArgumentError, PatchError
from neuronwise.hooks import call_model, capture, intervene
from neuronwise.sites import Site

__all__ = ["Optimisation", "Spots", "Target", "find_target", "new_answer", "read_at", "spots"]


@dataclass(frozen=True)
class Optimisation:
    """Settings of the search for the target vector.

    Args:
        steps: Most steps of Adam.
        lr: Its step size.
        weight_decay: Factor of ``|δ| / |v0|²`` in the loss.
        clamp: Longest δ, in lengths of v0.
        kl_factor: Factor of the divergence on "{subject} is a".
        stop_loss: Stop when the loss is below this.
    """

    steps: int
    lr: float
    weight_decay: float
    clamp: float
    kl_factor: float
    stop_loss: float

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.lr > 0 or not self.clamp > 0:
            raise InvalidArgumentError(
                f"steps must be at least 1, lr and clamp above 0, not {self.steps}, {self.lr} and {self.clamp}."
            )

    def noted(self) -> dict[str, Any]:
        """Return the settings for the record."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Spots:
    """A fact's prompts, encoded, and where in each the edit reads and writes.

    Args:
        prompts: The rows: the fact's prompts, those behind prefixes, and last the one for the divergence.
        at: Position of each row in the site's tensor.
        plain: How many rows are the fact's own prompts.
        asked: How many rows ask for the answer, prefixes included.
    """

    prompts: Prompts
    at: Tensor
    plain: int
    asked: int


@dataclass(frozen=True, eq=False)
class Target:
    """What was found.

    Args:
        delta: What has to be added at the site, float64 ``(width,)``.
        loss: The loss with it.
        probability: Mean probability of the new answer with it.
        steps: Steps taken.
    """

    delta: Tensor
    loss: float
    probability: float
    steps: int

    def noted(self) -> dict[str, Any]:
        """Return the outcome for the record."""
        return {"loss": self.loss, "probability": self.probability, "steps": self.steps}


def new_answer(fact: Fact) -> str:
    """Return a fact's new answer.

    Raises:
        InvalidArgumentError: If it has none.
    """
    if fact.new_answer is None:
        raise InvalidArgumentError(
            f"The fact {fact.prompts[0]!r} has no new_answer, and this method can only write one. To erase a fact, use "
            "erase_slots."
        )
    return fact.new_answer


def spots(
    model: nn.Module,
    tokenizer: Any,
    fact: Fact,
    site: Site,
    prefixes: Sequence[str],
    *,
    essence: bool,
    position: Literal["subject", "answer"] = "subject",
) -> Spots:
    """Encode a fact's prompts and find where each is edited.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        fact: The fact.
        site: The site that is edited.
        prefixes: Texts to put before the prompts.
        essence: Whether to add the prompt "{subject} is a", on which the model shall not change.
        position: The last token of the subject, or the place from which the answer is predicted.

    Raises:
        InvalidArgumentError: If ``position`` is neither.
    """
    if position not in ("subject", "answer"):
        raise InvalidArgumentError(f"position must be 'subject' or 'answer', not {position!r}.")
    asked = behind_prefixes(fact.prompts, prefixes)
    texts = [*asked, f"{fact.subject} is a {SLOT}"] if essence and fact.subject else asked
    prompts = encode(tokenizer, model, texts, new_answer(fact), multi_token=True)
    at = edit_positions(tokenizer, prompts, texts, fact.subject if position == "subject" else "", site)
    device = next(model.parameters()).device
    return Spots(prompts.to(device), at.to(device), len(fact.prompts), len(asked))


def find_target(model: nn.Module, where: Spots, site: Site, how: Optimisation) -> Target:
    """Optimise δ, added at the site's tensor at the given positions, until the model gives the new answer.

    loss = mean of -log P(new) per token + kl_factor * KL on the last row + weight_decay * |δ| / |v0|².

    Raises:
        PatchError: If the loss is not a number.
    """
    with guest(model):
        with torch.no_grad(), capture(model, site, copy=True) as cap:
            base = first_log_probs(call_model(model, where.prompts.inputs), where.prompts)[where.asked :]
        length = _picked(cap[site], where.at, site)[: where.plain].float().mean(0).norm()
        delta = torch.zeros(site.width, device=where.at.device, requires_grad=True)
        adam = torch.optim.Adam([delta], lr=how.lr)
        step = 0
        while True:
            loss, probability = _loss(model, where, site, how, delta, base, length)
            if not torch.isfinite(loss):
                raise PatchError(
                    f"The loss became {float(loss.detach())} after {step} steps at {site.name}. Use a smaller "
                    "lr or clamp."
                )
            if float(loss.detach()) < how.stop_loss or step == how.steps:
                break
            (delta.grad,) = torch.autograd.grad(loss, [delta])
            if step == 0 and not delta.grad.any():
                raise PatchError(
                    f"What {site.name} writes at the subject's last token does not reach the answer: no later layer "
                    "carries it there. Choose an earlier layer, or position='answer'."
                )
            adam.step()
            step += 1
            with torch.no_grad():
                longest = how.clamp * length
                if delta.norm() > longest:
                    delta.mul_(longest / delta.norm())
    return Target(delta.detach().double().cpu(), float(loss.detach()), probability, step)


def _loss(
    model: nn.Module, where: Spots, site: Site, how: Optimisation, delta: Tensor, base: Tensor, length: Tensor
) -> tuple[Tensor, float]:
    rows = torch.arange(len(where.at), device=where.at.device)

    def add(values: Tensor, call: int | None) -> Tensor:
        hot = torch.zeros(values.shape[:-1], device=values.device, dtype=delta.dtype)
        hot[rows.to(values.device), where.at.to(values.device)] = 1.0
        return values + (hot[..., None] * delta.to(values.device)).to(values.dtype)

    with intervene(model, site, add):
        output = call_model(model, where.prompts.inputs)
    values, _ = token_log_probs(output, where.prompts)
    asked = values[: where.asked]
    tokens = (where.prompts.answers[: where.asked] >= 0).sum(1).to(asked.device)
    loss = -(asked.sum(1) / tokens).mean() + how.weight_decay * delta.norm() / length**2
    if len(base):
        new = first_log_probs(output, where.prompts)[where.asked :]
        # In ROME's direction: from the edited to the base model.
        loss = loss + how.kl_factor * (new.exp() * (new - base)).sum(1).mean()
    return loss, float(asked.detach().sum(1).exp().mean())


def read_at(model: nn.Module, sites: Sequence[Site], where: Spots) -> dict[Site, Tensor]:
    """Return what each site has at the given positions of each row, float64 ``(row, width)``."""
    with guest(model), torch.no_grad(), capture(model, sites, copy=True) as cap:
        call_model(model, where.prompts.inputs)
    return {site: _picked(cap[site], where.at, site).cpu().double() for site in sites}


def _picked(tensor: Tensor, at: Tensor, site: Site) -> Tensor:
    if tensor.ndim != 3 or len(tensor) != len(at) or int(at.max()) >= tensor.shape[1]:
        raise InvalidArgumentError(
            f"{site.name} has shape {tuple(tensor.shape)}; an edit at a position needs (row, position, neuron)."
        )
    return tensor[torch.arange(len(at), device=tensor.device), at.to(tensor.device)]
