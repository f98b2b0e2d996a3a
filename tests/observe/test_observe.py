"""One pass over a corpus: padding, engines, resuming, what is refused."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import neuronwise as nw
from neuronwise.data import hash_model
from neuronwise.errors import (
    AddressError,
    BatchMismatchError,
    CompiledModelError,
    DataError,
    EmptyCorpusError,
    InvalidArgumentError,
    NeuronIndexError,
    NeuronwiseError,
    ResultError,
    SiteAxisError,
    SiteNotFoundError,
    SiteNotReachedError,
)
from neuronwise.observe import (
    Activations,
    ActiveFraction,
    BatchInfo,
    ClassMeans,
    Moments,
    Observer,
    Reducer,
    TopExamples,
)

STORIES = [
    "Once upon a time there was a dog.",
    "Lily was happy.",
    "The cat and the bird went to the park to play with a big red ball. They had fun.",
    "No!",
    "One day, a little boy named Tim saw a very big tree.",
] * 9


@pytest.fixture(scope="module")
def stories():
    loaded = nw.load_model("stories260k")
    labels = {"length": ["short" if len(text) < 30 else "long" for text in STORIES]}
    corpus = nw.corpus(STORIES, tokenizer=loaded.tokenizer, labels=labels)
    return loaded.model, corpus, nw.find_sites(loaded.model)


@pytest.fixture(scope="module")
def activity(stories):
    model, corpus, _ = stories
    return nw.observe(model, corpus, batch_size=4, block_size=11)


def every_position(model, corpus, site):
    """The activations of every real position, one example at a time: no padding at all."""
    parts = []
    for example in corpus:
        with torch.no_grad(), nw.capture(model, site) as cap:
            model(input_ids=example.inputs["input_ids"][None])
        parts.append(cap[site][0].double().numpy())
    return parts


def test_statistics_are_those_of_single_unpadded_examples(stories, activity):
    model, corpus, sites = stories
    frame = activity.to_frame()
    for site in (sites[0], sites[4]):
        parts = every_position(model, corpus, site)
        x = np.concatenate(parts)
        own = frame[frame["site"] == site.name]
        assert (own["n"] == len(x)).all()
        # the padded batch rounds differently from single examples, in float32
        np.testing.assert_allclose(own["mean"], x.mean(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(own["std"], x.std(0, ddof=1), rtol=1e-4)
        np.testing.assert_allclose(own["max"], x.max(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(own["active"], (x > 0).mean(0), atol=2 / len(x))


def test_examples_point_to_the_right_tokens(stories, activity):
    model, corpus, sites = stories
    site, neuron = sites[2], 7
    peaks = [part[:, neuron] for part in every_position(model, corpus, site)]
    found = activity.examples(site, neuron)
    best = max(range(len(peaks)), key=lambda i: (round(float(peaks[i].max()), 4), -i))
    assert found["example"][0] == best
    assert found["position"][0] == peaks[best].argmax()
    tokens = corpus.examples(best, best + 1)[0].tokens
    assert f"[{tokens[found['position'][0]]}]" in found["text"][0]
    assert found["value"].is_monotonic_decreasing
    assert activity.examples(site, neuron, side="bottom")["value"].is_monotonic_increasing


def test_the_model_is_bit_identical_afterwards(stories):
    model, corpus, _ = stories
    before = hash_model(model)
    model.train()
    state = torch.random.get_rng_state()
    nw.observe(model, corpus, batch_size=16)
    assert hash_model(model) == before
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    model.eval()


def test_same_seed_same_result(stories, activity):
    model, corpus, _ = stories
    assert nw.observe(model, corpus, batch_size=4, block_size=11) == activity


def test_processes_give_the_same(stories, activity):
    model, corpus, _ = stories
    other = nw.observe(
        model,
        corpus,
        batch_size=4,
        block_size=11,
        engine="processes",
        workers=2,
        threads=torch.get_num_threads(),
    )
    same_pass(activity, other)


@pytest.mark.slow
def test_ray_gives_the_same(stories, activity):
    pytest.importorskip("ray")
    model, corpus, _ = stories
    other = nw.observe(
        model, corpus, batch_size=4, block_size=11, engine="ray", workers=2, threads=torch.get_num_threads()
    )
    same_pass(activity, other)


def same_pass(one, other):
    """Moments to 1e-9, rankings exactly, quantiles and correlations within what their sums and sketches allow."""
    assert one.manifest.same_run(other.manifest)
    assert one.tables.keys() == other.tables.keys()
    mine, theirs = one.to_frame(), other.to_frame()
    levels = [name for name in mine if name.startswith("q") and name[1:].isdecimal()]
    assert len(levels) >= 7
    assert (mine["quantile_n"] == theirs["quantile_n"]).all()
    for column in levels:
        np.testing.assert_array_less(
            (mine[column] - theirs[column]).abs(), 0.05 * (mine["max"] - mine["min"]) + 1e-9
        )
    for column in ("mean", "std", "skewness", "kurtosis", "min", "max", "active", "mean_se", "active_se"):
        np.testing.assert_allclose(mine[column], theirs[column], rtol=1e-9, atol=1e-12)
    for table in ("examples", "contexts", "histogram"):
        pd.testing.assert_frame_equal(one.tables[table], other.tables[table], check_exact=True)
    pd.testing.assert_frame_equal(
        one.tables["class_means"], other.tables["class_means"], rtol=1e-9, atol=1e-12
    )
    keys = ["site", "neuron", "other"]
    pairs = one.tables["coactivation"].merge(other.tables["coactivation"], on=keys, suffixes=("", "_there"))
    # Products are taken in float32: of pairs of equal strength either may be the last that is listed.
    assert len(pairs) > 0.99 * len(one.tables["coactivation"])
    np.testing.assert_allclose(pairs["correlation"], pairs["correlation_there"], atol=1e-5)


class _Stop(Exception):
    pass


def test_resume_is_bit_for_bit(stories, activity, tmp_path, monkeypatch):
    model, corpus, _ = stories
    file = tmp_path / "pass.safetensors"
    calls = []
    update = Moments.update

    def failing(self, activations):
        calls.append(1)
        if len(calls) == 40:
            raise KeyboardInterrupt
        update(self, activations)

    monkeypatch.setattr(Moments, "update", failing)
    settings = {"batch_size": 4, "block_size": 11, "checkpoint": file, "checkpoint_every": 0.0}
    with pytest.raises(KeyboardInterrupt):
        nw.observe(model, corpus, **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["pass.safetensors"]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(ResultError, match="not a checkpoint of this pass"):
        nw.observe(model, corpus, **{**settings, "batch_size": 5})
    seen = len(calls)
    assert nw.observe(model, corpus, **settings) == activity
    assert len(calls) - seen < seen * 2, "the blocks that were done were not done again"
    assert not file.exists()


def test_a_file_that_is_no_checkpoint(stories, tmp_path):
    model, corpus, _ = stories
    file = tmp_path / "pass.safetensors"
    file.write_bytes(b"nonsense")
    with pytest.raises(ResultError, match="cannot be read as a checkpoint"):
        nw.observe(model, corpus, checkpoint=file)


def test_saved_and_loaded(activity, tmp_path):
    activity.save(tmp_path / "result")
    loaded = nw.load(tmp_path / "result")
    assert isinstance(loaded, nw.Activity)
    assert loaded == activity
    assert loaded.sites == activity.sites
    pd.testing.assert_frame_equal(
        loaded.examples(loaded.sites[1], 3), activity.examples(activity.sites[1], 3)
    )


def test_selection_and_lookup(activity):
    top = activity.neurons("kurtosis").top(5)
    frame = activity.to_frame().sort_values("kurtosis", ascending=False).head(5)
    assert set(top.to_frame()["neuron"]) == set(frame["neuron"])
    means = activity.means()
    assert means[activity.sites[0]].shape == (172,)
    with pytest.raises(AddressError, match=r"Closest names.*kurtosis"):
        activity.neurons("kurtsis")
    with pytest.raises(SiteNotFoundError, match="Closest names"):
        activity.examples("model.layers.9.mlp.down_proj:input", 0)
    with pytest.raises(InvalidArgumentError, match="'top' or 'bottom'"):
        activity.examples(activity.sites[0], 0, side="left")
    summary = activity.summary()
    assert len(summary) == 5
    assert (summary["neurons"] == 172).all()


def test_promoted_tokens_come_with_a_language_model(stories, activity):
    model, _, sites = stories
    table = activity.rows("promoted", site=sites[4], neuron=11)
    best = table[(table["side"] == "promotes") & (table["rank"] == 0)].iloc[0]
    with torch.no_grad():
        vector = sites[4].value_vectors(model)[11] * model.model.norm.weight
        logits = model.lm_head.weight @ vector
    assert best["token_id"] == int(logits.argmax())
    np.testing.assert_allclose(best["logit"], float(logits.max()), rtol=1e-5)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval()


def table_of(rows=40):
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(1)).numpy()


def test_labels_give_class_means(net):
    labels = np.arange(40) % 3
    corpus = nw.corpus(table_of(), labels={"kind": labels})
    activity = nw.observe(net, corpus)
    table = activity.tables["class_means"]
    with torch.no_grad():
        hidden = torch.relu(net.up(torch.from_numpy(table_of()))).double().numpy()
    for label, name in enumerate(corpus.labels["kind"]):
        own = table[table["label"] == name].sort_values("neuron")
        np.testing.assert_allclose(own["mean"], hidden[labels == label].mean(0), rtol=1e-6)


def test_not_finite_activations_are_counted_and_warned_of(net):
    x = table_of()
    x[5, 0] = np.inf
    x[9, 1] = np.nan
    with pytest.warns(RuntimeWarning, match="6 neurons had activations that are NaN or infinite"):
        activity = nw.observe(net, nw.corpus(x))
    frame = activity.to_frame()
    assert frame["nonfinite"].between(1, 2).all()
    assert (frame["n"] + frame["nonfinite"] == 40).all()
    assert np.isfinite(frame["mean"]).all()
    assert len(activity.nonfinite) == 6


def test_reducers_by_name(net):
    frame = nw.observe(net, nw.corpus(table_of()), reducers=["extremes", TopExamples(3)]).to_frame()
    assert {"min", "max"} <= set(frame.columns)
    assert "mean" not in frame.columns


class Energy(Reducer):
    """What a user would write: the mean square."""

    name = "energy"

    def __init__(self):
        self._n, self._sum = 0, None

    @property
    def started(self):
        return self._sum is not None

    def update(self, activations):
        self._n += len(activations.rows)
        total = (activations.rows.double() ** 2).sum(0)
        self._sum = total if self._sum is None else self._sum + total

    def merge(self, other):
        self._n, self._sum = self._n + other._n, self._sum + other._sum

    def result(self):
        return {"neurons": pd.DataFrame({"energy": (self._sum / self._n).numpy()})}

    def state_dict(self):
        return {"n": torch.tensor(self._n), "sum": self._sum}

    def load_state_dict(self, state):
        self._n, self._sum = int(state["n"]), state["sum"]


def test_a_users_own_reducer(net, tmp_path):
    activity = nw.observe(net, nw.corpus(table_of()), reducers=[Energy(), Moments()])
    frame = activity.to_frame()
    np.testing.assert_allclose(frame["energy"], frame["mean"] ** 2 + frame["std"] ** 2 * 39 / 40, rtol=1e-9)
    activity.save(tmp_path / "r")
    assert nw.load(tmp_path / "r") == activity


def test_convolutions_count_every_place(net):
    model = nn.Sequential(
        nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 36, 2)
    ).eval()
    images = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    activity = nw.observe(model, nw.corpus(images), batch_size=4)
    with torch.no_grad():
        maps = model[:3](images).double().numpy()
    frame = activity.to_frame()
    assert (frame["n"] == 10 * 36).all()
    np.testing.assert_allclose(frame["mean"], maps.mean((0, 2, 3)), rtol=1e-6)
    best = activity.examples(activity.sites[0], 2).iloc[0]
    assert best["value"] == pytest.approx(maps[:, 2].max(), rel=1e-6)
    assert best["position"] == maps[int(best["example"]), 2].argmax()


def test_an_rnn_with_the_sequence_first():
    torch.manual_seed(0)
    model = nn.LSTM(3, 4).eval()
    x = torch.randn(7, 7, 3, generator=torch.Generator().manual_seed(0))
    site = nw.find_sites(model)[0]
    observer = Observer(nw.Sites([site]), [TopExamples(1)])
    with torch.no_grad(), observer.attached(model):
        observer.expect(BatchInfo(examples=torch.arange(7)))
        output = model(x)[0]
    best = observer.reducers[site.name]["examples"].result()["examples"].query("side == 'top'")
    for row in best.itertuples():
        assert output[row.position, row.example, row.neuron] == output[..., row.neuron].max()


def test_a_stream_is_read_once(net):
    rows = ({"x": torch.from_numpy(row)} for row in table_of(700))
    activity = nw.observe(net, nw.corpus(rows))
    assert (activity.to_frame()["n"] == 700).all()
    with pytest.raises(InvalidArgumentError, match="only engine='local'"):
        nw.observe(net, nw.corpus({"x": torch.zeros(4)} for _ in range(3)), engine="processes")


def test_a_corpus_shorter_than_a_batch(net):
    assert (nw.observe(net, nw.corpus(table_of(2)), batch_size=64).to_frame()["n"] == 2).all()


def test_what_is_refused(net):
    corpus = nw.corpus(table_of())
    with pytest.raises(SiteNotFoundError, match="no module 'middle'"):
        nw.observe(net, corpus, nw.Site("middle", "input", width=6))
    with pytest.raises(SiteAxisError, match="down:input"):
        nw.observe(net, corpus, nw.Site("down", "input", width=7))
    with pytest.raises(InvalidArgumentError, match=r"no reducer 'moment'.*moments"):
        nw.observe(net, corpus, reducers=["moment"])
    with pytest.raises(InvalidArgumentError, match="must be a list"):
        nw.observe(net, corpus, reducers="moments")
    with pytest.raises(InvalidArgumentError, match="Unknown engine 'spark'"):
        nw.observe(net, corpus, engine="spark")
    with pytest.raises(InvalidArgumentError, match="given twice: moments"):
        nw.observe(net, corpus, reducers=["moments", Moments()])
    with pytest.raises(InvalidArgumentError, match="no label field 'colour'"):
        nw.observe(net, corpus, reducers=[ClassMeans("colour", ["red"])])
    with pytest.raises(BatchMismatchError, match="float64"):
        nw.observe(net, nw.corpus(table_of().astype(np.float64)))
    with pytest.raises(EmptyCorpusError):
        nw.observe(net, nw.corpus({"x": row} for row in []))
    with pytest.raises(CompiledModelError):
        nw.observe(nn.DataParallel(net), corpus)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


class Pooled(nn.Module):
    """Every position, and then something with another number of positions."""

    def __init__(self):
        super().__init__()
        self.embed, self.conv = nn.Embedding(9, 4), nn.Linear(4, 4)

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids)
        return self.conv(x[:, :2])


def test_padding_that_fits_no_site_is_an_error():
    torch.manual_seed(0)
    examples = [{"input_ids": torch.arange(n)} for n in (2, 5, 7)]
    site = nw.Site("conv", "output", width=4)
    with pytest.raises(DataError, match=r"2 positions, but the batch's padding mask has 7.*batch_size=1"):
        nw.observe(Pooled(), nw.corpus(examples), site)
    assert (nw.observe(Pooled(), nw.corpus(examples), site, batch_size=1).to_frame()["n"] == 6).all()


class Loop(nn.Module):
    """One feed-forward block that runs three times, in a model that cannot be traced."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x):
        for _ in range(3):
            x = x + self.down(torch.relu(self.up(x))) if float(x.sum()) < 1e9 else x
        return x


