"""On what an effect is measured: the fact's own prompts, those held out, and prompts that are about something else."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from neuronwise.data import SLOT, Fact, Facts, Probe, Prompts, encode
from neuronwise.errors import FactError, InvalidArgumentError, NeuronwiseError

__all__ = ["EFFECT_PROBES", "Question", "Sheet", "Sheets", "as_questions"]

#: On what an effect is measured, in the order in which it is shown.
EFFECT_PROBES = ("own", "held_out", "neighbour", "sister", "other", "unrelated")

_TRIES = 10  # facts looked at for each that is wanted, where many cannot be encoded


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt with its answer, and what it is asked for."""

    probe: str
    prompt: str
    answer: str


@dataclass(frozen=True, eq=False)
class Sheet:
    """What is asked about one fact, encoded; and why some of it could not be.

    Args:
        questions: The questions, as many as there are prompts.
        prompts: The same as a batch; None if none of the fact's own prompts could be encoded.
        problems: ``(probe, prompt, reason)``.
    """

    questions: list[Question]
    prompts: Prompts | None
    problems: list[tuple[str, str, str]]


@dataclass
class Sheets:
    """Makes the sheets of facts.

    Args:
        model: The language model.
        tokenizer: Its tokenizer.
        pool: Facts from which sister facts and facts of other relations are drawn.
        sisters: How many sister facts a fact.
        others: How many facts of other relations.
        unrelated: Further questions, for every fact the same.
        multi_token: Allow answers of several tokens; those of unrelated questions always may have several.
        seed: Of the draws; every fact has draws of its own.
    """

    model: nn.Module
    tokenizer: Any
    pool: Facts
    sisters: int
    others: int
    unrelated: Sequence[Question]
    multi_token: bool
    seed: int
    _reasons: dict[tuple[bool, str, str], str] = field(default_factory=dict)

    def of(self, fact: Fact) -> Sheet:
        """Return what is asked about a fact."""
        asked = [Question("own", prompt, fact.answer) for prompt in fact.prompts]
        asked += [Question("held_out", prompt, fact.answer) for prompt in fact.held_out]
        given = [probe for probe in fact.probes if probe.kind in EFFECT_PROBES]
        asked += [Question(probe.kind, probe.prompt, probe.answer) for probe in given]
        if not any(probe.kind == "sister" for probe in given):
            asked += self._drawn("sister", fact, self.pool.sisters(fact), self.sisters)
        asked += self._drawn("other", fact, self._elsewhere(fact), self.others)
        asked += [question for question in self.unrelated if question.answer != fact.answer]
        fine = [question for question in asked if not self.reason(question)]
        problems = [(q.probe, q.prompt, self.reason(q)) for q in asked if self.reason(q)]
        if not any(question.probe == "own" for question in fine):
            return Sheet(fine, None, problems)
        # Each has been looked at by itself; together they are taken as they are.
        return Sheet(fine, self._encode(fine, multi_token=True), problems)

    def reason(self, question: Question) -> str:
        """Return why a question cannot be encoded; empty if it can."""
        key = (question.probe == "unrelated", question.prompt, question.answer)
        if key not in self._reasons:
            try:
                self._encode([question], multi_token=self.multi_token or question.probe == "unrelated")
                self._reasons[key] = ""
            except NeuronwiseError as error:
                self._reasons[key] = str(error)
        return self._reasons[key]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reasons": {}}

    def _encode(self, questions: Sequence[Question], *, multi_token: bool) -> Prompts:
        texts, answers = [q.prompt for q in questions], [q.answer for q in questions]
        return encode(self.tokenizer, self.model, texts, answers, multi_token=multi_token)

    def _elsewhere(self, fact: Fact) -> list[Fact]:
        """Return facts of other relations, in an order of chance; as many as may be looked at."""
        chance, found = random.Random(f"{self.seed} {fact.id} other"), list[Fact]()
        for _ in range(4 * _TRIES * self.others if len(self.pool) else 0):
            one = self.pool[chance.randrange(len(self.pool))]
            if one.relation != fact.relation and one.answer != fact.answer and one not in found:
                found.append(one)
        return found

    def _drawn(self, probe: str, fact: Fact, near: Sequence[Fact], count: int) -> Iterator[Question]:
        """Yield one question about each of ``count`` facts: a prompt held out, where there is one."""
        chance = random.Random(f"{self.seed} {fact.id} {probe}")
        for one in chance.sample(near, min(len(near), _TRIES * count)):
            if count == 0:
                return
            question = Question(probe, (one.held_out or one.prompts)[0], one.answer)
            if not self.reason(question):
                count -= 1
                yield question


def as_questions(unrelated: Iterable[Any]) -> list[Question]:
    """Return prompts that have nothing to do with the facts as questions.

    Args:
        unrelated: Facts (each asks its first prompt), probes, pairs of a prompt and its answer, or plain texts, of
            which the last word is the answer.

    Raises:
        FactError: If a text has no two words, or a pair is no prompt with its answer.
        InvalidArgumentError: If something else is given.
    """
    if isinstance(unrelated, str):
        raise InvalidArgumentError(f"unrelated must be a list, such as [{unrelated!r}].")
    found = []
    for one in unrelated:
        if isinstance(one, Fact):
            found.append(Question("unrelated", one.prompts[0], one.answer))
        elif isinstance(one, Probe):
            found.append(Question("unrelated", one.prompt, one.answer))
        elif isinstance(one, str):
            found.append(_last_word(one))
        elif isinstance(one, tuple | list) and len(one) == 2:
            probe = Probe("unrelated", *one)
            found.append(Question("unrelated", probe.prompt, probe.answer))
        else:
            raise InvalidArgumentError(
                f"unrelated must hold facts, probes, pairs (prompt, answer) or texts, not {type(one).__name__}."
            )
    return found


def _last_word(text: str) -> Question:
    before, _, last = text.strip().rpartition(" ")
    word = last.rstrip(".,;:!?\"'")
    if SLOT in text or not before or not word:
        raise FactError(
            f"Of {text!r} the last word should be the answer. Write a text of several words without {SLOT}, or give "
            "the pair (prompt, answer)."
        )
    return Question("unrelated", f"{before} {SLOT}", word)
