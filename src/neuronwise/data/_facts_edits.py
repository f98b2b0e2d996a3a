"""Edit requests of CounterFact as facts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuronwise.data._facts_lines import beside, collect, field_of, locate, parse_file, short_name, texts_of
from neuronwise.data._facts_list import Facts
from neuronwise.data._facts_types import SLOT, Fact, Probe
from neuronwise.errors import FactError

__all__ = ["read_counterfact"]


def read_counterfact(source: str | Path) -> Facts:
    """Read edit requests of CounterFact: JSON lines, or one JSON list.

    ``target_true`` becomes the answer and ``target_new`` the new one; paraphrases are held out; prompts of the
    neighbourhood become probes ``"neighbour"`` with the true answer, attribute prompts probes ``"attribute"`` with the
    new one.

    Args:
        source: The file, plain or compressed with gzip, or a folder with ``edits.jsonl``. ``"facts-edits"`` has
            requests that fit the fact models of the package.

    Raises:
        DataError: If the file is missing or unreadable, or there is no request in it.

    Example:
        >>> fact = read_counterfact("facts-edits")[0]
        >>> fact.new_answer is not None, fact.prompts[0].endswith("[Y]")
        (True, True)
    """
    place = locate(source)
    path = beside(place, "edits") if place.is_dir() else place
    return collect(parse_file(path), _edit, path, short_name(place))


def _edit(row: Any) -> Fact:
    request = field_of(row, "requested_rewrite")
    prompt, subject = texts_of(request, "prompt", "subject")
    old, new = (texts_of(field_of(request, name), "str")[0].strip() for name in ("target_true", "target_new"))
    if prompt.count("{}") != 1:
        raise FactError(f"the prompt {prompt!r} must have {{}} once, in the subject's place.")
    case, relation = row.get("case_id"), request.get("relation_id", "")
    if not isinstance(case, int | str | None):
        raise FactError(f"'case_id' must be a number or text, not {type(case).__name__}.")
    probes = [Probe("neighbour", text, old) for text in _completions(row, "neighborhood_prompts")]
    probes += [Probe("attribute", text, new) for text in _completions(row, "attribute_prompts")]
    return Fact(
        prompts=(_with_slot(prompt.replace("{}", subject)),),
        answer=old,
        id="" if case is None else str(case),
        relation=relation,
        subject=subject,
        held_out=_completions(row, "paraphrase_prompts"),
        new_answer=new,
        probes=tuple(probes),
    )


def _completions(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    texts = row.get(name) or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise FactError(f"{name!r} must be a list of texts.")
    return tuple(_with_slot(text) for text in texts)


def _with_slot(text: str) -> str:
    return f"{text.rstrip()} {SLOT}"