def test_every_call_of_a_reused_module_is_observed():
    torch.manual_seed(0)
    site = nw.Site("down", "input", width=8, kind="ffn")
    frame = nw.observe(Loop().eval(), nw.corpus(table_of(10)), site, batch_size=4).to_frame()
    assert (frame["n"] == 30).all()


def test_a_site_that_is_never_reached_is_an_error(net):
    net.unused = nn.Linear(3, 2)
    sites = [nw.find_sites(net, "down", tensor="input")[0], nw.Site("unused", "input", width=3)]
    with pytest.raises(SiteNotReachedError, match="unused:input"):
        nw.observe(net, nw.corpus(table_of()), sites)


def test_checkpoints_that_cannot_be_gone_on_from(net, tmp_path, monkeypatch):
    file = tmp_path / "pass.safetensors"
    with pytest.raises(InvalidArgumentError, match="is a stream"):
        nw.observe(net, nw.corpus({"x": torch.zeros(4)} for _ in range(3)), checkpoint=file)
    calls = []

    def failing(self, activations):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Moments, "update", failing)
        settings = {"checkpoint": file, "checkpoint_every": 0.0, "reducers": ["moments"]}
        with pytest.raises(KeyboardInterrupt):
            nw.observe(net, nw.corpus(table_of()), block_size=8, **settings)
    with pytest.raises(ResultError, match="not a checkpoint of this pass"):
        nw.observe(net, nw.corpus(table_of()), block_size=16, **settings)


