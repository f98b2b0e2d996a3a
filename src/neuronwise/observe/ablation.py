"""The effect of changing neurons, beside random sets of the same size in the same layers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from neuronwise.data import Batch, Corpus, model_card
from neuronwise.data import corpus as make_corpus
from neuronwise.errors import EmptyCorpusError, InvalidArgumentError, closest
from neuronwise.hooks import call_model, intervene, refuse_uncatchable, untouched
from neuronwise.observe._batches import batches_for, explained
from neuronwise.sites import NeuronSet, Site, Sites
from neuronwise.store import Manifest, Result

__all__ = ["METRICS", "Ablation", "Metric", "ablate"]

#: ``(output, output of the untouched model, batch)`` to each example's ``(sum, weight)``, both ``(batch,)``. The figure
#: reported is the sum of sums over the sum of weights.
Metric = Callable[[Any, Any, Batch], tuple[Tensor, Tensor]]


def next_token_loss(output: Any, reference: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy in nats of every next token of a causal language model."""
    if batch.token_ids is None:
        raise InvalidArgumentError("The metric 'next_token_loss' needs a corpus of tokens.")
    logits, targets = _logits(output)[:, :-1].float(), batch.token_ids[:, 1:]
    loss = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").double()
    real = torch.ones_like(loss) if batch.mask is None else batch.mask[:, 1:].double()
    return (loss * real).sum(1), real.sum(1)


