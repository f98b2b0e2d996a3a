"""One training run of an audit, and what is read of the model on its way."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from neuronwise.errors import DataError
from neuronwise.hooks import device_of
from neuronwise.observe import monosemanticity
from neuronwise.train._audit_data import Examples, Split
from neuronwise.train._audit_plan import Audited, Plan, seeded

__all__ = ["Meter", "Reading", "numbers", "run"]

#: (kind, name, basis, site) -> value; the site is "" for the mean over sites or where there is none.
Reading = dict[tuple[str, str, str, str], float]

#: Measures that single units rule: of these the median over the live units, of others the mean.
MEDIANS = frozenset({"kurtosis", "phi_peak"})


class Meter:
    """Measures models of one seed, all on the same held-out examples and with statistics of the same others.

    Args:
        plan: The audit.
        split: What is trained and measured on.
        seed: The seed.
    """

    def __init__(self, plan: Plan, split: Split, seed: int) -> None:
        self.plan, self.split, self.seed = plan, split, seed
        some = split.train.part(_rows(len(split.train), plan.examples, seed))
        self.reference = some.corpus(None, "reference")
        shown, labels = split.shown, split.labels
        rows = _rows(len(shown), plan.examples, seed)
        self.held_out = shown.part(rows).corpus(None if labels is None else labels[rows], "held out")

    def read(self, model: nn.Module, *, whole: bool) -> Reading:
        """Return measures, counts of units and the task's figures.

        Args:
            model: The model, in the state that it is used in.
            whole: In other bases and site by site, too.
        """
        plan = self.plan
        with seeded(self.seed):
            found = self._task(model)
            try:
                measured = monosemanticity(
                    model,
                    self.held_out,
                    plan.sites,
                    reference=self.reference,
                    unit=plan.unit,
                    measures=plan.measures,
                    sample=plan.sample,
                    rotation=whole and plan.rotation,
                    batch_size=plan.batch_size,
                    progress=False,
                    seed=self.seed,
                )
            except DataError:
                if all(np.isfinite(value) for value in found.values()):
                    raise
                return found  # the model has diverged, and there is nothing to measure
        return found | numbers(measured.tables["site_measures"], by_site=whole)

    def _task(self, model: nn.Module) -> Reading:
        device, size = device_of(model), self.plan.batch_size
        was = model.training
        model.eval()
        try:
            with torch.no_grad():
                total = sum(
                    float(self.plan.loss(model, batch)) * len(Examples(batch))
                    for batch in self.split.test.batches(size, device)
                )
                figures = {"loss": total / len(self.split.test)}
                if self.plan.metric is not None:
                    given = self.plan.metric(model, self.split.test.batches(size, device))
                    figures |= dict(given) if isinstance(given, Mapping) else {"metric": given}
        finally:
            model.train(was)
        return {("task", str(name), "", ""): float(value) for name, value in figures.items()}


def numbers(frame: pd.DataFrame, *, by_site: bool) -> Reading:
    """Return the values of a table of measures: the mean over sites, and those of the sites if wanted."""
    found: Reading = {}
    for (measure, basis), part in frame.groupby(["measure", "basis"], sort=False):
        column = "median" if measure in MEDIANS else "mean"
        values = part[column].to_numpy(np.float64)
        known = values[np.isfinite(values)]
        found["measure", str(measure), str(basis), ""] = float(known.mean()) if len(known) else np.nan
        if by_site:
            for site, value in zip(part["site"], values, strict=True):
                found["measure", str(measure), str(basis), str(site)] = float(value)
    own = (
        frame[frame["basis"] == "neuron"]
        .groupby("site", sort=False)[["n_live", "n_near_dead", "n_dead"]]
        .first()
    )
    total = own.sum(axis=1)
    for column in own.columns:
        name = str(column).removeprefix("n_")
        found["units", name, "", ""] = float(own[column].sum() / total.sum())
        if by_site:
            for site in own.index:
                found["units", name, "", str(site)] = float(own.loc[site, column] / total[site])
    return found


def run(
    plan: Plan, meter: Meter, row: Audited, initial: Mapping[str, Tensor], first: Reading | None
) -> tuple[dict[int, Reading], dict[str, Tensor]]:
    """Train a fresh model, and return what was read at each probe, and the weights at the end.

    Args:
        plan: The audit.
        meter: What reads, with the seed.
        row: What acts.
        initial: Weights and buffers to start from.
        first: What was read of these weights; None to read them.
    """
    split, seed = meter.split, meter.seed
    total = plan.total(len(split.train))
    probes = sorted({round(total * part / plan.probes) for part in range(1, plan.probes + 1)})
    readings: dict[int, Reading] = {}
    with seeded(seed):
        model = plan.model(seed, initial)
        mono = None
        if row.method is not None:
            mono = plan.watcher(model, row.method, horizon=plan.horizon, start=plan.start, seed=seed)
        optimizer = plan.optimizer([p for p in model.parameters() if p.requires_grad])
        schedule = None if plan.schedule is None else plan.schedule(optimizer, total)
        with nullcontext() if mono is None else mono.attached():
            readings[0] = meter.read(model, whole=True) if first is None else first
            model.train()
            for step, rows in enumerate(plan.order(len(split.train), seed), 1):
                batch = plan.batch(split, rows, model, seed * 1_000_003 + step)
                plan.train_step(model, batch, mono, optimizer)
                if schedule is not None:
                    schedule.step()
                if step in probes:
                    readings[step] = meter.read(model, whole=step == total)
                    model.train()
    return readings, {name: value.detach().clone() for name, value in model.state_dict().items()}


def _rows(total: int, most: int, seed: int) -> Tensor:
    """Return which examples are measured: all, or some drawn at random, in their order."""
    drawn = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:most]
    return drawn.sort().values