def test_settings_that_no_manifest_can_hold_are_refused_before_the_pass(net):
    with pytest.raises(InvalidArgumentError, match="plain numbers"):
        nw.observe(net, nw.corpus(table_of()), reducers=[ActiveFraction(np.float32(0.1))])
    with pytest.raises(InvalidArgumentError, match="at least 1 example"):
        nw.observe(net, nw.corpus(table_of()), block_size=0)


def test_each_tower_has_its_own_mask_and_tokens():
    ones, half = torch.ones(2, 3, dtype=torch.bool), torch.tensor([[1, 1, 0], [1, 0, 0]], dtype=torch.bool)
    ids, other = torch.arange(6).reshape(2, 3), torch.arange(10, 16).reshape(2, 3)
    batch = BatchInfo(torch.arange(2), mask=ones, token_ids=ids, towers={"decoder": (half, other)})
    values = torch.ones(2, 3, 4)

    def seen(path):
        return Activations(nw.Site(path, "input", width=4), values, batch)

    assert seen("model.encoder.layers.0.fc2").mask is None
    assert torch.equal(seen("model.encoder.layers.0.fc2").token_ids, ids)
    assert torch.equal(seen("model.decoder.layers.0.fc2").mask, half)
    assert torch.equal(seen("model.decoder.layers.0.fc2").token_ids, other)
    text = BatchInfo(torch.arange(2), mask=half, token_ids=ids)
    picture = Activations(nw.Site("vision_model.layers.0.fc2", "input", width=4), values, text)
    assert picture.mask is None
    assert picture.token_ids is None
    only = Activations(nw.Site("model.decoder.layers.0.fc2", "input", width=4), values, text)
    assert torch.equal(only.mask, half), "a decoder alone has the batch's mask"


