"""``neuronwise facts locate``: the neurons of facts."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from neuronwise.cli.facts.options import (
    Each,
    FactsName,
    MultiToken,
    Relations,
    open_facts,
    show_problems,
)
from neuronwise.cli.options import (
    Checkpoint,
    Device,
    Dtype,
    Engine,
    EngineName,
    Json,
    ModelName,
    Out,
    Overwrite,
    Seed,
    Threads,
    Workers,
    open_model,
    refuse_used,
)
from neuronwise.cli.running import running, torch_threads

__all__ = ["EXAMPLES", "Positions", "locate"]

EXAMPLES = (
    "neuronwise facts locate fact-gpt fact-gpt --each 5 --out neurons",
    "neuronwise facts locate fact-gpt fact-gpt --method elimination --k 75 --out silenced",
    "neuronwise facts locate ./my-bert pararel/ --out neurons --engine processes --checkpoint facts.checkpoint",
)

_RULE = "Which neurons are a fact's"


class Positions(StrEnum):
    """Where in a prompt."""

    slot = "slot"
    all = "all"


class Rule(StrEnum):
    """How many prompts must share a neuron."""

    official = "official"
    eleuther = "eleuther"


class Target(StrEnum):
    """What neurons contribute to."""

    probability = "probability"
    log_probability = "log_probability"


def locate(
    model: ModelName,
    facts: FactsName,
    out: Out,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="NAME",
            help="integrated_gradients (as published), joint_integrated_gradients, gradient_x_activation, activation, "
            "... or elimination, which needs the fewest neurons to silence a fact.",
        ),
    ] = "integrated_gradients",
    target: Annotated[
        Target | None,
        typer.Option("--target", help="Default: probability; for elimination log_probability."),
    ] = None,
    positions: Annotated[
        Positions | None,
        typer.Option("--positions", help="Default: slot, where the answer belongs; for elimination all."),
    ] = None,
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold",
            metavar="X",
            rich_help_panel=_RULE,
            help="A prompt's neurons reach this part of its largest score.",
        ),
    ] = 0.2,
    share: Annotated[
        float,
        typer.Option(
            "--share",
            metavar="X",
            rich_help_panel=_RULE,
            help="A fact's neurons are in this share of its prompts.",
        ),
    ] = 0.7,
    rule: Annotated[
        Rule,
        typer.Option(
            "--rule",
            rich_help_panel=_RULE,
            help="official: at least that share, and three prompts; eleuther: more than that share.",
        ),
    ] = Rule.official,
    size: Annotated[
        tuple[float, float] | None,
        typer.Option(
            "--size",
            metavar="LEAST MOST",
            rich_help_panel=_RULE,
            help="Move the share, as published, until a relation's facts have this many neurons on average: 2 5.",
        ),
    ] = None,
    contrast: Annotated[
        int,
        typer.Option(
            "--contrast",
            min=0,
            metavar="N",
            rich_help_panel=_RULE,
            help="Take away what a neuron does for N facts of the same relation with another answer.",
        ),
    ] = 0,
    k: Annotated[
        int,
        typer.Option(
            "--k",
            min=1,
            metavar="N",
            help="Neurons a fact with elimination; otherwise, how many to keep at least.",
        ),
    ] = 50,
    step: Annotated[
        int,
        typer.Option("--step", min=1, metavar="N", help="With elimination: neurons switched off at a time."),
    ] = 5,
    multi_token: MultiToken = False,
    relation: Relations = None,
    each: Each = None,
    engine: EngineName = Engine.local,
    workers: Workers = None,
    threads: Threads = None,
    memory: Annotated[
        int, typer.Option("--memory", min=1, metavar="MIB", help="Memory for activations kept, in MiB.")
    ] = 1024,
    checkpoint: Checkpoint = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Dtype = None,
    json_: Json = False,
) -> None:
    """Find the neurons of every fact: those that its prompts share, of those that contribute most to the answer."""
    with running(json_, checkpoint=checkpoint) as screen:
        from neuronwise import knowledge

        refuse_used(out, overwrite)
        loaded = open_model(model, device=device, dtype=dtype)
        known = open_facts(facts, loaded.model, relations=relation, each=each, seed=seed)
        with torch_threads(threads):
            found = knowledge.locate(
                loaded.model,
                loaded.tokenizer,
                known,
                method=method,
                target=None if target is None else target.value,
                positions=None if positions is None else positions.value,
                threshold=threshold,
                refinement=knowledge.Refinement(share, rule.value, size),
                contrast=contrast,
                k=k,
                step=step,
                multi_token=multi_token,
                engine=engine.value,
                workers=workers,
                checkpoint=checkpoint,
                memory=memory << 20,
                model_name=loaded.name,
                seed=seed,
            )
        found.save(out, overwrite=overwrite)
        tables = found.tables
        reasons = [f"{row.fact}: {row.reason}" for row in tables["fact_problems"].itertuples()]
        screen.document(
            {
                "folder": str(out),
                "summary": found.summary(),
                "facts": tables["facts"],
                "relations": tables["relations"],
                "hubs": found.hubs().head(10),
                "skipped_lines": known.skipped,
                "problems": reasons,
            }
        )
        show_problems(screen, known, reasons)
        screen.table(tables["relations"].round(3))
        for line in found.summary().splitlines():
            screen.line(line)
        screen.line(f"Saved in {out}. Look at it: neuronwise report {out}")
