"""``neuronwise facts suppress`` and ``amplify``: what the neurons of facts do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neuronwise.cli.facts.locate import Positions
from neuronwise.cli.facts.options import (
    Each,
    FactsName,
    From,
    MultiToken,
    Relations,
    located_in,
    open_facts,
    show_problems,
    warn_of_other_model,
)
from neuronwise.cli.options import (
    Device,
    Dtype,
    Engine,
    EngineName,
    Json,
    ModelName,
    OutToo,
    Overwrite,
    Seed,
    Threads,
    open_model,
    refuse_used,
)
from neuronwise.cli.running import running, torch_threads

__all__ = ["AMPLIFY_EXAMPLES", "SUPPRESS_EXAMPLES", "amplify", "suppress"]

SUPPRESS_EXAMPLES = (
    "neuronwise facts suppress fact-gpt fact-gpt --each 5 --from neurons",
    "neuronwise facts suppress fact-gpt fact-gpt --from silenced --k 75 --positions all --out effect",
)
AMPLIFY_EXAMPLES = ("neuronwise facts amplify fact-gpt fact-gpt --each 5 --from neurons",)

K = Annotated[
    int | None,
    typer.Option(
        "--k",
        min=1,
        metavar="N",
        help="The first N neurons of each fact instead of those that its prompts share.",
    ),
]
Where = Annotated[
    Positions, typer.Option("--positions", help="Where they are changed: at the slot, or at all positions.")
]
Controls = Annotated[
    int,
    typer.Option(
        "--controls", min=0, metavar="N", help="Random sets, of as many neurons of the same layers."
    ),
]
Others = Annotated[
    int,
    typer.Option("--others", min=0, metavar="N", help="Facts of the same and of other relations to look at."),
]


def suppress(
    model: ModelName,
    facts: FactsName,
    from_: From,
    factor: Annotated[
        float, typer.Option("--factor", metavar="X", help="What the activations are multiplied by.")
    ] = 0.0,
    k: K = None,
    positions: Where = Positions.slot,
    controls: Controls = 5,
    others: Others = 4,
    multi_token: MultiToken = False,
    relation: Relations = None,
    each: Each = None,
    out: OutToo = None,
    engine: EngineName = Engine.local,
    threads: Threads = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Dtype = None,
    json_: Json = False,
) -> None:
    """Switch the neurons of every fact off; see what becomes of it and of others, beside random neurons."""
    _measure(**locals())


def amplify(
    model: ModelName,
    facts: FactsName,
    from_: From,
    factor: Annotated[
        float, typer.Option("--factor", metavar="X", help="What the activations are multiplied by.")
    ] = 2.0,
    k: K = None,
    positions: Where = Positions.slot,
    controls: Controls = 5,
    others: Others = 4,
    multi_token: MultiToken = False,
    relation: Relations = None,
    each: Each = None,
    out: OutToo = None,
    engine: EngineName = Engine.local,
    threads: Threads = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Dtype = None,
    json_: Json = False,
) -> None:
    """Double the neurons of every fact; see what becomes of it and of others, beside random neurons."""
    _measure(**locals())


def _measure(
    *,
    model: str,
    facts: str,
    from_: Path,
    factor: float,
    k: int | None,
    positions: Positions,
    controls: int,
    others: int,
    multi_token: bool,
    relation: list[str] | None,
    each: int | None,
    out: Path | None,
    engine: Engine,
    threads: int | None,
    overwrite: bool,
    seed: int,
    device: str,
    dtype: Dtype,
    json_: bool,
) -> None:
    with running(json_) as screen:
        from neuronwise import knowledge

        if out is not None:
            refuse_used(out, overwrite)
        located = located_in(from_)
        loaded = open_model(model, device=device, dtype=dtype)
        known = open_facts(facts, loaded.model, relations=relation, each=each, seed=seed)
        pool = open_facts(facts, loaded.model, relations=None, each=None, seed=seed)
        with torch_threads(threads):
            effect = knowledge.measure_effect(
                loaded.model,
                loaded.tokenizer,
                known,
                located.sets(k=k, refined=k is None),
                factors=(factor,),
                positions=positions.value,
                sisters=others,
                others=others,
                pool=pool,
                controls=controls,
                multi_token=multi_token,
                engine=engine.value,
                model_name=loaded.name,
                seed=seed,
            )
        warn_of_other_model(screen, located, effect.manifest.model.get("sha256"))
        if out is not None:
            effect.save(out, overwrite=overwrite)
        frame = effect.to_frame()
        problems = [f"{row.fact}: {row.problem}" for row in effect.tables["effect_problems"].itertuples()]
        screen.document(
            {
                "effect": frame,
                "problems": problems,
                "skipped_lines": known.skipped,
                "folder": None if out is None else str(out),
            }
        )
        show_problems(screen, known, problems)
        screen.table(frame.drop(columns=["factor"]).round(4))
        if out is not None:
            screen.line(f"Saved in {out}. Look at it: neuronwise report {out}")
