"""``neuronwise facts map``: one fact, drawn over the layers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neuronwise.cli.facts.options import (
    FactsName,
    MultiToken,
    located_in,
    open_facts,
    pick_fact,
    show_problems,
    warn_of_other_model,
)
from neuronwise.cli.options import (
    Device,
    Dtype,
    Json,
    ModelName,
    Out,
    Overwrite,
    Threads,
    open_model,
    refuse_used,
)
from neuronwise.cli.running import running, torch_threads

__all__ = ["EXAMPLES", "map_"]

EXAMPLES = (
    "neuronwise facts map fact-gpt fact-gpt --out map",
    "neuronwise facts map fact-gpt fact-gpt --fact ID --from neurons --out map --overwrite",
)


def map_(
    model: ModelName,
    facts: FactsName,
    out: Out,
    fact: Annotated[
        str | None,
        typer.Option(
            "--fact",
            metavar="ID",
            help="Id of the fact. Default: the first one, with --from the first with neurons.",
        ),
    ] = None,
    from_: Annotated[
        Path | None,
        typer.Option("--from", metavar="FOLDER", help="Take the neurons that facts locate found."),
    ] = None,
    k: Annotated[
        int, typer.Option("--k", min=1, metavar="N", help="Without --from: neurons of each layer.")
    ] = 5,
    method: Annotated[
        str, typer.Option("--method", metavar="NAME", help="The attribution method.")
    ] = "joint_integrated_gradients",
    multi_token: MultiToken = False,
    threads: Threads = None,
    overwrite: Overwrite = False,
    device: Device = "cpu",
    dtype: Dtype = None,
    json_: Json = False,
) -> None:
    """Draw the map of one fact: its neurons in every layer, and which of them feed which further up."""
    with running(json_) as screen:
        from neuronwise import knowledge

        refuse_used(out, overwrite)
        loaded = open_model(model, device=device, dtype=dtype)
        known = open_facts(facts, loaded.model, relations=None, each=None, seed=0)
        located = None if from_ is None else located_in(from_)
        sets = None if located is None else located.sets()
        chosen = pick_fact(known, fact, sets)
        with torch_threads(threads):
            found = knowledge.knowledge_map(
                loaded.model,
                loaded.tokenizer,
                chosen,
                k if sets is None else sets[chosen.id],
                method=method,
                multi_token=multi_token,
                model_name=loaded.name,
            )
        if located is not None:
            warn_of_other_model(screen, located, found.manifest.model.get("sha256"))
        found.save(out, overwrite=overwrite)
        screen.document(
            {
                "folder": str(out),
                "fact": chosen.to_dict(),
                "tables": dict(found.tables),
                "skipped_lines": known.skipped,
            }
        )
        show_problems(screen, known, [])
        screen.line(f"{chosen.prompts[0]} -> {chosen.answer}")
        screen.table(found.to_frame())
        screen.line(f"Saved in {out}. Look at it: neuronwise report {out}")
