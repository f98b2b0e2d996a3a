"""What suppressing or amplifying a fact's neurons does: to the fact, to others, and beside random neurons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypedDict, Unpack

import numpy as np
import pandas as pd
from torch import nn

from neuronwise.data import Fact, Facts, model_card
from neuronwise.engine import blocks_of, map_reduce
from neuronwise.engine.progress import progress_bar
from neuronwise.errors import InvalidArgumentError
from neuronwise.hooks import refuse_uncatchable
from neuronwise.knowledge._effect_job import Job, Settings, State
from neuronwise.knowledge._effect_probes import Sheets, as_questions
from neuronwise.knowledge._effect_tables import effects, summary
from neuronwise.knowledge._rows import Where, as_reference
from neuronwise.sites import NeuronSet
from neuronwise.store import Manifest, Result

__all__ = ["Effect", "amplify", "measure_effect", "suppress"]


class HasSets(Protocol):
    """Located neurons: what :func:`neuronwise.knowledge.locate` returns."""

    def sets(self) -> Mapping[str, NeuronSet]:
        """Return the neurons of every fact, by its id."""


Located = Mapping[str, NeuronSet] | NeuronSet | HasSets
"""The neurons of every fact, by the fact's id; or one set for all facts."""


class Effect(Result):
    """What changing the neurons of facts does to these and other facts, beside random neurons.

    Tables: ``effects`` (one row for each fact, set of neurons, factor and kind of prompt), ``effect_summary``
    (averages over facts with 95 % intervals), ``effect_problems`` (what could not be measured).
    """

    kind: ClassVar[str] = "effect"
    main_table: ClassVar[str] = "effect_summary"

    @property
    def factors(self) -> tuple[float, ...]:
        """The factors that were measured."""
        return tuple(map(float, self.manifest.action["parameters"]["factors"]))

    def value(
        self,
        probe: str = "own",
        *,
        measure: str = "ratio_of_means",
        neurons: str = "chosen",
        factor: float | None = None,
    ) -> float:
        """Return one average of the table ``effect_summary``.

        Args:
            probe: Kind of prompt.
            measure: Which average.
            neurons: ``"chosen"``, ``"random"`` or ``"difference"``.
            factor: The factor; None is the first.

        Raises:
            InvalidArgumentError: If it was not measured.
        """
        wanted = {"probe": probe, "measure": measure, "neurons": neurons}
        wanted["factor"] = self.factors[0] if factor is None else factor  # type: ignore[assignment]
        frame = self.tables["effect_summary"]
        found = frame[(frame[list(wanted)] == pd.Series(wanted)).all(axis=1)]
        if not len(found):
            raise InvalidArgumentError(f"There is no average for {wanted}; see .tables['effect_summary'].")
        return float(found["value"].iloc[0])

    def summary(self) -> str:
        """Return what was found in a few lines of text: the change of P, chosen against random."""
        frame = self.tables["effect_summary"]
        shown = frame[frame["measure"] == "ratio_of_means"]
        lines = []
        for (factor, probe), rows in shown.groupby(["factor", "probe"], sort=False):
            own = {str(row["neurons"]): row for row in rows.to_dict("records")}
            text = f"x {factor:g}, {probe}: P changes by {_percent(own['chosen'])}"
            text += f"; by random neurons {_percent(own['random'])}" if "random" in own else ""
            lines.append(f"{text} ({own['chosen']['facts']} facts)")
        problems = len(self.tables["effect_problems"])
        return "\n".join(
            lines + ([f"{problems} problems; see .tables['effect_problems']"] if problems else [])
        )


class EffectOptions(TypedDict, total=False):
    """The options of :func:`measure_effect` beside the factors."""

    reference: Mapping[Any, Any] | None
    positions: Where
    sisters: int
    others: int
    unrelated: Iterable[Any]
    pool: Iterable[Fact] | None
    controls: int
    multi_token: bool
    max_tokens: int
    engine: str
    workers: int | None
    threads: int | None
    block_size: int
    checkpoint: str | Path | None
    checkpoint_every: float
    model_name: str | None
    progress: bool | None
    seed: int


