import numpy as np
import pandas as pd
import pytest
import torch

from neuronwise.attribute import IntegratedGradients
from neuronwise.data import Fact, Facts, hash_model, load_model
from neuronwise.data import facts as read_facts
from neuronwise.engine.checkpoint import Checkpoint
from neuronwise.errors import FactError, InvalidArgumentError, ResultError
from neuronwise.knowledge import KnowledgeNeurons, Refinement, locate
from neuronwise.sites import Sites
from neuronwise.store import load_result
from tests.knowledge import planted

pytest.importorskip("transformers")

WORDINGS = ("{s} {r} [Y]", "{r} {s} [Y]", "{s} {s} {r} [Y]", "{r} {r} {s} [Y]")
EXACT = IntegratedGradients(tolerance=1e-9)
INHIBITOR, ALWAYS = planted.WIDTH, planted.WIDTH + 1


def wordings(facts=None, prompts=4):
    """Every fact of the planted memory, in four wordings."""
    return [
        Fact([one.format(s=fact.subject, r=fact.relation) for one in WORDINGS[:prompts]], fact.answer,
             id=fact.id, relation=fact.relation, subject=fact.subject)
        for fact in (facts or planted.facts())
    ]  # fmt: skip


def memory(*, copies=1, extra=False):
    """A planted memory; ``extra``: with a neuron that works against the first fact, and one that is always on."""
    model = planted.PlantedForCausalLM(copies=copies).double().eval()
    sites = planted.sites(copies)
    if extra:
        layer = model.layers[0]
        keys, bias, values = layer.up.weight.data, layer.up.bias.data, layer.down.weight.data
        more = torch.zeros(2, keys.shape[1], dtype=keys.dtype)
        more[0, [0, planted.SUBJECTS]] = 1.0  # on for (s0, r0), as the neuron of that fact is
        written = torch.zeros(len(values), 2, dtype=keys.dtype)
        written[planted.neuron_object(0, 0), 0] = -2.0
        written[[planted.neuron_object(s, r) for s in range(3) for r in range(2)], 1] = 2.0
        layer.up = torch.nn.Linear(keys.shape[1], len(keys) + 2, dtype=keys.dtype)
        layer.down = torch.nn.Linear(len(keys) + 2, len(values), bias=False, dtype=keys.dtype)
        layer.up.weight.data = torch.cat([keys, more])
        layer.up.bias.data = torch.cat([bias, torch.tensor([-1.0, 1.0], dtype=keys.dtype)])
        layer.down.weight.data = torch.cat([values, written], 1)
        site = sites[0]
        sites = Sites(
            [type(site)(site.path, site.tensor, width=len(keys) + 2, layer=0, stack="layers", kind="ffn")]
        )
    return {"model": model, "tokenizer": planted.tokenizer(), "sites": sites}


def run(facts, *, model, tokenizer, **options):
    return locate(model, tokenizer, facts, progress=False, **options)


def pairs(neurons):
    return {(site.layer, index) for site, index in neurons}


def own_neuron(fact):
    subject, relation = int(fact.id[1]), int(fact.id[3])
    return subject * planted.RELATIONS + relation


