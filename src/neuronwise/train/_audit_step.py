"""What one step does, and what it costs: the published argument is about one step, so it is tested on one step."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from neuronwise.hooks import device_of
from neuronwise.train._audit_data import Split
from neuronwise.train._audit_plan import NONE, Plan, seeded
from neuronwise.train.controller import Controller
from neuronwise.train.method import Method
from neuronwise.train.monosemanticity import Monosemanticity
from neuronwise.train.replacement import ReversedDeactivation
from neuronwise.train.view import View

__all__ = ["costs", "one_step"]

_WARM = 2  # steps that are not timed
Phis = dict[str, list[Tensor]]


@dataclass(frozen=True)
class _Recorder(Method):
    """Keeps phi of every call of every site, and changes nothing."""

    name: ClassVar[str] = "recorder"
    kept: Phis = field(default_factory=dict, compare=False)

    def replace(self, view: View) -> Tensor:
        phi = view.phi
        self.kept.setdefault(view.site.name, []).append(phi.reshape(phi.shape[0], -1).clone())
        return view.tensor


@dataclass
class _Tally:
    """What happened to the chosen entries of all batches."""

    entries: int = 0
    falls: int = 0
    below: int = 0
    relative: list[float] = field(default_factory=list)


def one_step(
    plan: Plan, split: Split, seed: int, state: Mapping[str, Tensor]
) -> dict[tuple[str, bool], dict[str, float]]:
    """Return what one step of plain gradient descent does to the highest phi, with each inhibitor and without.

    For every batch and site, the entry of each sample with the highest phi is looked at, the same for all inhibitors:
    before the step, and after it on the same batch, by statistics that stay as they are.

    Args:
        plan: The audit.
        split: What is trained on.
        seed: The seed.
        state: Weights and buffers to start each step from.

    Returns:
        For every inhibitor and control that can be tested: ``falls`` (share of the entries whose phi falls),
        ``relative_fall`` (mean over batches of the fall of their mean phi, in per cent), ``below_plain`` (share that
        end below where the plain step brings them); for no inhibitor also ``sign_condition`` (share for which the
        lemma's condition holds).
    """
    with seeded(seed):
        model = plan.model(seed, state)
    model.train()
    known = plan.watcher(model, None, horizon=None, start=0)
    generator = torch.Generator().manual_seed(seed + 1)
    drawn = torch.randperm(len(split.train), generator=generator)
    with seeded(seed), known.attached(), torch.no_grad():
        for rows in torch.split(drawn[: plan.examples], plan.batch_size):
            plan.loss(model, split.train.take(rows, device_of(model)))
            known.loss()
            known.step()
    model.load_state_dict(state)
    tested = [row for row in plan.rows if _is_tested(row.method)]
    tallies = {(row.inhibitor, row.control): _Tally() for row in tested}
    watcher = plan.watcher(model, ReversedDeactivation(watch=True), horizon=None, start=0)
    for number, rows in enumerate(torch.split(drawn, plan.batch_size)[: plan.one_step]):
        batch = split.train.take(rows, device_of(model))
        chance = seed * 1_000_003 + number
        before = _phis(plan, model, batch, known, chance)
        plain: Phis = {}
        for row in tested:
            _step(plan, model, batch, known, row.method, chance, before)
            after = _phis(plan, model, batch, known, chance)
            model.load_state_dict(state)
            plain = after if row.inhibitor == NONE else plain
            _count(tallies[row.inhibitor, row.control], before, after, plain)
        _watch_condition(plan, model, batch, known, watcher, chance)
    found = {key: _figures(tally) for key, tally in tallies.items()}
    found[NONE, False]["sign_condition"] = watcher.log().get("condition", np.nan)
    found[NONE, False].pop("below_plain")
    return found


def _is_tested(method: Method | None) -> bool:
    """Return whether one step of a method means anything: not where it is another model, or begins with strength 0."""
    return method is None or not (method.always or isinstance(method, Controller))


def _primed(
    plan: Plan, model: nn.Module, method: Method, known: Monosemanticity, before: Phis | None = None
) -> Monosemanticity:
    """Return a method with known statistics, which acts at once, by a threshold that has settled."""
    mono = plan.watcher(model, method, horizon=None, start=0)
    scores = {name: torch.cat([part.flatten() for part in parts]) for name, parts in (before or {}).items()}
    mono.start_from(known.statistics, scores)
    return mono


def _phis(plan: Plan, model: nn.Module, batch: Any, known: Monosemanticity, chance: int) -> Phis:
    recorder = _Recorder()
    with seeded(chance), _primed(plan, model, recorder, known).attached(), torch.no_grad():
        plan.loss(model, batch)
    return recorder.kept


def _gradients(plan: Plan, model: nn.Module, batch: Any, mono: Monosemanticity | None, chance: int) -> None:
    model.zero_grad()
    with seeded(chance), nullcontext() if mono is None else mono.attached():
        torch.autograd.backward(plan.whole_loss(model, batch, mono))


def _step(
    plan: Plan,
    model: nn.Module,
    batch: Any,
    known: Monosemanticity,
    method: Method | None,
    chance: int,
    before: Phis,
) -> None:
    mono = None if method is None else _primed(plan, model, method, known, before)
    _gradients(plan, model, batch, mono, chance)
    torch.optim.SGD(model.parameters(), lr=plan.one_step_rate).step()


def _count(tally: _Tally, before: Phis, after: Phis, plain: Phis) -> None:
    was_sum = is_sum = 0.0
    for site, calls in before.items():
        for was, now, other in zip(calls, after[site], plain[site], strict=True):
            value, place = was.max(1, keepdim=True)
            real = value > 0
            moved, without = now.gather(1, place), other.gather(1, place)
            tally.entries += int(real.sum())
            tally.falls += int(((moved < value) & real).sum())
            tally.below += int(((moved < without) & real).sum())
            was_sum += float(value[real].double().sum())
            is_sum += float(moved[real].double().sum())
    if was_sum:
        tally.relative.append(100 * (was_sum - is_sum) / was_sum)


def _figures(tally: _Tally) -> dict[str, float]:
    entries = tally.entries or np.nan
    return {
        "falls": tally.falls / entries,
        "relative_fall": float(np.mean(tally.relative)) if tally.relative else np.nan,
        "below_plain": tally.below / entries,
    }


def _watch_condition(
    plan: Plan, model: nn.Module, batch: Any, known: Monosemanticity, watcher: Monosemanticity, chance: int
) -> None:
    """Let a watcher count for how many of the highest entries the lemma's sign condition holds."""
    watcher.start_from(known.statistics)
    with seeded(chance), watcher.attached():
        torch.autograd.backward(plan.loss(model, batch))
        watcher.step()
    model.zero_grad()


def costs(
    plan: Plan, split: Split, seed: int, state: Mapping[str, Tensor]
) -> dict[tuple[str, bool], dict[str, float]]:
    """Return how long a training step takes, as a multiple of one without an inhibitor.

    Steps of all inhibitors take turns, and the fastest of each counts, so that what else the machine does falls out.

    Returns:
        ``cpu`` (time of all threads of this process) and ``wall``, for every inhibitor and control.
    """
    rows = torch.arange(min(plan.batch_size, len(split.train)))
    best = {(row.inhibitor, row.control): np.full(2, np.inf) for row in plan.rows}
    trained = {}
    for row in plan.rows:
        with seeded(seed):
            model = plan.model(seed, state)
        model.train()
        mono = None if row.method is None else plan.watcher(model, row.method, horizon=plan.horizon, start=0)
        optimizer = plan.optimizer([p for p in model.parameters() if p.requires_grad])
        trained[row.inhibitor, row.control] = model, mono, optimizer, split.train.take(rows, device_of(model))
    with seeded(seed):
        for turn in range(_WARM + plan.timed):
            for key, parts in trained.items():
                spent = _timed(plan, *parts)
                if turn >= _WARM:
                    best[key] = np.minimum(best[key], spent)
    plain = best[NONE, False]
    return {
        key: {"cpu": float(spent[0] / plain[0]), "wall": float(spent[1] / plain[1])}
        for key, spent in best.items()
    }


def _timed(
    plan: Plan, model: nn.Module, mono: Monosemanticity | None, optimizer: torch.optim.Optimizer, batch: Any
) -> np.ndarray[Any, np.dtype[np.float64]]:
    with nullcontext() if mono is None else mono.attached():
        _wait(model)
        cpu, wall = time.process_time(), time.perf_counter()
        plan.train_step(model, batch, mono, optimizer)
        _wait(model)
        return np.array([time.process_time() - cpu, time.perf_counter() - wall])


def _wait(model: nn.Module) -> None:
    if device_of(model).type == "cuda":
        torch.cuda.synchronize(device_of(model))
