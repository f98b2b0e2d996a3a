"""What is asked of an edited model: the fact's own prompts, and those that show what else has changed."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neuronwise.data import Fact, Facts, Prompts, encode
from neuronwise.edit._logits import first_log_probs, token_log_probs
from neuronwise.errors import NeuronwiseError
from neuronwise.hooks import call_model, untouched

__all__ = ["KEPT", "WRITTEN", "Figures", "Question", "Sheet", "questions"]

#: Kinds of prompts on which the edit itself is asked for, and those on which nothing may change.
WRITTEN = ("edit", "held_out", "paraphrase")
KEPT = ("neighbour", "sister", "unrelated", "attribute")


@dataclass(frozen=True)
class Question:
    """One prompt.

    Args:
        kind: ``"edit"``, ``"held_out"``, or the kind of a probe.
        prompt: The prompt, with its slot.
        answer: What is right after the edit; of an erased fact's own prompts, what was right before.
        other: What it competes with; empty where there is nothing.
    """

    kind: str
    prompt: str
    answer: str
    other: str


def questions(
    fact: Fact, pool: Facts, *, per_kind: int, without: Collection[str], seed: int
) -> list[Question]:
    """Return all that is asked about a fact.

    Args:
        fact: The fact.
        pool: Facts from which neighbours (same relation and answer), sisters (same relation, other answer) and
            unrelated prompts (other relation) are drawn if the fact has no probes of that kind.
        per_kind: How many of each are drawn.
        without: Ids of facts that are not drawn, because they are edited too.
        seed: Seed of the draw; every fact has a draw of its own.
    """
    new, old = fact.new_answer, fact.answer
    own = (old, "") if new is None else (new, old)
    found = [Question("edit", prompt, *own) for prompt in fact.prompts]
    found += [Question("held_out", prompt, *own) for prompt in fact.held_out]
    for probe in fact.probes:
        other = new if probe.kind in KEPT and probe.kind != "attribute" else old
        other = "" if other is None or other == probe.answer else other
        found.append(Question(probe.kind, probe.prompt, probe.answer, other))
    given = {probe.kind for probe in fact.probes}
    for kind in ("neighbour", "sister", "unrelated"):
        if kind in given or not per_kind:
            continue
        near = [one for one in pool if one.id not in without and _is(kind, one, fact)]
        drawn = random.Random(f"{seed} {fact.id} {kind}").sample(near, min(per_kind, len(near)))
        for one in drawn:
            found.append(
                Question(kind, one.prompts[0], one.answer, "" if new in (None, one.answer) else str(new))
            )
    return found


def _is(kind: str, one: Fact, fact: Fact) -> bool:
    if one.id == fact.id or (fact.subject and one.subject == fact.subject):
        return False
    if kind == "unrelated":
        return one.relation != fact.relation
    return (
        bool(fact.relation)
        and one.relation == fact.relation
        and (one.answer == fact.answer) == (kind == "neighbour")
    )


@dataclass(frozen=True, eq=False)
class Figures:
    """What a model says to the questions of a sheet, one entry a question.

    Args:
        answer: Log probability of the answer, float64.
        other: Log probability of what it competes with; NaN where there is nothing.
        right: Whether every token of the answer is the most likely one.
        top: The most likely (first) token.
    """

    answer: Tensor
    other: Tensor
    right: Tensor
    top: Tensor


class Sheet:
    """The questions about one fact, encoded once and asked of the model in every state.

    Questions that cannot be encoded are left out and listed in ``problems``.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, fact: Fact, asked: Sequence[Question]) -> None:
        self.fact, self.problems = fact, list[str]()
        self.questions = list(asked)
        try:
            self._encode(model, tokenizer)
        except NeuronwiseError:
            self.questions = [one for one in asked if self._possible(model, tokenizer, one)]
            if self.questions:
                self._encode(model, tokenizer)

    @property
    def editable(self) -> bool:
        """Whether the fact's own prompts are among the questions."""
        return any(question.kind == "edit" for question in self.questions)

    def ask(self, model: nn.Module, batch_size: int) -> Figures:
        """Return what the model says now."""
        device = next(model.parameters()).device
        parts: list[tuple[Tensor, ...]] = []
        with torch.no_grad(), untouched(model):
            for start in range(0, len(self.questions), batch_size):
                rows = slice(start, start + batch_size)
                parts.append(
                    _asked(model, self._answers.select(rows).to(device), self._others.select(rows).to(device))
                )
        answer, other, right, top = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
        missing = torch.tensor([not question.other for question in self.questions])
        return Figures(answer, other.masked_fill(missing, torch.nan), right, top)

    def _encode(self, model: nn.Module, tokenizer: Any) -> None:
        prompts = [question.prompt for question in self.questions]
        answers = [question.answer for question in self.questions]
        others = [question.other or question.answer for question in self.questions]
        self._answers = encode(tokenizer, model, prompts, answers, multi_token=True)
        self._others = encode(tokenizer, model, prompts, others, multi_token=True)

    def _possible(self, model: nn.Module, tokenizer: Any, question: Question) -> bool:
        try:
            for answer in {question.answer, question.other or question.answer}:
                encode(tokenizer, model, [question.prompt], [answer], multi_token=True)
        except NeuronwiseError as error:
            self.problems.append(str(error))
            return False
        return True


def _asked(model: nn.Module, answers: Prompts, others: Prompts) -> tuple[Tensor, ...]:
    output = call_model(model, answers.inputs)
    values, right = token_log_probs(output, answers)
    first = first_log_probs(output, answers)
    if answers.answers.shape[1] == others.answers.shape[1] == 1:
        # With one token each, both answers are read from the same pass.
        other = first.gather(1, others.answers)[:, 0]
    else:
        other = token_log_probs(call_model(model, others.inputs), others)[0].sum(1)
    return values.cpu().double().sum(1), other.cpu().double(), right.all(1), first.argmax(1)
