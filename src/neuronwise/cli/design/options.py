"""Arguments and options that the commands on tables share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuronwise.errors import InvalidArgumentError, counted
from neuronwise.files import table_file

if TYPE_CHECKING:
    from neuronwise.cli.screen import Screen
    from neuronwise.data import TableData

__all__ = [
    "Bases",
    "Confidence",
    "ConfidenceBy",
    "Drop",
    "DropMissing",
    "Encode",
    "Hidden",
    "Inputs",
    "Resamples",
    "TableName",
    "Target",
    "Task",
    "TaskName",
    "left_out",
    "open_table",
    "widths",
]

_TABLE = "Table"

TableName = Annotated[
    str,
    typer.Argument(
        metavar="TABLE",
        help="A CSV or Parquet file, or one of the tables that come with scikit-learn: diabetes, wine, "
        "breast_cancer, digits, iris.",
    ),
]
Target = Annotated[
    str, typer.Option("--target", "-t", metavar="NAME", help="Name of the column that is to be predicted.")
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME",
        rich_help_panel=_TABLE,
        help="Predict from this column; can be given several times. Default: all others.",
    ),
]
Drop = Annotated[
    list[str] | None,
    typer.Option(
        "--drop",
        metavar="NAME",
        rich_help_panel=_TABLE,
        help="Leave this column out; can be given several times.",
    ),
]
Encode = Annotated[
    bool,
    typer.Option(
        "--encode", rich_help_panel=_TABLE, help="Make columns of categories into columns of 0 and 1."
    ),
]
DropMissing = Annotated[
    bool,
    typer.Option("--drop-missing", rich_help_panel=_TABLE, help="Leave out rows with missing values."),
]


class Task(StrEnum):
    """What is predicted."""

    auto = "auto"
    regression = "regression"
    classification = "classification"
    counts = "count"


TaskName = Annotated[
    Task, typer.Option("--task", help="Numbers, classes or counts; auto decides by the target, and says so.")
]
Bases = Annotated[
    str,
    typer.Option(
        "--bases",
        metavar="TEXT",
        help="The base functions to choose from: default, polynomial, bounded, powers7, log, or your own as in "
        "'x, x**2, sin(3*x)'.",
    ),
]


class Confidence(StrEnum):
    """What finds out how sure we are of each base function."""

    stability = "stability"
    knockoffs = "knockoffs"
    none = "none"


ConfidenceBy = Annotated[
    Confidence,
    typer.Option(
        "--confidence",
        help="How sure we are of each base function: how often it is found on halves of the rows, or whether it beats "
        "decoys at a false discovery rate.",
    ),
]
Resamples = Annotated[
    int,
    typer.Option(
        "--resamples",
        min=2,
        metavar="N",
        help="Searches on halves of the rows, for stability; an even number.",
    ),
]
Hidden = Annotated[
    str, typer.Option("--hidden", metavar="A,B,...", help="Widths of the hidden layers of the networks.")
]


def open_table(
    screen: Screen,
    source: str,
    target: str,
    *,
    inputs: list[str] | None,
    drop: list[str] | None,
    encode: bool,
    drop_missing: bool,
) -> TableData:
    """Read a table, take it apart, and say what was done to it."""
    table_file(source)  # before torch is imported for the first time
    from neuronwise.data import read_table, split_target

    data = split_target(
        read_table(source),
        target,
        inputs=inputs or None,
        drop=drop or (),
        encode=encode,
        drop_missing=drop_missing,
        name=Path(source).name,
    )
    left_out(screen, data.dropped_rows, len(data.X))
    for column, made in data.encoded.items():
        screen.note(f"Column {column!r} of categories became {len(made)} columns of 0 and 1.")
    return data


def left_out(screen: Screen, rows: int, used: int) -> None:
    """Say that rows were left out, where some were."""
    if rows:
        screen.note(f"Left out: {counted(rows, 'row')} with missing values; used: {used}.")


def widths(text: str) -> tuple[int, ...]:
    """Return the widths in a text such as ``32,16``.

    Raises:
        InvalidArgumentError: If it is something else.
    """
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise InvalidArgumentError(f"--hidden must be widths of at least 1, as in 32,16, not {text!r}.")
    return found
