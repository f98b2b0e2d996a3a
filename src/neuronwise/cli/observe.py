"""``neuronwise observe``: one pass over a corpus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from neuronwise.cli.options import (
    BatchSize,
    Checkpoint,
    CorpusName,
    Device,
    Dtype,
    Engine,
    EngineName,
    Json,
    LabelFields,
    Limit,
    MaxLength,
    MaxTokens,
    ModelName,
    Out,
    Overwrite,
    Seed,
    Separator,
    SiteNames,
    TextField,
    Threads,
    Workers,
    open_corpus,
    open_model,
    pick_sites,
    refuse_used,
)
from neuronwise.cli.running import running, torch_threads
from neuronwise.cli.selective import brief, selective

if TYPE_CHECKING:
    from neuronwise.data import Corpus
    from neuronwise.observe import Activity, Reducer

__all__ = ["EXAMPLES", "observe"]

EXAMPLES = (
    "neuronwise observe stories260k stories --out activity",
    "neuronwise observe openai-community/gpt2 texts.txt --out activity --sites '*.h.5.*' --max-tokens 2048",
    "neuronwise observe ./my-bert nouns.conllu --out activity --label-field upos --label-field Number",
    "neuronwise observe ./my-model big.jsonl --out activity --engine processes --checkpoint big.checkpoint",
)

_SHOWN = 10


def observe(
    model: ModelName,
    corpus: CorpusName,
    out: Out,
    sites: SiteNames = None,
    reducers: Annotated[
        str | None,
        typer.Option(
            "--reducers",
            metavar="A,B,...",
            help="Statistics wanted: moments, extremes, active, quantiles, histogram, examples, coactivation. "
            "Default: all. Class means come with --label-field.",
        ),
    ] = None,
    engine: EngineName = Engine.local,
    workers: Workers = None,
    threads: Threads = None,
    batch_size: BatchSize = 16,
    max_tokens: MaxTokens = None,
    checkpoint: Checkpoint = None,
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


def _reducers(wanted: str | None, data: Corpus, fields: list[str]) -> list[Reducer | str] | None:
    """Return the reducers named, and means by the label fields that were asked for; None for the default."""
    from neuronwise.observe import ClassMeans

    if wanted is None:
        return None
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    return [*names, *(ClassMeans(field, data.labels[field]) for field in fields)]


def _rows(activity: Activity) -> dict[str, int]:
    return {name: len(activity.tables[name]) for name in activity.tables}
