import numpy as np
import pytest

from neuronwise.attribute import IntegratedGradients, NeuronActivation, Probability, attribute
from neuronwise.data import Fact, encode, facts, hash_model, load_model
from neuronwise.errors import InvalidArgumentError, NeuronwiseError, SiteNotFoundError
from neuronwise.knowledge.map import KnowledgeMap, knowledge_map
from neuronwise.sites import NeuronSet, Site, find_sites

pytest.importorskip("transformers")

FACT = Fact(["There was a girl named [Y]", "a little girl named [Y]"], "Lily", id="girl")


@pytest.fixture(scope="module")
def small():
    return load_model("stories260k")


@pytest.fixture(scope="module")
def found(small):
    return knowledge_map(small.model, small.tokenizer, FACT, 3)


def test_nodes_are_the_strongest_of_each_layer(small, found):
    prompts = encode(small.tokenizer, small.model, FACT.prompts, FACT.answer)
    plain = attribute(small.model, prompts.inputs, Probability(prompts), method="joint_integrated_gradients")
    nodes = found.tables["map_nodes"]
    assert nodes.groupby("site").size().tolist() == [3] * 5
    for site, rows in nodes.groupby("site"):
        scores = plain.neurons().scores(site)
        assert sorted(rows["neuron"]) == sorted(np.argsort(-np.abs(scores))[:3])
        assert rows["score"].to_numpy() == pytest.approx(scores[rows["neuron"]], rel=1e-9)
    assert found.neurons(find_sites(small.model)).scored and len(found.neurons(find_sites(small.model))) == 15


def test_edges_are_attributions_of_the_higher_neurons_activation(small, found):
    prompts = encode(small.tokenizer, small.model, FACT.prompts, FACT.answer)
    sites, edges = find_sites(small.model), found.tables["map_edges"]
    assert len(edges) == 9 * (1 + 2 + 3 + 4)
    node = found.tables["map_nodes"].query("layer == 3").iloc[0]
    plain = attribute(
        small.model,
        prompts.inputs,
        NeuronActivation(sites[3], int(node["neuron"]), prompts.positions[:, 0]),
        sites=sites[:3],
        positions=prompts.positions,
        method=IntegratedGradients(joint=True),
    )
    own = edges[(edges["to_site"] == node["site"]) & (edges["to_neuron"] == node["neuron"])]
    for row in own.to_dict("records"):
        values = plain.scores[sites[row["site"]]][:, 0, row["neuron"]]
        assert row["score"] == pytest.approx(values.mean(), rel=1e-9)
        assert row["score_sd"] == pytest.approx(values.std(ddof=1), rel=1e-9)
    assert node["activation"] == pytest.approx(plain.value.mean())
    assert node["explained"] == pytest.approx(own["score"].sum())
    assert node["gap"] == pytest.approx(plain.gap)
    # completeness: all lower neurons together make up what is not there without them
    total = sum(values.sum((1, 2)) for values in plain.scores.values()).mean()
    assert node["activation"] - node["start"] == pytest.approx(total, abs=2 * plain.gap)


def test_layers_only_feed_upwards(small, found):
    layers = {site.name: site.layer for site in find_sites(small.model)}
    edges = found.tables["map_edges"]
    assert (edges["site"].map(layers) < edges["to_site"].map(layers)).all()
    lowest = found.tables["map_nodes"].query("layer == 0")
    assert (lowest["start"] == lowest["activation"]).all() and (lowest["explained"] == 0).all()
    assert found.strongest(4)["score"].abs().is_monotonic_decreasing and len(found.strongest(4)) == 4
    assert found.gap < 0.01 and "15 neurons in 5 layers, 90 edges" in found.summary()


def test_scores_by_position_add_up(small, found):
    prompts = encode(small.tokenizer, small.model, FACT.prompts, FACT.answer)
    rows = found.tables["map_positions"]
    lengths = prompts.inputs["attention_mask"].sum(1).tolist()
    assert rows.groupby("prompt").size().tolist() == [5 * length for length in lengths]
    assert (rows["positive"] >= 0).all() and (rows["negative"] <= 0).all()
    every = attribute(
        small.model,
        prompts.inputs,
        Probability(prompts),
        method="joint_integrated_gradients",
        positions="all",
    )
    totals = rows.groupby("prompt")[["positive", "negative"]].sum().sum(axis=1)
    wanted = sum(values.sum((1, 2)) for values in every.scores.values())
    assert totals.to_numpy() == pytest.approx(wanted, abs=1e-9)
    assert rows.query("prompt == 0")["token"].head(2).tolist()[1].strip() == "The"


def test_given_neurons_keep_their_scores(small):
    sites = find_sites(small.model)
    chosen = NeuronSet.of({sites[1]: [4], sites[4]: [7, 9]}, scores=[1.0, -2.0, 3.0])
    before = hash_model(small.model)
    result = knowledge_map(
        small.model, small.tokenizer, FACT, chosen, heat_map=False, target="log_probability"
    )
    assert hash_model(small.model) == before
    assert result.tables["map_nodes"]["score"].tolist() == [1.0, -2.0, 3.0]
    assert len(result.tables["map_edges"]) == 2 and "map_positions" not in result.tables
    bare = NeuronSet.of({sites[1]: [4], sites[4]: [7, 9]})
    scored = knowledge_map(small.model, small.tokenizer, FACT, bare, heat_map=False)
    assert scored.tables["map_nodes"]["score"].notna().all()


def test_masked_models_and_other_methods(tmp_path):
    loaded = load_model("fact-bert")
    fact = facts("fact-bert", limit=1)[0]
    result = knowledge_map(
        loaded.model, loaded.tokenizer, fact, 2, method="gradient_x_activation", heat_map=False
    )
    assert np.isnan(result.gap) and result.tables["map_nodes"]["start"].iloc[-1:].isna().all()
    assert KnowledgeMap.load(result.save(tmp_path / "map")) == result


def test_wrong_arguments(small):
    model, tokenizer = small.model, small.tokenizer
    for options, message in (
        ({"neurons": 0}, "at least 1"),
        ({"neurons": NeuronSet()}, "set is empty"),
        ({"method": "gradients"}, "no attribution method"),
        ({"target": "logit"}, "no target"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            knowledge_map(model, tokenizer, FACT, **options)
    with pytest.raises(SiteNotFoundError):
        knowledge_map(model, tokenizer, FACT, NeuronSet.of({Site("no", "input", width=3): [1]}))
    with pytest.raises(NeuronwiseError):
        knowledge_map(model, tokenizer, Fact(["a girl named [Y]"], "Bartholomew"), 2)
