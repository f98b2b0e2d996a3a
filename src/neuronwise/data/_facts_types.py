"""What a fact is: prompts with a slot, an answer, and what else must hold after an edit."""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from neuronwise.errors import FactError, closest

__all__ = ["PROBE_KINDS", "SLOT", "Fact", "Probe", "check_answer", "check_prompt"]

# Stands in a prompt where the answer belongs.
SLOT = "[Y]"

# What a probe asks for. After an edit the answer of the first four must be what it was before ("attribute": other
# subjects that have the new answer already), that of the others is what the edit must bring about.
PROBE_KINDS = (
    "attribute",
    "neighbour",
    "sister",
    "unrelated",
    "paraphrase",
    "portability",
    "symmetry",
    "synonymy",
)

_NESTED = "A contrast fact must not have contrast facts itself."


@dataclass(frozen=True, slots=True)
class Probe:
    """A prompt that shows what an edit did beside its aim.

    Args:
        kind: ``"neighbour"``, ``"sister"``, ``"unrelated"`` or ``"attribute"``: the answer must stay; or
            ``"paraphrase"``, ``"portability"``, ``"symmetry"`` or ``"synonymy"``: it is the right one after the edit.
        prompt: Text with one slot, ``[Y]``.
        answer: What belongs in the slot.

    Raises:
        FactError: If the kind is unknown, or prompt or answer cannot be used.

    Example:
        >>> Probe("neighbour", "The capital of Spain is [Y]", "Madrid").answer
        'Madrid'
    """

    kind: str
    prompt: str
    answer: str

    def __post_init__(self) -> None:
        _check_text("kind", self.kind)
        if self.kind not in PROBE_KINDS:
            raise FactError(f"There is no kind of probe {self.kind!r}. {closest(self.kind, PROBE_KINDS)}")
        check_prompt(self.prompt)
        check_answer(self.answer)

    def to_dict(self) -> dict[str, str]:
        """Return the probe ready for JSON."""
        return {"kind": self.kind, "prompt": self.prompt, "answer": self.answer}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Probe:
        """Return the probe that :meth:`to_dict` gave.

        Raises:
            FactError: If a field is missing, unknown or of a wrong form.
        """
        return cls(**_checked(values, cls, ("kind", "prompt", "answer")))


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that a model may know: prompts that all have the same answer.

    Args:
        prompts: Texts with one slot, ``[Y]``, such as ``"The capital of France is [Y]"``.
        answer: What belongs in the slot.
        id: A name that no other fact has; without one it is made of the content.
        relation: What subject and answer have to do with each other, such as ``"P36"``; facts of one relation with
            other answers are the fact's sisters.
        subject: What the fact is about.
        held_out: Further prompts, never used to find or edit anything, only to measure.
        new_answer: What an edit shall put in the answer's place.
        probes: Prompts that show what an edit did beside its aim.
        contrast: Facts whose neurons shall not count as this one's; they have none themselves.

    Raises:
        FactError: If there is no prompt, a prompt has not exactly one slot, or a field is of a wrong form.

    Example:
        >>> fact = Fact(["The capital of France is [Y]", "[Y] is the capital of France"], "Paris")
        >>> len(fact.prompts), fact.answer, fact.id
        (2, 'Paris', '1767c774081f4de4')
    """

    prompts: tuple[str, ...]
    answer: str
    id: str = ""
    relation: str = ""
    subject: str = ""
    held_out: tuple[str, ...] = ()
    new_answer: str | None = None
    probes: tuple[Probe, ...] = ()
    contrast: tuple[Fact, ...] = ()

    def __post_init__(self) -> None:
        for name, kind in (("prompts", str), ("held_out", str), ("probes", Probe), ("contrast", Fact)):
            object.__setattr__(self, name, _tuple(name, getattr(self, name), kind))
        if any(fact.contrast for fact in self.contrast):
            raise FactError(_NESTED)
        if not self.prompts:
            raise FactError(f"A fact needs at least one prompt, a text with {SLOT} where the answer belongs.")
        for prompt in (*self.prompts, *self.held_out):
            check_prompt(prompt)
        check_answer(self.answer)
        for name in ("id", "relation", "subject"):
            _check_text(name, getattr(self, name))
        if self.new_answer is not None:
            check_answer(self.new_answer, "new_answer")
            if self.new_answer == self.answer:
                raise FactError(f"new_answer is {self.answer!r}, which is the answer already.")
        if not self.id:
            content = json.dumps(self._content(), sort_keys=True)
            object.__setattr__(self, "id", hashlib.sha256(content.encode()).hexdigest()[:16])

    def to_dict(self) -> dict[str, Any]:
        """Return the fact ready for JSON, without what is empty."""
        return {"id": self.id, **self._content()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Fact:
        """Return the fact that :meth:`to_dict` gave.

        Raises:
            FactError: If a field is missing, unknown or of a wrong form.
        """
        found = _checked(values, cls, ("prompts", "answer"))
        if "probes" in found:
            found["probes"] = map(Probe.from_dict, _tuple("probes", found["probes"], Mapping))
        if "contrast" in found:
            entries = _tuple("contrast", found["contrast"], Mapping)
            # Checked before the facts are made, so that no file can nest them without end.
            if any(entry.get("contrast") for entry in entries):
                raise FactError(_NESTED)
            found["contrast"] = map(cls.from_dict, entries)
        return cls(**found)

    def _content(self) -> dict[str, Any]:
        content = {
            "relation": self.relation,
            "subject": self.subject,
            "prompts": list(self.prompts),
            "answer": self.answer,
            "held_out": list(self.held_out),
            "new_answer": self.new_answer,
            "probes": [probe.to_dict() for probe in self.probes],
            "contrast": [fact.to_dict() for fact in self.contrast],
        }
        return {name: value for name, value in content.items() if value}


def check_prompt(prompt: str) -> None:
    _check_text("prompt", prompt)
    slots = prompt.count(SLOT)
    if slots != 1:
        have = "no slot" if slots == 0 else f"{slots} slots"
        raise FactError(
            f"The prompt {prompt!r} has {have}: write {SLOT} once, in the place where the answer belongs."
        )


def check_answer(answer: str, name: str = "answer") -> None:
    _check_text(name, answer)
    if not answer or answer != answer.strip():
        raise FactError(
            f"The {name} must be text without space around it, not {answer!r}; "
            "the space before it belongs to the prompt."
        )


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise FactError(f"{name!r} must be text, not {_short(value)}.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise FactError(f"{name!r} is not valid Unicode: {_short(value)}.") from error


def _tuple(name: str, value: Any, kind: type) -> tuple[Any, ...]:
    # A text is a sequence of letters, which is never what was meant.
    usual = isinstance(value, list | tuple)
    if not usual and (isinstance(value, str | Mapping) or not isinstance(value, Iterable)):
        raise FactError(f"{name!r} must be a list, not {_short(value)}.")
    found = tuple(value)
    for entry in found:
        if not isinstance(entry, kind):
            wanted = {"str": "texts", "Mapping": "objects"}.get(kind.__name__, f"{kind.__name__} objects")
            raise FactError(f"{name!r} must be a list of {wanted}; one of them is {_short(entry)}.")
    return found


def _checked(values: Any, cls: type[Any], required: tuple[str, ...]) -> dict[str, Any]:
    what = cls.__name__.lower()
    if not isinstance(values, Mapping):
        raise FactError(f"a {what} must be an object with {' and '.join(required)}, not {_short(values)}.")
    known = [field.name for field in fields(cls)]
    for name in values:
        if name not in known:
            raise FactError(f"a {what} has no field {name!r}. {closest(str(name), known)}")
    for name in required:
        if name not in values:
            raise FactError(f"the {what} has no {name!r}.")
    return dict(values)


def _short(value: object) -> str:
    # Values out of files may be nested to any depth, which repr would follow.
    return f"{type(value).__name__} {reprlib.repr(value)}"