def test_batches_without_a_number_are_counted(net):
    observer = Observer(nw.find_sites(net), [Moments()])
    with torch.no_grad(), observer.attached(net):
        for start in range(0, 40, 8):
            observer.expect(BatchInfo(examples=torch.arange(8)))
            net(torch.from_numpy(table_of())[start : start + 8])
    assert observer.reducers["down:input"]["moments"].result()["neurons"]["mean_se"].notna().all()


def test_an_index_beyond_the_site(activity):
    with pytest.raises(NeuronIndexError, match="0 to 171"):
        activity.examples(activity.sites[0], 172)


def test_a_second_pass_after_one_expect_is_an_error(net):
    x = torch.from_numpy(table_of(8))
    observer = Observer(nw.find_sites(net), [Moments()])
    with torch.no_grad(), observer.attached(net):
        with pytest.raises(NeuronwiseError, match="before each forward pass"):
            net(x)
        observer.expect(BatchInfo(examples=torch.arange(8)))
        net(x)
        with pytest.raises(NeuronwiseError, match="second forward pass"):
            net(x)
        observer.expect(BatchInfo(examples=torch.arange(8)))
        net(x)
    assert (observer.seen["down:input"] == 16).all()


def test_several_calls_within_one_pass_are_one_batch():
    torch.manual_seed(0)
    model, site = Loop().eval(), nw.Site("down", "input", width=8)
    observer = Observer(nw.Sites([site]), [Moments()])
    with torch.no_grad(), observer.attached(model):
        for start in (0, 5):
            observer.expect(BatchInfo(examples=torch.arange(5)))
            model(torch.from_numpy(table_of(10))[start : start + 5])
    assert (observer.seen["down:input"] == 30).all()


