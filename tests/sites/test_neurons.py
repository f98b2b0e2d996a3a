import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronwise.errors import InvalidArgumentError, NeuronIndexError, SiteNotFoundError, WriteError
from neuronwise.sites import NeuronSet, Site, Sites

A = Site("blocks.2.fc", "input", width=9, layer=2, stack="blocks")
B = Site("blocks.10.fc", "input", width=7, layer=10, stack="blocks")
C = Site("head", "output", width=5)
SITES = Sites([A, B, C])

pairs = st.sets(st.sampled_from([(site, index) for site in SITES for index in range(site.width)]))


@given(pairs, pairs)
def test_the_algebra_is_that_of_sets(left, right):
    a, b = NeuronSet.of(left), NeuronSet.of(right)
    assert set(a | b) == left | right
    assert set(a & b) == left & right
    assert set(a - b) == left - right
    assert set(a ^ b) == left ^ right
    assert (a == b) == (left == right)
    assert len(a) == len(left) and bool(a) == bool(left)
    assert (a | b) == (b | a) and hash(a | b) == hash(b | a)
    assert list(a | b) == list(b | a)
    assert all((neuron in a) == (neuron in left) for neuron in right)


@given(pairs, st.data())
def test_top_is_that_of_sorting(chosen, data):
    neurons = sorted(chosen, key=lambda pair: (pair[0].path, pair[1]))
    scores = [data.draw(st.sampled_from([-1.0, 0.0, 0.5, 2.0])) for _ in neurons]
    k = data.draw(st.integers(0, len(neurons) + 2))
    scored = NeuronSet.of(neurons, scores=scores)
    order = {neuron: place for place, neuron in enumerate(scored)}
    by_score = dict(zip(neurons, scores, strict=True))
    for largest in (True, False):
        sign = -1 if largest else 1
        expected = sorted(neurons, key=lambda n: (sign * by_score[n], order[n]))[:k]
        assert set(scored.top(k, largest=largest)) == set(expected)


@given(pairs)
def test_frames_and_text_come_back(chosen):
    neurons = NeuronSet.of(chosen)
    assert NeuronSet.from_frame(neurons.to_frame(), SITES) == neurons
    words = [f"{site.name}[{','.join(map(str, neurons.indices(site)))}]" for site in neurons.sites]
    assert NeuronSet.parse(" ".join(words), SITES) == neurons


def test_the_order_is_by_stack_layer_path_and_index():
    neurons = NeuronSet.of({C: [0], B: [1], A: [8, 3, 3]})
    assert list(neurons) == [(C, 0), (A, 3), (A, 8), (B, 1)]
    assert neurons.sites == (C, A, B)
    assert neurons.per_layer() == {("", None): 1, ("blocks", 2): 2, ("blocks", 10): 1}


@pytest.mark.parametrize(
    ("given_as", "expected"),
    [
        ([4, 1], [1, 4]),
        (3, [3]),
        (range(2), [0, 1]),
        (slice(7, None), [7, 8]),
        ({5}, [5]),
        ("*", list(range(9))),
        (np.arange(9) > 6, [7, 8]),
        ([], []),
    ],
)
def test_indices_may_be_given_in_many_ways(given_as, expected):
    assert NeuronSet.of({A: given_as}).indices(A).tolist() == expected


def test_sites_stand_for_all_their_neurons():
    assert len(NeuronSet.of(SITES)) == 21
    assert NeuronSet.of(A) == NeuronSet.of({A: "*"})


@pytest.mark.parametrize("wrong", [[9], [-1], np.ones(3, dtype=bool)])
def test_an_index_outside_the_site_is_refused(wrong):
    with pytest.raises(NeuronIndexError, match=r"blocks\.2\.fc:input"):
        NeuronSet.of({A: wrong})


def test_fractions_and_wrong_counts_of_scores_are_refused():
    with pytest.raises(InvalidArgumentError, match="whole numbers"):
        NeuronSet.of({A: [0.5]})
    with pytest.raises(InvalidArgumentError, match="2 scores"):
        NeuronSet.of({A: [0, 1]}, scores={A: [1.0]})
    with pytest.raises(InvalidArgumentError, match="no scores for"):
        NeuronSet.of({A: [0, 1]}, scores={B: [1.0, 2.0]})
    with pytest.raises(InvalidArgumentError, match="flat"):
        NeuronSet.of([(A, 0)], scores={A: [1.0]})


def test_sets_of_different_models_do_not_mix():
    other = Site("blocks.2.fc", "input", width=8, layer=2, stack="blocks")
    with pytest.raises(InvalidArgumentError, match="different models"):
        NeuronSet.of({A: [1]}) | NeuronSet.of({other: [1]})


def test_scores_follow_their_neurons():
    a = NeuronSet.of({A: [5, 2]}, scores={A: [0.5, 0.2]})
    b = NeuronSet.of({A: [2, 3]}, scores=[9.0, 0.3])
    assert a.scores(A).tolist() == [0.2, 0.5]
    assert (a | b).scores(A).tolist() == [0.2, 0.3, 0.5]
    assert (a & b).scores(A).tolist() == [0.2]
    assert (b - a).scores(A).tolist() == [0.3]
    mixed = a | NeuronSet.of({B: [0]})
    assert np.isnan(mixed.scores(B)).all() and mixed.scored
    assert mixed.top(1) == NeuronSet.of({A: [5]})
    assert NeuronSet.of({A: [1]}).scores(A) is None


def test_top_needs_scores():
    with pytest.raises(InvalidArgumentError, match="no scores"):
        NeuronSet.of({A: [1]}).top(1)
    with pytest.raises(InvalidArgumentError, match="k must"):
        NeuronSet().top(-1)


