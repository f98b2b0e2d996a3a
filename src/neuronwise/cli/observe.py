"""``neuronwise observe``: one pass over a corpus."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuronwise.cli.options import (
    BatchSize,
    CorpusName,
    Device,
    Dtype,
    Json,
    LabelFields,
    Limit,
    MaxLength,
    MaxTokens,
    ModelName,
    Overwrite,
    Seed,
    Separator,
    TextField,
    Threads,
    open_corpus,
    open_model,
    pick_sites,
)
from neuronwise.cli.running import running, torch_threads
from neuronwise.cli.selective import brief, selective

if TYPE_CHECKING:
    from neuronwise.data import Corpus
    from neuronwise.observe import Activity, Reducer

__all__ = ["EXAMPLES", "Engine", "observe", "refuse_used"]

EXAMPLES = (
    "neuronwise observe stories260k stories --out activity",
    "neuronwise observe openai-community/gpt2 texts.txt --out activity --sites '*.h.5.*' --max-tokens 2048",
    "neuronwise observe ./my-bert nouns.conllu --out activity --label-field upos --label-field Number",
    "neuronwise observe ./my-model big.jsonl --out activity --engine processes --checkpoint big.checkpoint",
)

_SHOWN = 10


class Engine(StrEnum):
    """Where a pass runs."""

    local = "local"
    processes = "processes"
    ray = "ray"


def observe(
    model: ModelName,
    corpus: CorpusName,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where the result is saved.")],
    sites: Annotated[
        list[str] | None,
        typer.Option(
            "--sites",
            metavar="GLOB",
            help="Only these sites; as --where of neuronwise sites. Default: all that are found.",
        ),
    ] = None,
    reducers: Annotated[
        str | None,
        typer.Option(
            "--reducers",
            metavar="A,B,...",
            help="Statistics wanted: moments, extremes, active, quantiles, histogram, examples, coactivation. "
            "Default: all. Class means come with --label-field.",
        ),
    ] = None,
    engine: Annotated[
        Engine,
        typer.Option(
            "--engine",
            help="This process, worker processes (extra: processes), or a Ray cluster (extra: ray).",
        ),
    ] = Engine.local,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, metavar="N", help="Workers of processes or ray. Default: one a core."
        ),
    ] = None,
    threads: Threads = None,
    batch_size: BatchSize = 16,
    max_tokens: MaxTokens = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            metavar="FILE",
            help="Save the state there every half minute, and go on from it when it is there. Removed at the end.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Dtype = None,
    limit: Limit = None,
    max_length: MaxLength = None,
    separator: Separator = None,
    text_field: TextField = None,
    label_field: LabelFields = None,
    json_: Json = False,
) -> None:
    """Watch every neuron over a corpus, and save statistics and strongest examples."""
    with running(json_, checkpoint=checkpoint) as screen:
        import neuronwise as nw

        refuse_used(out, overwrite)
        loaded = open_model(model, device=device, dtype=dtype)
        data = open_corpus(
            corpus,
            loaded,
            limit=limit,
            dtype=dtype,
            max_length=max_length,
            separator=separator,
            text_field=text_field,
            label_fields=label_field,
        )
        with torch_threads(threads):
            activity = nw.observe(
                loaded.model,
                data,
                pick_sites(loaded.model, sites),
                reducers=_reducers(reducers, data, label_field or []),
                engine=engine.value,
                workers=workers,
                threads=threads,
                batch_size=batch_size,
                max_tokens=max_tokens,
                checkpoint=checkpoint,
                model_name=loaded.name,
                seed=seed,
            )
        activity.save(out, overwrite=overwrite)
        summary = activity.summary()
        strongest = selective(activity, _SHOWN)
        screen.document(
            {"folder": str(out), "tables": _rows(activity), "summary": summary, "selective": strongest}
        )
        screen.title(f"{loaded.name} over {data.name}: {summary['neurons'].sum():,} neurons, medians by site")
        screen.table(brief(summary), digits=3)
        if len(strongest):
            screen.title("The most selective neurons (largest kurtosis), each where it is strongest")
            screen.table(brief(strongest), digits=3)
        screen.line(f"Saved in {out}. Next: neuronwise report {out}")


def refuse_used(out: Path, overwrite: bool) -> None:
    """Refuse a folder that is in use before the long pass, not after it."""
    from neuronwise.errors import WriteError

    if not overwrite and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise WriteError(
            f"{out} exists already. Choose another folder with --out, or replace it with --overwrite."
        )


def _reducers(wanted: str | None, data: Corpus, fields: list[str]) -> list[Reducer | str] | None:
    """Return the reducers named, and means by the label fields that were asked for; None for the default."""
    from neuronwise.observe import ClassMeans

    if wanted is None:
        return None
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    return [*names, *(ClassMeans(field, data.labels[field]) for field in fields)]


def _rows(activity: Activity) -> dict[str, int]:
    return {name: len(activity.tables[name]) for name in activity.tables}
