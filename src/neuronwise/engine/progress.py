"""A progress bar over what an engine works through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

from neuronwise.engine.job import Block

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(
    title: str, total: int | None, *, shown: bool | None = None
) -> Iterator[Callable[[Block], None]]:
    """Show how many examples of a pass are done; give what is yielded to ``map_reduce`` as ``on_block``.

    Args:
        title: What is being done, such as ``"Observing"``.
        total: Number of examples, or None if it is not known.
        shown: Show it on standard error; None: if that is a terminal.
    """
    console = Console(stderr=True)
    visible = console.is_terminal if shown is None else shown
    with Progress(console=console, disable=not visible, transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield lambda block: progress.update(task, completed=block[2])
