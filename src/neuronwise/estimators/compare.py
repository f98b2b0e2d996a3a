"""Is a task neuron worth it on these data? Linear, quadratic and task neurons beside the usual learners."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neuronwise.data import TableData
from neuronwise.discover import Discovery, SearchProblem, discover, make_problem
from neuronwise.discover.discover import Confidence
from neuronwise.engine import blocks_of, map_reduce, progress_bar
from neuronwise.errors import DataError, InvalidArgumentError
from neuronwise.estimators._comparison_job import RANKED_BY, FoldJob, Split
from neuronwise.estimators._comparison_tables import comparison_tables
from neuronwise.estimators._learners import REFERENCE, Setting, chosen
from neuronwise.estimators._neuron import FEWEST_TO_SEARCH
from neuronwise.estimators.comparison import Comparison
from neuronwise.store import Manifest

__all__ = ["compare"]

# What discover() holds out unless told, and the fewest rows that it measures on.
_HELD_OUT, _FEWEST_HELD_OUT = 0.25, 10
# Rows of a training part (for classes: by each class, and of the rarest) of which a tenth is worth putting aside.
_FEWEST_TO_SPARE, _FEWEST_OF_CLASS = 20, 5


def compare(
    X: Any,
    y: Any = None,
    *,
    learners: Sequence[str] | None = None,
    task: str = "auto",
    folds: int | Sequence[int] | NDArray[np.integer[Any]] = 5,
    repeats: int = 1,
    tune: int = 6,
    hidden: Sequence[int] = (32, 16),
    max_epochs: int = 200,
    bases: Any = "default",
    rows: int | None = None,
    confidence: Confidence = "stability",
    resamples: int = 50,
    engine: str = "local",
    workers: int | None = None,
    checkpoint: str | Path | None = None,
    progress: bool | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare networks of linear, quadratic and task neurons with each other and with other learners.

    Every learner sees the same training and test parts, and is tuned the same way: as many settings as ``tune``,
    drawn at random from its own grid, are tried on a fifth of the training part that is kept aside, and the best is
    fitted anew on the whole training part. Formulas are searched for on the training part only. Nothing of a test part
    is used before the learners are scored on it.

    The learners ``quadratic`` and ``task`` have the structure of ``linear`` (the same hidden widths, so more
    parameters); ``quadratic_matched`` and ``task_matched`` are made narrower until they have no more parameters than
    ``linear``; ``guarded`` is what a user gets by default: it validates task against linear neurons, and keeps the
    better.

    Differences to ``linear`` are paired over the test parts. Their intervals are those of the corrected resampled
    t-test, because training parts overlap.

    Args:
        X: The inputs, ``(row, input)``: array or DataFrame; or a :class:`~neuronwise.data.TableData`, without ``y``.
        y: The target, ``(row,)``.
        learners: Names from :data:`LEARNERS`; ``linear`` is always there. Default: all whose package is installed.
        task: ``"regression"``, ``"classification"``, or ``"auto"``: classification for labels that are not numbers
            and for whole numbers of at most 20 different values.
        folds: Number of test parts; or the number of the test part of each row, ``(row,)``.
        repeats: How many times the rows are split anew; only where ``folds`` is a number.
        tune: How many settings of each learner are tried.
        hidden: Widths of the hidden layers of the networks.
        max_epochs: Most epochs of a network; all stop early.
        bases: Base functions that the search chooses from.
        confidence: How sure one can be of the formula found on all rows, as in :func:`neuronwise.discover`.
        resamples: Searches on halves of the rows, for ``"stability"``.
        rows: Use no more rows for training than this, 10 or more, drawn at random from each training part.
        engine: ``"local"``, ``"processes"`` or ``"ray"``; a test part is a block of work.
        workers: Number of workers.
        checkpoint: A file to go on from after an interruption.
        progress: Show progress; default: on a terminal.
        seed: Seed of splits, settings, searches and networks.

    Returns:
        The comparison.

    Raises:
        DataError: If the data cannot be used (see :func:`neuronwise.discover`), or a training part is too small.
        InvalidArgumentError: If an argument cannot be meant.

    Source: C. Nadeau, Y. Bengio, "Inference for the generalization error", Machine Learning 52 (2003), for the
    intervals.
    """
    table = X if isinstance(X, TableData) else None
    X, y = (table.X, table.y) if table is not None else (X, y)
    if y is None:
        raise InvalidArgumentError("y is missing: the target, one value a row.")
    compared = chosen(learners)
    _check(tune=tune, repeats=repeats, max_epochs=max_epochs, hidden=hidden, rows=rows)
    problem = make_problem(X, y, task=task, bases="x", scale="none", seed=seed)
    if problem.task == "count" or problem.y.ndim > 1:
        raise DataError(
            "Learners are compared on one target of numbers or of classes; for others use discover()."
        )
    splits = _splits(folds, int(repeats), problem, rows)
    _check_training(splits, problem)
    setting = Setting(
        classes=problem.task == "classification",
        hidden=tuple(map(int, hidden)),
        max_epochs=int(max_epochs),
        bases=bases,
        seed=int(seed),
        spare_rows=_can_spare_rows(splits, problem),
    )
    job = FoldJob(problem.X, problem.y, splits, compared, setting, int(tune))
    found = discover(
        problem.X,
        problem.y,
        inputs=problem.names,
        task=problem.task,
        bases=bases,
        confidence=confidence,
        resamples=resamples,
        held_out=_held_out(problem),
        seed=seed,
        engine=engine,
        workers=workers,
    )
    with progress_bar("Comparing", len(splits), shown=progress) as on_block:
        records = map_reduce(
            job,
            blocks_of(len(splits), 1),
            engine=engine,
            workers=workers,
            checkpoint=checkpoint,
            checkpoint_every=0.0,
            on_block=on_block,
        )
    given = table.describe() if table is not None else _describe(problem)
    manifest = Manifest(
        kind="comparison",
        action={"name": "compare", "parameters": _parameters(job, repeats, rows, problem, found)},
        seed=seed,
        data=given,
    )
    return Comparison({**comparison_tables(records, job), **found.tables}, manifest, found.arrays)


