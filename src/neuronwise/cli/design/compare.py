"""``neuronwise design compare``: is the task neuron worth it on these data?"""

from __future__ import annotations

from typing import Annotated

import typer

from neuronwise.cli.design.options import (
    Bases,
    Confidence,
    ConfidenceBy,
    Drop,
    DropMissing,
    Encode,
    Hidden,
    Inputs,
    Resamples,
    TableName,
    Target,
    Task,
    TaskName,
    open_table,
    widths,
)
from neuronwise.cli.options import (
    Checkpoint,
    Engine,
    EngineName,
    Json,
    Out,
    Overwrite,
    Seed,
    Threads,
    Workers,
    refuse_used,
)
from neuronwise.cli.running import running, torch_threads

__all__ = ["EXAMPLES", "compare"]

EXAMPLES = (
    "neuronwise design compare diabetes --target target --out comparison",
    "neuronwise design compare houses.csv --target price --folds 10 --engine processes --out comparison",
    "neuronwise design compare houses.csv --target price --learners linear,task,guarded,boosted_trees --out quick",
)


def compare(
    table: TableName,
    target: Target,
    out: Out,
    learners: Annotated[
        str | None,
        typer.Option(
            "--learners",
            metavar="A,B,...",
            help="linear, quadratic, quadratic_matched, task, task_matched, guarded, linear_model, mlp, svm, forest, "
            "boosted_trees, xgboost, lightgbm, catboost. Default: all that are installed.",
        ),
    ] = None,
    folds: Annotated[int, typer.Option("--folds", min=2, metavar="N", help="Number of test parts.")] = 5,
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, metavar="N", help="How many times the rows are split anew.")
    ] = 1,
    tune: Annotated[
        int, typer.Option("--tune", min=1, metavar="N", help="Settings of each learner that are tried.")
    ] = 6,
    hidden: Hidden = "32,16",
    max_epochs: Annotated[
        int,
        typer.Option("--max-epochs", min=1, metavar="N", help="Most epochs of a network; all stop early."),
    ] = 200,
    rows: Annotated[
        int | None,
        typer.Option("--rows", min=10, metavar="N", help="Train on no more rows than that, drawn by chance."),
    ] = None,
    bases: Bases = "default",
    confidence: ConfidenceBy = Confidence.stability,
    resamples: Resamples = 50,
    task: TaskName = Task.auto,
    inputs: Inputs = None,
    drop: Drop = None,
    encode: Encode = False,
    drop_missing: DropMissing = False,
    engine: EngineName = Engine.local,
    workers: Workers = None,
    threads: Threads = None,
    checkpoint: Checkpoint = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Compare linear, quadratic and task neurons with each other and with other learners, tuned alike."""
    with running(json_, checkpoint=checkpoint) as screen, torch_threads(threads):
        refuse_used(out, overwrite)
        data = open_table(
            screen, table, target, inputs=inputs, drop=drop, encode=encode, drop_missing=drop_missing
        )
        from neuronwise.estimators import compare as compare_learners

        result = compare_learners(
            data,
            learners=None if learners is None else [one.strip() for one in learners.split(",")],
            task=task.value,
            folds=folds,
            repeats=repeats,
            tune=tune,
            hidden=widths(hidden),
            max_epochs=max_epochs,
            rows=rows,
            bases=bases,
            confidence=confidence.value,
            resamples=resamples,
            engine=engine.value,
            workers=workers,
            checkpoint=checkpoint,
            seed=seed,
        )
        result.save(out, overwrite=overwrite)
        means, pairs = result.tables["comparison"], result.tables["comparison_pairs"]
        screen.document(
            {
                "folder": str(out),
                "verdict": result.verdict(),
                "metric": result.metric,
                "formula": str(result.discovery.formula),
                "comparison": means,
                "pairs": pairs,
            }
        )
        shown = means[means["metric"] == result.metric].sort_values("rank")
        columns = ["rank", "learner", "mean", "low", "high", "parameters", "seconds"]
        for note in result.discovery.notes:
            screen.note(note)
        screen.line(f"{result.metric} over {shown['learner'].size} learners, 95 % intervals", style="bold")
        screen.table(shown[columns])
        screen.title("Beside linear neurons, on the same test parts")
        shown = pairs[pairs["metric"] == result.metric]
        screen.table(shown[["learner", "difference", "low", "high", "p", "verdict"]])
        screen.line(f"Formula found on all rows: {result.discovery.formula.rounded(6)}")
        screen.prose(result.verdict())
        screen.line(f"Saved in {out}. Look at it: neuronwise report {out}")
