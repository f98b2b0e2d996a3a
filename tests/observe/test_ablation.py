"""The effect of changing neurons: against doing it by hand, and beside controls."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import neuronwise as nw
from neuronwise.data import hash_model
from neuronwise.errors import EmptyCorpusError, InvalidArgumentError
from neuronwise.sites import NeuronSet

TEXTS = [
    "Once upon a time there was a dog.",
    "Lily was happy.",
    "The cat and the bird went to the park.",
    "He ran.",
]


@pytest.fixture(scope="module")
def stories():
    loaded = nw.load_model("stories260k")
    return loaded.model, nw.corpus(TEXTS, tokenizer=loaded.tokenizer), nw.find_sites(loaded.model)


def by_hand(model, corpus, site=None, indices=()):
    """Mean loss of the next token, example by example, with the weight columns of the neurons set to zero."""
    total, weight = 0.0, 0
    kept = None
    if site is not None:
        matrix = site.writes.view(model).data
        kept = matrix[indices].clone()
        matrix[indices] = 0.0
    for example in corpus:
        ids = example.inputs["input_ids"]
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0]
        total += float(F.cross_entropy(logits[:-1].double(), ids[1:], reduction="sum"))
        weight += len(ids) - 1
    if kept is not None:
        matrix[indices] = kept
    return total / weight


def test_loss_change_is_that_of_zeroed_weights(stories):
    model, corpus, sites = stories
    chosen = NeuronSet.of({sites[1]: [3, 50, 99]})
    before = hash_model(model)
    result = nw.ablate(model, corpus, chosen, controls=3)
    assert hash_model(model) == before
    row = result.to_frame().iloc[0]
    assert row["baseline"] == pytest.approx(by_hand(model, corpus), rel=1e-5)
    assert row["intervened"] == pytest.approx(by_hand(model, corpus, sites[1], [3, 50, 99]), rel=1e-5)
    assert result.change == pytest.approx(row["intervened"] - row["baseline"], rel=1e-9)
    for control, seed in zip(result.random_changes, range(3), strict=True):
        drawn = chosen.matched_random(sites, seed=seed)
        expected = by_hand(model, corpus, sites[1], drawn.indices(sites[1]).tolist()) - by_hand(model, corpus)
        assert control == pytest.approx(expected, abs=1e-4)


def test_controls_are_matched_and_seeded(stories):
    model, corpus, sites = stories
    chosen = NeuronSet.of({sites[0]: [1, 2], sites[4]: [7]})
    one, two = (nw.ablate(model, corpus, chosen, controls=2, seed=5) for _ in range(2))
    assert one == two
    frame = one.to_frame()
    assert frame["n_neurons"].tolist() == [3, 3, 3]
    assert frame["seed"].dropna().tolist() == [5, 6]
    assert "5 seeds" not in str(one)
    assert "2 seeds" in str(one)
    assert nw.ablate(model, corpus, chosen, controls=0).random_changes.size == 0


def test_standard_error_is_that_of_a_ratio(stories):
    """Against a bootstrap over examples."""
    model, _, sites = stories
    loaded = nw.load_model("stories260k")
    corpus = nw.corpus(TEXTS * 10, tokenizer=loaded.tokenizer)
    chosen = NeuronSet.of({sites[2]: range(30)})
    single = []
    for text in TEXTS:
        row = (
            nw.ablate(model, nw.corpus([text], tokenizer=loaded.tokenizer), chosen, controls=0)
            .to_frame()
            .iloc[0]
        )
        single.append((row["change"], len(loaded.tokenizer(text)["input_ids"]) - 1))
        assert np.isnan(row["change_se"])
    change, weight = np.array(single * 10).T
    rng = np.random.default_rng(0)
    draws = rng.integers(0, 40, (4000, 40))
    spread = ((change * weight)[draws].sum(1) / weight[draws].sum(1)).std()
    assert nw.ablate(model, corpus, chosen, controls=0).change_se == pytest.approx(spread, rel=0.1)


def test_mean_ablation_takes_observed_means(stories):
    model, corpus, sites = stories
    activity = nw.observe(model, corpus, reducers=["moments"])
    chosen = NeuronSet.of({sites[3]: range(40)})
    result = nw.ablate(model, corpus, chosen, how="mean", value=activity.means(), controls=2)
    # By hand: the chosen neurons write nothing, and what their means write is always there.
    matrix, means = sites[3].writes.view(model), torch.tensor(activity.means()[sites[3]][:40])
    constant = means.to(matrix.dtype) @ matrix[:40]
    down = sites[3].module(model)
    handle = down.register_forward_hook(lambda module, inputs, output: output + constant)
    with torch.no_grad():
        expected = by_hand(model, corpus, sites[3], list(range(40)))
    handle.remove()
    assert result.to_frame()["intervened"][0] == pytest.approx(expected, rel=1e-5)
    assert result.manifest.action["parameters"]["how"] == "mean"


def test_metrics(stories):
    model, corpus, sites = stories
    chosen = NeuronSet.of({sites[4]: range(60)})
    kl = nw.ablate(model, corpus, chosen, metric="kl", controls=0).to_frame().iloc[0]
    assert kl["baseline"] == pytest.approx(0.0, abs=1e-12)
    assert kl["change"] > 0
    change = nw.ablate(model, corpus, chosen, metric="output_change", controls=0).to_frame().iloc[0]
    assert 0 < change["change"] < 2

    def longest(output, reference, batch):
        return batch.lengths.double(), torch.ones(len(batch), dtype=torch.float64)

    own = nw.ablate(model, corpus, chosen, metric=longest, controls=0).to_frame().iloc[0]
    assert own["metric"] == "longest"
    assert own["change"] == 0


def test_class_loss_of_a_classifier():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(20) % 3
    site = nw.find_sites(model)[0]
    result = nw.ablate(model, nw.corpus(x, labels={"kind": labels}), NeuronSet.of({site: [0, 1]}), controls=1)
    with torch.no_grad():
        hidden = torch.relu(model[0](x))
        base = F.cross_entropy(model[2](hidden), labels)
        hidden[:, :2] = 0
        new = F.cross_entropy(model[2](hidden), labels)
    row = result.to_frame().iloc[0]
    assert row["metric"] == "class_loss"
    assert row["baseline"] == pytest.approx(float(base), rel=1e-5)
    assert row["intervened"] == pytest.approx(float(new), rel=1e-5)


def test_classes_that_are_numbers_are_the_numbers_of_their_logits():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 9)).eval()
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    model[2].bias.data[[3, 7]] = 20.0
    x, labels = torch.ones(6, 2), torch.tensor([3, 7, 3, 7, 3, 3])
    chosen = NeuronSet.of({nw.find_sites(model)[0]: [0]})
    row = nw.ablate(model, nw.corpus(x, labels={"kind": labels}), chosen, controls=0).to_frame().iloc[0]
    assert row["baseline"] == pytest.approx(np.log(2), rel=1e-4)
    with pytest.raises(InvalidArgumentError, match=r"class 12, but the model only 9 logits"):
        nw.ablate(model, nw.corpus(x, labels={"kind": labels + 5}), chosen)


def test_output_change_leaves_out_padding(stories):
    model, corpus, sites = stories
    chosen = NeuronSet.of({sites[2]: range(30)})
    one, four = (
        nw.ablate(model, corpus, chosen, metric="output_change", controls=0, batch_size=size).change
        for size in (1, 4)
    )
    assert one == pytest.approx(four, rel=1e-4)


def test_saved_and_loaded(stories, tmp_path):
    model, corpus, sites = stories
    result = nw.ablate(model, corpus, NeuronSet.of({sites[0]: [1]}), controls=2)
    result.save(tmp_path / "a")
    assert nw.load(tmp_path / "a") == result


def test_what_is_refused(stories):
    model, corpus, sites = stories
    chosen = NeuronSet.of({sites[0]: [1]})
    with pytest.raises(InvalidArgumentError, match="the set is empty"):
        nw.ablate(model, corpus, NeuronSet.of({sites[0]: []}))
    with pytest.raises(InvalidArgumentError, match="no metric 'los'"):
        nw.ablate(model, corpus, chosen, metric="los")
    with pytest.raises(InvalidArgumentError, match="needs a corpus with one label"):
        nw.ablate(model, corpus, chosen, metric="class_loss")
    with pytest.raises(EmptyCorpusError):
        nw.ablate(model, nw.corpus({"input_ids": x} for x in []), chosen)
    with pytest.raises(InvalidArgumentError, match="means"):
        nw.ablate(model, corpus, chosen, how="mean")


def test_a_whole_site_has_no_random_control(stories):
    model, corpus, sites = stories
    with pytest.warns(UserWarning, match="there are no controls"):
        result = nw.ablate(model, corpus, sites[1:3].neurons(), controls=3)
    assert len(result.to_frame()) == 1
    assert result.manifest.action["parameters"]["controls"] == 0
    assert nw.ablate(model, corpus, sites[1:3].neurons(), controls=0).change == result.change


def test_controls_that_share_neurons_with_the_chosen_are_warned_of(stories):
    model, corpus, sites = stories
    chosen = NeuronSet.of({sites[0]: range(100), sites[1]: [3]})
    with pytest.warns(UserWarning, match="28 of the 101 neurons"):
        result = nw.ablate(model, corpus, chosen, controls=2)
    assert len(result.random_changes) == 2
    assert len(chosen & chosen.matched_random(seed=0)) == 28
    with pytest.raises(InvalidArgumentError, match="0 or more, not -1"):
        nw.ablate(model, corpus, chosen, controls=-1)


def test_sites_stand_for_all_their_neurons_and_numbers_are_recorded(stories):
    model, corpus, sites = stories
    one = nw.ablate(model, corpus, sites[2], how="scale", value=np.float32(0.5), controls=0)
    assert one == nw.ablate(model, corpus, sites[2:3].neurons(), how="scale", value=0.5, controls=0)
    assert one.manifest.action["parameters"]["value"] == 0.5
    for wrong in (float("nan"), "much"):
        with pytest.raises(InvalidArgumentError, match="finite number"):
            nw.ablate(model, corpus, sites[2], how="set", value=wrong)


def test_a_model_that_is_not_finite_is_warned_of():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    x = torch.ones(5, 2)
    x[1] = torch.nan
    with pytest.warns(RuntimeWarning, match="for 1 of 5 examples"):
        result = nw.ablate(model, x, NeuronSet.of({nw.find_sites(model)[0]: [0]}), controls=1)
    assert np.isnan(result.change)
