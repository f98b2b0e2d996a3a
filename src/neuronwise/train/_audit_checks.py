"""What is refused before an audit trains anything, and what its record says of the settings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from neuronwise.errors import InvalidArgumentError
from neuronwise.observe.measures import MEASURES, chosen_measures
from neuronwise.train._audit_data import Split
from neuronwise.train._audit_plan import Audited, Plan
from neuronwise.train.method import positive

__all__ = ["check_numbers", "measures_of", "refuse_missing", "refuse_short", "settings_of"]

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


def check_numbers(
    seeds: Sequence[int], *, steps: int | None, one_step: int, timed: int, one_step_rate: float, **counts: int
) -> None:
    """Refuse seeds that are not different, and numbers that are too small."""
    if not seeds or len(set(seeds)) < len(seeds):
        raise InvalidArgumentError(f"seeds must be one or more different numbers, not {list(seeds)}.")
    for name, value in {**counts, "steps": 1 if steps is None else steps}.items():
        if value < 1:
            raise InvalidArgumentError(f"{name} must be at least 1, not {value}.")
    for name, value in (("one_step", one_step), ("timed", timed)):
        if value < 0:
            raise InvalidArgumentError(f"{name} must be at least 0, not {value}.")
    positive("one_step_rate", one_step_rate)


def measures_of(wanted: Sequence[str] | None, by: str, split: Split) -> tuple[str, ...]:
    """Return the measures to take, that of the verdict among them."""
    if wanted is None:
        chosen = [*WITHOUT_LABELS, *(WITH_LABELS if split.labels is not None else ())]
    else:
        chosen = [measure.name for measure in chosen_measures(wanted)]
    chosen_measures([by])
    return tuple(dict.fromkeys([*chosen, by]))


def refuse_missing(rows: Sequence[Audited], measures: Sequence[str], split: Split, embeddings: Any) -> None:
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
        if row.method is None:
            continue
        needs = row.method.acting.needs
        if "labels" in needs and split.train.classes is None:
            raise InvalidArgumentError(
                f"The inhibitor {row.inhibitor!r} needs classes: give data as (x, y) with whole-number y."
            )
        if "embeddings" in needs and embeddings is None:
            raise InvalidArgumentError(
                f"The inhibitor {row.inhibitor!r} needs embeddings of each batch by another encoder: give embeddings=."
            )


def refuse_short(plan: Plan, examples: int) -> None:
    """Refuse training that ends before an inhibitor begins."""
    total = plan.total(examples)
    if total < plan.start + 2:
        raise InvalidArgumentError(
            f"Training takes {total} steps, and inhibitors begin after start={plan.start} steps of warm-up: train "
            "longer (epochs=, steps=), in smaller batches, or begin earlier (start=)."
        )


def settings_of(plan: Plan, split: Split) -> dict[str, Any]:
    """Return the settings for the record, ready for JSON."""
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
