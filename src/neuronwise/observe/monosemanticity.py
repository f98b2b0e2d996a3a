"""How monosemantic the neurons of a model are on a corpus, by every measure that the data allow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from neuronwise.data import Corpus, model_card
from neuronwise.data import corpus as make_corpus
from neuronwise.engine import blocks_of, map_reduce, progress_bar
from neuronwise.errors import AddressError, DataError, EmptyCorpusError, InvalidArgumentError, closest
from neuronwise.hooks import refuse_uncatchable
from neuronwise.observe.job import ObserverJob
from neuronwise.observe.measures import (
    Liveness,
    Measure,
    Sample,
    chosen_measures,
    liveness,
    principal_directions,
    random_directions,
    turned,
)
from neuronwise.observe.sample import RowSample
from neuronwise.observe.statistics import Unit
from neuronwise.sites import NeuronSet, Site, Sites, find_sites
from neuronwise.store import Manifest, Result

__all__ = ["Monosemanticity", "monosemanticity"]

_DIRECTIONS = (
    1024  # of another basis, at most: what is said of them needs no more, and a full one costs width cubed
)
_FEWEST = 10  # samples of a class, below which nothing is said of it


class Monosemanticity(Result):
    """Measures of monosemanticity of every neuron and site, from :func:`monosemanticity`.

    Tables: ``sites``; ``unit_measures``: a value for every neuron and measure, and whether the neuron is alive;
    ``site_measures``: for every site, measure and basis (the neurons, a random rotation, the principal components) the
    mean, median and spread over the live units, and how many were left out as dead or nearly so.

    Example:
        >>> import neuronwise as nw
        >>> from neuronwise.observe import monosemanticity
        >>> loaded = nw.load_model("stories260k")
        >>> texts = ["Once upon a time.", "There was a dog.", "Lily was happy."] * 4
        >>> corpus = nw.corpus(texts, tokenizer=loaded.tokenizer)
        >>> found = monosemanticity(loaded.model, corpus, measures=["kurtosis", "hoyer"])
        >>> found.to_frame()["basis"].unique().tolist()
        ['neuron', 'rotated', 'pca']
    """

    kind: ClassVar[str] = "monosemanticity"
    main_table: ClassVar[str] = "site_measures"

    @property
    def sites(self) -> Sites:
        """The sites that were measured. As addresses only: they do not know their weights."""
        return Sites.from_frame(self.tables["sites"])

    def values(self, measure: str) -> Mapping[Site, NDArray[np.float64]]:
        """Return a measure of every unit, ``{site: (unit,)}``; NaN where it is not defined.

        Raises:
            AddressError: If the measure was not taken, or is one of sites.
        """
        frame = self.tables["unit_measures"]
        known = list(frame["measure"].unique())
        if measure not in known:
            raise AddressError(f"There is no measure {measure!r} of neurons here. {closest(measure, known)}")
        frame = frame[frame["measure"] == measure]
        return {
            site: frame.loc[frame["site"] == site.name, "value"].to_numpy(dtype=np.float64)
            for site in self.sites
        }

    def live(self) -> Mapping[Site, NDArray[np.bool_]]:
        """Return which units are alive, ``{site: (unit,)}``.

        Raises:
            AddressError: If no measure of neurons was taken.
        """
        frame = self.tables["unit_measures"]
        if not len(frame):
            raise AddressError("No measure of neurons was taken.")
        frame = frame[frame["measure"] == frame["measure"].iloc[0]]
        return {
            site: frame.loc[frame["site"] == site.name, "live"].to_numpy(dtype=bool) for site in self.sites
        }

    def neurons(self, by: str) -> NeuronSet:
        """Return all live neurons, scored by a measure; ``found.neurons("auc").top(10)`` is a selection.

        Raises:
            AddressError: If the measure was not taken.
            InvalidArgumentError: If the units are elements, which are more than a site's neurons.
        """
        if (self.tables["unit_measures"]["position"] > 0).any():
            raise InvalidArgumentError(
                "Elements (unit='element') are places of a tensor, not neurons of a site."
            )
        scores, live = self.values(by), self.live()
        kept = {site: np.flatnonzero(live[site] & np.isfinite(scores[site])) for site in scores}
        return NeuronSet.of(kept, scores={site: scores[site][index] for site, index in kept.items()})

    def summary(self, statistic: str = "median", *, basis: str = "neuron") -> pd.DataFrame:
        """Return one row a site and one column a measure, and how many units are dead or nearly so.

        Args:
            statistic: ``"mean"``, ``"median"``, ``"low"`` or ``"high"`` over the live units.
            basis: ``"neuron"``, ``"rotated"`` or ``"pca"``.

        Raises:
            InvalidArgumentError: If there is no such statistic or basis.
        """
        frame = self.tables["site_measures"]
        for name, value, known in (
            ("statistic", statistic, ["mean", "median", "low", "high"]),
            ("basis", basis, list(frame["basis"].unique())),
        ):
            if value not in known:
                raise InvalidArgumentError(f"There is no {name} {value!r}. {closest(value, known)}")
        frame = frame[frame["basis"] == basis]
        wide = frame.pivot_table(
            index="site", columns="measure", values=statistic, aggfunc="first", dropna=False
        )
        wide = wide.loc[frame["site"].unique(), frame["measure"].unique()]
        counts = frame.groupby("site", sort=False)[["n_live", "n_near_dead", "n_dead"]].first()
        joined = counts.join(wide).reset_index()
        joined.columns.name = None
        return joined


def monosemanticity(
    model: nn.Module,
    corpus: Any,
    sites: Site | Iterable[Site] | None = None,
    *,
    reference: Any = None,
    labels: Any = None,
    embeddings: Any = None,
    unit: Unit = "feature",
    measures: Sequence[str] | None = None,
    sample: int = 20_000,
    rotation: bool = True,
    engine: str = "local",
    workers: int | None = None,
    threads: int | None = None,
    batch_size: int = 16,
    max_tokens: int | None = None,
    model_name: str | None = None,
    progress: bool | None = None,
    seed: int = 0,
) -> Monosemanticity:
    """Measure how monosemantic the neurons of a model are, on samples that its statistics were not taken from.

    One pass over the corpus keeps a random sample of every site's activations, the same positions at all sites. Mean
    and variance, for the measures that score by them, are those of *other* examples. Dead and nearly dead units
    (:func:`~neuronwise.observe.measures.liveness`) are left out of every mean and counted. In the rotated and the
    principal basis scores are by the sample's own statistics.

    Args:
        model: Any module. It is bit-identical afterwards.
        corpus: What to measure on: a corpus, or anything that :func:`neuronwise.corpus` takes without a tokenizer.
        sites: What to measure; default: all that :func:`neuronwise.find_sites` finds.
        reference: A corpus for the statistics; default: a random half of the examples, the other half being measured.
        labels: Name of the corpus's label field, or one label for each of its examples; default: the first field that
            it has.
        embeddings: A vector for each of its examples, ``(example, dimension)``, by *another* encoder.
        unit: ``"feature"``: every position is a sample; ``"pooled"``: every example is, by its mean over positions;
            ``"element"``: position and channel together are a unit.
        measures: Names in :data:`~neuronwise.observe.measures.MEASURES`; default: all that can be taken with what there
            is. The manifest says which were not and why.
        sample: Samples to keep, at most. Memory: ``sample`` x neurons of all sites x 4 bytes.
        rotation: Also measure a random rotation and the principal components of every site, of at most 1024 directions.
        engine: ``"local"``, ``"processes"`` or ``"ray"``.
        workers: Worker processes or actors.
        threads: Torch threads of each worker.
        batch_size: Most examples a batch.
        max_tokens: Most positions a batch, padding included.
        model_name: Name for the record; default: the model's own, or its class.
        progress: Show a progress bar on standard error; default: if that is a terminal.
        seed: Seed of the halves, the rotation and the splits of probes.

    Returns:
        A :class:`Monosemanticity`.

    Raises:
        EmptyCorpusError: If there are no examples.
        DataError: If too few samples are finite.
        InvalidArgumentError: If a measure is asked for that needs what is not given, such as labels.
        SiteNotFoundError: If a site is not in the model, or none is found.
        CompiledModelError: If hooks on the model would be skipped.
    """
    refuse_uncatchable(model)
    data = corpus if isinstance(corpus, Corpus) else make_corpus(corpus)
    known = None
    if reference is not None:
        known = reference if isinstance(reference, Corpus) else make_corpus(reference)
    wanted = chosen_measures(measures)
    places = find_sites(model) if sites is None else Sites.of(sites)
    for site in places:
        site.module(model)  # an unknown path is an error before any work is done
    truth = _Labels.of(data, labels)
    vectors = _vectors(embeddings)
    _refuse_missing(wanted if measures is not None else (), truth, vectors, data)
    card = model_card(model, model_name)

    def run(part: Corpus, role: str, title: str) -> Mapping[str, RowSample]:
        reducer = RowSample(
            sample, unit=unit, role=role, labels=truth.field if role != "reference" else None, seed=seed
        )
        total = part.length()
        if total == 0 or (total is None and engine != "local"):
            raise EmptyCorpusError(
                f"The corpus {part.name!r} has no examples that can be read by engine={engine!r}."
            )
        job = ObserverJob(model, part, places, [reducer], batch_size, max_tokens, None, seed, card["sha256"])
        with progress_bar(title, total, shown=progress) as advance:
            observer = map_reduce(
                job, blocks_of(total, None), engine=engine, workers=workers, threads=threads, on_block=advance
            )
        return {name: kept["sample"] for name, kept in observer.reducers.items()}  # type: ignore[misc]

    if known is None:
        measured = statistics = run(data, "both", "Sampling")
    else:
        statistics = run(known, "reference", "Reference")
        measured = run(data, "sample", "Sampling")
    skipped: dict[str, str] = {}
    parts = [
        _site(
            site,
            _sample(model, site, measured[site.name], statistics[site.name], truth, vectors, unit, seed),
            statistics[site.name].count,
            wanted,
            rotation,
            skipped,
            explicit=measures is not None,
            seed=seed,
        )
        for site in places
    ]
    tables = {
        "sites": places.to_frame(),
        "unit_measures": pd.concat([units for units, _ in parts], ignore_index=True),
        "site_measures": pd.concat([rows for _, rows in parts], ignore_index=True),
    }
    for name in ("unit_measures", "site_measures"):
        tables[name]["layer"] = tables[name]["layer"].astype("Int32")
    parameters = {
        "sites": list(places.names),
        "measures": [measure.name for measure in wanted],
        "skipped": skipped,
        "labels": truth.field or ("given" if truth.codes is not None else None),
        "unit": unit,
        "sample": sample,
        "rotation": rotation,
        "reference": "half of the examples" if known is None else known.describe(),
        "batch_size": batch_size,
        "max_tokens": max_tokens,
    }
    described = {name: value for name, value in data.describe().items() if name != "truncated"}
    action = {"name": "monosemanticity", "parameters": parameters}
    return Monosemanticity(
        tables, Manifest("monosemanticity", action=action, seed=seed, model=card, data=described)
    )


@dataclass(frozen=True)
class _Labels:
    """Where the labels come from: a field of the corpus, or one number for each of its examples."""

    field: str | None = None
    codes: Tensor | None = None

    @classmethod
    def of(cls, data: Corpus, labels: Any) -> _Labels:
        if labels is None:
            return cls(next((name for name, classes in data.labels.items() if len(classes) > 1), None))
        if isinstance(labels, str):
            if labels not in data.labels:
                raise InvalidArgumentError(
                    f"The corpus {data.name!r} has no label field {labels!r}. {closest(labels, data.labels)}"
                )
            return cls(labels)
        values = np.asarray(labels)
        total = data.length()
        if values.ndim != 1 or (total is not None and len(values) != total):
            raise InvalidArgumentError(
                f"labels must be one for each of {total} examples, not of shape {values.shape}; or the name of a label "
                "field of the corpus."
            )
        return cls(codes=torch.from_numpy(np.unique(values, return_inverse=True)[1]))

    def __bool__(self) -> bool:
        return self.field is not None or self.codes is not None


def _vectors(embeddings: Any) -> Tensor | None:
    if embeddings is None:
        return None
    vectors = torch.as_tensor(embeddings).detach()
    if vectors.dim() != 2:
        raise InvalidArgumentError(
            f"embeddings must be a matrix (example, dimension), not of shape {tuple(vectors.shape)}."
        )
    return vectors


def _refuse_missing(wanted: Iterable[Measure], truth: _Labels, vectors: Tensor | None, data: Corpus) -> None:
    """Refuse measures that were asked for and cannot be taken, before any work is done."""
    for measure in wanted:
        if "labels" in measure.needs and not truth:
            raise InvalidArgumentError(
                f"The measure {measure.name!r} needs labels, and the corpus {data.name!r} has none. Give labels=, one "
                "for each example, or a corpus with a label field (neuronwise.corpus(..., labels={...}))."
            )
        if "embeddings" in measure.needs and vectors is None:
            raise InvalidArgumentError(
                f"The measure {measure.name!r} needs embeddings=, a vector for each example by another encoder."
            )


def _sample(
    model: nn.Module,
    site: Site,
    measured: RowSample,
    statistics: RowSample,
    truth: _Labels,
    vectors: Tensor | None,
    unit: Unit,
    seed: int,
) -> Sample:
    """Return what is known of a site."""
    kept = measured.sampled()
    if not kept or len(kept["rows"]) < 2 or statistics.count < 2:
        raise DataError(
            f"Site {site.name} has {len(kept.get('rows', ()))} samples to measure and {statistics.count} for the "
            "statistics; both must be 2 at least. Values that are NaN or infinite are left out. Give more examples, or "
            "a corpus of its own for the statistics (reference=)."
        )
    rows, examples = kept["rows"], kept["examples"]
    labels = None
    if truth:
        labels = kept["labels"] if truth.codes is None else truth.codes.to(examples.device)[examples]
        labels = _without_rare(labels)
    embeddings = None
    if vectors is not None:
        if int(examples.max()) >= len(vectors):
            raise InvalidArgumentError(
                f"There are {len(vectors)} embeddings, but the corpus has an example {int(examples.max())}; give one "
                "for each example."
            )
        embeddings = vectors.to(rows.device)[examples]
    mean, variance = statistics.statistics()
    if mean.shape[0] != rows.shape[1]:
        raise InvalidArgumentError(
            f"The reference corpus has {mean.shape[0]} elements at {site.name}, the measured one {rows.shape[1]}. "
            "Bring both to one length, or use unit='feature'."
        )
    found = Sample(rows, mean, variance, labels, embeddings, seed=seed)
    if unit == "element" or not site.reads:
        return found
    weights = next(iter(site.read_vectors(model).values())).detach().flatten(1)
    bias = site.biases(model)
    return replace(found, weights=weights, biases=None if bias is None else bias.detach())


def _without_rare(labels: Tensor) -> Tensor | None:
    """Take the label from samples of classes that are too rare; None if fewer than two classes are left."""
    names, inverse, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    usable = (counts >= _FEWEST) & (names >= 0)
    return torch.where(usable[inverse], labels, -1) if int(usable.sum()) > 1 else None


def _site(
    site: Site,
    known: Sample,
    n_reference: int,
    wanted: Sequence[Measure],
    rotation: bool,
    skipped: dict[str, str],
    *,
    explicit: bool,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a site's rows of both tables."""
    possible = []
    for measure in wanted:
        missing = measure.missing(known)
        if not missing:
            possible.append(measure)
            continue
        reason = f"{site.name}: no {' and '.join(missing)}"
        if missing == ["labels"]:
            reason += f" with at least two classes of {_FEWEST} samples"
        if explicit:
            raise InvalidArgumentError(f"The measure {measure.name!r} cannot be taken at {reason}.")
        skipped.setdefault(measure.name, reason)
    rows: list[dict[str, Any]] = []
    units: list[pd.DataFrame] = []
    for basis, view in _bases(known, rotation, seed):
        alive = liveness(view.activations)
        counts = {
            "n_live": int(alive.live.sum()),
            "n_near_dead": int(alive.near_dead.sum()),
            "n_dead": int(alive.dead.sum()),
            "n": len(view.activations),
            "n_reference": n_reference,
        }
        for measure in possible:
            if basis != "neuron" and not measure.of_activations:
                continue
            values = _values(measure, view, alive)
            place = {"site": site.name, "layer": site.layer, "measure": measure.name, "basis": basis}
            rows.append(place | _spread(values, alive if measure.per == "neuron" else None) | counts)
            if basis == "neuron" and measure.per == "neuron":
                units.append(_unit_rows(site, measure, values, alive))
    empty = pd.DataFrame(columns=["site", "layer", "neuron", "position", "measure", "value", "live"])
    return pd.concat(units, ignore_index=True) if units else empty, pd.DataFrame(rows)


