"""One pass over a corpus, on any engine, with any reducers."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from neuronwise.data import Corpus, model_card
from neuronwise.data import corpus as make_corpus
from neuronwise.engine import blocks_of, map_reduce, progress_bar
from neuronwise.errors import EmptyCorpusError, InvalidArgumentError, closest
from neuronwise.hooks import refuse_uncatchable
from neuronwise.observe.active import ActiveFraction
from neuronwise.observe.activity import Activity
from neuronwise.observe.class_means import ClassMeans
from neuronwise.observe.coactivation import CoActivation
from neuronwise.observe.examples import TopExamples
from neuronwise.observe.extremes import Extremes
from neuronwise.observe.histogram import Histogram
from neuronwise.observe.job import ObserverJob
from neuronwise.observe.moments import Moments
from neuronwise.observe.observer import Observer
from neuronwise.observe.quantiles import Quantiles
from neuronwise.observe.reducer import Reducer
from neuronwise.sites import Site, Sites, find_sites, promoted_tokens, unembedding
from neuronwise.store import Manifest

__all__ = ["REDUCERS", "observe"]

#: The reducers by name. A new one is a file of its own and a line here.
REDUCERS: Mapping[str, Callable[[], Reducer]] = MappingProxyType(
    {
        "moments": Moments,
        "extremes": Extremes,
        "active": ActiveFraction,
        "quantiles": Quantiles,
        "histogram": Histogram,
        "examples": TopExamples,
        "coactivation": CoActivation,
    }
)

_PROMOTED_FLOPS = 2e12  # what the table of promoted tokens may cost unless asked for: seconds on two cores
_PICTURED_RANKS = 10  # places of the rankings whose images are kept


def observe(
    model: nn.Module,
    corpus: Any,
    sites: Site | Iterable[Site] | None = None,
    *,
    reducers: Sequence[Reducer | str] | None = None,
    engine: str = "local",
    workers: int | None = None,
    threads: int | None = None,
    batch_size: int = 16,
    max_tokens: int | None = None,
    block_size: int | None = None,
    promoted: bool | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: float = 30.0,
    model_name: str | None = None,
    progress: bool | None = None,
    seed: int = 0,
) -> Activity:
    """Watch the neurons of a model over a corpus, in one pass and in memory that does not grow with the corpus.

    The model runs in evaluation mode and without gradients, one forward pass a batch, and is bit-identical afterwards.
    Padding is left out. Values that are NaN or infinite are left out, counted for every neuron (column ``nonfinite``)
    and warned of.

    Args:
        model: Any module. It stays where it is; batches are moved to its device.
        corpus: A corpus, or anything that :func:`neuronwise.corpus` takes without a tokenizer.
        sites: What to watch; default: all that :func:`neuronwise.find_sites` finds.
        reducers: Statistics wanted, as objects or by their name in ``REDUCERS``; default: all of them, and class means
            for every label field of the corpus.
        engine: ``"local"``, ``"processes"`` or ``"ray"``; see :func:`neuronwise.engine.map_reduce`.
        workers: Worker processes or actors.
        threads: Torch threads of each worker.
        batch_size: Most examples a batch.
        max_tokens: Most positions a batch, padding included.
        block_size: Examples a block, the unit that workers take and checkpoints count; default: a sixteenth of the
            corpus.
        promoted: Also list the tokens that every neuron promotes and demotes through the unembedding; default: if the
            model has one and it takes seconds only.
        checkpoint: A file to save the state to now and then and to go on from when it is there.
        checkpoint_every: Seconds between two saves.
        model_name: Name for the record; default: the model's own, or its class.
        progress: Show a progress bar on standard error; default: if that is a terminal.
        seed: Seed of what is sampled (quantiles, the sketch of wide co-activations).

    Returns:
        An :class:`Activity`.

    Raises:
        EmptyCorpusError: If the corpus has no example.
        SiteNotFoundError: If a site is not in the model, or none is found.
        CompiledModelError: If hooks on the model would be skipped.
        BatchMismatchError: If the batches do not have the dtype that the model takes.
        InvalidArgumentError: If an argument is not what the function takes.
    """
    refuse_uncatchable(model)
    data = corpus if isinstance(corpus, Corpus) else make_corpus(corpus)
    total = data.length()
    if total == 0:
        raise EmptyCorpusError(f"The corpus {data.name!r} has no examples to observe.")
    if total is None and engine != "local":
        raise InvalidArgumentError(
            f"The corpus {data.name!r} is a stream, which only engine='local' can read. Pass a list or a file."
        )
    if total is None and checkpoint is not None:
        raise InvalidArgumentError(
            f"The corpus {data.name!r} is a stream, which cannot be read again from the middle, so a checkpoint "
            "of it is of no use. Pass a list or a file."
        )
    places = find_sites(model) if sites is None else Sites.of(sites)
    for site in places:
        site.module(model)  # an unknown path is an error before any work is done
    card = model_card(model, model_name)
    job = ObserverJob(
        model,
        data,
        places,
        _reducers(reducers, data),
        batch_size,
        max_tokens,
        block_size,
        seed,
        card["sha256"],
    )
    _check_settings(job.settings())
    with progress_bar("Observing", total, shown=progress) as advance:
        observer = map_reduce(
            job,
            blocks_of(total, block_size),
            engine=engine,
            workers=workers,
            threads=threads,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            on_block=advance,
        )
    if not any(bool(count.any()) for count in observer.seen.values()):
        raise EmptyCorpusError(f"The corpus {data.name!r} has no examples to observe.")
    tables = _tables(observer, places, data)
    if promoted is not False:
        _add_promoted(tables, model, places, required=bool(promoted))
    _name_tokens(tables, data)
    _warn_nonfinite(tables["neurons"])
    action = {"name": "observe", "parameters": job.settings() | {"sites": list(places.names)}}
    # What each process has cut while reading is no property of the data.
    described = {name: value for name, value in data.describe().items() if name != "truncated"}
    return Activity(tables, Manifest("activity", action=action, seed=seed, model=card, data=described))


def _check_settings(settings: Mapping[str, Any]) -> None:
    try:
        json.dumps(settings)
    except TypeError as error:
        raise InvalidArgumentError(
            f"The settings of a reducer must be plain numbers, texts and lists: {error}."
        ) from error


def _reducers(wanted: Sequence[Reducer | str] | None, corpus: Corpus) -> list[Reducer]:
    if wanted is None:
        made: list[Reducer] = [make() for make in REDUCERS.values() if make is not Quantiles]
        # Rows of a table are few and stand for themselves; the positions of texts and maps are many and alike.
        made.append(Quantiles(rate=1.0 if corpus.kind == "array" else 0.25))
        return made + [ClassMeans(field, classes) for field, classes in corpus.labels.items() if classes]
    if isinstance(wanted, str):
        raise InvalidArgumentError(f"reducers must be a list, such as [{wanted!r}].")
    made = []
    for reducer in wanted:
        if isinstance(reducer, str):
            if reducer not in REDUCERS:
                raise InvalidArgumentError(f"There is no reducer {reducer!r}. {closest(reducer, REDUCERS)}")
            made.append(REDUCERS[reducer]())
        else:
            made.append(reducer)
    return made


def _tables(observer: Observer, sites: Sites, corpus: Corpus) -> dict[str, pd.DataFrame]:
    """Join the sites' tables, and add the images that they name by number."""
    parts: dict[str, list[pd.DataFrame]] = {}
    for site in sites:
        neurons = pd.DataFrame({"site": site.name, "layer": site.layer, "neuron": np.arange(site.width)})
        nonfinite = observer.nonfinite[site.name].cpu().numpy()
        neurons["n"], neurons["nonfinite"] = observer.seen[site.name].cpu().numpy() - nonfinite, nonfinite
        columns = [neurons]
        for reducer in observer.reducers[site.name].values():
            for name, frame in reducer.result().items():
                if name == "neurons":
                    columns.append(frame)
                else:
                    parts.setdefault(name, []).append(frame.assign(site=site.name))
        parts.setdefault("neurons", []).append(pd.concat(columns, axis=1))
    tables = {name: pd.concat(frames, ignore_index=True) for name, frames in parts.items()}
    tables["neurons"]["layer"] = tables["neurons"]["layer"].astype("Int32")
    tables["sites"] = sites.to_frame()
    if "examples" in tables:
        images = _images(tables["examples"], corpus)
        if len(images):
            tables["images"] = images
    return tables