def same(a, b, exact=True):
    for name in a.tables:
        pd.testing.assert_frame_equal(a.tables[name], b.tables[name], check_exact=exact, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def gpt():
    loaded = load_model("fact-gpt")
    return {"model": loaded.model, "tokenizer": loaded.tokenizer}


@pytest.fixture(scope="module")
def few():
    return read_facts("fact-gpt", relations_only=["P36", "P106"], limit=3)


@pytest.mark.parametrize("method", [EXACT, "ablation", "gradient_x_activation"])
def test_the_planted_neurons_are_found_and_no_others(method):
    result = run(wordings(), **memory(), method=method)
    for fact in wordings():
        assert pairs(result.neurons(fact.id)) == {(0, own_neuron(fact))}
        assert not len(result.neurons(fact.id, side="least"))
    known = result.tables["facts"]
    assert known["p"].tolist() == pytest.approx([0.942826] * 6, abs=5e-7)
    assert known["jaccard"].tolist() == [1] * 6 and known["right"].tolist() == [1] * 6
    assert known["r1_squared"].tolist() == pytest.approx([1] * 6)
    assert not len(result.hubs()) and not len(result.tables["fact_problems"])
    expected = 0.269527 if method == "gradient_x_activation" else 0.842826
    assert result.neurons("s1r1").to_frame()["score"].tolist() == pytest.approx([expected], abs=5e-7)


def test_both_copies_share_the_score_of_a_layer_of_their_own():
    result = run(wordings(), **memory(copies=2), method=EXACT)
    for fact in wordings():
        found = result.neurons(fact.id)
        assert pairs(found) == {(0, own_neuron(fact)), (1, own_neuron(fact))}
        assert found.to_frame()["score"].tolist() == pytest.approx([0.056766] * 2, abs=5e-7)


def test_elimination_finds_both_copies_first():
    result = run(wordings(), **memory(copies=2), method="elimination", target="probability", k=4, step=1)
    for fact in wordings():
        assert pairs(result.neurons(fact.id, k=2)) == {(0, own_neuron(fact)), (1, own_neuron(fact))}
        assert len(result.neurons(fact.id)) == 4
        found = result.neurons(fact.id, k=2).to_frame()["score"].sum()
        assert found == pytest.approx(0.899592, abs=1e-6)
    assert result.tables["facts"]["gap"].isna().all()


def test_a_neuron_that_works_against_the_answer_is_on_the_other_side():
    result = run(wordings(), **memory(extra=True))
    assert pairs(result.neurons("s0r0", side="least")) == {(0, INHIBITOR)}
    assert (result.neurons("s0r0", side="least").to_frame()["score"] < 0).all()
    for fact in wordings():
        assert (0, INHIBITOR) not in pairs(result.neurons(fact.id))
        assert (0, own_neuron(fact)) in pairs(result.neurons(fact.id))


def test_a_neuron_that_is_always_on_is_named_a_hub():
    facts = wordings()
    result = run(facts, **memory(extra=True), threshold=0.01)
    has = [fact.id for fact in facts if (0, ALWAYS) in pairs(result.neurons(fact.id))]
    assert len(has) == 6
    (hub,) = result.hubs(kind="hub").to_dict("records")
    assert hub["neuron"] == ALWAYS and hub["facts"] == 6 and hub["relations"] == 2
    assert hub["share"] == 1 and hub["share_of_relation"] == 1
    one = run(facts[::2], **memory(extra=True), threshold=0.01)  # all of one relation
    assert one.hubs()["kind"].tolist() == ["relation"] and one.hubs()["relation"].tolist() == ["r0"]
    nameless = [Fact(fact.prompts, fact.answer, id=fact.id) for fact in facts]
    assert run(nameless, **memory(extra=True), threshold=0.01).hubs()["kind"].tolist() == ["hub"]


def test_contrast_takes_away_what_sister_facts_share():
    facts = wordings()
    plain = run(facts, **memory(extra=True), threshold=0.01)
    against = run(facts, **memory(extra=True), threshold=0.01, contrast=2)
    for fact in facts:
        assert (0, ALWAYS) in pairs(plain.neurons(fact.id))
        assert (0, own_neuron(fact)) in pairs(against.neurons(fact.id))
        if fact.relation == "r1":  # whose three facts are alike
            assert pairs(against.neurons(fact.id)) == {(0, own_neuron(fact))}
    # What no sister has is left as it was.
    best = [result.neurons("s1r1").to_frame()["score"].max() for result in (plain, against)]
    assert best[0] == pytest.approx(best[1], abs=1e-9)


def test_a_facts_own_contrast_facts_are_taken():
    facts = wordings()
    rival = Fact(facts[2].prompts, facts[2].answer, id="rival")
    own = Fact(facts[0].prompts, facts[0].answer, id="own", contrast=[rival])
    alone = run([own], **memory(extra=True), threshold=0.01, contrast=1)
    plain = run([own], **memory(extra=True), threshold=0.01)
    other = run([facts[2]], **memory(extra=True), threshold=0.01)

    def score(result, fact):
        found = result.tables["fact_neurons"].query("fact == @fact and neuron == @ALWAYS")
        return float(found["score"].sum())

    assert score(alone, "own") == pytest.approx(score(plain, "own") - score(other, facts[2].id), abs=1e-9)


def test_bad_facts_are_listed_and_the_rest_goes_on():
    facts = wordings()
    bad = [Fact(["s0 r0 [Y]"], "nowhere", id="unknown"), Fact(["s0 r0 [Y] r1 s1"], "o1", id="tail")]
    result = run([bad[0], *facts[:2], bad[1], *facts[2:]], **memory())
    problems = dict(result.tables["fact_problems"].itertuples(index=False))
    assert set(problems) == {"unknown", "tail"} and "nowhere" in problems["unknown"]
    assert result.ids == [fact.id for fact in facts]
    assert "2 that could not be looked at" in result.summary()
    with pytest.raises(FactError, match="None of the 2 facts"):
        run(bad, **memory())
    with pytest.raises(FactError, match="no facts"):
        run([], **memory())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "integrated_gradient"}, "integrated_gradients"),
        ({"target": "probabilty"}, "probability"),
        ({"positions": "last"}, "'slot' or 'all'"),
        ({"threshold": 0}, "threshold"),
        ({"k": 0}, "k and step"),
        ({"contrast": 1, "method": "elimination"}, "not with elimination"),
    ],
)
def test_wrong_arguments(options, words):
    with pytest.raises(InvalidArgumentError, match=words):
        run(wordings(), **memory(), **options)


