"""The job of an audit: it folds seeds into what every inhibitor did to models of that seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from neuronwise.engine import Block
from neuronwise.train._audit_plan import NONE, Audited, Plan, seeded
from neuronwise.train._audit_run import Meter, Reading, run
from neuronwise.train._audit_step import costs, one_step

__all__ = ["AuditJob", "Records"]


@dataclass
class Records:
    """What has been measured, as rows of the tables of the same names."""

    runs: list[dict[str, Any]] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)


class AuditJob:
    """Trains one model for every inhibitor and control of a seed; a seed is one example of the engine's blocks."""

    def __init__(self, plan: Plan, about: Mapping[str, Any]) -> None:
        self.plan, self.about = plan, dict(about)

    def start(self) -> Records:
        """Return an empty record."""
        return Records()

    def run(self, state: Records, block: Block) -> bool:
        """Train and measure all models of some seeds."""
        _, first, last = block
        for seed in self.plan.seeds[first:last]:
            self._seed(state, seed)
        return first < len(self.plan.seeds)

    def merge(self, state: Records, other: Records) -> None:
        """Add what was measured of later seeds."""
        state.runs.extend(other.runs)
        state.curves.extend(other.curves)

    def dump(self, state: Records) -> dict[str, Tensor]:
        """Return the record as tensors."""
        return {"json": torch.frombuffer(bytearray(json.dumps(asdict(state)).encode()), dtype=torch.uint8)}

    def restore(self, tensors: Mapping[str, Tensor]) -> Records:
        """Return the record that was dumped."""
        return Records(**json.loads(bytes(tensors["json"].tolist())))

    def fingerprint(self) -> str:
        """Return what the figures depend on, as far as it can be told; of functions of the user only the name."""
        return hashlib.sha256(json.dumps(self.about, sort_keys=True, default=str).encode()).hexdigest()

    def _seed(self, state: Records, seed: int) -> None:
        plan = self.plan
        split = plan.split(seed)
        with seeded(seed):
            model = plan.model(seed)
        initial = {name: value.detach().clone() for name, value in model.state_dict().items()}
        meter = Meter(plan, split, seed)
        first: Reading | None = None
        trained = initial
        for row in plan.rows:
            # The same weights have been read already, unless the method makes another model of them.
            known = None if row.method is not None and row.method.always else first
            readings, weights = run(plan, meter, row, initial, known)
            if row.inhibitor == NONE:
                first, trained = readings[0], weights
            self._keep(state, row, seed, readings)
        if plan.one_step:
            for stage, weights in (("one_step_start", initial), ("one_step_end", trained)):
                self._extra(state, seed, stage, one_step(plan, split, seed, weights))
        if plan.timed:
            self._extra(state, seed, "cost", costs(plan, split, seed, trained))

    def _keep(self, state: Records, row: Audited, seed: int, readings: Mapping[int, Reading]) -> None:
        last = max(readings)
        start, end = readings[0], readings[last]
        for key in dict.fromkeys([*start, *end]):
            kind, name, basis, site = key
            place = {"kind": kind, "name": name, "basis": basis, "site": site}
            values = {"start": start.get(key), "end": end.get(key)}
            state.runs.append({**row.label, "seed": seed, **place, **values})
        for step, reading in readings.items():
            for (kind, name, basis, site), value in reading.items():
                if site == "" and basis in ("", "neuron"):
                    state.curves.append(
                        {**row.label, "seed": seed, "step": step, "kind": kind, "name": name, "value": value}
                    )

    def _extra(
        self, state: Records, seed: int, kind: str, figures: Mapping[tuple[str, bool], Mapping[str, float]]
    ) -> None:
        for (inhibitor, control), values in figures.items():
            label = {"inhibitor": inhibitor, "control": control, "seed": seed, "kind": kind}
            for name, value in values.items():
                state.runs.append(
                    {**label, "name": name, "basis": "", "site": "", "start": None, "end": value}
                )
