import numpy as np
import pytest
import torch

from neuronwise.data import Fact, encode, facts, hash_model, load_model
from neuronwise.errors import FactError, InvalidArgumentError
from neuronwise.hooks import call_model, intervene
from neuronwise.knowledge.redundancy import Redundancy, redundancy
from neuronwise.sites import NeuronSet, find_sites
from tests.knowledge import planted

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def two_copies():
    return planted.PlantedForCausalLM(copies=2).double().eval(), planted.tokenizer()


def test_two_copies_of_a_memory_cover_for_each_other(two_copies):
    result = redundancy(*two_copies, planted.facts()[4], k=5, sites=planted.sites(2), tolerance=1e-8)
    assert result.p == pytest.approx(0.999592, abs=5e-7)
    best = result.tables["redundant_neurons"].head(2)
    assert (
        best["site"].tolist() == ["layers.0.down:input", "layers.1.down:input"]
        and (best["neuron"] == 4).all()
    )
    assert best["score"].tolist() == pytest.approx([0.449796] * 2, abs=5e-7)
    assert best["drop"].tolist() == pytest.approx([0.056766] * 2, abs=5e-7)
    assert best["covered"].all() and len(result.covered) == 2
    (pair,) = result.pairs.to_dict("records")
    assert result.p - pair["drop"] == pytest.approx(0.942826, abs=5e-7)
    assert result.p - pair["drop_both"] == pytest.approx(0.1, abs=5e-7)
    assert pair["synergy"] == pytest.approx(0.899592 - 2 * 0.056766, abs=1e-6)
    assert "2 of the 5 strongest neurons are covered" in result.summary()
    assert len(result.tables["redundant_pairs"]) == 10


@pytest.mark.parametrize(
    ("limits", "flagged"), [({"keep": 0.95}, 0), ({"lose": 0.95}, 0), ({"keep": 0.94}, 1)]
)
def test_what_counts_as_covering(two_copies, limits, flagged):
    result = redundancy(*two_copies, planted.facts()[0], k=3, sites=planted.sites(2), **limits)
    assert len(result.pairs) == flagged


def test_a_single_copy_is_not_redundant():
    model = planted.PlantedForCausalLM().double().eval()
    result = redundancy(model, planted.tokenizer(), planted.facts()[0], k=2, sites=planted.sites())
    assert not len(result.pairs) and not len(result.covered)
    assert result.tables["redundant_neurons"]["drop"].iloc[0] == pytest.approx(0.842826, abs=5e-7)


def test_falls_are_those_of_suppressing(tmp_path):
    loaded = load_model("fact-gpt")
    model, tokenizer = loaded.model, loaded.tokenizer
    fact = facts("fact-gpt", limit=1)[0]
    before = hash_model(model)
    result = redundancy(model, tokenizer, fact, k=4)
    assert hash_model(model) == before
    assert Redundancy.load(result.save(tmp_path / "r")) == result
    prompts = encode(tokenizer, model, fact.prompts, fact.answer)
    sites = find_sites(model)
    mask = torch.zeros_like(prompts.inputs["input_ids"], dtype=torch.bool).scatter(1, prompts.positions, True)
    for row in result.tables["redundant_pairs"].to_dict("records"):
        pair = NeuronSet.of([(sites[row["site"]], row["neuron"]), (sites[row["other_site"]], row["other"])])
        with torch.no_grad(), intervene(model, pair, "zero", positions=mask):
            logits = call_model(model, prompts.inputs).logits
        at = logits[torch.arange(len(prompts)), prompts.positions[:, 0]].softmax(-1)
        left = float(at.gather(1, prompts.answers).mean())
        assert result.p - row["drop_both"] == pytest.approx(left, abs=1e-5)
        assert row["synergy"] == pytest.approx(row["drop_both"] - row["drop"] - row["drop_other"], abs=1e-12)
    assert (np.diff(result.tables["redundant_neurons"]["score"]) <= 0).all()


def test_wrong_arguments(two_copies):
    with pytest.raises(InvalidArgumentError, match="at least 2"):
        redundancy(*two_copies, planted.facts()[0], k=1)
    with pytest.raises(InvalidArgumentError, match="keep is a share"):
        redundancy(*two_copies, planted.facts()[0], keep=2.0)
    with pytest.raises(FactError):
        redundancy(*two_copies, Fact(["s0 r0 [Y]"], "o99"))
