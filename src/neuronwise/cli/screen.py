"""What the commands show: tables and lines on a terminal, plain text in a pipe, or one JSON document."""

from __future__ import annotations

import base64
import json
import math
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Screen", "plain", "visible"]

# Wide enough for any table that a person made on purpose; a pipe has no width of its own.
_PIPE_WIDTH = 4000
_PROSE_WIDTH = 96


class Screen:
    """Where a command writes.

    Standard output belongs to the answer alone: while a command works, everything that is printed by others goes to
    standard error.

    Args:
        as_json: Write one JSON document instead of tables and lines.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        for stream in (sys.stdout, sys.stderr):
            # A terminal that cannot show a character gets its number, not an error.
            reconfigure = getattr(stream, "reconfigure", None)
            if reconfigure is not None:
                reconfigure(errors="backslashreplace")
        self.out = Console(file=sys.stdout, highlight=False, emoji=False)
        if not self.out.is_terminal:
            self.out.width = _PIPE_WIDTH
        self.err = Console(file=sys.stderr, highlight=False, emoji=False, soft_wrap=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep standard output for this screen: what others print goes to standard error."""
        with redirect_stdout(sys.stderr):
            yield

    def document(self, value: Any) -> None:
        """Write the JSON document, if that is what is wanted; floats that are not numbers become null."""
        if self.as_json:
            self.raw(json.dumps(plain(value), indent=2, allow_nan=False) + "\n")

    def raw(self, text: str) -> None:
        """Write text as it is."""
        self.out.file.write(text)
        self.out.file.flush()

    def line(self, text: str | Text = "", *, style: str = "") -> None:
        """Write a line as it is, however long."""
        if not self.as_json:
            shown = Text(visible(text), style=style) if isinstance(text, str) else text
            self.out.print(shown, soft_wrap=True)

    def prose(self, text: str, *, style: str = "", indent: int = 0) -> None:
        """Write running text, broken between words into lines that are easy to read."""
        if not self.as_json:
            room = min(self.out.width, _PROSE_WIDTH) - indent
            for line in textwrap.wrap(visible(text), room, break_long_words=False, break_on_hyphens=False):
                self.line(Text(" " * indent + line, style=style))

    def title(self, text: str) -> None:
        """Write a heading."""
        self.line()
        self.line(text, style="bold")

    def table(self, frame: pd.DataFrame, *, limit: int | None = None, digits: int = 4) -> None:
        """Write a table.

        Args:
            frame: The table.
            limit: Show no more rows than that, and say so.
            digits: Significant digits of floats.
        """
        if self.as_json:
            return
        shown = frame if limit is None else frame.head(limit)
        table = Table(
            box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True, header_style="bold"
        )
        for name in shown.columns:
            numeric = shown[name].dtype.kind in "iuf"
            heading = Text(visible(str(name)))
            if numeric:
                table.add_column(heading, justify="right", no_wrap=True)
            else:
                table.add_column(heading, overflow="fold")
        for row in shown.itertuples(index=False, name=None):
            table.add_row(*(Text(_cell(value, digits)) for value in row))
        self.out.print(table)
        if len(shown) < len(frame):
            self.line(f"... {len(frame):,} rows in all; --json has them all", style="dim")

    def note(self, text: str) -> None:
        """Write a remark to standard error."""
        self.err.print(Text(f"note: {visible(text)}", style="dim"))

    def warning(self, text: str) -> None:
        """Write a warning to standard error."""
        self.err.print(Text.assemble(("warning: ", "bold yellow"), visible(text)))

    def error(self, text: str) -> None:
        """Write an error to standard error; line breaks of the message are kept."""
        self.err.print(Text.assemble(("error: ", "bold red"), visible(text, lines=True)))


def visible(text: str, *, lines: bool = False) -> str:
    r"""Return text with line breaks and control characters as signs, so that nobody's text can steer a terminal.

    Args:
        text: Any text.
        lines: Keep line breaks.

    Example:
        >>> visible("one\ntwo\x1b[0m")
        'one⏎two\\x1b[0m'
    """
    if text.isprintable():
        return text
    signs = {} if lines else {"\n": "⏎"}
    kept = "\n" if lines else ""
    return "".join(signs.get(c, c if c.isprintable() or c in kept else repr(c).strip("'")) for c in text)


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: frames as lists of rows, numbers that are none as null.

    Example:
        >>> plain({"mean": float("nan"), "png": b"a"})
        {'mean': None, 'png': 'YQ=='}
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    if hasattr(value, "columns"):
        rows = value.itertuples(index=False, name=None)
        return [dict(zip(map(str, value.columns), map(plain, row), strict=True)) for row in rows]
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    # What is left: pandas' missing values, which equal nothing, and dates, decimals and paths.
    return None if type(value).__name__ in ("NAType", "NaTType") else str(value)


def _cell(value: Any, digits: int) -> str:
    value = plain(value)
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    return visible(str(value))
