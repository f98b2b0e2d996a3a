"""Monosemanticity of whole models: real ones that come with the package, and a small one on digits."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import nn

import neuronwise as nw
from neuronwise.data import hash_model
from neuronwise.errors import AddressError, DataError, InvalidArgumentError
from neuronwise.observe import Monosemanticity, RowSample, monosemanticity
from neuronwise.observe.measures import MEASURES, class_selectivity, phi_tail
from neuronwise.sites import Site
from tests.observe.streams import activations, feed, mixed, rows

QUICK = ["kurtosis", "hoyer", "phi_above_9", "capacity"]


@pytest.fixture(scope="module")
def digits():
    """A trained MLP on digits, its corpus with classes, and its two hidden sites."""
    x, y = load_digits(return_X_y=True)
    x = torch.tensor(x / 16.0, dtype=torch.float32)
    y = torch.tensor(y)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 10))
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x[:800]), y[:800]).backward()
        optimiser.step()
    for parameter in model.parameters():
        parameter.grad = None
    with torch.no_grad():  # one unit that never fires
        model[0].weight[5], model[0].bias[5] = 0.0, -1.0
    corpus = nw.corpus(x.numpy()[:700], labels={"digit": y.tolist()[:700]}, name="digits")
    return model.eval(), corpus, nw.find_sites(model)


@pytest.fixture(scope="module")
def found(digits):
    model, corpus, sites = digits
    embeddings = torch.stack([corpus.examples(n, n + 1)[0].inputs for n in range(len(corpus))])
    return monosemanticity(model, corpus, sites, embeddings=embeddings)


@pytest.fixture(scope="module")
def stories():
    loaded = nw.load_model("stories260k")
    corpus = nw.corpus("stories", tokenizer=loaded.tokenizer, max_length=48).part(0, 24)
    return loaded.model, corpus


def site_value(result, measure, basis="neuron", column="median"):
    frame = result.tables["site_measures"]
    frame = frame[(frame["measure"] == measure) & (frame["basis"] == basis)]
    return frame.set_index("site")[column]


def test_every_measure_is_taken_where_everything_is_given(found):
    assert set(found.tables["site_measures"]["measure"]) == set(MEASURES)
    assert found.manifest.action["parameters"]["skipped"] == {}
    units = found.tables["unit_measures"]
    assert set(units["measure"]) == {name for name, measure in MEASURES.items() if measure.per == "neuron"}
    assert (units.groupby(["site", "measure"]).size().unique() == [24, 16]).all()


def test_the_model_is_as_it_was(digits):
    model, corpus, sites = digits
    before = hash_model(model)
    monosemanticity(model, corpus, sites, measures=QUICK, rotation=False)
    assert hash_model(model) == before and not any(m._forward_hooks for m in model.modules())


def test_values_are_those_of_the_held_out_half(digits, found):
    model, corpus, sites = digits
    site = sites[0]
    reducer = RowSample(5000, labels="digit")
    x = torch.stack([example.inputs for example in corpus])
    y = torch.tensor([int(example.labels["digit"]) for example in corpus])
    with torch.no_grad():
        hidden = model[1](model[0](x))
    first = reducer._first(torch.arange(len(x)))
    assert 0.45 < first.double().mean().item() < 0.55
    known, held = hidden[first].double(), hidden[~first]
    tail = phi_tail(held, known.mean(0), known.var(0))
    np.testing.assert_allclose(found.values("phi_peak")[site], tail.peak, rtol=1e-5)
    np.testing.assert_allclose(found.values("phi_top")[site], tail.top, rtol=1e-5)
    selectivity = class_selectivity(held, y[~first])
    np.testing.assert_allclose(found.values("class_selectivity")[site], selectivity, rtol=1e-5)
    expected = max(roc_auc_score(y[~first] == label, held[:, 7]) for label in range(10))
    assert found.values("auc")[site][7] == pytest.approx(expected)
    frame = found.tables["site_measures"]
    assert (frame["n"] == int((~first).sum())).all() and (frame["n_reference"] == int(first.sum())).all()


def test_dead_units_are_counted_and_left_out_of_means(digits, found):
    site = digits[2][0]
    assert not found.live()[site][5]
    row = (
        found.tables["site_measures"]
        .query("site == @site.name and measure == 'auc' and basis == 'neuron'")
        .iloc[0]
    )
    assert row["n_dead"] >= 1 and row["n_dead"] + row["n_live"] + row["n_near_dead"] == 24
    values, live = found.values("auc")[site], found.live()[site]
    assert row["mean"] == pytest.approx(values[live].mean())
    assert row["median"] == pytest.approx(np.median(values[live]))
    assert row["low"] <= row["median"] <= row["high"]
    assert (site, 5) not in found.neurons("auc")


def test_neurons_of_a_trained_net_stand_out_against_rotations(found):
    # ReLU makes the neurons' own axes special: they are sparser than directions that were drawn.
    sparser = site_value(found, "hoyer") > site_value(found, "hoyer", "rotated")
    assert sparser.all()
    turned = site_value(found, "decorrelation_features", "pca")
    assert (turned > site_value(found, "decorrelation_features")).all()
    assert "capacity" not in set(found.tables["site_measures"].query("basis == 'pca'")["measure"])


def test_saved_and_loaded(found, tmp_path):
    found.save(tmp_path / "result")
    again = nw.load(tmp_path / "result")
    assert isinstance(again, Monosemanticity) and again == found
    table = nw.query(tmp_path / "result", "SELECT count(*) AS n FROM unit_measures WHERE NOT live")
    assert table["n"][0] > 0


def test_summary_and_selection(found, digits):
    summary = found.summary()
    assert summary["site"].tolist() == [site.name for site in digits[2]]
    assert {"n_live", "n_dead", "kurtosis", "fms"} <= set(summary.columns)
    assert found.summary("mean", basis="pca")["hoyer"].notna().all()
    best = found.neurons("auc").top(3)
    assert len(best) == 3
    for wrong in ({"statistic": "mode"}, {"basis": "fourier"}):
        with pytest.raises(InvalidArgumentError, match=next(iter(wrong))):
            found.summary(**wrong)
    with pytest.raises(AddressError, match="hoyer"):
        found.values("hoyers")


def test_the_same_seed_gives_the_same(digits):
    model, corpus, sites = digits
    settings = {"measures": ["kurtosis", "mutual_information"], "sample": 200}
    one, two = (monosemanticity(model, corpus, sites, **settings) for _ in range(2))
    other = monosemanticity(model, corpus, sites, seed=1, **settings)
    assert one == two
    assert not one.tables["site_measures"]["mean"].equals(other.tables["site_measures"]["mean"])


def test_several_processes_give_the_same(digits):
    model, corpus, sites = digits
    settings = {"measures": ["kurtosis", "auc"], "rotation": False}
    one = monosemanticity(model, corpus.part(0, 200), sites, **settings)
    two = monosemanticity(model, corpus.part(0, 200), sites, engine="processes", workers=2, **settings)
    pd.testing.assert_frame_equal(one.tables["unit_measures"], two.tables["unit_measures"], rtol=1e-6)


def test_scaling_a_layer_and_unscaling_the_next_changes_no_scale_free_measure(digits):
    model, corpus, sites = digits
    scaled = nn.Sequential(
        *[nn.Linear(p.in_features, p.out_features) if isinstance(p, nn.Linear) else nn.ReLU() for p in model]
    )
    scaled.load_state_dict(model.state_dict())
    with torch.no_grad():
        scaled[0].weight *= 8.0
        scaled[0].bias *= 8.0
        scaled[2].weight /= 8.0
    names = [
        name for name, measure in MEASURES.items() if measure.scale_free and "embeddings" not in measure.needs
    ]
    one, two = (
        monosemanticity(net, corpus, sites, measures=names, rotation=False) for net in (model, scaled)
    )
    pd.testing.assert_frame_equal(one.tables["site_measures"], two.tables["site_measures"], rtol=1e-4)


@pytest.mark.parametrize("name", ["stories260k", "fact-gpt"])
def test_language_models(name):
    loaded = nw.load_model(name)
    corpus = nw.corpus("stories", tokenizer=loaded.tokenizer, max_length=24).part(0, 16)
    result = monosemanticity(loaded.model, corpus)
    skipped = result.manifest.action["parameters"]["skipped"]
    assert "no labels" in skipped["auc"] and "no embeddings" in skipped["monoscore"]
    kurtosis = site_value(result, "kurtosis")
    assert len(kurtosis) == len(nw.find_sites(loaded.model)) and (kurtosis > 1).all()
    assert (result.tables["site_measures"]["n_live"] > 0).all()


def test_labels_of_tokens(stories):
    model, corpus = stories
    ids = [example.token_ids for example in corpus]
    common = int(torch.cat(ids).bincount().argmax())
    words = [(tokens == common).long() for tokens in ids]
    assert sum(int(part.sum()) for part in words) > 30

    class Marked(type(corpus)):
        def examples(self, start, stop):
            from dataclasses import replace

            found = super().examples(start, stop)
            return [replace(e, labels={"common": (e.token_ids == common).long()}) for e in found]

    marked = Marked(corpus._corpus, 0, 24)
    marked.labels = {"common": ("no", "yes")}
    result = monosemanticity(model, marked, measures=["auc", "sparse_probe"], rotation=False)
    # The first layer's neurons see which token it is: some tell the commonest from all others.
    assert max(values.max() for values in result.values("auc").values()) > 0.95
    with pytest.raises(InvalidArgumentError, match="of positions"):
        monosemanticity(model, marked, measures=["auc"], unit="pooled")


def test_labels_of_examples_may_be_given(digits):
    model, corpus, sites = digits
    odd = ["odd" if int(example.labels["digit"]) % 2 else "even" for example in corpus]
    result = monosemanticity(model, corpus, sites, labels=odd, measures=["auc"], rotation=False)
    assert result.manifest.action["parameters"]["labels"] == "given"
    assert 0.6 < site_value(result, "auc").max() <= 1.0
    with pytest.raises(InvalidArgumentError, match="one for each"):
        monosemanticity(model, corpus, sites, labels=odd[:5])
    with pytest.raises(InvalidArgumentError, match="digit"):
        monosemanticity(model, corpus, sites, labels="digits")


def test_a_reference_corpus_gives_the_statistics(digits):
    model, corpus, sites = digits
    result = monosemanticity(
        model, corpus.part(300), sites, reference=corpus.part(0, 300), measures=["phi_peak"], rotation=False
    )
    x = torch.stack([example.inputs for example in corpus])
    with torch.no_grad():
        hidden = model[1](model[0](x))
    known = hidden[:300].double()
    tail = phi_tail(hidden[300:], known.mean(0), known.var(0))
    np.testing.assert_allclose(result.values("phi_peak")[sites[0]], tail.peak, rtol=1e-5)
    assert result.tables["site_measures"]["n_reference"].unique().tolist() == [300]
    assert result.manifest.action["parameters"]["reference"]["examples"] == 300


def test_pooled_and_element_units():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 2))
    x = np.random.default_rng(0).normal(size=(60, 1, 8, 8)).astype(np.float32)
    site = Site("1", "output", width=3, axis=1)
    hidden = model[1](model[0](torch.from_numpy(x))).detach()
    held = ~RowSample()._first(torch.arange(60))
    pooled = monosemanticity(model, x, site, unit="pooled", measures=["hoyer", "gini"], rotation=False)
    sizes = hidden[held].mean((2, 3)).abs()
    root = len(sizes) ** 0.5
    expected = (root - sizes.sum(0) / sizes.square().sum(0).sqrt()) / (root - 1)
    np.testing.assert_allclose(pooled.values("hoyer")[site], expected, rtol=1e-4)
    elements = monosemanticity(model, x, site, unit="element", measures=["hoyer"], rotation=False)
    table = elements.tables["unit_measures"]
    assert len(table) == 3 * 36 and table["position"].max() == 35
    flat = hidden[held].movedim(1, -1).reshape(len(sizes), -1)
    expected = (root - flat.sum(0) / flat.square().sum(0).sqrt()) / (root - 1)
    np.testing.assert_allclose(elements.values("hoyer")[site], expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(InvalidArgumentError, match="places of a tensor"):
        elements.neurons("hoyer")


def test_elements_of_texts_of_several_lengths_are_refused(stories):
    model, _ = stories
    with pytest.raises(InvalidArgumentError, match="unit='feature'"):
        monosemanticity(model, nw.corpus([list(range(1, 4)), list(range(1, 9))] * 5), unit="element")


@pytest.mark.parametrize(
    ("measure", "word"), [("auc", "needs labels"), ("monoscore", "needs embeddings"), ("kurtos", "kurtosis")]
)
def test_what_a_measure_needs_and_is_not_there(stories, measure, word):
    with pytest.raises(InvalidArgumentError, match=word):
        monosemanticity(*stories, measures=[measure])


def test_measures_of_weights_that_are_not_known(digits):
    model, corpus, _ = digits
    with pytest.raises(InvalidArgumentError, match="no weights"):
        monosemanticity(model, corpus, Site("1", "output", width=24), measures=["capacity"])
    result = monosemanticity(
        model, corpus, Site("1", "output", width=24), measures=None, sample=200, rotation=False
    )
    assert "no weights" in result.manifest.action["parameters"]["skipped"]["capacity"]


def test_classes_that_are_too_rare_do_not_count(digits):
    model, corpus, sites = digits
    labels = np.zeros(len(corpus), dtype=int)
    labels[:6] = 1
    with pytest.raises(InvalidArgumentError, match="two classes of 10"):
        monosemanticity(model, corpus, sites, labels=labels, measures=["auc"])


def test_embeddings_must_be_as_many_as_examples(digits):
    model, corpus, sites = digits
    for wrong, word in ((torch.ones(5), "matrix"), (torch.ones(5, 2), "one for each")):
        with pytest.raises(InvalidArgumentError, match=word):
            monosemanticity(model, corpus, sites, embeddings=wrong, measures=["monoscore"])


def test_too_few_samples(digits):
    model, corpus, sites = digits
    with pytest.raises(DataError, match="2 at least"):
        monosemanticity(model, corpus.part(0, 1), sites)


def test_samples_that_are_not_finite_are_left_out():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    x = np.random.default_rng(1).normal(size=(80, 2)).astype(np.float32)
    x[::8] = np.nan
    result = monosemanticity(model, x, measures=["hoyer"], rotation=False)
    row = result.tables["site_measures"].iloc[0]
    assert row["n"] + row["n_reference"] == 70 and np.isfinite(row["median"])


# The reducer


def test_sample_is_the_same_however_the_stream_is_split():
    stream = mixed(torch.Generator().manual_seed(0))
    whole = feed(RowSample(100), stream)
    for cut in range(1, len(stream)):
        left, right = feed(RowSample(100), stream, 0, cut), feed(RowSample(100), stream, cut)
        left.merge(right)
        for name, part in whole.sampled().items():
            assert torch.equal(part, left.sampled()[name])
        torch.testing.assert_close(left.statistics(), whole.statistics())
        assert left.count == whole.count
    again = RowSample(100)
    again.load_state_dict(whole.state_dict())
    assert torch.equal(again.sampled()["rows"], whole.sampled()["rows"])


def test_sample_and_statistics_are_of_different_examples():
    stream = mixed(torch.Generator().manual_seed(1))
    reducer = feed(RowSample(10_000), stream)
    kept = reducer.sampled()
    assert len(kept["rows"]) + reducer.count == len(rows(stream))
    first = reducer._first(torch.arange(sum(len(batch) for batch in stream)))
    assert not first[kept["examples"]].any()
    every = torch.cat([torch.arange(len(batch)).repeat_interleave(batch.shape[1]) for batch in stream])
    assert len(every) == len(rows(stream))
    for role, count in (("reference", 0), ("sample", len(rows(stream)))):
        assert len(feed(RowSample(10_000, role=role), stream).sampled().get("rows", ())) == count


def test_every_row_is_as_likely():
    hits = np.zeros(40)
    for seed in range(300):
        batch = activations(torch.arange(40.0).reshape(4, 10, 1))
        object.__setattr__(batch.batch, "seed", seed)
        reducer = RowSample(10, role="sample")
        reducer.update(batch)
        hits[reducer.sampled()["rows"][:, 0].long().numpy()] += 1
    assert hits.sum() == 3000
    assert abs(hits - 75).max() < 5 * (300 * 0.25 * 0.75) ** 0.5


@pytest.mark.parametrize("wrong", [{"rows": 1}, {"role": "test"}, {"unit": "row"}])
def test_sample_refuses(wrong):
    with pytest.raises(InvalidArgumentError):
        RowSample(**wrong)
