"""The chapter of the demo on one fact: find its neurons, switch them off, double them, edit it, and undo that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from neuronwise.cli.tour import KNOWLEDGE, MAP, Tour

if TYPE_CHECKING:
    import pandas as pd

    from neuronwise.data import Fact, Facts
    from neuronwise.knowledge import Effect
    from neuronwise.sites import NeuronSet

__all__ = ["one_fact"]

_NEURONS = 4
_START = "Once upon a time, there was a little girl named"
_PROMPTS = (
    "Once upon a time, there was a little girl named [Y]",
    "One day, a little girl named [Y]",
    "There was a girl named [Y]",
    "Once there was a little girl. Her name was [Y]",
)
# Never used to find or edit anything.
_HELD_OUT = (
    "In a small house, there lived a girl named [Y]",
    "A long time ago, there was a pretty girl named [Y]",
    "Tom had a sister. She was a little girl named [Y]",
)


def one_fact(tour: Tour) -> Mapping[str, Any]:
    """Show what the model's "girl named ... Lily" stands on."""
    from neuronwise import knowledge
    from neuronwise.data import hash_model
    from neuronwise.edit import fine

    model, tokenizer = tour.loaded.model, tour.loaded.tokenizer
    facts = _facts()
    girl = facts["girl"]
    located = knowledge.locate(model, tokenizer, facts, model_name=tour.loaded.name, progress=False)
    neurons = _own(tour, located.neurons("girl", k=_NEURONS))
    row = located.tables["facts"].set_index("fact").loc["girl"]
    tour.screen.prose(
        f'"a girl named" goes on with "Lily" (probability {row["p"]:.2f}, mean of {len(girl.prompts)} prompts). '
        f"{row['neurons']} neurons carry it in at least {located.tables['facts']['share'].iloc[0]:.0%} of the prompts "
        f"(two prompts agree by a Jaccard index of {row['jaccard']:.2f}). The {_NEURONS} that contribute most:"
    )
    frame = located.neurons("girl", k=_NEURONS).to_frame()
    tour.screen.table(frame[["site", "layer", "neuron", "score"]], digits=3)
    effect = knowledge.measure_effect(
        model,
        tokenizer,
        [girl],
        {"girl": neurons},
        pool=facts,
        sisters=1,
        others=0,
        controls=tour.controls,
        progress=False,
    )
    tour.screen.prose(
        "What becomes of the probability of the right name when they are switched off, or doubled, in prompts they "
        f"were found with, in others, and for the boy; beside {tour.controls} random sets of as many neurons of the "
        "same layer:"
    )
    tour.screen.table(_table(effect))
    before = hash_model(model)
    patch = fine(model, tokenizer, girl, neurons)
    with patch.applied(model):
        edited = _story(tour)
    undone = hash_model(model) == before
    if not undone:
        tour.failed.append("undoing the edit should have left the model as it was")
    tour.screen.prose(
        f"Now the girl shall be called {girl.new_answer}: the value slots of these {_NEURONS} neurons are trained, and "
        "nothing else. It then says:"
    )
    tour.screen.line()
    tour.screen.prose(edited, style="italic", indent=2)
    tour.screen.line()
    tour.screen.prose(
        "Undone, the model is what it was, to the last bit."
        if undone
        else "Undoing it did not bring the model back."
    )
    located.save(tour.out / KNOWLEDGE, overwrite=True)
    drawn = knowledge.knowledge_map(model, tokenizer, girl, 3, model_name=tour.loaded.name)
    drawn.save(tour.out / MAP, overwrite=True)
    page = drawn.report(tour.out / "girl.html", title="A girl named Lily")
    tour.screen.line(f"The map of this fact over the layers:  {page}")
    return {
        "neurons": {site.name: neurons.indices(site) for site in neurons.sites},
        "p": row["p"],
        "jaccard": row["jaccard"],
        "effect": effect.to_frame(),
        "edited": edited,
        "undone": undone,
        "map": str(page),
    }


def _facts() -> Facts:
    from neuronwise.data import Fact, Facts

    boys = tuple(
        prompt.replace("girl", "boy").replace("Her", "His").replace("sister. She", "brother. He")
        for prompt in (*_PROMPTS, *_HELD_OUT)
    )
    made: list[Fact] = [
        Fact(
            _PROMPTS, "Lily", id="girl", relation="name", subject="girl", held_out=_HELD_OUT, new_answer="Tim"
        ),
        Fact(
            boys[: len(_PROMPTS)],
            "Tim",
            id="boy",
            relation="name",
            subject="boy",
            held_out=boys[len(_PROMPTS) :],
        ),
    ]
    return Facts(made, name="names")


def _own(tour: Tour, neurons: NeuronSet) -> NeuronSet:
    """Return located neurons with the model's own sites, which know the weights that they write through."""
    import neuronwise as nw

    own = {site.name: site for site in nw.find_sites(tour.loaded.model)}
    return nw.NeuronSet.of({own[site.name]: neurons.indices(site) for site in neurons.sites})


def _table(effect: Effect) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for factor, what in ((0.0, "off"), (2.0, "doubled")):
        for probe, words in (
            ("own", "the prompts"),
            ("held_out", "other prompts"),
            ("sister", "the boy's name"),
        ):
            chosen = effect.value(probe, factor=factor)
            random = effect.value(probe, factor=factor, neurons="random")
            rows.append((what, words, f"{chosen:+.1%}", f"{random:+.1%}"))
    return pd.DataFrame(rows, columns=["neurons", "measured on", "the chosen", "random ones"])


def _story(tour: Tour) -> str:
    import torch

    tokenizer: Any = tour.loaded.tokenizer
    model: Any = tour.loaded.model
    with torch.no_grad():
        tokens = model.generate(**tokenizer(_START, return_tensors="pt"), max_new_tokens=40, do_sample=False)
    text = str(tokenizer.decode(tokens[0], skip_special_tokens=True))
    end = max(text.rfind(mark) for mark in ".!?")
    return text[: end + 1] if end >= 0 else text
