r"""FiNE: fine-tuning of nothing but chosen neurons' value slots.

After Pan et al. 2025, https://arxiv.org/abs/2503.01090. The slots V of the chosen neurons are trained by Adam on

    -log P(new) + kl_factor * KL(base || edited) + repetition_factor * R + norm_factor * |V - V0| / |V0|,

everything else is frozen, and training ends as soon as the new answer is likely enough.

What follows the authors' README: only chosen FFN neurons are trained, at most a given number of rounds (its
``epochs``), the last layers stay frozen (``last_layer``), the loss has a KL term (``alpha``), a repetition penalty
(``beta``) and a norm term (``gamma``), and training stops early at a probability (``early_stop_prob``). The README
gives neither formulas nor values: the forms of the three terms and all defaults here are our own, so figures of the
paper need not be reproduced by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from neuronwise.data import SLOT, Fact, Prompts, encode
from neuronwise.edit._contexts import behind_prefixes, is_causal, position_limit, resolve_prefixes
from neuronwise.edit._frozen import guest
from neuronwise.edit._logits import first_log_probs, logits_of, token_log_probs
from neuronwise.edit._slots import Slots, slots_of
from neuronwise.edit._target import new_answer
from neuronwise.edit.patch import Patch
from neuronwise.edit.value_slots import for_random, listed, noted_facts
from neuronwise.errors import InvalidArgumentError, PatchError
from neuronwise.hooks import call_model
from neuronwise.sites import NeuronSet, find_sites

__all__ = ["fine"]


def fine(
    model: nn.Module,
    tokenizer: Any,
    facts: Fact | Sequence[Fact],
    neurons: NeuronSet,
    *,
    steps: int = 150,
    lr: float = 0.02,
    kl_factor: float = 10.0,
    repetition_factor: float = 0.1,
    norm_factor: float = 0.1,
    stop_probability: float = 0.9,
    frozen_layers: int = 0,
    kl_prompts: Sequence[str] = (),
    prefixes: int | Sequence[str] = 0,
    prefix_tokens: int = 10,
    seed: int = 0,
) -> Patch:
    """Train the value slots of chosen neurons until the model gives the facts' new answers.

    Gradients are taken with respect to these slots only. Answers of several tokens are teacher-forced. There is no
    chance in the training itself.

    Args:
        model: A language model. It is not changed.
        tokenizer: Its tokenizer.
        facts: One fact or several, each with ``new_answer``.
        neurons: The neurons whose slots are trained.
        steps: Most steps of Adam.
        lr: Its step size, in units of the slots' mean length over the square root of their width.
        kl_factor: Factor of the divergence from the base model on ``kl_prompts`` and on "{subject} is a".
        repetition_factor: Factor of the penalty -log(1 - P(the new answer follows itself)); causal models only, where
            there is room for one more token.
        norm_factor: Factor of the slots' relative change.
        stop_probability: Stop when the probability of every fact's new answer, averaged over its prompts, is this.
        frozen_layers: Leave out neurons of so many last layers.
        kl_prompts: Prompts with a slot on which the model's prediction shall stay.
        prefixes: Texts to put before the prompts, or how many to sample from the model (causal models only).
        prefix_tokens: Length of the sampled ones.
        seed: Seed of the sampled prefixes.

    Returns:
        A :class:`Patch`; its control is the same training of random neurons.

    Raises:
        InvalidArgumentError: If a fact has no new answer, no neuron is left to train, or a setting is out of range.
        PatchError: If the loss is not a number.
        DataError: If an answer or prompt cannot be encoded.
    """
    asked = [facts] if isinstance(facts, Fact) else list(facts)
    if not asked:
        raise InvalidArgumentError("There is no fact to write.")
    if steps < 1 or not lr > 0 or not 0 < stop_probability <= 1:
        raise InvalidArgumentError(
            "steps must be at least 1, lr above 0 and stop_probability above 0 and at most 1, not "
            f"{steps}, {lr} and {stop_probability}."
        )
    chosen = _without_last(model, neurons, frozen_layers)
    prompts = [prompt for fact in asked for prompt in fact.prompts]
    texts = resolve_prefixes(model, tokenizer, prompts, prefixes, tokens=prefix_tokens, seed=seed)
    task = _Task(model, tokenizer, asked, texts, kl_prompts if kl_factor > 0 else None, repetition_factor > 0)
    factors = {
        "kl_factor": kl_factor,
        "repetition_factor": repetition_factor,
        "norm_factor": norm_factor,
    }
    training = _Training(model, slots_of(model, chosen), task, factors)
    taken = training.run(steps, lr, stop_probability)
    settings: dict[str, Any] = {
        "steps": steps,
        "lr": lr,
        **factors,
        "stop_probability": stop_probability,
        "frozen_layers": frozen_layers,
        "kl_prompts": list(kl_prompts),
        "prefixes": texts,
        "seed": seed,
    }
    again = partial(fine, tokenizer=tokenizer, facts=asked, **(settings | {"kl_prompts": tuple(kl_prompts)}))
    return Patch.of(
        model,
        training.changes(),
        "fine",
        parameters={**settings, "neurons": listed(chosen), "outcome": taken},
        facts=noted_facts(asked),
        remake=partial(for_random, again, chosen),
    )


class _Task:
    """What is trained on: batches of prompts, and what the base model says to those it shall keep."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        facts: Sequence[Fact],
        prefixes: Sequence[str],
        keep: Sequence[str] | None,
        repeat: bool,
    ) -> None:
        rows = [
            (text, new_answer(fact)) for fact in facts for text in behind_prefixes(fact.prompts, prefixes)
        ]
        self.owner = torch.tensor(
            [n for n, fact in enumerate(facts) for _ in behind_prefixes(fact.prompts, prefixes)]
        )
        device = next(model.parameters()).device
        texts, answers = [text for text, _ in rows], [answer for _, answer in rows]
        self.asked = encode(tokenizer, model, texts, answers, multi_token=True).to(device)
        kept = [] if keep is None else [*keep, *(f"{f.subject} is a {SLOT}" for f in facts if f.subject)]
        self.kept: Prompts | None = None
        if kept:
            self.kept = encode(tokenizer, model, kept, answers[0], multi_token=True).to(device)
        room = self.asked.inputs["input_ids"].shape[1] < position_limit(model, tokenizer)
        self.repeated = _repeated(self.asked) if repeat and room and is_causal(model) else None
        with guest(model), torch.no_grad():
            self.base = (
                None if self.kept is None else first_log_probs(call_model(model, self.kept.inputs), self.kept)
            )

    def probability(self, values: Tensor) -> float:
        """Return the least likely fact's probability, averaged over its prompts."""
        each = values.detach().sum(1).exp().cpu().double()
        count = torch.bincount(self.owner)
        return float(
            (torch.zeros(len(count), dtype=torch.float64).index_add_(0, self.owner, each) / count).min()
        )


