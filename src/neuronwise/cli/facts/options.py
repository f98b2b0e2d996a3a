"""Arguments and options that the commands on facts share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from neuronwise.cli.screen import Screen
    from neuronwise.data import Facts
    from neuronwise.knowledge import KnowledgeNeurons

__all__ = [
    "Each",
    "FactsName",
    "From",
    "MultiToken",
    "Relations",
    "located_in",
    "open_facts",
    "show_problems",
]

_FACTS = "Facts"

FactsName = Annotated[
    str,
    typer.Argument(
        metavar="FACTS",
        help="Facts: a file of JSON lines, a PARAREL or CounterFact file or folder, the folder of a fact model, or "
        "what comes with neuronwise: fact-gpt, fact-bert, facts-pararel, facts-edits.",
    ),
]
Relations = Annotated[
    list[str] | None,
    typer.Option(
        "--relation",
        metavar="NAME",
        rich_help_panel=_FACTS,
        help="Only facts of this relation. Can be given several times.",
    ),
]
Each = Annotated[
    int | None,
    typer.Option(
        "--each",
        min=1,
        metavar="N",
        rich_help_panel=_FACTS,
        help="At most N facts of each relation, by chance.",
    ),
]
MultiToken = Annotated[
    bool, typer.Option("--multi-token", rich_help_panel=_FACTS, help="Allow answers of several tokens.")
]
From = Annotated[
    Path,
    typer.Option("--from", metavar="FOLDER", help="Located neurons, as neuronwise facts locate wrote them."),
]


def open_facts(
    source: str, model: object, *, relations: list[str] | None, each: int | None, seed: int
) -> Facts:
    """Read the facts; patterns that go on behind the slot are left out for a model that only writes on."""
    from neuronwise.data import facts

    causal = type(model).__name__.endswith(("ForCausalLM", "LMHeadModel"))
    return facts(source, causal=causal, limit=each, relations_only=relations, seed=seed)


def located_in(folder: Path) -> KnowledgeNeurons:
    """Load located neurons.

    Raises:
        NotAResultError: If it is a result of another kind.
    """
    from neuronwise.knowledge import KnowledgeNeurons

    return KnowledgeNeurons.load(folder)


def show_problems(screen: Screen, known: Facts, reasons: list[str]) -> None:
    """Say which lines of the file, and which facts, were left out."""
    for what, texts in (("lines of the file", list(known.problems)), ("facts", reasons)):
        if texts:
            more = f" and {len(texts) - 3} more" if len(texts) > 3 else ""
            screen.warning(f"{len(texts)} {what} left out: {'; '.join(texts[:3])}{more}")
