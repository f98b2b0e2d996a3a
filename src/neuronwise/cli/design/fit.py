"""``neuronwise design fit`` and ``predict``: a network of the neurons that suit a table, and what it predicts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    left_out,
    open_table,
    widths,
)
from neuronwise.cli.options import (
    Json,
    Overwrite,
    Seed,
    Threads,
    refuse_used,
)
from neuronwise.cli.running import running, torch_threads
from neuronwise.errors import InvalidArgumentError, NotAResultError, counted
from neuronwise.files import atomic_file, table_file

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FIT_EXAMPLES", "PREDICT_EXAMPLES", "fit", "predict"]

FIT_EXAMPLES = (
    "neuronwise design fit diabetes --target target --out model",
    "neuronwise design fit houses.csv --target price --encode --formula 'x + x**2 + sin(2*x)' --no-guard --out model",
)
PREDICT_EXAMPLES = (
    "neuronwise design predict model new.csv --out predicted.csv",
    "neuronwise design predict formula new.parquet --out predicted.parquet",
)


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
        refuse_used(out, overwrite)
        data = open_table(
            screen, table, target, inputs=inputs, drop=drop, encode=encode, drop_missing=drop_missing
        )
        from neuronwise.discover import make_problem
        from neuronwise.estimators import TaskNeuronClassifier, TaskNeuronRegressor

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
        Path,
        typer.Argument(
            metavar="MODEL", help="A folder that neuronwise design fit, or design discover --out, wrote."
        ),
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
    """Predict the rows of a table with a saved network or formula; columns are found by their names."""
    with running(json_) as screen, torch_threads(threads):
        refuse_used(out, overwrite)
        _check_files(model, table, out)
        from neuronwise.data import inputs_like, read_table

        predictor, names, classes = _load(model)
        frame = read_table(table)
        inputs = inputs_like(frame, names, drop_missing=drop_missing)
        left_out(screen, len(frame) - len(inputs), len(inputs))
        if classes:
            chances = predictor.predict_proba(inputs)
            frame = inputs.assign(predicted=[classes[best] for best in chances.argmax(1)])
            for number, label in enumerate(classes):
                frame[f"probability of {label}"] = chances[:, number]
        else:
            frame = inputs.assign(predicted=predictor.predict(inputs))
        _write(frame, out)
        screen.document({"file": str(out), "rows": len(frame)})
        screen.line(f"Wrote {counted(len(frame), 'prediction')} to {out}, in the column 'predicted'.")


def _check_files(model: Path, table: str, out: Path) -> None:
    """Refuse names that cannot be meant before anything large is imported."""
    if out.suffix not in (".csv", ".parquet"):
        raise InvalidArgumentError(f"--out must end in .csv or .parquet, not {out.name!r}.")
    if not model.is_dir():
        what = "it is a file" if model.is_file() else "there is no such folder"
        raise NotAResultError(f"{model} is not a saved estimator, nor the formula of a search: {what}.")
    table_file(table)


def _load(folder: Path) -> tuple[Any, list[str], list[Any]]:
    """Return what predicts, the names of its inputs, and its classes, if it has any."""
    from neuronwise.store.folder import MANIFEST_FILE

    if (folder / MANIFEST_FILE).is_file():
        from neuronwise.discover import Discovery

        found = Discovery.load(folder)
        return found, list(found.inputs), list(found.classes)
    from neuronwise.estimators import load_estimator

    estimator = load_estimator(folder)
    unnamed = [f"x{number}" for number in range(estimator.n_features_in_)]
    names = getattr(estimator, "feature_names_in_", unnamed)
    return estimator, [str(name) for name in names], list(getattr(estimator, "classes_", ()))


def _write(frame: pd.DataFrame, out: Path) -> None:
    with atomic_file(out) as temporary:
        if out.suffix == ".csv":
            frame.to_csv(temporary, index=False)
        else:
            frame.to_parquet(temporary, index=False)
