"""``neuronwise monosemanticity measure``: how monosemantic the neurons of a model are on a corpus."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from neuronwise.cli.monosemanticity.options import Measures, Rotation, Unit, UnitName, names_in
from neuronwise.cli.options import (
    BatchSize,
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

if TYPE_CHECKING:
    import pandas as pd

    from neuronwise.observe import Monosemanticity

__all__ = ["EXAMPLES", "measure"]

EXAMPLES = (
    "neuronwise monosemanticity measure stories260k stories --out measured",
    "neuronwise monosemanticity measure ./my-bert nouns.conllu --label-field upos --out measured",
    "neuronwise monosemanticity measure gpt2 texts.txt --sites '*.h.5.*' --measures phi_top,kurtosis --out measured",
)

_SHOWN = 3  # neurons of each measure
_FEW = 100  # samples: fewer have hardly one in the top 1 %
_COLUMNS = ("phi_above_9", "phi_top", "kurtosis", "class_selectivity", "auc")


def measure(
    model: ModelName,
    corpus: CorpusName,
    out: Out,
    sites: SiteNames = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            metavar="CORPUS",
            help="Another corpus for mean and variance. Default: half of the examples, the others being measured.",
        ),
    ] = None,
    measures: Measures = None,
    unit: UnitName = Unit.feature,
    sample: Annotated[
        int, typer.Option("--sample", min=2, metavar="N", help="Samples (positions) to keep, at most.")
    ] = 20_000,
    rotation: Rotation = True,
    engine: EngineName = Engine.local,
    workers: Workers = None,
    threads: Threads = None,
    batch_size: BatchSize = 16,
    max_tokens: MaxTokens = None,
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
    """Measure how monosemantic every neuron is, layer by layer, and name the most extreme ones."""
    with running(json_) as screen, torch_threads(threads):
        import neuronwise as nw
        from neuronwise.observe.measures import chosen_measures

        refuse_used(out, overwrite)
        wanted = names_in(measures)
        chosen_measures(wanted)  # a wrong name is an error before the model is loaded
        loaded = open_model(model, device=device, dtype=dtype)
        opened = partial(
            open_corpus,
            loaded=loaded,
            limit=limit,
            dtype=dtype,
            max_length=max_length,
            separator=separator,
            text_field=text_field,
        )
        data = opened(corpus, label_fields=label_field)
        other = None if reference is None else opened(reference)
        found = nw.monosemanticity(
            loaded.model,
            data,
            pick_sites(loaded.model, sites),
            reference=other,
            labels=label_field[0] if label_field else None,
            unit=unit.value,
            measures=wanted,
            sample=sample,
            rotation=rotation,
            engine=engine.value,
            workers=workers,
            threads=threads,
            batch_size=batch_size,
            max_tokens=max_tokens,
            model_name=loaded.name,
            seed=seed,
        )
        found.save(out, overwrite=overwrite)
        summary, extremes = found.summary(), _extremes(found)
        skipped = dict(found.manifest.action["parameters"]["skipped"])
        screen.document({"folder": str(out), "summary": summary, "extremes": extremes, "skipped": skipped})
        for reason in dict.fromkeys(skipped.values()):
            names = ", ".join(name for name, why in skipped.items() if why == reason)
            screen.note(f"Not taken, as there are {reason.partition(': ')[2]}: {names}.")
        fewest = found.tables["site_measures"][["n", "n_reference"]].min()
        if fewest.min() < _FEW:
            screen.note(
                f"Measured on {fewest['n']} samples, with mean and variance of {fewest['n_reference']}: a tail needs "
                "hundreds, and kurtosis by the variance of so few can be anything. Give more texts."
            )
        known = [name for name in _COLUMNS if name in summary] or list(summary.columns[4:9])
        screen.title(f"{loaded.name} over {data.name}: medians over live units")
        screen.table(summary[["site", "n_live", "n_near_dead", "n_dead", *known]], digits=3)
        if len(extremes):
            screen.title("The most extreme neurons")
            screen.table(extremes[extremes["measure"].isin(known)], digits=3)
        screen.line(f"Saved in {out}. Layer by layer, as a page: neuronwise report {out}")


def _extremes(found: Monosemanticity) -> pd.DataFrame:
    """Return the live units with the highest values of each measure, by name."""
    import pandas as pd

    frame = found.tables["unit_measures"]
    frame = frame[frame["live"].astype(bool) & frame["value"].notna()]
    best = (
        frame.sort_values("value", ascending=False, kind="stable").groupby("measure", sort=False).head(_SHOWN)
    )
    best = best.sort_values("measure", kind="stable")
    neuron = [f"{site}[{index}]" for site, index in zip(best["site"], best["neuron"], strict=True)]
    if (best["position"] > 0).any():
        neuron = [f"{name}, position {spot}" for name, spot in zip(neuron, best["position"], strict=True)]
    return pd.DataFrame({"measure": best["measure"], "neuron": neuron, "value": best["value"]})
