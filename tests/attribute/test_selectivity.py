"""Group selectivity."""

import numpy as np
import pytest

import neuronwise as nw
from neuronwise.attribute import group_selectivity
from neuronwise.errors import AddressError, InvalidArgumentError
from neuronwise.sites import Site

ONE, TWO = Site("one", "input", width=100, layer=0), Site("two", "input", width=100, layer=1)


def fractions(seed=0):
    """Two hundred neurons that fire alike in three groups, but for four that were planted."""
    rng = np.random.default_rng(seed)
    base = {site: rng.uniform(0.1, 0.5, site.width) for site in (ONE, TWO)}
    groups = {
        name: {site: np.clip(values + rng.normal(0, 0.01, 100), 0, 1) for site, values in base.items()}
        for name in ("en", "fr", "de")
    }
    for name in groups:
        groups[name][ONE][[7, 8, 9]] = 0.01
    groups["en"][ONE][7], groups["fr"][ONE][8] = 0.9, 0.9
    groups["fr"][ONE][9] = groups["de"][ONE][9] = 0.8
    groups["en"][TWO][50], groups["fr"][TWO][50], groups["de"][TWO][50] = 0.02, 0.0, 0.0
    return groups


def test_planted_neurons_are_found_and_given_to_their_groups():
    found = group_selectivity(fractions(), keep=0.015)
    assert [(site.name, i) for site, i in found.neurons["en"]] == [("one:input", 7)]
    assert [(site.name, i) for site, i in found.neurons["fr"]] == [("one:input", 8), ("one:input", 9)]
    assert [(site.name, i) for site, i in found.neurons["de"]] == [("one:input", 9)]
    assert len(found.selective) == 3
    # Active in one group only, but below the bar: it does not count, though its entropy is the least.
    assert found.entropy[TWO][50] == 0 and (TWO, 50) not in found.selective
    assert found.neurons["en"].scores(ONE)[0] == pytest.approx(np.log(3) - found.entropy[ONE][7])


def test_bar_and_share_are_as_asked():
    groups = fractions()
    flat = np.concatenate([values for group in groups.values() for values in group.values()])
    found = group_selectivity(groups)
    assert found.bar == np.quantile(flat, 0.95)
    assert len(found.selective) == 2  # one per cent of 200
    # Below the 95th percentile a neuron is for no group, and few are above it.
    assert (
        len(group_selectivity(groups, keep=1.0).selective)
        == (np.max([np.concatenate(list(group.values())) for group in groups.values()], 0) > found.bar).sum()
    )


def test_table():
    frame = group_selectivity(fractions(), keep=0.015).to_frame()
    assert list(frame.columns) == [
        "site", "layer", "neuron", "entropy", "selective", "active_en", "active_fr", "active_de",
    ]  # fmt: skip
    assert len(frame) == 200 and frame["selective"].sum() == 3
    row = frame[(frame["site"] == "one:input") & (frame["neuron"] == 7)].iloc[0]
    assert row["active_en"] == 0.9 and row["layer"] == 0


def test_from_observed_corpora():
    loaded = nw.load_model("stories260k")
    texts = {"cats": ["The cat sat.", "A cat ran home."], "hello": ["Once upon a time", "One day, a girl"]}
    active = {
        name: nw.observe(loaded.model, nw.corpus(lines, tokenizer=loaded.tokenizer), reducers=["active"])
        for name, lines in texts.items()
    }
    found = group_selectivity(active)
    assert len(found.selective) == 9 and set(found.neurons) == {"cats", "hello"}
    site = next(iter(found.fractions))
    assert np.array_equal(found.fractions[site][0], active["cats"].statistic("active")[site])
    without = nw.observe(
        loaded.model, nw.corpus(texts["cats"], tokenizer=loaded.tokenizer), reducers=["moments"]
    )
    with pytest.raises(AddressError, match="active"):
        group_selectivity({"cats": without, "hello": active["hello"]})


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({"a": {ONE: np.zeros(100)}}, "at least two groups"),
        ({"a": {ONE: np.zeros(100)}, "b": {TWO: np.zeros(100)}}, "has nothing for"),
        ({"a": {ONE: np.zeros(100)}, "b": {ONE: np.zeros(100), TWO: np.zeros(100)}}, "has the site"),
        ({"a": {ONE: np.zeros(99)}, "b": {ONE: np.zeros(100)}}, "100 fractions"),
        ({"a": {ONE: np.full(100, 1.1)}, "b": {ONE: np.zeros(100)}}, "from 1.1 to 1.1"),
        ({"a": {"one:input": np.zeros(100)}, "b": {ONE: np.zeros(100)}}, "go by site"),
        ({"a": {}, "b": {}}, "has no site"),
    ],
)
def test_groups_that_do_not_fit(groups, words):
    with pytest.raises(InvalidArgumentError, match=words):
        group_selectivity(groups)


@pytest.mark.parametrize("options", [{"bar": 1.0}, {"bar": -0.1}, {"keep": 0.0}, {"keep": 1.5}])
def test_settings_out_of_range(options):
    with pytest.raises(InvalidArgumentError, match="bar must be"):
        group_selectivity(fractions(), **options)


def test_neurons_that_are_never_active_are_in_no_group():
    silent = {name: {ONE: np.zeros(100)} for name in ("a", "b")}
    found = group_selectivity(silent)
    assert not len(found.selective) and np.isnan(found.entropy[ONE]).all()
    assert "0 selective" in repr(found)