def test_filter_and_membership():
    neurons = NeuronSet.of({A: "*", C: [1]})
    assert set(neurons.filter(lambda site, index: index % 4 == 1)) == {(A, 1), (A, 5), (C, 1)}
    assert ("head:output", 1) in neurons and (C, 0) not in neurons and "head" not in neurons
    assert neurons.indices(B).size == 0
    with pytest.raises(SiteNotFoundError, match="head:output"):
        neurons.indices("heat:output")


def test_changing_what_it_returns_does_not_change_the_set():
    neurons = NeuronSet.of({A: [1, 2]}, scores={A: [1, 2]})
    neurons.indices(A)[0] = 5
    neurons.scores(A)[0] = 5
    assert neurons.indices(A).tolist() == [1, 2]
    assert neurons.scores(A).tolist() == [1, 2]


def test_an_array_given_stays_writeable_and_apart():
    mine, scores = np.array([1, 2]), np.array([1.0, 2.0])
    neurons = NeuronSet.of({A: mine}, scores={A: scores})
    mine[0], scores[0] = 7, 7
    assert neurons.indices(A).tolist() == [1, 2] and neurons.scores(A).tolist() == [1, 2]


@given(pairs, st.integers(0, 5))
def test_the_random_control_matches_in_size_and_site(chosen, seed):
    neurons = NeuronSet.of(chosen)
    control = neurons.matched_random(SITES, seed=seed)
    assert control == neurons.matched_random(seed=seed)
    for site in SITES:
        size = neurons.indices(site).size
        assert control.indices(site).size == size
        both = np.intersect1d(control.indices(site), neurons.indices(site)).size
        assert both == max(0, 2 * size - site.width)


def test_random_controls_differ_by_seed_and_need_their_sites():
    wide = Site("wide", "input", width=1000)
    neurons = NeuronSet.of({wide: range(20)})
    assert neurons.matched_random(seed=0) != neurons.matched_random(seed=1)
    with pytest.raises(SiteNotFoundError):
        neurons.matched_random(SITES)


def test_parquet_comes_back(tmp_path):
    neurons = NeuronSet.of({A: [5, 2], C: [1]}, scores={A: [0.5, 0.2], C: [3]})
    path = tmp_path / "neurons.parquet"
    neurons.save(path)
    again = NeuronSet.load(path, SITES)
    assert again == neurons and again.scores(A).tolist() == [0.2, 0.5]
    assert [entry.name for entry in tmp_path.iterdir()] == ["neurons.parquet"]
    NeuronSet().save(path)
    assert NeuronSet.load(path, SITES) == NeuronSet()
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError):
        neurons.save(tmp_path / "file" / "neurons.parquet")


def test_the_frame_has_its_columns_and_wants_its_own():
    frame = NeuronSet.of({A: [5], C: [1]}).to_frame()
    assert frame.columns.tolist() == ["site", "layer", "stack", "neuron", "score"]
    assert frame["layer"].tolist()[1] == 2 and frame["score"].isna().all()
    with pytest.raises(InvalidArgumentError, match="lacks neuron"):
        NeuronSet.from_frame(pd.DataFrame({"site": ["head:output"]}), SITES)
    with pytest.raises(SiteNotFoundError, match="head:output"):
        NeuronSet.from_frame(pd.DataFrame({"site": ["heat:output"], "neuron": [0]}), SITES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2:3,5 10:*", {A: [3, 5], B: "*"}),
        ("2:3, 5", {A: [3, 5]}),
        ("2:0-3,8 2:1", {A: [0, 1, 2, 3, 8]}),
        ("head:output[4] blocks.2.fc:input", {C: [4], A: "*"}),
        ("", {}),
    ],
)
def test_text_is_read(text, expected):
    assert NeuronSet.parse(text, SITES) == NeuronSet.of(expected)


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("2-3", InvalidArgumentError, "Cannot read '2-3'"),
        ("2:3-", InvalidArgumentError, "Cannot read '3-'"),
        ("3:1", SiteNotFoundError, "layer 3"),
        ("2:9", NeuronIndexError, "no neuron 9"),
        ("foot:output[1]", SiteNotFoundError, "head:output"),
    ],
)
def test_text_that_means_nothing_is_refused(text, error, says):
    with pytest.raises(error, match=says):
        NeuronSet.parse(text, SITES)


def test_a_layer_with_two_sites_has_to_be_named():
    twice = Sites([A, Site("blocks.2.other", "input", width=3, layer=2, stack="blocks")])
    with pytest.raises(InvalidArgumentError, match=r"blocks\.2\.fc:input\[1\]"):
        NeuronSet.parse("2:1", twice)


def test_it_shows_itself():
    assert repr(NeuronSet()) == "<NeuronSet: empty>"
    assert "9 neurons in 1 sites: blocks.2.fc:input[0, 1, 2, 3, 4, 5, ... 8]" in repr(NeuronSet.of(A))
    assert "<table" in NeuronSet.of(A)._repr_html_()


def test_a_hundred_thousand_neurons_are_quick():
    wide = [Site(f"layers.{i}.mlp", "input", width=5000, layer=i) for i in range(20)]
    start = time.perf_counter()
    everything = NeuronSet.of(Sites(wide), scores=np.arange(100_000.0))
    top = everything.top(1000)
    rest = everything - top
    assert len(rest) == 99_000 and len(rest | top) == 100_000 and not len(rest & top)
    NeuronSet.from_frame(everything.to_frame(), wide).matched_random()
    assert time.perf_counter() - start < 2
