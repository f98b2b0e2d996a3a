"""The first chapters of the demo: load, find, watch, look, switch off, keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.text import Text

from neuronwise.cli.screen import visible
from neuronwise.cli.selective import brief, selective, stronger_side
from neuronwise.cli.tour import ABLATION, ACTIVITY, Tour

if TYPE_CHECKING:
    import pandas as pd

    from neuronwise.data import LoadedModel

__all__ = ["find", "keep", "load", "most_selective", "switch_off", "watch"]

_PROMPT = "Once upon a time"

# What the model is documented to say, word for word.
_SENTENCE = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
    "One day, she saw a big, red ball."
)

_QUICK_STORIES = 24
_BATCH_SIZE, _MAX_TOKENS = 16, 4096
_SET_SIZE = 20
_EXAMPLES = 3
_TOKENS = 6


def load(tour: Tour) -> Mapping[str, Any]:
    """Load the bundled Llama and its stories, and let it tell its documented sentence."""
    import neuronwise as nw

    tour.loaded = nw.load_model("stories260k")
    stories = nw.corpus("stories", tokenizer=tour.loaded.tokenizer)
    tour.stories = stories.part(0, _QUICK_STORIES) if tour.quick else stories
    size = sum(parameter.numel() for parameter in tour.loaded.model.parameters())
    text = _greedy(tour.loaded)
    same = text.startswith(_SENTENCE)
    if not same:
        tour.failed.append(f"the model should have said: {_SENTENCE}")
    tour.screen.prose(
        f"stories260k is a Llama of {size:,} parameters that tells children's stories. It says:"
    )
    tour.screen.line()
    tour.screen.prose(text, style="italic", indent=2)
    tour.screen.line()
    tour.screen.prose(
        "This is, word for word, what it is documented to say." if same else "That is not what it should say."
    )
    return {"name": tour.loaded.name, "parameters": size, "text": text, "as_documented": same}


def find(tour: Tour) -> Mapping[str, Any]:
    """Find the model's neurons."""
    import neuronwise as nw

    sites = nw.find_sites(tour.loaded.model)
    tour.screen.prose(
        f"{sites.width} neurons in {len(sites)} layers: the inputs of the down projections of its feed-forward blocks."
    )
    tour.screen.table(sites.to_frame()[["site", "layer", "kind", "width"]])
    return {"neurons": sites.width, "sites": list(sites.names)}


def watch(tour: Tour) -> Mapping[str, Any]:
    """Observe every neuron over the stories."""
    import neuronwise as nw

    tour.activity = nw.observe(
        tour.loaded.model,
        tour.stories,
        model_name=tour.loaded.name,
        batch_size=_BATCH_SIZE,
        max_tokens=_MAX_TOKENS,
    )
    summary = tour.activity.summary()
    tokens = int(tour.activity.to_frame()["n"].max())
    tour.screen.prose(
        f"One pass over {len(tour.stories)} stories, {tokens:,} tokens. Medians over the neurons of a layer:"
    )
    tour.screen.table(brief(summary), digits=3)
    tour.screen.line()
    tour.screen.prose(
        "dead: always the same; nearly dead: never clearly below zero, and above it at less than one token in a "
        "thousand; active: how often above zero. Kurtosis is 0 for a bell curve, and large for a neuron that is quiet "
        "nearly always and strong at times."
    )
    return {"stories": len(tour.stories), "tokens": tokens, "summary": summary}


def most_selective(tour: Tour) -> Mapping[str, Any]:
    """Show the most selective neuron of each layer: where it is strongest, and what it writes towards."""
    frame = tour.activity.tables["neurons"]
    tour.screen.prose(
        "Of each layer the neuron with the largest kurtosis, where it is strongest, which is at the token in "
        "[brackets]; and the tokens that it then makes more likely (promotes) and less likely (demotes) by itself."
    )
    shown = []
    for layer in sorted(frame["layer"].unique()):
        row = frame[frame["layer"] == layer].nlargest(1, "kurtosis").iloc[0]
        shown.append(_neuron(tour, row))
    tour.screen.line()
    tour.screen.line("The ten most selective of all layers:")
    table = selective(tour.activity, 10)
    tour.screen.table(brief(table.drop(columns="example")), digits=3)
    return {"per_layer": shown, "overall": table}


