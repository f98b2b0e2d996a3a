import pytest
import torch

import neuronwise as nw
from neuronwise.data import facts
from neuronwise.errors import InvalidArgumentError
from neuronwise.knowledge import editors, locate


@pytest.fixture(scope="module")
def gpt():
    loaded = nw.load_model("fact-gpt")
    return loaded.model, loaded.tokenizer


def test_a_corpus_may_be_plain_texts_and_rome_writes_the_new_answer(gpt):
    model, tokenizer = gpt
    known = facts("fact-gpt")
    texts = [fact.prompts[0].replace("[Y]", fact.answer) for fact in known[:200]]
    way = editors(
        model, tokenizer, ["rome"], layers=[0], corpus=texts,
        settings={"rome": {"prefixes": 0, "ridge": 0.01, "steps": 5}},
    )["rome"]  # fmt: skip
    request = facts("facts-edits")[0]
    before = model.transformer.h[0].mlp.c_proj.weight.clone()
    patch = way(request)
    assert torch.equal(model.transformer.h[0].mlp.c_proj.weight, before)
    assert patch.to_frame()["parameter"].tolist() == ["transformer.h.0.mlp.c_proj.weight"]


def test_the_commonest_neurons_of_a_relation_are_those_that_most_of_its_facts_have(gpt):
    model, tokenizer = gpt
    known = facts("fact-gpt", relations_only=["P36", "P19"], limit=3)
    found = locate(model, tokenizer, known, progress=False)
    chosen = found.commonest("P36", 5)
    counts: dict[tuple[str, int], int] = {}
    for fact in known:
        for site, neuron in found.neurons(fact.id) if fact.relation == "P36" else ():
            counts[site.name, neuron] = counts.get((site.name, neuron), 0) + 1
    best = sorted(counts.values(), reverse=True)[: len(chosen)]
    mine = [counts[site.name, neuron] for site, neuron in chosen]
    assert sorted(mine, reverse=True) == best
    with pytest.raises(nw.errors.FactError, match="P37"):
        found.commonest("P37")


def test_a_way_that_lacks_what_it_needs_is_refused(gpt):
    with pytest.raises(InvalidArgumentError, match="located"):
        editors(*gpt, ["fine"])
    with pytest.raises(InvalidArgumentError, match="corpus"):
        editors(*gpt, ["rome"])