class _Training:
    """The slots as leaves of their own, put into the weights for each forward pass; the model is never written to."""

    def __init__(
        self, model: nn.Module, slots: Sequence[Slots], task: _Task, factors: dict[str, float]
    ) -> None:
        self.model, self.slots, self.task, self.factors = model, slots, task, factors
        self.start = [_trainable(part.read(model)) for part in slots]
        self.values = [start.clone().requires_grad_() for start in self.start]

    def run(self, steps: int, lr: float, stop_probability: float) -> dict[str, float | int]:
        """Train, and return the outcome for the record."""
        length = torch.cat([start.flatten(1).norm(dim=1).cpu().double() for start in self.start]).mean()
        rate = lr * float(length) / self.start[0][0].numel() ** 0.5
        if not rate > 0:
            raise InvalidArgumentError(
                "All chosen value slots are zero, so there is no scale to train them on."
            )
        adam = torch.optim.Adam(self.values, lr=rate)
        step = 0
        with guest(self.model):
            while True:
                loss, probability = self._loss()
                if not torch.isfinite(loss):
                    raise PatchError(
                        f"The loss became {float(loss.detach())} after {step} steps. Use a smaller lr."
                    )
                if probability >= stop_probability or step == steps:
                    break
                for value, gradient in zip(self.values, torch.autograd.grad(loss, self.values), strict=True):
                    value.grad = gradient
                adam.step()
                step += 1
        return {"loss": float(loss.detach()), "probability": probability, "steps": step}

    def changes(self) -> list[Any]:
        """Return the trained slots as changes."""
        return [
            part.change(self.model, value.detach())
            for part, value in zip(self.slots, self.values, strict=True)
        ]

    def _loss(self) -> tuple[Tensor, float]:
        task, weights = self.task, self._weights()
        values, _ = token_log_probs(self._output(weights, task.asked.inputs), task.asked)
        tokens = (task.asked.answers >= 0).sum(1)
        loss = -(values.sum(1) / tokens).mean()
        if task.kept is not None and task.base is not None:
            new = first_log_probs(self._output(weights, task.kept.inputs), task.kept)
            kl = (task.base.exp() * (task.base - new)).sum(1).mean()
            loss = loss + self.factors["kl_factor"] * kl
        if task.repeated is not None:
            inputs, last, first = task.repeated
            logits = logits_of(self._output(weights, inputs))
            rows = torch.arange(len(last), device=logits.device)
            again = logits[rows, last].float().softmax(-1)[rows, first]
            penalty = -torch.log1p(-again.clamp(max=1 - 1e-6)).mean()
            loss = loss + self.factors["repetition_factor"] * penalty
        moved = torch.stack(
            [((v - s) ** 2).sum() for v, s in zip(self.values, self.start, strict=True)]
        ).sum()
        whole = torch.stack([(start**2).sum() for start in self.start]).sum()
        # The root has no derivative at 0, where training starts.
        loss = loss + self.factors["norm_factor"] * torch.sqrt(moved / whole + 1e-12)
        return loss, task.probability(values)

    def _weights(self) -> dict[str, Tensor]:
        weights = {}
        for part, value in zip(self.slots, self.values, strict=True):
            old = self.model.get_parameter(part.parameter).detach()
            moved = value.movedim(0, part.axis).to(old.dtype)
            weights[part.parameter] = old.index_copy(part.axis, part.index.to(old.device), moved)
        return weights

    def _output(self, weights: dict[str, Tensor], inputs: dict[str, Tensor]) -> Any:
        return functional_call(self.model, weights, (), inputs)


