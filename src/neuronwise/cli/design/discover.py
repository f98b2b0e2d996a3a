"""``neuronwise design discover``: the formula that suits a table."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from neuronwise.cli.design.options import (
    Bases,
    Confidence,
    ConfidenceBy,
    Drop,
    DropMissing,
    Encode,
    Inputs,
    Resamples,
    TableName,
    Target,
    Task,
    TaskName,
    open_table,
)
from neuronwise.cli.options import (
    Engine,
    EngineName,
    Json,
    OutToo,
    Overwrite,
    Seed,
    Threads,
    Workers,
    refuse_used,
)
from neuronwise.cli.running import running, torch_threads

__all__ = ["EXAMPLES", "discover"]

EXAMPLES = (
    "neuronwise design discover diabetes --target target",
    "neuronwise design discover houses.csv --target price --drop id --encode --out formula",
    "neuronwise design discover waves.parquet --target y --method shared --bases 'x, x**2, sin(x), sin(3*x)'",
)

_SHOWN = 8
_DIGITS = 6
_WRITTEN_OUT = 12  # weights of a formula that is shown with its numbers, at most


class Scale(StrEnum):
    """What is done to the inputs first."""

    auto = "auto"
    none = "none"
    standard = "standard"


def discover(
    table: TableName,
    target: Target,
    out: OutToo = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="NAME",
            help="group: every base function with a weight for each input, as the neuron will have; shared: one "
            "coefficient for all inputs; genetic; interactions; low_rank.",
        ),
    ] = "group",
    bases: Bases = "default",
    task: TaskName = Task.auto,
    confidence: ConfidenceBy = Confidence.stability,
    resamples: Resamples = 50,
    fdr: Annotated[
        float, typer.Option("--fdr", metavar="X", help="False discovery rate of knockoffs, between 0 and 1.")
    ] = 0.1,
    scale: Annotated[
        Scale,
        typer.Option(
            "--scale", help="Standardise the inputs, or take them raw; auto decides by their range."
        ),
    ] = Scale.auto,
    shift: Annotated[
        bool,
        typer.Option(
            "--shift",
            help="Move the argument of base functions that are undefined on the inputs, such as log(x) of negative "
            "ones, until they are defined, instead of leaving them out.",
        ),
    ] = False,
    held_out: Annotated[
        float,
        typer.Option(
            "--held-out", metavar="X", help="Share of the rows that the formula is measured on only."
        ),
    ] = 0.25,
    inputs: Inputs = None,
    drop: Drop = None,
    encode: Encode = False,
    drop_missing: DropMissing = False,
    engine: EngineName = Engine.local,
    workers: Workers = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Find the formula that suits a table, how sure we are of each of its terms, and what it explains."""
    with running(json_) as screen, torch_threads(threads):
        import neuronwise as nw

        if out is not None:
            refuse_used(out, overwrite)
        data = open_table(
            screen, table, target, inputs=inputs, drop=drop, encode=encode, drop_missing=drop_missing
        )
        found = nw.discover(
            data.X,
            data.y,
            method=method,
            bases=bases,
            task=task.value,
            confidence=confidence.value,
            resamples=resamples,
            fdr=fdr,
            scale=scale.value,
            shift=shift,
            held_out=held_out,
            engine=engine.value,
            workers=workers,
            seed=seed,
        )
        if out is not None:
            found.save(out, overwrite=overwrite)
        tables = found.tables
        screen.document(
            {
                "formula": str(found.formula),
                "figures": found.figures,
                "formulas": tables["formulas"],
                "terms": tables["formula_terms"],
                "bases": tables["bases"],
                "notes": list(found.notes),
                "folder": None if out is None else str(out),
            }
        )
        for note in found.notes:
            screen.note(note)
        for base, why in found.dropped.items():
            screen.note(f"Base function {base} was left out: {why}.")
        screen.line(f"Formula: {found.formula.rounded(_DIGITS)}", style="bold")
        if len(found.outputs) == 1 and 0 < len(found.terms) * len(found.inputs) <= _WRITTEN_OUT:
            screen.line(f"With its numbers: {found.formula.expanded(found.inputs).rounded(_DIGITS)}")
        screen.table(tables["formulas"].drop(columns=["delta"], errors="ignore"), limit=_SHOWN)
        chosen = found.confidence
        if "frequency" in chosen:
            chosen = chosen[chosen["selected"] | (chosen["frequency"] > 0)]
        if confidence is not Confidence.none:
            screen.title("How sure we are of each base function")
            if len(chosen):
                screen.table(chosen, limit=20)
            else:
                screen.line("None was found, on all rows or on halves of them.")
        screen.title("Figures")
        screen.table(tables["discovery_figures"])
        if out is not None:
            screen.line(
                f"Saved in {out}. Look at it: neuronwise report {out}; use it: neuronwise design predict {out} TABLE "
                "--out predicted.csv"
            )
