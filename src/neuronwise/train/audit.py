"""The audit: what inhibitors do in one step and over whole training runs, beside controls, over seeds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from neuronwise.data import model_card
from neuronwise.engine import blocks_of, map_reduce, progress_bar
from neuronwise.observe.statistics import Unit
from neuronwise.sites import Site
from neuronwise.store import Manifest
from neuronwise.train._attached import sites_of
from neuronwise.train._audit_checks import (
    check_numbers,
    measures_of,
    refuse_missing,
    refuse_short,
    settings_of,
)
from neuronwise.train._audit_data import Loss, Metric, Split, default_loss, default_metric, split_of
from neuronwise.train._audit_figures import audit_tables
from neuronwise.train._audit_job import AuditJob, Records
from neuronwise.train._audit_plan import Plan, audited, new_model, seeded
from neuronwise.train._audit_words import aim_of, verdicts_of
from neuronwise.train.audited import Audit

__all__ = ["audit"]


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

    Differences are paired by seed, with 95 % intervals of the t distribution, not corrected for their number. They are
    about other seeds (weights, batches, splits) of these data and this model, not about other data.

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
    check_numbers(
        numbers,
        epochs=epochs,
        batch_size=batch_size,
        probes=probes,
        examples=examples,
        sample=sample,
        steps=steps,
        one_step=one_step,
        one_step_rate=one_step_rate,
        timed=timed,
    )
    rows, without = audited(inhibitors, controls=controls)
    split = split_of(data, held_out, measured_on)
    first = split(numbers[0])
    wanted = measures_of(measures, by, first)
    refuse_missing(rows[1:], wanted, first, embeddings)
    with seeded(numbers[0]):
        model = new_model(make_model, numbers[0])
    places = sites_of(model, sites)
    plan = Plan(
        make_model=make_model,
        split=split,
        rows=rows,
        seeds=numbers,
        sites=places,
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
    refuse_short(plan, len(first.train))
    card = model_card(model, model_name)
    about = {**settings_of(plan, first), "sites": list(places.names), "by": by, "without_control": without}
    digest = first.digest()
    job = AuditJob(plan, {**about, "model": card, "data": digest})
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
    return _result(records, plan, card, about, first, digest, sorted(less_is_better))


def _result(
    records: Records,
    plan: Plan,
    card: Mapping[str, Any],
    about: dict[str, Any],
    first: Split,
    digest: str,
    less_is_better: list[str],
) -> Audit:
    tables = audit_tables(records)
    figures = tables["audit_figures"]
    task = [name for name in figures.loc[figures["kind"] == "task", "name"].unique() if name != "loss"]
    about |= {"metric": task[0] if task else "loss", "less_is_better": less_is_better}
    aims = {
        row.inhibitor: aim_of(row.method) for row in plan.rows if row.method is not None and not row.control
    }
    tables["verdicts"] = verdicts_of(
        figures,
        aims,
        by=about["by"],
        metric=about["metric"],
        less_is_better=less_is_better,
        seeds=len(plan.seeds),
    )
    manifest = Manifest(
        kind="audit",
        action={"name": "audit", "parameters": about},
        seed=plan.seeds[0],
        model=card,
        data={
            "name": "given",
            "kind": "array",
            "examples": len(first.train) + len(first.test),
            "train": len(first.train),
            "held_out": len(first.test),
            "fingerprint": digest,
        },
    )
    return Audit({"sites": plan.sites.to_frame(), **tables}, manifest)
