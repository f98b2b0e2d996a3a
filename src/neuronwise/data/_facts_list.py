"""Facts: the immutable sequence that every reader returns."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, overload

from neuronwise.data._facts_types import Fact
from neuronwise.errors import FactError, InvalidArgumentError, closest

__all__ = ["Facts", "part_of", "wanted"]


class Facts(Sequence[Fact]):
    """An immutable sequence of facts, no two with the same id; a slice of it is one as well.

    Args:
        facts: The facts.
        name: A short name for reports.
        problems: What was wrong with the lines that could not be read, one text a line.

    Raises:
        FactError: If an id occurs twice, or something is no fact.

    Example:
        >>> known = Facts([Fact(["The capital of France is [Y]"], "Paris", id="a", relation="capital"),
        ...                Fact(["The capital of Spain is [Y]"], "Madrid", id="b", relation="capital")])
        >>> len(known), known["b"].answer, [fact.id for fact in known.sisters(known[0])]
        (2, 'Madrid', ['b'])
    """

    def __init__(
        self, facts: Iterable[Fact] = (), *, name: str = "facts", problems: Iterable[str] = ()
    ) -> None:
        self._facts = tuple(facts)
        self._name = name
        self._problems = tuple(problems)
        self._by_id: dict[str, Fact] = {}
        for fact in self._facts:
            if not isinstance(fact, Fact):
                raise FactError(f"Facts are made of Fact objects, not {type(fact).__name__}.")
            if fact.id in self._by_id:
                raise FactError(f"Two facts have the id {fact.id!r}; give each its own.")
            self._by_id[fact.id] = fact

    @overload
    def __getitem__(self, key: int | str) -> Fact: ...

    @overload
    def __getitem__(self, key: slice) -> Facts: ...

    def __getitem__(self, key: int | str | slice) -> Fact | Facts:
        """Return a fact by position or by id, or several by slice.

        Raises:
            FactError: If no fact has that id.
        """
        if isinstance(key, str):
            if key not in self._by_id:
                raise FactError(f"There is no fact {key!r} in {self._name!r}. {closest(key, self._by_id)}")
            return self._by_id[key]
        if isinstance(key, slice):
            return Facts(self._facts[key], name=self._name)
        return self._facts[key]

    def __len__(self) -> int:
        return len(self._facts)

    def __iter__(self) -> Iterator[Fact]:
        return iter(self._facts)

    def __contains__(self, value: object) -> bool:
        return value in self._by_id if isinstance(value, str) else value in self._facts

    def __eq__(self, other: object) -> bool:
        return self._facts == other._facts if isinstance(other, Facts) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._facts)

    def __repr__(self) -> str:
        skipped = f", {self.skipped} bad lines skipped" if self.skipped else ""
        return f"<Facts {self._name!r}: {len(self)} facts of {len(self._relations)} relations{skipped}>"

    @property
    def name(self) -> str:
        """A short name for reports."""
        return self._name

    @property
    def problems(self) -> tuple[str, ...]:
        """What was wrong with each line that was left out, such as ``"line 17: no field 'answer'."``."""
        return self._problems

    @property
    def skipped(self) -> int:
        """The number of lines that were left out because they could not be used."""
        return len(self._problems)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the facts in their order; not of the file's place or format."""
        digest = hashlib.sha256()
        for fact in self._facts:
            digest.update(json.dumps(fact.to_dict(), sort_keys=True).encode() + b"\n")
        return digest.hexdigest()

    def by_relation(self) -> Mapping[str, Facts]:
        """Return the facts of each relation, in order of appearance; those without one are under ``""``."""
        return self._relations

    def sisters(self, fact: Fact, n: int | None = None, *, seed: int = 0) -> Facts:
        """Return facts of the same relation with another answer (and another subject, where it is known).

        Args:
            fact: The fact, which need not be one of these.
            n: At most this many, drawn by chance; None gives all.
            seed: Of the draw; every fact has a draw of its own.

        Raises:
            InvalidArgumentError: If ``n`` is negative.
        """
        if n is not None and n < 0:
            raise InvalidArgumentError(f"n must be 0 or more, not {n}.")
        same = self._relations.get(fact.relation, ()) if fact.relation else ()
        found = [
            other
            for other in same
            if other.answer != fact.answer and not (fact.subject and other.subject == fact.subject)
        ]
        if n is not None and n < len(found):
            chosen = random.Random(f"{seed} {fact.id}").sample(range(len(found)), n)
            found = [found[place] for place in sorted(chosen)]
        return Facts(found, name=self._name)

    def describe(self) -> dict[str, Any]:
        """Return a description for a manifest, ready for JSON."""
        return {
            "name": self._name,
            "facts": len(self),
            "relations": {relation: len(facts) for relation, facts in self._relations.items()},
            "skipped": self.skipped,
            "fingerprint": self.fingerprint,
        }

    @cached_property
    def _relations(self) -> Mapping[str, Facts]:
        grouped: dict[str, list[Fact]] = {}
        for fact in self._facts:
            grouped.setdefault(fact.relation, []).append(fact)
        return MappingProxyType({name: Facts(facts, name=self._name) for name, facts in grouped.items()})


def part_of(
    facts: Facts, *, limit: int | None = None, relations_only: Iterable[str] | None = None, seed: int = 0
) -> Facts:
    """Return the facts of some relations, and at most so many of each, drawn by chance but in their old order.

    Raises:
        FactError: If a relation is not there.
        InvalidArgumentError: If the limit is negative.
    """
    if limit is not None and limit < 0:
        raise InvalidArgumentError(f"limit must be 0 or more, not {limit}.")
    groups = facts.by_relation()
    kept: set[str] = set()
    for name in wanted(relations_only, groups):
        ids = [fact.id for fact in groups[name]]
        few = limit is not None and limit < len(ids)
        kept.update(random.Random(f"{seed} {name}").sample(ids, limit or 0) if few else ids)
    if len(kept) == len(facts):
        return facts
    return Facts((fact for fact in facts if fact.id in kept), name=facts.name, problems=facts.problems)


def wanted(names: Iterable[str] | None, known: Collection[str]) -> list[str]:
    if names is None:
        return list(known)
    if isinstance(names, str):
        raise InvalidArgumentError(f"relations_only must be a list of relations, such as [{names!r}].")
    chosen = list(dict.fromkeys(names))
    for name in chosen:
        if name not in known:
            raise FactError(f"There is no relation {name!r}. {closest(name, known)}")
    return chosen
