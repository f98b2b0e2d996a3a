"""Arguments and options that the commands on facts share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neuronwise.cli.screen import Screen
    from neuronwise.data import Fact, Facts
    from neuronwise.knowledge import KnowledgeNeurons
    from neuronwise.sites import NeuronSet

__all__ = [
    "Each",
    "FactsName",
    "From",
    "MultiToken",
    "Relations",
    "located_in",
    "open_facts",
    "pick_fact",
    "show_problems",
    "warn_of_other_model",
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


def pick_fact(known: Facts, fact: str | None, neurons: Mapping[str, NeuronSet] | None) -> Fact:
    """Return the fact of that id, or the first one; with located neurons, the first that has any.

    Raises:
        FactError: If there is no such fact, or no neurons of it.
    """
    from neuronwise.errors import FactError

    if fact is not None:
        chosen = known[fact]
        if neurons is not None and not neurons.get(fact):
            what = (
                "none of its neurons is shared by enough of its prompts"
                if fact in neurons
                else "it was not located"
            )
            raise FactError(f"There are no neurons of the fact {fact!r} in --from: {what}.")
        return chosen
    if neurons is None:
        return known[0]
    found = next((one for one in known if neurons.get(one.id)), None)
    if found is None:
        raise FactError(
            f"None of the {len(known)} facts of {known.name!r} has neurons in --from, which is about "
            f"{len(neurons)} facts. Locate the neurons of these facts first: neuronwise facts locate."
        )
    return found


def warn_of_other_model(screen: Screen, located: KnowledgeNeurons, sha256: str | None) -> None:
    """Say so if neurons were located in a model with other weights than the one that is looked at."""
    if located.manifest.model.get("sha256") != sha256:
        screen.warning("--from was located in a model with other weights than this one.")


def show_problems(screen: Screen, known: Facts, reasons: list[str], *, what: str = "facts left out") -> None:
    """Say which lines of the file were left out, and what went wrong with facts."""
    for heading, texts in (("lines of the file left out", list(known.problems)), (what, reasons)):
        if texts:
            more = f"; and {len(texts) - 3} more" if len(texts) > 3 else ""
            screen.warning(f"{len(texts)} {heading}: {'; '.join(texts[:3])}{more}")
