"""The audit: what inhibitors do in one step and over whole training runs, beside controls, over seeds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from neuronwise.data import model_card
from neuronwise.engine import blocks_of, map_reduce, progress_bar
from neuronwise.errors import InvalidArgumentError
from neuronwise.observe.measures import MEASURES, chosen_measures
from neuronwise.observe.statistics import Unit
from neuronwise.sites import Site
from neuronwise.store import Manifest
from neuronwise.train._audit_data import Loss, Metric, Split, default_loss, default_metric, split_of
from neuronwise.train._audit_figures import audit_tables
from neuronwise.train._audit_job import AuditJob
from neuronwise.train._audit_plan import Plan, audited, seeded
from neuronwise.train._audit_words import aim_of, verdicts_of
from neuronwise.train.audited import Audit
from neuronwise.train.controller import Controller
from neuronwise.train.method import Method

__all__ = ["audit"]

#: What is measured by default, of neurons without labels and, where there are labels, with them.
WITHOUT_LABELS = (
    "phi_above_9",
    "phi_top",
    "sample_peak",
    "kurtosis",
    "lifetime_sparsity",
    "population_sparsity",
    "hoyer",
    "gini",
    "decorrelation_features",
)
WITH_LABELS = ("feature_phi", "false_killing_rate", "class_selectivity", "auc", "mutual_information")


def audit(
    make_model: Callable[[int], nn.Module],
    data: Any,
    inhibitors: Any = ("reversed", "tail"),
    *,
    sites: Site | Iterable[Site] | str | list[str] | None = None,
    seeds: int | Sequence[int] = 5,
    epochs: int = 10,
    steps: int | None = None,
    batch_size: int = 64,
    optimizer: Callable[..., torch.optim.Optimizer] | None = None,
    schedule: Callable[[torch.optim.Optimizer, int], Any] | None = None,
    clip_norm: float | None = None,
    augment: Callable[[Any, torch.Generator], Any] | None = None,
    loss: Loss | None = None,
    metric: Metric | None = None,
    less_is_better: Collection[str] = ("loss", "perplexity", "error", "mse", "mae", "rmse"),
    held_out: Any = 0.3,
    measured_on: Any = None,
    embeddings: Callable[[Any], Tensor] | None = None,
    measures: Sequence[str] | None = None,
    by: str = "phi_above_9",
    unit: Unit = "feature",
    horizon: int | None = 10,
    start: int = 10,
    rotation: bool = True,
    controls: bool = True,
    probes: int = 5,
    one_step: int = 8,
    one_step_rate: float = 0.01,
    timed: int = 10,
    examples: int = 2000,
    sample: int = 20_000,
    engine: Literal["local", "processes", "ray"] = "local",
    workers: int | None = None,
    threads: int | None = None,
    checkpoint: str | Path | None = None,
    model_name: str | None = None,
    progress: bool | None = None,
    seed: int = 0,
) -> Audit:
    """Train models with and without inhibitors, and say what each did: to neurons, to the task, in one step and in all.

    For every seed one model is trained without an inhibitor, one with each, and one with each one's random control. All
    models of a seed start from the same weights, see the same batches in the same order, and draw the same dropout.

    *Whole run.* Neurons are measured at the start and ``probes`` times on the way, the end included: on held-out
    examples, by mean and variance of training examples that are the same for all models of a seed, over the units that
    are alive (a site's measure is the mean over its live units, for kurtosis and the peak the median; then the mean
    over sites). At the start and the end also in a random rotation of the neurons and along their principal components.

    *One step.* From the weights at the start and at the end of training without an inhibitor, one step of plain
    gradient descent is done on a batch, with each inhibitor and without. The entry of every sample and site with the
    highest phi (the same entries for all) is followed: does its phi fall? Statistics are frozen. Controllers, which
    begin with strength 0, and SoLU, which makes another model, are left out of this.

    *Task.* ``loss`` and ``metric`` on all held-out examples. *Cost.* The fastest of some steps that take turns.

    Differences are paired by seed, with 95 % intervals of the t distribution, not corrected for their number.

    Args:
        make_model: Returns a new model, given a seed. It is called with torch's own random state seeded the same way.
        data: A pair ``(x, y)``; token ids ``(example, position)``; or the model's arguments by name. Tensors or arrays,
            examples first; ``x`` may be a mapping of arguments. ``((x, y), (x, y))`` holds out the second pair.
        inhibitors: Methods or their names in METHODS, or a mapping of names of your own to those.
        sites: Where: sites, or names as :func:`neuronwise.find_sites` takes them; default: all that it finds.
        seeds: How many, counted from ``seed``; or the seeds.
        epochs: Passes over the training examples, where ``steps`` is not given.
        steps: Training steps.
        batch_size: Examples a step.
        optimizer: Makes an optimiser of parameters; default: Adam with a learning rate of 0.001.
        schedule: Makes a learning rate schedule of an optimiser and the number of steps; its ``step()`` is called after
            every training step.
        clip_norm: Largest norm of the gradient.
        augment: Changes a training batch, given it and a generator.
        loss: ``loss(model, batch)`` returns the mean loss of a batch, ``()``. A batch is what ``data`` is, of some
            examples, on the model's device: a pair ``(x, y)``, a tensor, or a mapping. It must call the model, once.
            Default: cross-entropy for whole-number ``y`` (of examples or positions) and of the next token; mean squared
            error for other ``y``; ``model(**batch).loss`` for named inputs.
        metric: ``metric(model, batches)`` returns a number, or several by name, for all held-out batches (an iterable
            that can be walked through once); model in evaluation mode, without gradients. The first is told in the
            verdict. Default: accuracy or R2. The mean of ``loss`` is always taken too, as ``"loss"``.
        less_is_better: Names of task figures of which less is better.
        held_out: A share of the data, drawn anew for every seed (classes in proportion); or examples of their own.
        measured_on: Inputs to measure neurons on and their classes, a pair; classes are of examples or of positions.
            Default: the held-out examples and, where they are whole numbers with 2 to 100 values, their targets.
        embeddings: Returns an embedding by another encoder for every example of a batch, for methods that need it.
        measures: Names in :data:`neuronwise.observe.measures.MEASURES`; default: those that need no labels, and with
            labels some that do.
        by: The measure that decides the verdict.
        unit: What counts as one neuron; see :class:`Monosemanticity`.
        horizon: Steps after which running statistics begin to forget while training.
        start: Steps before an inhibitor begins to act.
        rotation: Also measure in other bases.
        controls: Train each inhibitor's random control.
        probes: How often neurons and task are measured on the way, the end included.
        one_step: Batches of the test of one step; 0 leaves it out.
        one_step_rate: Its learning rate.
        timed: Training steps of each inhibitor that are timed; 0 leaves it out.
        examples: Most examples that neurons are measured on, and as many for the statistics.
        sample: Most samples (positions) of them that are kept.
        engine: ``"local"``, ``"processes"`` or ``"ray"``; a seed is a block of work.
        workers: Number of workers.
        threads: Torch threads of each worker.
        checkpoint: A file to go on from after an interruption, seed by seed.
        model_name: Name for the record; default: the model's own, or its class.
        progress: Show progress; default: on a terminal.
        seed: The first seed.

    Returns:
        An :class:`Audit`.

    Raises:
        InvalidArgumentError: If an inhibitor or measure is unknown, or needs labels or embeddings that are not given.
        DataError: If there are too few examples.
        SiteNotFoundError: If a model has no such site.

    Example:
        >>> x = torch.randn(120, 4, generator=torch.Generator().manual_seed(0))
        >>> y = (x[:, 0] * x[:, 1] > 0).long()
        >>> def make_model(seed):
        ...     return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
        >>> options = {"seeds": 2, "epochs": 2, "start": 1, "probes": 1, "one_step": 1, "timed": 1}
        >>> found = audit(make_model, (x, y), {"ours": "tail"}, **options)
        >>> found.inhibitors
        ('ours',)

    Source: Wang et al. (arXiv 2312.11560) for the argument about one step; the audit is ours.
    """
    numbers = tuple(range(seed, seed + seeds)) if isinstance(seeds, int) else tuple(map(int, seeds))
    _check(
        numbers,
        epochs=epochs,
        batch_size=batch_size,
        probes=probes,
        examples=examples,
        sample=sample,
        steps=steps,
    )
    rows, without = audited(inhibitors, controls=controls)
    split = split_of(data, held_out, measured_on)
    first = split(numbers[0])
    wanted = _measures(measures, by, first)
    _refuse_missing(rows[1:], wanted, first, embeddings)
    plan = Plan(
        make_model=make_model,
        split=split,
        rows=rows,
        seeds=numbers,
        sites=sites
        if sites is None or isinstance(sites, str)
        else list(sites)
        if not isinstance(sites, Site)
        else [sites],
        steps=steps,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer or partial(torch.optim.Adam, lr=1e-3),
        schedule=schedule,
        clip_norm=clip_norm,
        augment=augment,
        loss=loss or default_loss,
        metric=metric or (default_metric(first.test) if loss is None else None),
        embeddings=embeddings,
        measures=wanted,
        rotation=rotation,
        probes=probes,
        one_step=one_step,
        one_step_rate=one_step_rate,
        timed=timed,
        unit=unit,
        horizon=horizon,
        start=start,
        examples=examples,
        sample=sample,
    )
    with seeded(numbers[0]):
        model = plan.model(numbers[0])
    places = plan.sites_of(model)
    _refuse_short(plan, len(first.train))
    card = model_card(model, model_name)
    about = {**_settings(plan, first), "sites": list(places.names), "by": by, "without_control": without}
    job = AuditJob(plan, {**about, "model": card, "data": first.train.digest()})
    with progress_bar("Auditing", len(numbers), shown=progress) as on_block:
        records = map_reduce(
            job,
            blocks_of(len(numbers), 1),
            engine=engine,
            workers=workers,
            threads=threads,
            checkpoint=checkpoint,
            checkpoint_every=0.0,
            on_block=on_block,
        )
    tables = audit_tables(records)
    figures = tables["audit_figures"]
    task = [name for name in figures.loc[figures["kind"] == "task", "name"].unique() if name != "loss"]
    about |= {"metric": task[0] if task else "loss", "less_is_better": sorted(less_is_better)}
    aims = {
        row.inhibitor: aim_of(row.method) for row in rows[1:] if row.method is not None and not row.control
    }
    tables["verdicts"] = verdicts_of(
        figures,
        aims,
        by=by,
        metric=about["metric"],
        less_is_better=about["less_is_better"],
        seeds=len(numbers),
    )
    manifest = Manifest(
        kind="audit",
        action={"name": "audit", "parameters": about},
        seed=numbers[0],
        model=card,
        data={
            "name": "given",
            "kind": "array",
            "examples": len(first.train) + len(first.test),
            "train": len(first.train),
            "held_out": len(first.test),
            "fingerprint": first.train.digest(),
        },
    )
    return Audit({"sites": places.to_frame(), **tables}, manifest)


def _check(seeds: Sequence[int], *, steps: int | None, **counts: int) -> None:
    if not seeds or len(set(seeds)) < len(seeds):
        raise InvalidArgumentError(f"seeds must be one or more different numbers, not {list(seeds)}.")
    for name, value in {**counts, "steps": 1 if steps is None else steps}.items():
        if value < 1:
            raise InvalidArgumentError(f"{name} must be at least 1, not {value}.")


def _measures(wanted: Sequence[str] | None, by: str, split: Split) -> tuple[str, ...]:
    """Return the measures to take, that of the verdict among them."""
    if wanted is None:
        chosen = [*WITHOUT_LABELS, *(WITH_LABELS if split.labels is not None else ())]
    else:
        chosen = [measure.name for measure in chosen_measures(wanted)]
    chosen_measures([by])
    return tuple(dict.fromkeys([*chosen, by]))


def _refuse_missing(rows: Any, measures: Sequence[str], split: Split, embeddings: Any) -> None:
    """Refuse what needs something that is not given, before anything is trained."""
    for name in measures:
        if "labels" in MEASURES[name].needs and split.labels is None:
            raise InvalidArgumentError(
                f"The measure {name!r} needs classes: targets of whole numbers with 2 to 100 values, or "
                "measured_on=(inputs, classes)."
            )
        if "embeddings" in MEASURES[name].needs:
            raise InvalidArgumentError(
                f"The measure {name!r} needs embeddings, which an audit does not measure with."
            )
    for row in rows:
        method: Method = row.method.method if isinstance(row.method, Controller) else row.method
        if "labels" in method.needs and split.train.classes is None:
            raise InvalidArgumentError(
                f"The inhibitor {row.inhibitor!r} needs classes: give data as (x, y) with whole-number y."
            )
        if "embeddings" in method.needs and embeddings is None:
            raise InvalidArgumentError(
                f"The inhibitor {row.inhibitor!r} needs embeddings of each batch by another encoder: give embeddings=."
            )


def _refuse_short(plan: Plan, examples: int) -> None:
    """Refuse training that ends before an inhibitor begins."""
    total = plan.total(examples)
    if total < plan.start + 2:
        raise InvalidArgumentError(
            f"Training takes {total} steps, and inhibitors begin after start={plan.start} steps of warm-up: train "
            "longer (epochs=, steps=), in smaller batches, or begin earlier (start=)."
        )


def _settings(plan: Plan, split: Split) -> dict[str, Any]:
    kept = (
        "epochs", "batch_size", "clip_norm", "measures", "rotation", "probes", "one_step", "one_step_rate", "timed",
        "unit", "horizon", "start", "examples", "sample",
    )  # fmt: skip
    return {
        **{name: getattr(plan, name) for name in kept},
        "steps": plan.total(len(split.train)),
        "seeds": list(plan.seeds),
        "inhibitors": {row.inhibitor: str(row.method) for row in plan.rows if row.method and not row.control},
        "controls": [row.inhibitor for row in plan.rows if row.control],
        "optimizer": _name(plan.optimizer),
        "loss": _name(plan.loss),
        "metric_function": None if plan.metric is None else _name(plan.metric),
    }


def _name(function: Any) -> str:
    if isinstance(function, partial):
        given = ", ".join(f"{name}={value}" for name, value in function.keywords.items())
        return f"{_name(function.func)}({given})"
    return getattr(function, "__qualname__", type(function).__name__)