def _bases(known: Sample, rotation: bool, seed: int) -> Iterable[tuple[str, Sample]]:
    """Yield the neurons, and if wanted the same activations in other bases."""
    yield "neuron", known
    width = known.activations.shape[1]
    if not rotation or width < 2:
        return
    bare = replace(known, mean=None, variance=None, weights=None, biases=None)
    drawn = random_directions(width, min(width, _DIRECTIONS), seed=seed).to(known.activations.dtype)
    yield "rotated", replace(bare, activations=turned(known.activations, drawn))
    count = min(*known.activations.shape, _DIRECTIONS)
    axes = principal_directions(known.activations, count, seed=seed).to(known.activations.dtype)
    yield "pca", replace(bare, activations=turned(known.activations, axes))


def _values(measure: Measure, view: Sample, alive: Liveness) -> Tensor:
    """Return a measure; one of the whole site is taken of its live units only."""
    if measure.per == "neuron":
        return measure.function(view)
    live = alive.live
    if int(live.sum()) < 2:
        return torch.tensor(torch.nan)
    if bool(live.all()):
        return measure.function(view)
    pick: dict[str, Any] = {
        name: None if (part := getattr(view, name)) is None else part[live]
        for name in ("mean", "variance", "weights", "biases")
    }
    return measure.function(replace(view, activations=view.activations[:, live], **pick))


def _spread(values: Tensor, alive: Liveness | None) -> dict[str, float]:
    """Return mean, median and the middle nine tenths over the live units for which the measure is defined."""
    if alive is None:
        return {"mean": float(values), "median": float(values), "low": np.nan, "high": np.nan}
    kept = values[alive.live & ~torch.isnan(values)].cpu().numpy()
    if not len(kept):
        return dict.fromkeys(("mean", "median", "low", "high"), np.nan)
    low, median, high = np.quantile(kept, [0.05, 0.5, 0.95])
    return {"mean": float(kept.mean()), "median": float(median), "low": float(low), "high": float(high)}


def _unit_rows(site: Site, measure: Measure, values: Tensor, alive: Liveness) -> pd.DataFrame:
    number = np.arange(len(values))
    return pd.DataFrame(
        {
            "site": site.name,
            "layer": site.layer,
            "neuron": number % site.width,
            "position": number // site.width,
            "measure": measure.name,
            "value": values.detach().cpu().numpy(),
            "live": alive.live.cpu().numpy(),
        }
    )