def class_loss(output: Any, reference: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy in nats of each example's class, the corpus's only label of examples.

    Classes that are whole numbers are the numbers of their logits; named ones are numbered in the corpus's order.
    """
    fields = [labels for labels in batch.labels.values() if labels.dim() == 1]
    if len(fields) != 1:
        raise InvalidArgumentError("The metric 'class_loss' needs a corpus with one label an example.")
    known, logits = fields[0] >= 0, _logits(output).float()
    if int(fields[0].max()) >= logits.shape[-1]:
        raise InvalidArgumentError(
            f"The corpus has a class {int(fields[0].max())}, but the model only {logits.shape[-1]} logits. "
            "Pass metric=, a function that says which logit a class belongs to."
        )
    loss = F.cross_entropy(logits, fields[0].clamp(min=0), reduction="none").double()
    return loss * known, known.double()


def kl(output: Any, reference: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the Kullback-Leibler divergence in nats of the output distribution from the untouched model's."""
    new, old = (torch.log_softmax(_logits(o).double(), -1) for o in (output, reference))
    divergence = (old.exp() * (old - new)).sum(-1).reshape(len(batch), -1)
    real = torch.ones_like(divergence)
    if batch.mask is not None and batch.mask.shape == divergence.shape:
        real = batch.mask.double()
    return (divergence * real).sum(1), real.sum(1)


def output_change(output: Any, reference: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the squared change of the output over the squared output of the untouched model, of any model."""
    new, old = (_logits(o).double() for o in (output, reference))
    if batch.mask is not None and old.shape[:2] == batch.mask.shape:
        real = batch.mask.reshape(*batch.mask.shape, *[1] * (old.dim() - 2))
        new, old = new * real, old * real
    return ((new - old) ** 2).reshape(len(batch), -1).sum(1), (old**2).reshape(len(batch), -1).sum(1)


#: The metrics by name. A new one is a function and a line here.
METRICS: Mapping[str, Metric] = MappingProxyType(
    {"next_token_loss": next_token_loss, "class_loss": class_loss, "kl": kl, "output_change": output_change}
)


class Ablation(Result):
    """What changing some neurons does to a model, beside random sets matched in size and layer.

    Table ``ablation``: one row for the chosen neurons and one for every random set.
    """

    kind: ClassVar[str] = "ablation"
    main_table: ClassVar[str] = "ablation"

    @property
    def change(self) -> float:
        """Change of the metric by the chosen neurons."""
        return float(self._set("chosen")["change"].iloc[0])

    @property
    def change_se(self) -> float:
        """Standard error of :attr:`change` over the examples of the corpus."""
        return float(self._set("chosen")["change_se"].iloc[0])

    @property
    def random_changes(self) -> NDArray[np.float64]:
        """Changes of the metric by the random sets, one a seed."""
        return self._set("random")["change"].to_numpy(dtype=np.float64)

    def __str__(self) -> str:
        row = self._set("chosen").iloc[0]
        text = (
            f"{row['metric']}: {row['baseline']:.4f} -> {row['intervened']:.4f}, "
            f"change {self.change:+.4f} +- {self.change_se:.4f} by {row['n_neurons']} chosen neurons"
        )
        random = self.random_changes
        if not len(random):
            return text
        spread = (
            f" +- {random.std(ddof=1):.4f} (standard deviation over {len(random)} seeds)"
            if len(random) > 1
            else ""
        )
        return f"{text}; {random.mean():+.4f}{spread} by as many random neurons of the same sites"

    def _set(self, name: str) -> pd.DataFrame:
        frame = self.tables["ablation"]
        return frame[frame["neurons"] == name]


def ablate(
    model: nn.Module,
    corpus: Any,
    neurons: NeuronSet | Sites | Site,
    *,
    how: str = "zero",
    value: Any = None,
    metric: str | Metric | None = None,
    controls: int = 5,
    batch_size: int = 16,
    max_tokens: int | None = None,
    model_name: str | None = None,
    seed: int = 0,
) -> Ablation:
    """Measure what an intervention on neurons does over a corpus, beside size- and site-matched random sets.

    Costs ``2 + controls`` forward passes a batch. The model runs in evaluation mode and is bit-identical afterwards.

    Args:
        model: Any module.
        corpus: A corpus, or anything that :func:`neuronwise.corpus` takes without a tokenizer.
        neurons: The neurons to change; a site or several sites mean all of theirs.
        how: The intervention: ``"zero"``, ``"mean"``, ``"scale"``, ``"set"`` or ``"add"``.
        value: Its value, as for :func:`neuronwise.intervene`. For ``"mean"``: ``activity.means()``.
        metric: A name in ``METRICS`` or a function; default: ``"next_token_loss"`` for a causal language model with
            tokens, ``"class_loss"`` for a corpus with one label an example, else ``"output_change"``.
        controls: Number of random sets, drawn with the seeds ``seed``, ``seed + 1``, ... from the neurons of the same
            sites that were not chosen. Where more than half of a site was chosen, there are not enough of these, and
            the sets share neurons with the chosen one, which is warned of. There are none, with a warning too, if
            all sites were chosen whole: the random sets would be the chosen one.
        batch_size: Most examples a batch.
        max_tokens: Most positions a batch.
        model_name: Name for the record.
        seed: First seed of the random sets.

    Returns:
        An :class:`Ablation`.

    Raises:
        InvalidArgumentError: If no neuron is given, or the metric does not suit model and corpus.
        EmptyCorpusError: If the corpus has no example.
    """
    refuse_uncatchable(model)
    changed = neurons if isinstance(neurons, NeuronSet) else NeuronSet.of(Sites.of(neurons))
    if not len(changed):
        raise InvalidArgumentError("There are no neurons to change: the set is empty.")
    shown = _recorded(value)
    data = corpus if isinstance(corpus, Corpus) else make_corpus(corpus)
    name, measure = _metric(metric, model, data)
    sets = [_Set("chosen", None, changed), *_controls(changed, controls, seed)]
    sums = _measure(model, data, sets, measure, how, value, batch_size, max_tokens)
    if not np.isfinite(sums[0]).all():
        warnings.warn(
            f"{name} is NaN or infinite without any change too, for {int((~np.isfinite(sums[0]).all(1)).sum())} of "
            f"{sums.shape[1]} examples, and so is what comes of it. nw.observe(...).nonfinite lists the neurons that "
            "are not finite.",
            RuntimeWarning,
            stacklevel=2,
        )
    rows = [_row(chosen, name, sums[0], sums[place]) for place, chosen in enumerate(sets, 1)]
    action = {
        "name": "ablate",
        "parameters": {
            "how": how,
            "value": shown,
            "metric": name,
            "controls": len(sets) - 1,
            "batch_size": batch_size,
            "max_tokens": max_tokens,
            "neurons": _listed(changed),
        },
    }
    card = model_card(model, model_name)
    return Ablation(
        {"ablation": pd.DataFrame(rows)}, Manifest("ablation", action, seed, card, data.describe())
    )


@dataclass(frozen=True)
class _Set:
    """Neurons that are changed together."""

    name: str
    seed: int | None
    neurons: NeuronSet


def _controls(neurons: NeuronSet, count: int, seed: int) -> list[_Set]:
    """Return random sets of as many neurons of the same sites; none where they could only be the chosen one."""
    if count < 0:
        raise InvalidArgumentError(f"controls must be 0 or more, not {count}.")
    shared = sum(max(0, 2 * len(neurons.indices(site)) - site.width) for site in neurons.sites)
    if count and shared == len(neurons):
        warnings.warn(
            "All neurons of the sites were chosen, so random neurons of the same sites would be the same ones: there "
            "are no controls. controls=0 says that none are wanted.",
            stacklevel=3,
        )
        return []
    if count and shared:
        warnings.warn(
            f"More than half of a site was chosen, so {shared} of the {len(neurons)} neurons of every random set are "
            "among the chosen ones too, and the difference between them is smaller than it should be.",
            stacklevel=3,
        )
    allowed = Sites(neurons.sites)
    return [_Set("random", seed + i, neurons.matched_random(allowed, seed=seed + i)) for i in range(count)]


def _measure(
    model: nn.Module,
    data: Corpus,
    sets: list[_Set],
    measure: Metric,
    how: str,
    value: Any,
    batch_size: int,
    max_tokens: int | None,
) -> NDArray[np.float64]:
    """Return ``(1 + sets, example, 2)``: sum and weight of each example, first for the untouched model."""
    parts: list[Tensor] = []
    with torch.no_grad(), untouched(model):
        for moved in batches_for(model, data, batch_size=batch_size, max_tokens=max_tokens):
            batch = _numbered_as_logits(moved, data)
            with explained(model, batch):
                reference = call_model(model, batch.inputs)
            figures = [measure(reference, reference, batch)]
            for chosen in sets:
                with intervene(model, chosen.neurons, how, value):
                    output = call_model(model, batch.inputs)
                figures.append(measure(output, reference, batch))
            parts.append(torch.stack([torch.stack(pair, -1) for pair in figures]).cpu())
    if not parts:
        raise EmptyCorpusError(f"The corpus {data.name!r} has no examples to measure on.")
    return torch.cat(parts, 1).double().numpy()


def _numbered_as_logits(batch: Batch, data: Corpus) -> Batch:
    """Give classes that are whole numbers their own numbers back; a corpus numbers those that occur from 0."""
    labels = dict(batch.labels)
    for field, names in data.labels.items():
        if field in labels and names and all(name.isdecimal() for name in names):
            numbers = torch.tensor([int(name) for name in names], device=labels[field].device)
            labels[field] = torch.where(labels[field] >= 0, numbers[labels[field].clamp(min=0)], -1)
    return replace(batch, labels=labels)


def _row(chosen: _Set, metric: str, base: NDArray[np.float64], new: NDArray[np.float64]) -> dict[str, Any]:
    """Return the change and its standard error: examples are independent, positions within one are not."""
    weight = base[:, 1].sum()
    baseline, intervened = base[:, 0].sum() / weight, new[:, 0].sum() / weight
    change, n = intervened - baseline, len(base)
    residual = (new[:, 0] - base[:, 0]) - change * base[:, 1]
    error = np.sqrt((residual**2).sum() * n / (n - 1)) / weight if n > 1 else np.nan
    return {
        "neurons": chosen.name,
        "seed": chosen.seed,
        "n_neurons": len(chosen.neurons),
        "metric": metric,
        "baseline": baseline,
        "intervened": intervened,
        "change": change,
        "change_se": error,
    }


def _metric(metric: str | Metric | None, model: nn.Module, data: Corpus) -> tuple[str, Metric]:
    if callable(metric):
        return getattr(metric, "__name__", "custom"), metric
    if metric is None:
        causal = type(model).__name__.endswith(("ForCausalLM", "LMHeadModel"))
        first = data.examples(0, 1)
        if not first:
            raise EmptyCorpusError(f"The corpus {data.name!r} has no examples to measure on.")
        scalar = [labels for labels in first[0].labels.values() if labels.dim() == 0]
        metric = "next_token_loss" if causal else "class_loss" if len(scalar) == 1 else "output_change"
    if metric not in METRICS:
        raise InvalidArgumentError(f"There is no metric {metric!r}. {closest(metric, METRICS)}")
    return metric, METRICS[metric]


def _logits(output: Any) -> Tensor:
    """Return the tensor that matters of a model's output: its logits, or the first tensor in it."""
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    values = output.values() if isinstance(output, Mapping) else output
    for item in values if isinstance(values, tuple | list) or hasattr(values, "__iter__") else ():
        if isinstance(item, Tensor):
            return item
    raise InvalidArgumentError(
        f"The model returns a {type(output).__name__} without a tensor that could be compared. "
        "Pass metric=, a function."
    )


def _recorded(value: Any) -> float | str | None:
    """Return what the manifest says of the intervention's value."""
    if value is None:
        return None
    if not np.isscalar(value):
        return "an array for each site or neuron"
    if not isinstance(value, int | float | np.number) or not np.isfinite(value):
        raise InvalidArgumentError(f"value must be a finite number, or an array of them, not {value!r}.")
    return float(value)


def _listed(neurons: NeuronSet) -> dict[str, list[int]]:
    return {site.name: neurons.indices(site).tolist() for site in neurons.sites}
