"""``neuronwise demo``: a tour of the library on a real language model, on tables and on digits.

Each chapter is a function of the tour: it does one thing with public functions, shows it, and returns the facts for
``--json``. A new chapter is a function and a line in :data:`CHAPTERS`; what it leaves in the tour, later ones can use.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from neuronwise.cli import digits, foundation, girl, tank
from neuronwise.cli.options import Json, Threads
from neuronwise.cli.running import running, torch_threads
from neuronwise.cli.tour import Tour

__all__ = ["CHAPTERS", "EXAMPLES", "demo"]

EXAMPLES = ("neuronwise demo", "neuronwise demo --quick --out /tmp/demo")

#: The chapters in order: name in the JSON document, heading, function.
CHAPTERS: tuple[tuple[str, str, Callable[[Tour], Mapping[str, Any]]], ...] = (
    ("model", "A language model", foundation.load),
    ("sites", "Its neurons", foundation.find),
    ("observe", "Watching them", foundation.watch),
    ("selective", "The most selective neurons", foundation.most_selective),
    ("ablation", "Switching neurons off", foundation.switch_off),
    ("fact", "One fact: a girl named Lily", girl.one_fact),
    ("table", "Neurons for a table", tank.neurons_for_tables),
    ("monosemanticity", "Neurons that stand for one thing", digits.inhibitors_on_digits),
    ("results", "Kept for later", foundation.keep),
)


def demo(
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="Where report and results go; those of an earlier demo are replaced.",
        ),
    ] = Path("demo-output"),
    quick: Annotated[bool, typer.Option("--quick", help="Few stories: rough figures, in seconds.")] = False,
    threads: Threads = None,
    json_: Json = False,
) -> None:
    """See it all on a small Llama, two tables and digits; needs no network, about two minutes."""
    with running(json_) as screen, torch_threads(threads):
        started = time.monotonic()
        tour = Tour(screen, out, quick=quick)
        tour.refuse_foreign()
        facts: dict[str, Any] = {}
        for number, (name, heading, chapter) in enumerate(CHAPTERS, 1):
            screen.title(f"{number}. {heading}")
            facts[name] = chapter(tour)
        seconds = time.monotonic() - started
        screen.document({**facts, "passed": not tour.failed, "seconds": seconds})
        screen.line()
        screen.line(f"The tour took {seconds:.0f} seconds.")
        for failure in tour.failed:
            screen.error(failure)
        if tour.failed:
            raise typer.Exit(1)