def test_refinement_decides_how_many_prompts_must_share_a_neuron():
    # In two of five prompts the subject is another one, so that another neuron is on.
    fact = Fact(["s0 r0 [Y]", "r0 s0 [Y]", "s0 s0 r0 [Y]", "s1 r0 [Y]", "r0 s1 [Y]"], "o0", id="mixed")
    half = run([fact], **memory(), refinement=Refinement(0.6))
    assert pairs(half.neurons("mixed")) == {(0, 0)}
    assert not len(run([fact], **memory(), refinement=Refinement(0.6, "eleuther")).neurons("mixed"))
    assert not len(run([fact], **memory()).neurons("mixed"))
    shaped = run([fact], **memory(), refinement=Refinement(0.9, size=(1, 1)))
    assert pairs(shaped.neurons("mixed")) == {(0, 0)}
    assert shaped.tables["facts"]["share"].tolist() == pytest.approx([0.6])


def test_overlaps_are_those_of_plain_loops(gpt, few):
    result = run(few, **gpt)
    sets = {fact: set(own) for fact, own in result.sets().items()}
    of = dict(result.tables["facts"][["fact", "relation"]].itertuples(index=False))
    rows = result.tables["relations"].set_index("relation")
    within, across = [], []
    for relation in ("P36", "P106"):
        mine = [fact for fact in sets if of[fact] == relation]
        two = [(a, b) for a in mine for b in mine if a < b]
        shared = [len(sets[a] & sets[b]) for a, b in two]
        within += shared
        other = [len(sets[a] & sets[b]) for a in mine for b in sets if of[b] != relation]
        across += other
        index = [len(sets[a] & sets[b]) / len(sets[a] | sets[b]) for a, b in two]
        assert rows.loc[relation, "neurons"] == pytest.approx(np.mean([len(sets[fact]) for fact in mine]))
        assert rows.loc[relation, "shared_within"] == pytest.approx(np.mean(shared))
        assert rows.loc[relation, "shared_across"] == pytest.approx(np.mean(other))
        assert rows.loc[relation, "jaccard_within"] == pytest.approx(np.mean(index))
    assert rows.loc["", "shared_within"] == pytest.approx(np.mean(within))
    assert rows.loc["", "shared_across"] == pytest.approx(np.mean(across))
    assert rows.loc["", "facts"] == 6