def _name_tokens(tables: dict[str, pd.DataFrame], corpus: Corpus) -> None:
    """Write the token texts that the corpus knows into the tables that have token numbers."""
    for name in {"contexts", "promoted"} & tables.keys():
        ids = pd.unique(tables[name]["token_id"])
        shown = corpus.token_strings(ids.tolist())
        texts = dict(zip(ids, map(str, ids) if shown is None else shown, strict=True))
        tables[name]["token"] = tables[name]["token_id"].map(texts)


def _images(examples: pd.DataFrame, corpus: Corpus) -> pd.DataFrame:
    shown = np.unique(examples.loc[examples["rank"] < _PICTURED_RANKS, "example"].to_numpy())
    if not len(shown) or corpus.image(int(shown[0])) is None:
        return pd.DataFrame()
    return pd.DataFrame({"example": shown, "png": [corpus.image(int(number)) for number in shown]})


def _add_promoted(tables: dict[str, pd.DataFrame], model: nn.Module, sites: Sites, *, required: bool) -> None:
    """Add the table of promoted tokens, if it is asked for, or else can be had in seconds."""
    writing = Sites(site for site in sites if site.writes is not None)
    weight = unembedding(model)
    cheap = weight is not None and 2 * writing.width * weight.numel() < _PROMOTED_FLOPS
    if required or (len(writing) and cheap):
        try:
            tables["promoted"] = promoted_tokens(model, writing if len(writing) else sites)
        except InvalidArgumentError:  # what the neurons write is transformed before it is read as logits
            if required:
                raise


def _warn_nonfinite(neurons: pd.DataFrame) -> None:
    bad = neurons[neurons["nonfinite"] > 0]
    if len(bad):
        worst = bad.sort_values("nonfinite", ascending=False).iloc[0]
        warnings.warn(
            f"{len(bad)} neurons had activations that are NaN or infinite; they are left out of all statistics "
            f"and counted in the column 'nonfinite'. Worst: neuron {worst['neuron']} of {worst['site']}, "
            f"{worst['nonfinite']} values.",
            RuntimeWarning,
            stacklevel=3,
        )