def suppress(
    model: nn.Module,
    tokenizer: Any,
    facts: Iterable[Fact],
    located: Located,
    *,
    factor: float = 0.0,
    **options: Unpack[EffectOptions],
) -> Effect:
    """Switch off every fact's neurons; the options are those of :func:`measure_effect`."""
    return measure_effect(model, tokenizer, facts, located, factors=(factor,), **options)


def amplify(
    model: nn.Module,
    tokenizer: Any,
    facts: Iterable[Fact],
    located: Located,
    *,
    factor: float = 2.0,
    **options: Unpack[EffectOptions],
) -> Effect:
    """Double every fact's neurons; the options are those of :func:`measure_effect`."""
    return measure_effect(model, tokenizer, facts, located, factors=(factor,), **options)


def measure_effect(
    model: nn.Module,
    tokenizer: Any,
    facts: Iterable[Fact],
    located: Located,
    *,
    factors: Sequence[float] = (0.0, 2.0),
    reference: Mapping[Any, Any] | None = None,
    positions: Where = "slot",
    sisters: int = 4,
    others: int = 4,
    unrelated: Iterable[Any] = (),
    pool: Iterable[Fact] | None = None,
    controls: int = 5,
    multi_token: bool = False,
    max_tokens: int = 8192,
    engine: str = "local",
    workers: int | None = None,
    threads: int | None = None,
    block_size: int = 16,
    checkpoint: str | Path | None = None,
    checkpoint_every: float = 30.0,
    model_name: str | None = None,
    progress: bool | None = None,
    seed: int = 0,
) -> Effect:
    """Multiply every fact's neurons, and measure what becomes of the probability of answers, beside random neurons.

    Kinds of prompts. *own*: the fact's prompts; *held_out*: its held-out ones; *sister*: facts of the same relation
    with another answer; *other*: facts of other relations; *unrelated*: prompts given; and probes of the kinds
    *neighbour*, *sister* and *unrelated* that the fact has. Of other facts a held-out prompt is asked, where there is
    one.

    Averages, over facts that all weigh the same, with the 95 % interval of the bootstrap over facts:

    - *ratio_of_means*: mean P after / mean P before - 1, as in the code of Dai et al. (2022,
      https://arxiv.org/abs/2104.08696);
    - *mean_of_ratios*: the mean of each prompt's P after / P before - 1, as the package ``knowledge-neurons`` has it;
      a few prompts that the model does not know can make it as large as you like;
    - *median_ratio*: the median over facts of the median of P after / P before of a fact's prompts;
    - *delta_log_p*: the mean change of log P, in nats; *delta_right*: of the share of answers that are the argmax.

    For one fact all sets (its own and the random ones) and all factors go through the model as rows of one batch. A
    fact that cannot be measured is listed in the table ``effect_problems`` with the reason, and the rest goes on.

    Args:
        model: A language model. It runs in evaluation mode and is bit-identical afterwards.
        tokenizer: Its tokenizer.
        facts: The facts.
        located: Their neurons: what ``locate`` has found, ``{fact id: NeuronSet}``, or one set for all.
        factors: What the activations are multiplied by: 0 suppresses, 2 amplifies.
        reference: ``{site: one value a neuron}``, such as ``activity.means()``: the distance from there is multiplied,
            so that 0 is mean ablation. None: from 0.
        positions: Where: ``"slot"``, the positions from which the answer is predicted, or ``"all"``.
        sisters: How many sister facts a fact, drawn from the pool.
        others: How many facts of other relations.
        unrelated: Prompts for every fact: facts, probes, pairs of a prompt and its answer, or texts of which the last
            word is the answer. Where the model allows it, these answers may have several tokens.
        pool: Where sister and other facts are drawn from; default: ``facts``.
        controls: Random sets for each fact, of as many neurons of the same sites, drawn with the seeds ``seed``,
            ``seed + 1``, ...
        multi_token: Allow answers of several tokens.
        max_tokens: The most positions of a batch, over all its rows.
        engine: ``"local"``, ``"processes"`` or ``"ray"``; see :func:`neuronwise.engine.map_reduce`.
        workers: Worker processes or actors.
        threads: Torch threads of each worker.
        block_size: Facts a block, the unit that workers take and checkpoints count.
        checkpoint: A file to save the state to now and then and to go on from when it is there.
        checkpoint_every: Seconds between two saves.
        model_name: Name for the record.
        progress: Show a progress bar on standard error; default: if that is a terminal.
        seed: Seed of the random sets, of the facts drawn and of the bootstrap.

    Raises:
        InvalidArgumentError: If an argument does not fit, or nothing could be measured.
        FactError: If an unrelated prompt cannot be read.
        CompiledModelError: If hooks on the model would be skipped.
    """
    refuse_uncatchable(model)
    asked = facts if isinstance(facts, Facts) else Facts(facts)
    near = asked if pool is None else pool if isinstance(pool, Facts) else Facts(pool)
    sets = _sets(located, asked)
    settings = Settings(tuple(map(float, factors)), positions, controls, max_tokens, seed)
    settings.check(asked, sisters, others)
    sheets = Sheets(model, tokenizer, near, sisters, others, as_questions(unrelated), multi_token, seed)
    lost = [("", one.probe, one.prompt, sheets.reason(one)) for one in sheets.unrelated if sheets.reason(one)]
    sheets.unrelated = [one for one in sheets.unrelated if not sheets.reason(one)]
    card = model_card(model, model_name)
    values = as_reference(reference, [one for one in sets.values() if len(one)])
    job = Job(sheets, asked, sets, settings, values, card["sha256"])
    with progress_bar("Measuring", len(asked), shown=progress) as advance:
        state = map_reduce(
            job,
            blocks_of(len(asked), block_size),
            engine=engine,
            workers=workers,
            threads=threads,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            on_block=advance,
        )
    parameters = job.settings() | {
        "neurons": sum(len(sets.get(fact.id, ())) for fact in asked),
        "pool": near.describe(),
    }
    manifest = Manifest(
        "effect", {"name": "measure_effect", "parameters": parameters}, seed, card, asked.describe()
    )
    state.problems[:0] = lost
    return Effect(_tables(state, asked, settings), manifest)


def _sets(located: Located, facts: Facts) -> dict[str, NeuronSet]:
    if isinstance(located, NeuronSet):
        return {fact.id: located for fact in facts}
    return dict(located if isinstance(located, Mapping) else located.sets())


def _tables(state: State, facts: Facts, settings: Settings) -> dict[str, pd.DataFrame]:
    problems = pd.DataFrame(state.problems, columns=["fact", "probe", "prompt", "problem"])
    if not state.rows:
        reasons = "; ".join(f"{row[0]}: {row[3]}" for row in state.problems[:3])
        raise InvalidArgumentError(f"None of the {len(facts)} facts could be measured. {reasons}")
    measured = effects(
        np.array(state.rows, dtype=np.float64),
        [fact.id for fact in facts],
        [fact.relation for fact in facts],
        settings.factors,
        settings.seed,
    )
    return {
        "effects": measured,
        "effect_summary": summary(measured, seed=settings.seed),
        "effect_problems": problems.assign(number=range(len(problems))),
    }


def _percent(row: Mapping[Any, Any]) -> str:
    """Return a change with its interval in per cent."""
    text = f"{100 * row['value']:+.1f} %"
    if np.isfinite(row["low"]) and np.isfinite(row["high"]):
        text += f" [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
    return text