def _trainable(values: Tensor) -> Tensor:
    """Return the slots in at least float32: half precision is too coarse for small steps."""
    return values.detach().clone() if values.dtype == torch.float64 else values.detach().float()


def _repeated(asked: Prompts) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Return prompts with their whole answers, where the next token is predicted, and the answers' first tokens."""
    ids, mask = asked.inputs["input_ids"], asked.inputs["attention_mask"]
    lengths = (asked.answers >= 0).sum(1)
    rows = torch.arange(len(ids), device=ids.device)
    last = asked.positions[rows, lengths - 1] + 1
    longer = torch.cat([ids, torch.zeros_like(ids[:, :1])], 1)
    longer[rows, last] = asked.answers[rows, lengths - 1]
    seen = torch.cat([mask, torch.zeros_like(mask[:, :1])], 1)
    seen[rows, last] = 1
    return {"input_ids": longer, "attention_mask": seen}, last, asked.answers[:, 0]


def _without_last(model: nn.Module, neurons: NeuronSet, frozen: int) -> NeuronSet:
    if frozen < 0:
        raise InvalidArgumentError(f"frozen_layers must be 0 or more, not {frozen}.")
    if not frozen:
        return neurons
    depth: dict[str, int] = {}
    for site in find_sites(model):
        depth[site.stack] = max(depth.get(site.stack, 0), (site.layer or 0) + 1)
    kept = neurons.filter(
        lambda site, _: site.layer is None or site.layer < depth.get(site.stack, 1 << 30) - frozen
    )
    if not len(kept):
        raise InvalidArgumentError(
            f"All chosen neurons are in the last {frozen} layers, which frozen_layers leaves out."
        )
    return kept