def test_dead_means_no_variation_and_not_negative():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5000, 6)).astype(np.float32)
    x[:, 1] = -np.abs(x[:, 1]) - 1  # always negative, and says a lot
    x[:, 2] = 0.0
    x[:, 3] = -0.25
    x[:, 4] = np.where(np.arange(5000) == 7, 2.0, 0.0)
    model = nn.Sequential(nn.Linear(6, 2))
    site = nw.Site("0", "input", width=6)
    summary = nw.observe(model, x, site, reducers=["extremes", "active"]).summary().iloc[0]
    assert (summary["dead"], summary["nearly_dead"]) == (2, 1)
    assert "nearly_dead" not in nw.observe(model, x, site, reducers=["extremes"]).summary()
    assert "dead" not in nw.observe(model, x, site, reducers=["active"]).summary()
    nothing = nw.observe(model, np.zeros_like(x), site, reducers=["extremes", "active"]).summary().iloc[0]
    assert (nothing["dead"], nothing["nearly_dead"]) == (6, 0)


def test_a_model_that_is_none_or_has_no_numbers(net):
    loaded = nw.load_model("stories260k")
    for call in (
        nw.find_sites,
        lambda model: nw.observe(model, table_of()),
        lambda model: nw.capture(model, nw.find_sites(net)),
    ):
        with pytest.raises(InvalidArgumentError, match=r"not LoadedModel\. It holds one: pass its \.model"):
            call(loaded)
        with pytest.raises(InvalidArgumentError, match=r"load_model\('gpt2'\)\.model"):
            call("gpt2")
    with pytest.raises(InvalidArgumentError, match="meta device"):
        nw.observe(nn.Linear(4, 2, device="meta"), table_of(), nw.Site("", "output", width=2))