@pytest.mark.parametrize("method", ["integrated_gradients", "elimination"])
def test_many_facts_at_a_time_are_what_each_is_alone(gpt, few, method):
    options = {"method": method, "k": 10}
    together = run(few, **gpt, **options)
    for fact in (few[0], few[-1]):
        alone = run([fact], **gpt, **options).tables
        for name in ("facts", "fact_neurons"):
            mine = together.tables[name]
            mine, its = mine[mine["fact"] == fact.id], alone[name]
            if name == "fact_neurons":
                mine, its = mine.sort_values(["side", "rank"]), its.sort_values(["side", "rank"])
            pd.testing.assert_frame_equal(
                mine.reset_index(drop=True), its.reset_index(drop=True), rtol=0, atol=1e-6
            )


def test_model_is_untouched_and_results_come_back_from_disk(gpt, few, tmp_path):
    before, flags = hash_model(gpt["model"]), [p.requires_grad for p in gpt["model"].parameters()]
    gpt["model"].train()
    result = run(few, **gpt, k=5)
    assert gpt["model"].training and hash_model(gpt["model"]) == before
    gpt["model"].eval()
    assert [p.requires_grad for p in gpt["model"].parameters()] == flags
    assert all(p.grad is None for p in gpt["model"].parameters())
    again = load_result(result.save(tmp_path / "result"))
    assert isinstance(again, KnowledgeNeurons)
    same(result, again)
    assert again.sets() == result.sets() and again.summary() == result.summary()


class _Stop(Exception):
    pass


@pytest.mark.parametrize("method", ["integrated_gradients", "elimination"])
def test_a_pass_that_was_stopped_goes_on_to_the_same_bits(monkeypatch, tmp_path, method):
    many = [
        Fact(fact.prompts, fact.answer, id=f"{fact.id}-{at}", relation=fact.relation)
        for at in range(5)
        for fact in wordings()
    ]
    many[9] = Fact(["s0 r0 [Y]"], "nowhere", id="bad")  # in a block that the checkpoint holds
    options = {"method": method, "k": 3} | memory(extra=True)
    whole = run(many, **options)
    path, write = tmp_path / "state", Checkpoint.write
    written = []

    def stop(self, done, tensors):
        write(self, done, tensors)
        written.append(done)
        if done == 2:
            raise _Stop

    monkeypatch.setattr(Checkpoint, "write", stop)
    with pytest.raises(_Stop):
        run(many, **options, checkpoint=path, checkpoint_every=0)
    assert path.exists() and written == [1, 2]
    written.clear()
    monkeypatch.setattr(Checkpoint, "write", lambda self, done, tensors: written.append(done))
    resumed = run(many, **options, checkpoint=path, checkpoint_every=0)
    assert written[0] == 3 and not path.exists()
    same(whole, resumed)
    assert len(resumed.tables["fact_problems"]) == 1


def test_a_checkpoint_of_other_settings_is_refused(monkeypatch, tmp_path):
    path, write = tmp_path / "state", Checkpoint.write

    def stop(self, done, tensors):
        write(self, done, tensors)
        raise _Stop

    monkeypatch.setattr(Checkpoint, "write", stop)
    with pytest.raises(_Stop):
        run(wordings(), **memory(), checkpoint=path, checkpoint_every=0)
    with pytest.raises(ResultError):
        run(wordings(), **memory(), checkpoint=path, threshold=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_every_engine_gives_the_same(gpt, engine):
    pytest.importorskip("loky" if engine == "processes" else "ray")
    some = Facts(read_facts("fact-gpt", limit=2))
    here = run(some, **gpt, k=5)
    same(here, run(some, **gpt, k=5, engine=engine, workers=2), exact=False)
