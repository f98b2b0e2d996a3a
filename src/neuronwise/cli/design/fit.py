"""``neuronwise design fit`` and ``predict``: a network of the neurons that suit a table, and what it predicts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuronwise.cli.design.options import (
    Bases,
    Drop,
    DropMissing,
    Encode,
    Hidden,
    Inputs,
    TableName,
    Target,
    Task,
    TaskName,
    open_table,
    widths,
)
from neuronwise.cli.observe import refuse_used
from neuronwise.cli.options import Json, Overwrite, Seed, Threads
from neuronwise.cli.running import running, torch_threads

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FIT_EXAMPLES", "PREDICT_EXAMPLES", "fit", "predict"]

FIT_EXAMPLES = (
    "neuronwise design fit diabetes --target target --out model",
    "neuronwise design fit houses.csv --target price --encode --formula 'x + x**2 + sin(2*x)' --no-guard --out model",
)
PREDICT_EXAMPLES = ("neuronwise design predict model new.csv --out predicted.csv",)


def fit(
    table: TableName,
    target: Target,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where the model is saved.")],
    formula: Annotated[
        str,
        typer.Option(
            "--formula", metavar="TEXT", help="auto: search for it; linear; or your own, as in 'x + x**2'."
        ),
    ] = "auto",
    guard: Annotated[
        bool,
        typer.Option(
            "--guard/--no-guard",
            help="Keep linear neurons unless the found ones are better on held-out rows.",
        ),
    ] = True,
    bases: Bases = "default",
    task: TaskName = Task.auto,
    hidden: Hidden = "32,16",
    max_epochs: Annotated[
        int, typer.Option("--max-epochs", min=1, metavar="N", help="Most epochs; training stops early.")
    ] = 300,
    inputs: Inputs = None,
    drop: Drop = None,
    encode: Encode = False,
    drop_missing: DropMissing = False,
    threads: Threads = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Train a network of the neurons that suit a table, and save it without pickle."""
    with running(json_) as screen, torch_threads(threads):
        from neuronwise.discover import make_problem
        from neuronwise.errors import InvalidArgumentError
        from neuronwise.estimators import TaskNeuronClassifier, TaskNeuronRegressor

        refuse_used(out, overwrite)
        data = open_table(
            screen, table, target, inputs=inputs, drop=drop, encode=encode, drop_missing=drop_missing
        )
        problem = make_problem(data.X, data.y, task=task.value, bases="x", scale="none")
        if problem.task == "count":
            raise InvalidArgumentError("Networks are trained on numbers or classes; take --task regression.")
        kind = TaskNeuronClassifier if problem.task == "classification" else TaskNeuronRegressor
        model = kind(
            formula=formula,
            guard=guard,
            bases=bases,
            hidden=widths(hidden),
            max_epochs=max_epochs,
            random_state=seed,
        ).fit(data.X, data.y)
        model.save(out, overwrite=overwrite)
        history = model.history_
        neurons = "linear" if model.formula_ is None else str(model.formula_)
        shown = neurons if model.formula_ is None else str(model.formula_.rounded(6))
        parameters = sum(p.numel() for p in model.module_.parameters())
        screen.document(
            {
                "folder": str(out),
                "task": problem.task,
                "formula": neurons,
                "guard": None if model.guard_ is None else model.guard_.to_dict(),
                "parameters": parameters,
                "epochs": len(history),
                "history": history,
            }
        )
        for note in problem.notes:
            screen.note(note)
        screen.line(f"Neurons: {shown}", style="bold")
        if model.guard_ is not None:
            screen.prose(str(model.guard_))
        screen.line(
            f"{parameters:,} parameters, {len(history)} epochs; validation loss {model.best_loss_:.4g} after epoch "
            f"{model.best_epoch_}."
        )
        screen.line(f"Saved in {out}. Use it: neuronwise design predict {out} TABLE --out predicted.csv")


def predict(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A folder that neuronwise design fit wrote.")
    ],
    table: TableName,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="Where predictions go: .csv or .parquet.")
    ],
    drop_missing: DropMissing = False,
    threads: Threads = None,
    overwrite: Overwrite = False,
    json_: Json = False,
) -> None:
    """Predict the rows of a table with a saved network; columns are found by their names."""
    with running(json_) as screen, torch_threads(threads):
        from neuronwise.data import inputs_like, read_table
        from neuronwise.estimators import load_estimator

        refuse_used(out, overwrite)
        estimator = load_estimator(model)
        frame = read_table(table)
        inputs = inputs_like(frame, list(estimator.feature_names_in_), drop_missing=drop_missing)
        if len(inputs) < len(frame):
            screen.note(f"{len(frame) - len(inputs)} rows with missing values were left out.")
        predicted = estimator.predict(inputs)
        frame = inputs.assign(predicted=predicted)
        if hasattr(estimator, "predict_proba"):
            chances = estimator.predict_proba(inputs)
            for number, label in enumerate(estimator.classes_):
                frame[f"probability of {label}"] = chances[:, number]
        _write(frame, out)
        screen.document({"file": str(out), "rows": len(frame)})
        screen.line(f"Wrote {len(frame)} predictions to {out}, in the column 'predicted'.")


def _write(frame: pd.DataFrame, out: Path) -> None:
    from neuronwise.errors import InvalidArgumentError
    from neuronwise.files import atomic_file

    if out.suffix not in (".csv", ".parquet"):
        raise InvalidArgumentError(f"--out must end in .csv or .parquet, not {out.name!r}.")
    with atomic_file(out) as temporary:
        if out.suffix == ".csv":
            frame.to_csv(temporary, index=False)
        else:
            frame.to_parquet(temporary, index=False)
