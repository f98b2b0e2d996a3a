"""``neuronwise query``: SQL over result folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neuronwise.cli.options import Json
from neuronwise.cli.running import running

__all__ = ["EXAMPLES", "query"]

EXAMPLES = (
    "neuronwise query activity --tables",
    'neuronwise query activity "SELECT site, neuron, kurtosis FROM neurons ORDER BY kurtosis DESC LIMIT 5"',
    "neuronwise query activity 'SELECT layer, avg(active) FROM neurons GROUP BY layer' --csv > active.csv",
    "neuronwise query runs/a runs/b 'SELECT result, max(kurtosis) FROM neurons GROUP BY result'",
)

# More rows than that are for programs, not for eyes.
_SHOWN = 1000

# information_schema also lists the parts that the view of several folders is made of; those are not in the schema.
_COLUMNS = (
    'SELECT table_name AS "table", column_name AS "column", lower(data_type) AS "type" '
    "FROM information_schema.columns ORDER BY table_name, ordinal_position"
)


def query(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="FOLDER... SQL",
            show_default=False,
            help="One result folder or several, then what to run. With several, every table has the further column "
            "result, the name of the folder.",
        ),
    ],
    tables: Annotated[
        bool, typer.Option("--tables", help="List the tables and their columns instead; no SQL is needed.")
    ] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Write comma-separated values.")] = False,
    json_: Json = False,
) -> None:
    """Run SQL (DuckDB) over saved results. It can read their tables and nothing else."""
    with running(json_) as screen:
        import neuronwise as nw

        if csv and json_:
            raise typer.BadParameter("choose one of --csv and --json.", param_hint="--csv")
        if tables:
            frame = nw.query([Path(word) for word in words], _COLUMNS)
            frame = frame[frame["table"].isin(_known())].reset_index(drop=True)
            frame["meaning"] = [
                _meaning(*names) for names in zip(frame["table"], frame["column"], strict=True)
            ]
        else:
            *folders, sql = words
            if not folders:
                raise typer.BadParameter(
                    f"{sql!r} is all there is: name a result folder and then the SQL, or ask for --tables.",
                    param_hint="FOLDER... SQL",
                )
            frame = nw.query([Path(folder) for folder in folders], sql)
        screen.document(frame)
        if csv:
            screen.raw(frame.to_csv(index=False))
        else:
            screen.table(frame, limit=_SHOWN)


def _known() -> set[str]:
    from neuronwise.store.schema import MANIFEST_TABLES, TABLES

    return {*TABLES, *MANIFEST_TABLES}


def _meaning(table: str, column: str) -> str:
    from neuronwise.store import TABLES

    listed = {c.name: c.doc for c in TABLES[table].columns} if table in TABLES else {}
    return listed.get(column, "")