def _check(*, tune: int, repeats: int, max_epochs: int, hidden: Sequence[int], rows: int | None) -> None:
    for name, value, least in (
        ("tune", tune, 1),
        ("repeats", repeats, 1),
        ("max_epochs", max_epochs, 1),
        ("rows", rows, FEWEST_TO_SEARCH),
    ):
        if value is not None and value < least:
            raise InvalidArgumentError(f"{name} must be at least {least}, not {value}.")
    if not len(hidden) or min(hidden) < 1:
        raise InvalidArgumentError(f"hidden must be one or more widths of at least 1, not {tuple(hidden)}.")


def _splits(
    folds: int | Sequence[int] | NDArray[np.integer[Any]],
    repeats: int,
    problem: SearchProblem,
    rows: int | None,
) -> list[Split]:
    """Return training and test rows; the number of a test part says which it is."""
    n = problem.n
    made: list[tuple[NDArray[np.int64], NDArray[np.int64]]]
    if isinstance(folds, int | np.integer):
        made = _drawn_splits(int(folds), repeats, problem)
    else:
        given = np.asarray(folds)
        if given.shape != (n,):
            raise InvalidArgumentError(f"folds must be one number a row, ({n},), not of shape {given.shape}.")
        if len(np.unique(given)) < 2:
            raise InvalidArgumentError(
                "folds has one test part only; the others are trained on, so two are needed."
            )
        if repeats > 1:
            raise InvalidArgumentError("repeats splits the rows anew, which does not go with given folds.")
        made = [(np.flatnonzero(given != one), np.flatnonzero(given == one)) for one in np.unique(given)]
    splits = []
    for number, (train, test) in enumerate(made):
        pool = len(train)
        if rows is not None and rows < pool:
            rng = np.random.default_rng([problem.seed, number])
            train = np.sort(rng.choice(train, rows, replace=False))
        splits.append(Split(number, train, test, pool))
    return splits


