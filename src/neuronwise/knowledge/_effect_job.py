"""The job of measuring effects: it folds blocks of facts into what has been measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuronwise.data import Facts
from neuronwise.engine import Block
from neuronwise.errors import DataError, InvalidArgumentError
from neuronwise.knowledge._effect_probes import Sheets
from neuronwise.knowledge._effect_tables import FIGURES, figures
from neuronwise.knowledge._rows import Where, multiplied
from neuronwise.sites import NeuronSet

__all__ = ["Job", "Settings", "State"]


@dataclass(frozen=True)
class Settings:
    """What the figures of one fact depend on."""

    factors: tuple[float, ...]
    positions: Where
    controls: int
    max_tokens: int
    seed: int

    def check(self, facts: Facts, sisters: int, others: int) -> None:
        """Raise an error if something cannot be meant."""
        if not len(facts):
            raise InvalidArgumentError("There is no fact to measure.")
        if not self.factors or len(set(self.factors)) < len(self.factors):
            raise InvalidArgumentError(
                f"factors must be different numbers, at least one, not {self.factors}."
            )
        if not np.isfinite(self.factors).all():
            raise InvalidArgumentError(f"factors must be finite, not {self.factors}.")
        for name, value in (("controls", self.controls), ("sisters", sisters), ("others", others)):
            if value < 0:
                raise InvalidArgumentError(f"{name} must be 0 or more, not {value}.")


@dataclass
class State:
    """What has been measured: rows of :data:`FIGURES`, and problems ``(fact, probe, prompt, reason)``."""

    rows: list[tuple[float, ...]] = field(default_factory=list)
    problems: list[tuple[str, str, str, str]] = field(default_factory=list)


class Job:
    """The job that an engine runs: it folds blocks of facts into what has been measured."""

    def __init__(
        self,
        sheets: Sheets,
        facts: Facts,
        sets: Mapping[str, NeuronSet],
        settings: Settings,
        reference: Mapping[str, Tensor] | None,
        model_hash: str | None,
    ) -> None:
        self.sheets, self.facts, self.sets = sheets, facts, sets
        self.options, self.reference, self.model_hash = settings, reference, model_hash

    def start(self) -> State:
        return State()

    def run(self, state: State, block: Block) -> bool:
        _, first, last = block
        for number in range(first, last):
            self._measure(state, number)
        return True

    def _measure(self, state: State, number: int) -> None:
        fact = self.facts[number]
        chosen = self.sets.get(fact.id)
        if chosen is None or not len(chosen):
            what = "no neurons are given for it" if chosen is None else "its set of neurons is empty"
            state.problems.append((fact.id, "", "", what))
            return
        sheet = self.sheets.of(fact)
        state.problems += [(fact.id, *problem) for problem in sheet.problems]
        if sheet.prompts is None:
            return
        options = self.options
        seeds = range(options.seed, options.seed + options.controls)
        sets = [chosen, *(chosen.matched_random(seed=one) for one in seeds)]
        if options.controls and sets[1] == chosen:
            state.problems.append(
                (fact.id, "", "", "its sites were chosen whole, so there are no random sets")
            )
            sets = sets[:1]
        try:
            measured = multiplied(
                self.sheets.model,
                sheet.prompts,
                sets,
                options.factors,
                reference=self.reference,
                positions=options.positions,
                max_tokens=options.max_tokens,
            )
        except DataError as error:
            state.problems.append((fact.id, "", "", str(error)))
            return
        state.rows += figures(number, sheet, measured, [len(one) for one in sets])

    def merge(self, state: State, other: State) -> None:
        state.rows += other.rows
        state.problems += other.problems

    def dump(self, state: State) -> dict[str, Tensor]:
        rows = torch.tensor(state.rows, dtype=torch.float64).reshape(-1, len(FIGURES))
        text = json.dumps(state.problems).encode()
        return {"rows": rows, "problems": torch.tensor(list(text), dtype=torch.uint8)}

    def restore(self, tensors: Mapping[str, Tensor]) -> State:
        problems = json.loads(bytes(tensors["problems"].tolist()))
        return State([tuple(row) for row in tensors["rows"].tolist()], [tuple(row) for row in problems])

    def settings(self) -> dict[str, Any]:
        sheets = self.sheets
        return {
            **asdict(self.options),
            "sisters": sheets.sisters,
            "others": sheets.others,
            "unrelated": len(sheets.unrelated),
            "multi_token": sheets.multi_token,
            "reference": "zero" if self.reference is None else "given",
        }

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for fact, chosen in sorted(self.sets.items()):
            digest.update(
                json.dumps([fact, {s.name: chosen.indices(s).tolist() for s in chosen.sites}]).encode()
            )
        for name, values in sorted((self.reference or {}).items()):
            digest.update(json.dumps([name, values.tolist()]).encode())
        questions = [[q.prompt, q.answer] for q in self.sheets.unrelated]
        parts = [self.facts.fingerprint, self.sheets.pool.fingerprint, self.model_hash, digest.hexdigest()]
        return json.dumps([self.settings(), questions, *parts], sort_keys=True)
