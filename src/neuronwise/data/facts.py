"""Facts, and one call that reads them from whatever file a user has."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from neuronwise.data._facts_edits import read_counterfact
from neuronwise.data._facts_lines import collect, locate, parse_file, short_name
from neuronwise.data._facts_list import Facts, part_of
from neuronwise.data._facts_pararel import Relation, read_fact_model, read_pararel, read_relations
from neuronwise.data._facts_types import PROBE_KINDS, SLOT, Fact, Probe
from neuronwise.errors import DataError
from neuronwise.files import atomic_file

__all__ = [
    "PROBE_KINDS",
    "SLOT",
    "Fact",
    "Facts",
    "Probe",
    "Relation",
    "facts",
    "read_counterfact",
    "read_fact_model",
    "read_facts",
    "read_pararel",
    "read_relations",
    "write_facts",
]


def facts(
    source: str | Path | Facts | Iterable[Fact | Mapping[str, Any]],
    *,
    causal: bool = False,
    held_out: int = 1,
    limit: int | None = None,
    relations_only: Iterable[str] | None = None,
    seed: int = 0,
) -> Facts:
    """Return facts from a file or folder of any known kind, which is found out by looking.

    ======================================  ==========================================================
    source                                  read by
    ======================================  ==========================================================
    JSON lines with ``prompts``             :func:`read_facts`
    folder with patterns and triples        :func:`read_pararel`
    JSON with ``requested_rewrite``         :func:`read_counterfact`
    folder of a model with ``facts.json``   :func:`read_fact_model`
    ``Fact`` objects, or mappings           as they are
    ======================================  ==========================================================

    Args:
        source: The file or folder, one of ``"fact-gpt"``, ``"fact-bert"``, ``"facts-pararel"`` and ``"facts-edits"``,
            which come with the package, or facts.
        causal: For PARAREL: use only patterns that end with the slot.
        held_out: For PARAREL: how many patterns of each relation to hold out.
        limit: At most this many facts of each relation, drawn by chance.
        relations_only: Only the facts of these relations.
        seed: Of the patterns held out and the facts drawn.

    Raises:
        DataError: If there is nothing there, or it is of no known kind.
        FactError: If facts given as objects cannot be used, or a relation is not there.

    Example:
        >>> facts("fact-gpt", relations_only=["P36"], limit=3)
        <Facts 'fact-gpt': 3 facts of 1 relations>
    """
    if not isinstance(source, str | Path):
        given = source if isinstance(source, Facts) else Facts(map(_fact, source))
        return part_of(given, limit=limit, relations_only=relations_only, seed=seed)
    place = locate(source)
    kind = _kind(place)
    if kind == "pararel":
        return read_pararel(
            place, causal=causal, held_out=held_out, limit=limit, relations_only=relations_only, seed=seed
        )
    read = {"facts": read_facts, "counterfact": read_counterfact, "model": read_fact_model}[kind]
    return part_of(read(place), limit=limit, relations_only=relations_only, seed=seed)


def read_facts(path: str | Path) -> Facts:
    """Read facts from JSON lines: one object a line, with the fields of :class:`Fact`.

    A line that cannot be used is left out: ``facts.problems`` has its number and what is wrong with it,
    ``facts.skipped`` how many there are. A field that no fact has is such an error, as it is mostly a misspelt one.

    Args:
        path: The file (``.jsonl``), plain or compressed with gzip, UTF-8.

    Raises:
        DataError: If the file cannot be read.
        FactError: If there is not a single fact in it.
    """
    place = locate(path)
    return collect(parse_file(place), Fact.from_dict, place, short_name(place))


def write_facts(facts: Iterable[Fact], path: str | Path) -> None:
    """Write facts as JSON lines, which :func:`read_facts` reads; the file appears only when it is whole.

    Args:
        facts: The facts.
        path: Where to write; a name that ends in ``.gz`` is compressed.

    Raises:
        FactError: If two facts have the same id.
        WriteError: If the file cannot be written; an old one is then untouched.
    """
    lines = [json.dumps(fact.to_dict(), ensure_ascii=False) + "\n" for fact in Facts(facts)]
    whole = "".join(lines).encode()
    with atomic_file(path) as temporary:
        # Without a time in it, the same facts give the same bytes.
        temporary.write_bytes(gzip.compress(whole, mtime=0) if str(path).endswith(".gz") else whole)


def _fact(value: Fact | Mapping[str, Any]) -> Fact:
    return value if isinstance(value, Fact) else Fact.from_dict(value)


def _kind(place: Path) -> str:
    if place.is_dir():
        names = {path.name.removesuffix(".gz") for path in place.iterdir()}
        for name, kind in (
            ("facts.json", "model"),
            ("triples.jsonl", "pararel"),
            ("edits.jsonl", "counterfact"),
        ):
            if name in names:
                return kind
        raise DataError(
            f"The folder {place} has no facts: neither facts.json (a fact model), nor triples.jsonl and "
            "relations.jsonl (PARAREL), nor edits.jsonl (CounterFact)."
        )
    if place.name == "facts.json":
        return "model"
    for _, value in parse_file(place):
        if isinstance(value, Mapping):
            return _kind_of_row(value)
    return "facts"


def _kind_of_row(row: Mapping[str, Any]) -> str:
    if "requested_rewrite" in row:
        return "counterfact"
    return "pararel" if {"sub", "obj"} <= row.keys() else "facts"
