"""``neuronwise monosemanticity audit``: what inhibitors do to a network while it trains."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuronwise.cli.design.options import (
    Drop,
    DropMissing,
    Encode,
    Inputs,
    open_table,
    widths,
)
from neuronwise.cli.monosemanticity.material import table_and_perceptron, texts_and_model
from neuronwise.cli.monosemanticity.options import (
    Measures,
    Rotation,
    Unit,
    UnitName,
    inhibitors_of,
    names_in,
)
from neuronwise.cli.options import (
    Checkpoint,
    Device,
    Engine,
    EngineName,
    Json,
    Limit,
    Out,
    Overwrite,
    Seed,
    SiteNames,
    Threads,
    Workers,
    pick_sites,
    refuse_used,
)
from neuronwise.cli.running import running, torch_threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from neuronwise.cli.screen import Screen
    from neuronwise.train import Audit

__all__ = ["EXAMPLES", "audit", "show"]

EXAMPLES = (
    "neuronwise monosemanticity audit digits --target target --out audit",
    "neuronwise monosemanticity audit houses.csv -t price -i tail:strength=0.1 -i reversed:top=5 --out audit",
    "neuronwise monosemanticity audit stories --model stories260k -i tail --steps 60 --seeds 3 --out audit",
)


def audit(
    source: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A table (CSV, Parquet, or diabetes, wine, breast_cancer, digits, iris) with --target; or, with "
            "--model, a corpus of texts as neuronwise observe takes it.",
        ),
    ],
    out: Out,
    target: Annotated[
        str | None,
        typer.Option("--target", "-t", metavar="NAME", help="Column of the table that is to be predicted."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="MODEL",
            help="A causal language model to train further: stories260k, a folder, or a name on the hub.",
        ),
    ] = None,
    inhibitor: Annotated[
        list[str] | None,
        typer.Option(
            "--inhibitor",
            "-i",
            metavar="NAME[:SETTING=VALUE,...]",
            help="An inhibitor: reversed, naive, gated, l2e, tail, kurtosis, selectivity, decorrelation or another. "
            "Can be given several times. Default: reversed and tail.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, metavar="N", help="How many seeds.")] = 5,
    epochs: Annotated[
        int, typer.Option("--epochs", min=1, metavar="N", help="Passes over the training part.")
    ] = 10,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, metavar="N", help="Training steps instead of --epochs.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, metavar="N", help="Examples of a training step.")
    ] = 64,
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate", metavar="R", help="Learning rate of Adam. Default: 0.001, with --model 0.0001."
        ),
    ] = None,
    hidden: Annotated[
        str, typer.Option("--hidden", metavar="A,B,...", help="Widths of the network's hidden layers.")
    ] = "64,64",
    length: Annotated[
        int, typer.Option("--length", min=2, metavar="N", help="Tokens of a training example.")
    ] = 64,
    measures: Measures = None,
    by: Annotated[
        str, typer.Option("--by", metavar="MEASURE", help="The measure that decides the verdicts.")
    ] = "phi_above_9",
    sites: SiteNames = None,
    unit: UnitName = Unit.feature,
    rotation: Rotation = True,
    controls: Annotated[
        bool, typer.Option("--controls/--no-controls", help="Also train each inhibitor's random control.")
    ] = True,
    probes: Annotated[
        int, typer.Option("--probes", min=1, metavar="N", help="How often is measured while training.")
    ] = 5,
    inputs: Inputs = None,
    drop: Drop = None,
    encode: Encode = False,
    drop_missing: DropMissing = False,
    limit: Limit = None,
    device: Device = "cpu",
    engine: EngineName = Engine.local,
    workers: Workers = None,
    threads: Threads = None,
    checkpoint: Checkpoint = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Train with and without inhibitors and their random controls, and say what each did, in one step and in all."""
    with running(json_, checkpoint=checkpoint) as screen, torch_threads(threads):
        import torch

        from neuronwise.errors import InvalidArgumentError
        from neuronwise.train import audit as audit_inhibitors
        from neuronwise.train.method import positive

        refuse_used(out, overwrite)
        if rate is None:
            rate = 1e-3 if model is None else 1e-4
        positive("--rate", rate)
        methods = inhibitors_of(inhibitor or ["reversed", "tail"])
        if (model is None) == (target is None):
            raise InvalidArgumentError(
                "Give either --target, the column of a table to predict, or --model, a language model to train further "
                "on texts."
            )
        make_model: Callable[[int], nn.Module]
        data: Any
        if model is not None:
            make_model, data, name = texts_and_model(source, model, length=length, limit=limit, device=device)
        else:
            table = open_table(
                screen,
                source,
                target or "",
                inputs=inputs,
                drop=drop,
                encode=encode,
                drop_missing=drop_missing,
            )
            make_model, data, name = table_and_perceptron(table, widths(hidden), limit, device)
        result = audit_inhibitors(
            make_model,
            data,
            methods,
            sites=pick_sites(make_model(seed), sites) if sites else None,
            seeds=seeds,
            epochs=epochs,
            steps=steps,
            batch_size=batch_size,
            optimizer=partial(torch.optim.Adam, lr=rate),
            measures=names_in(measures),
            by=by,
            unit=unit.value,
            rotation=rotation,
            controls=controls,
            probes=probes,
            engine=engine.value,
            workers=workers,
            threads=threads,
            checkpoint=checkpoint,
            model_name=name,
            seed=seed,
        )
        result.save(out, overwrite=overwrite)
        screen.document(
            {
                "folder": str(out),
                "verdicts": result.tables["verdicts"],
                "condition": result.condition,
                "figures": result.to_frame(),
            }
        )
        show(screen, result)
        screen.line(f"Saved in {out}. With curves, as a page: neuronwise report {out}")


def show(screen: Screen, result: Audit) -> None:
    """Show the figures that decide, and the verdicts."""
    frame = result.to_frame()
    own = frame[(frame["kind"] == "measure") & (frame["name"] == result.by) & (frame["basis"] == "neuron")]
    own = own[own["versus"] != "random"].assign(
        control=own["control"].map({True: "random", False: ""}),
        **{name: 100 * own[name] for name in ("relative", "relative_low", "relative_high")},
    )
    screen.line(
        f"Held-out {result.by} after training; change in %, 95 % intervals, paired by seed", style="bold"
    )
    columns = {
        "inhibitor": "inhibitor",
        "control": "control",
        "value": "value",
        "relative": "change",
        "relative_low": "low",
        "relative_high": "high",
        "n": "n",
    }
    screen.table(own[list(columns)].rename(columns=columns), digits=3)
    for row in result.tables["verdicts"].to_dict("records"):
        screen.line()
        screen.line(f"{row['inhibitor']}: {row['verdict']}", style="bold")
        screen.prose(row["sentence"], indent=2)
    if result.condition:
        screen.line()
        screen.prose(result.condition)
