"""``neuronwise report``: one HTML page of a saved result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuronwise.cli.options import Folder, Json
from neuronwise.cli.running import running
from neuronwise.errors import NotAResultError

if TYPE_CHECKING:
    from neuronwise.observe import Activity
    from neuronwise.store import Result

__all__ = ["EXAMPLES", "observed", "report"]

EXAMPLES = (
    "neuronwise report activity",
    "neuronwise report activity --out neurons.html --neurons '0:113 3:17,42' --title 'My neurons'",
)


def report(
    folder: Folder,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The page to write; an old one is replaced.")
    ] = Path("report.html"),
    neurons: Annotated[
        str | None,
        typer.Option(
            "--neurons",
            metavar="TEXT",
            help="The neurons shown in full: layer:numbers, as in '3:17,42 4:0-9', or site\\[numbers]. Default: the "
            "most selective ones.",
        ),
    ] = None,
    title: Annotated[str | None, typer.Option("--title", metavar="TEXT", help="Heading of the page.")] = None,
    json_: Json = False,
) -> None:
    """Write a saved result as one self-contained HTML page that opens offline."""
    with running(json_) as screen:
        import neuronwise as nw

        result = nw.load(folder)
        chosen = None
        if neurons is not None:
            chosen = nw.NeuronSet.parse(neurons, observed(result, folder).sites)
        page = result.report(out, neurons=chosen, title=title)
        size = page.stat().st_size
        screen.document({"report": str(page), "bytes": size})
        screen.line(f"Wrote {page} ({size / 1e6:.1f} MB). It is one file; open it in a browser.")


def observed(result: Result, folder: Path) -> Activity:
    """Return a result as what observe wrote.

    Raises:
        NotAResultError: If it is a result of another kind.
    """
    from neuronwise.observe import Activity

    if not isinstance(result, Activity):
        raise NotAResultError(
            f"{folder} is a result of kind {result.kind!r}; this needs one that observe wrote."
        )
    return result