def _check_training(splits: Sequence[Split], problem: SearchProblem) -> None:
    """Refuse training parts that nothing can be searched or tuned on, before any work is done."""
    sizes = [len(split.train) for split in splits]
    if min(sizes) < FEWEST_TO_SEARCH:
        needed = ceil(FEWEST_TO_SEARCH * problem.n / float(np.mean(sizes)))
        raise DataError(
            f"Of {problem.n} rows, a training part has {min(sizes)} only, and a search needs {FEWEST_TO_SEARCH}: that "
            f"takes about {needed} rows in all, or more test parts (folds), which are smaller then."
        )
    if problem.classes:
        for split in splits:
            if np.count_nonzero(np.bincount(problem.y[split.train]) > 1) < 2:
                raise DataError(
                    f"Without test part {split.fold} there are not two classes with two rows each to train on. Take "
                    "fewer test parts (folds), or more rows."
                )


def _can_spare_rows(splits: Sequence[Split], problem: SearchProblem) -> bool:
    """Return whether a learner can put a tenth of four fifths of any training part aside, and learn from the rest."""
    fewest = min(len(split.train) for split in splits)
    if not problem.classes:
        return fewest >= _FEWEST_TO_SPARE
    sizes = [np.unique(problem.y[split.train], return_counts=True)[1] for split in splits]
    # A row of every class has to be among those put aside.
    return bool(
        fewest >= _FEWEST_TO_SPARE * len(problem.classes) and min(map(np.min, sizes)) >= _FEWEST_OF_CLASS
    )


def _held_out(problem: SearchProblem) -> float:
    """Return the share of rows that the formula of all rows is measured on; 0 where it would be too few to say much."""
    sizes = np.bincount(problem.y) if problem.classes else np.array([problem.n])
    return _HELD_OUT if np.round(_HELD_OUT * sizes[sizes > 1]).sum() >= _FEWEST_HELD_OUT else 0.0


def _drawn_splits(
    folds: int, repeats: int, problem: SearchProblem
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    from sklearn.model_selection import RepeatedKFold, RepeatedStratifiedKFold

    if folds < 2:
        raise InvalidArgumentError(f"folds must be at least 2, not {folds}.")
    smallest = int(np.bincount(problem.y).min()) if problem.classes else problem.n
    if folds > smallest:
        what = "rows of the rarest class" if problem.classes else "rows"
        raise DataError(f"There are {smallest} {what}, fewer than the {folds} test parts wanted (folds).")
    kind = RepeatedStratifiedKFold if problem.classes else RepeatedKFold
    splitter = kind(n_splits=folds, n_repeats=repeats, random_state=problem.seed)
    return list(splitter.split(problem.X, problem.y))


def _describe(problem: SearchProblem) -> dict[str, Any]:
    frame = pd.DataFrame(problem.X, columns=list(problem.names))
    return TableData(frame, pd.Series(problem.y, name="y"), target="y").describe()


def _parameters(
    job: FoldJob, repeats: int, rows: int | None, problem: SearchProblem, found: Discovery
) -> dict[str, Any]:
    setting = job.setting
    return {
        "learners": list(job.names),
        "reference": REFERENCE,
        "metric": RANKED_BY[setting.classes],
        "task": problem.task,
        "classes": [str(one) for one in problem.classes],
        "splits": len(job.splits),
        "repeats": int(repeats),
        "tune": job.tune,
        "hidden": list(setting.hidden),
        "max_epochs": setting.max_epochs,
        "bases": setting.bases if isinstance(setting.bases, str) else [str(one) for one in setting.bases],
        "rows": rows,
        "discovery": {"action": dict(found.manifest.action), "data": dict(found.manifest.data)},
    }
