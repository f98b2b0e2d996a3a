"""Facts of PARAREL: triples and the patterns of their relations; and the list of them beside a fact model."""

from __future__ import annotations

import json
import random
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuronwise.data._facts_lines import (
    beside,
    collect,
    field_of,
    locate,
    parse_file,
    read_bytes,
    short_name,
    texts_of,
)
from neuronwise.data._facts_list import Facts, part_of, wanted
from neuronwise.data._facts_types import SLOT, Fact
from neuronwise.errors import DataError, FactError, InvalidArgumentError, closest

__all__ = ["Relation", "read_fact_model", "read_pararel", "read_relations"]

# Stands in a pattern where the subject belongs.
_SUBJECT = "[X]"

# Patterns to use, and patterns that are held out.
_Split = tuple[tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation of PARAREL: the patterns that state it.

    Args:
        id: Its Wikidata property, such as ``"P36"``.
        label: Its name, such as ``"capital"``.
        patterns: Texts with the subject as ``[X]`` and the answer as ``[Y]``.
    """

    id: str
    label: str
    patterns: tuple[str, ...]

    def split(self, *, held_out: int = 1, causal: bool = False, seed: int = 0) -> _Split:
        """Return the patterns to use and those to hold out.

        Patterns that differ only in what follows the slot, or in spaces, are never parted.

        Args:
            held_out: How many patterns to hold out; one at least is kept for use.
            causal: Use only patterns that end with the slot (but for a full stop), cut off right after it.
            seed: Of the draw; every relation has a draw of its own.
        """
        alike: dict[str, list[str]] = {}
        for pattern in self.patterns:
            before, _, after = pattern.partition(SLOT)
            ends = not any(letter.isalnum() for letter in after)
            if ends or not causal:
                key = " ".join((before if ends else pattern).split())
                alike.setdefault(key, []).append(before + SLOT if causal else pattern)
        groups = {key: texts[:1] if causal else texts for key, texts in alike.items()}
        count = max(min(held_out, len(groups) - 1), 0)
        chosen = set(random.Random(f"{seed} {self.id}").sample(sorted(groups), count))
        used = [text for key, texts in groups.items() if key not in chosen for text in texts]
        held = [text for key, texts in groups.items() if key in chosen for text in texts]
        return tuple(dict.fromkeys(used)), tuple(dict.fromkeys(held))


def read_relations(source: str | Path) -> dict[str, Relation]:
    """Return the relations of a PARAREL folder, by id.

    Args:
        source: The folder, or its file of relations: JSON lines with ``relation``, ``label`` and ``patterns``.

    Raises:
        DataError: If the file is missing or has no relation; here a bad line is an error, as whole relations would be
            missing otherwise.

    Example:
        >>> relations = read_relations("facts-pararel")
        >>> relations["P36"].label, relations["P36"].patterns[0]
        ('capital', 'The capital of [X] is [Y] .')
    """
    place = locate(source)
    path = beside(place, "relations") if place.is_dir() else place
    found: dict[str, Relation] = {}
    for where, row in parse_file(path):
        try:
            if isinstance(row, FactError):
                raise row
            relation = _relation(row)
        except FactError as error:
            raise DataError(f"{path}, {where}: {error}") from error
        found[relation.id] = relation
    if not found:
        raise DataError(f"There is no relation in {path}.")
    return found


def read_pararel(
    source: str | Path,
    relations: str | Path | None = None,
    *,
    causal: bool = False,
    held_out: int = 1,
    limit: int | None = None,
    relations_only: Iterable[str] | None = None,
    seed: int = 0,
) -> Facts:
    """Read facts of PARAREL: triples, each in all the patterns of its relation.

    Args:
        source: A folder with ``relations.jsonl`` and ``triples.jsonl`` (or ``.jsonl.gz``), or the file of triples: JSON
            lines with ``relation``, ``sub``, ``obj`` and, if it has one, ``uuid``. ``"facts-pararel"`` is a part
            of it that comes with the package.
        relations: The file of relations; None looks beside the triples.
        causal: Use only patterns that end with the slot, cut off right after it, as causal models need them.
        held_out: How many patterns of each relation go to ``held_out``; at least one stays in ``prompts``.
        limit: At most this many facts of each relation, drawn by chance.
        relations_only: Read only these relations.
        seed: Of which patterns are held out and which facts are drawn.

    Raises:
        DataError: If a file is missing or unreadable, or there is no fact in it.
        FactError: If a relation of ``relations_only`` is not there.

    Example:
        >>> facts = read_pararel("facts-pararel", causal=True, relations_only=["P36"], limit=2)
        >>> len(facts), facts[0].relation, facts[0].prompts[0].endswith("[Y]")
        (2, 'P36', True)
    """
    if held_out < 0:
        raise InvalidArgumentError(f"held_out must be 0 or more, not {held_out}.")
    place = locate(source)
    triples = beside(place, "triples") if place.is_dir() else place
    known = read_relations(relations or (place if place.is_dir() else beside(place.parent, "relations")))
    chosen = wanted(relations_only, known)
    split = {name: known[name].split(held_out=held_out, causal=causal, seed=seed) for name in chosen}

    def make(row: Any) -> Fact | None:
        name = texts_of(row, "relation")[0]
        return None if name in known and name not in split else _triple(row, split, known)

    facts = collect(parse_file(triples), make, triples, short_name(place))
    return part_of(facts, limit=limit, seed=seed)


def read_fact_model(folder: str | Path) -> Facts:
    """Read the facts that a fact model was trained on: ``facts.json`` in its folder.

    Patterns that were held out of training become ``held_out``. For causal models (``kind`` is ``"gpt"``) the text
    after the slot is cut off.

    Args:
        folder: The model's folder or that file, or ``"fact-gpt"`` or ``"fact-bert"``, which come with the package.

    Raises:
        DataError: If the file is missing, is not of this form, or there is no fact in it.

    Example:
        >>> len(read_fact_model("fact-bert"))
        999
    """
    place = locate(folder)
    path = place / "facts.json" if place.is_dir() else place
    try:
        whole = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON ({error}).") from error
    forms = {"kind": str, "facts": list, "relations": dict}
    if not isinstance(whole, dict) or not all(isinstance(whole.get(k), form) for k, form in forms.items()):
        raise DataError(f"{path} is not the list of a fact model: an object with kind, facts and relations.")
    causal = whole["kind"] == "gpt"
    patterns = {name: _patterns(path, name, entry, causal) for name, entry in whole["relations"].items()}

    rows = ((f"fact {number}", row) for number, row in enumerate(whole["facts"], 1))
    return collect(rows, lambda row: _triple(row, patterns, patterns), path, short_name(path.parent))


def _triple(row: Any, split: Mapping[str, _Split], known: Iterable[str]) -> Fact:
    relation, subject, answer = texts_of(row, "relation", "sub", "obj")
    if relation not in split:
        raise FactError(f"there are no patterns for the relation {relation!r}. {closest(relation, known)}")
    used, held = split[relation]
    if not used:
        raise FactError(f"no pattern of {relation!r} ends with the slot, as a causal model needs it.")
    return Fact(
        prompts=tuple(pattern.replace(_SUBJECT, subject) for pattern in used),
        answer=answer,
        id=row.get("uuid") or "",
        relation=relation,
        subject=subject,
        held_out=tuple(pattern.replace(_SUBJECT, subject) for pattern in held),
    )


def _relation(row: Any) -> Relation:
    (name,) = texts_of(row, "relation")
    patterns = field_of(row, "patterns")
    if not isinstance(patterns, list) or not patterns:
        raise FactError("'patterns' must be a list of texts.")
    for pattern in patterns:
        if not isinstance(pattern, str) or pattern.count(SLOT) != 1 or pattern.count(_SUBJECT) != 1:
            raise FactError(
                f"the pattern {reprlib.repr(pattern)} must be text with {_SUBJECT} and {SLOT} once each."
            )
    label = row.get("label", "")
    return Relation(name, label if isinstance(label, str) else "", tuple(patterns))


def _patterns(path: Path, name: str, entry: Any, causal: bool) -> _Split:
    try:
        used = _relation({"relation": name, "patterns": field_of(entry, "train_patterns")}).patterns
        held = field_of(entry, "heldout_patterns")
        held = _relation({"relation": name, "patterns": held}).patterns if held else ()
    except FactError as error:
        raise DataError(f"{path}, relation {name}: {error}") from error
    if causal:
        used = tuple(text.partition(SLOT)[0] + SLOT for text in used)
        held = tuple(text.partition(SLOT)[0] + SLOT for text in held)
    return tuple(dict.fromkeys(used)), tuple(text for text in dict.fromkeys(held) if text not in used)