def switch_off(tour: Tour) -> Mapping[str, Any]:
    """Choose neurons on one half of the stories; measure on others of the other half what switching them off does."""
    import neuronwise as nw

    model, half = tour.loaded.model, len(tour.stories) // 2
    first, last = tour.stories.part(0, half), tour.stories.part(half + half // 2)
    choice = nw.observe(
        model,
        first,
        reducers=["moments"],
        promoted=False,
        model_name=tour.loaded.name,
        batch_size=_BATCH_SIZE,
        max_tokens=_MAX_TOKENS,
    )
    chosen = choice.neurons("kurtosis").top(_SET_SIZE)
    tour.effect = nw.ablate(
        model,
        last,
        chosen,
        controls=tour.controls,
        model_name=tour.loaded.name,
        batch_size=_BATCH_SIZE,
        max_tokens=_MAX_TOKENS,
    )
    tour.screen.prose(
        f"Chosen: the {_SET_SIZE} neurons with the largest kurtosis over the first {half} stories. Measured: the loss "
        f"of the next token over the last {len(last)}, which had no part in the choice. Compared with: "
        f"{tour.controls} random sets with as many neurons of the same layers."
    )
    per_layer = ", ".join(f"{count} of layer {layer}" for (_, layer), count in chosen.per_layer().items())
    tour.screen.prose(f"The chosen are {per_layer}.")
    tour.screen.line()
    tour.screen.table(_effect_table(tour))
    chosen_text = _greedy(tour.loaded, off=chosen)
    control = chosen.matched_random(seed=0)
    control_text = _greedy(tour.loaded, off=control)
    for which, text in (("the chosen", chosen_text), ("the first random set", control_text)):
        tour.screen.line()
        tour.screen.line(f"With {which} switched off it says:")
        tour.screen.line()
        tour.screen.prose(text, style="italic", indent=2)
    random = tour.effect.random_changes
    return {
        "neurons": {site.name: chosen.indices(site) for site in chosen.sites},
        "change": tour.effect.change,
        "change_se": tour.effect.change_se,
        "random_mean": random.mean(),
        "random_std": random.std(ddof=1),
        "ablation": tour.effect.to_frame(),
        "text": chosen_text,
        "random_text": control_text,
    }


def keep(tour: Tour) -> Mapping[str, Any]:
    """Save the results, and write the report."""
    activity, ablation = tour.out / ACTIVITY, tour.out / ABLATION
    tour.activity.save(activity, overwrite=True)
    tour.effect.save(ablation, overwrite=True)
    report = tour.activity.report(tour.out / "report.html", title="The neurons of stories260k")
    tour.screen.line(f"Report, one page for any browser:  {report}")
    tour.screen.line(f"Results, Parquet and a manifest:   {activity}, {ablation}")
    tour.screen.line(
        f'Ask them:  neuronwise query {activity} "SELECT site, neuron, skewness FROM neurons ORDER BY skewness LIMIT 5"'
    )
    return {"report": str(report), "activity": str(activity), "ablation": str(ablation)}


def _greedy(loaded: LoadedModel, *, off: Any = None) -> str:
    """Return what the model says by itself, as far as the last whole sentence, with some neurons switched off."""
    from contextlib import nullcontext

    import torch

    import neuronwise as nw

    tokenizer: Any = loaded.tokenizer
    model: Any = loaded.model
    inputs = tokenizer(_PROMPT, return_tensors="pt")
    with torch.no_grad(), nullcontext() if off is None else nw.intervene(loaded.model, off, "zero"):
        tokens = model.generate(**inputs, max_new_tokens=60, do_sample=False)
    text = str(tokenizer.decode(tokens[0], skip_special_tokens=True))
    end = max(text.rfind(mark) for mark in ".!?")
    return text[: end + 1] if end >= 0 else text


def _neuron(tour: Tour, row: pd.Series) -> dict[str, Any]:
    """Show one neuron, and return what was shown."""
    site, neuron, side = str(row["site"]), int(row["neuron"]), stronger_side(row)
    tour.screen.line()
    tour.screen.prose(
        f"Layer {row['layer']}, neuron {neuron}: kurtosis {row['kurtosis']:.0f}, mean {row['mean']:+.2f}, "
        f"from {row['min']:+.2f} to {row['max']:+.2f}",
        style="bold",
    )
    examples = tour.activity.examples(site, neuron, side=side).head(_EXAMPLES)
    contexts = tour.activity.rows("contexts", site=site, neuron=neuron)
    contexts = contexts[contexts["side"] == side].sort_values("offset")
    for example in examples.itertuples():
        text = Text(f"  {example.value:+7.2f}  ")
        for token in contexts[contexts["rank"] == example.rank].itertuples():
            shown = visible(str(token.token))
            text.append(
                f"[{shown}]" if token.offset == 0 else shown, "bold green" if token.offset == 0 else ""
            )
        tour.screen.line(text)
    written = _written(tour, site, neuron, side)
    for towards, tokens in written.items():
        tour.screen.prose(f"{towards + ':':9} {'  '.join(map(repr, tokens))}", style="dim", indent=2)
    return {
        "site": site,
        "neuron": neuron,
        "kurtosis": row["kurtosis"],
        "side": side,
        "examples": examples,
        **written,
    }


def _written(tour: Tour, site: str, neuron: int, side: str) -> dict[str, list[str]]:
    """Return the tokens that the neuron raises and lowers there; below zero it writes the other way round.

    Tokens that are a piece of a character are left out: there is no way to show them.
    """
    table = tour.activity.rows("promoted", site=site, neuron=neuron).sort_values("rank")
    raised, lowered = ("promotes", "demotes") if side == "top" else ("demotes", "promotes")
    tokens = {
        name: [str(token) for token in rows["token"] if "\ufffd" not in token][:_TOKENS]
        for name, rows in table.groupby("side", observed=True)
    }
    return {"promotes": tokens.get(raised, []), "demotes": tokens.get(lowered, [])}


def _effect_table(tour: Tour) -> pd.DataFrame:
    import pandas as pd

    effect, random = tour.effect, tour.effect.random_changes
    baseline = float(effect.to_frame()["baseline"].iloc[0])
    rows = [
        ("none", f"{baseline:.4f}", "", ""),
        (
            f"the {_SET_SIZE} chosen",
            f"{baseline + effect.change:.4f}",
            f"{effect.change:+.4f} +- {effect.change_se:.4f}",
            "standard error over stories",
        ),
        (
            f"{_SET_SIZE} random, {len(random)} times",
            f"{baseline + random.mean():.4f}",
            f"{random.mean():+.4f} +- {random.std(ddof=1):.4f}",
            f"standard deviation over seeds; from {random.min():+.4f} to {random.max():+.4f}",
        ),
    ]
    return pd.DataFrame(rows, columns=["switched off", "loss", "change", "spread"])
