import dataclasses

import numpy as np
import pytest
import torch

from neuronwise.data import Fact, encode, facts, hash_model, load_model
from neuronwise.errors import FactError, InvalidArgumentError, ResultError
from neuronwise.hooks import call_model, intervene
from neuronwise.knowledge._effect_job import Job
from neuronwise.knowledge.effect import Effect, amplify, measure_effect, suppress
from neuronwise.sites import NeuronSet, find_sites
from tests.knowledge import planted

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def memory():
    return planted.PlantedForCausalLM().double().eval(), planted.tokenizer()


@pytest.fixture(scope="module")
def located():
    return {fact.id: NeuronSet.of({planted.sites()[0]: [n]}) for n, fact in enumerate(planted.facts())}


@pytest.fixture(scope="module")
def bert():
    return load_model("fact-bert")


def rows(result, **wanted):
    frame = result.tables["effects"]
    for name, value in wanted.items():
        frame = frame[frame[name] == value]
    return frame


def drawn(model, known, size=6):
    """Sets that share neurons over several layers, one for each fact."""
    sites = find_sites(model)
    return {
        fact.id: NeuronSet.of({site: np.arange(n, n + size) * 7 % site.width for site in sites})
        for n, fact in enumerate(known)
    }


def test_a_planted_memory_loses_and_gains_what_it_must(memory, located):
    result = measure_effect(*memory, planted.facts(), located)
    for factor, after in ((0.0, 0.100000), (2.0, 0.999592)):
        for probe in ("own", "held_out"):
            own = rows(result, neurons="chosen", factor=factor, probe=probe)
            assert own["p_before"].tolist() == pytest.approx([0.942826] * 6, abs=5e-7)
            assert own["p_after"].tolist() == pytest.approx([after] * 6, abs=5e-7)
    assert result.value("own") == pytest.approx(-0.893936, abs=5e-7)
    assert result.value("own", factor=2.0, measure="mean_of_ratios") == pytest.approx(0.060208, abs=5e-7)
    assert result.value("own", measure="delta_log_p") == pytest.approx(np.log(0.1 / 0.942826), abs=1e-6)
    others = rows(result, neurons="chosen")
    others = others[others["probe"].isin(["sister", "other"])]
    assert (others["p_after"] == others["p_before"]).all() and len(others) == 24
    assert rows(result, neurons="chosen", probe="sister")["n_prompts"].unique().tolist() == [2]


def test_random_sets_are_matched_and_never_the_facts_own(memory, located):
    result = suppress(*memory, planted.facts(), located, controls=3, seed=7)
    random = rows(result, neurons="random", probe="own")
    assert sorted(random["seed"].unique()) == [7, 8, 9] and (random["n_neurons"] == 1).all()
    assert (random["p_after"] == random["p_before"]).all()
    assert result.value("own", neurons="difference") == pytest.approx(-0.893936, abs=5e-7)
    assert result.value("other", neurons="random") < -0.1


def test_both_averages_differ_where_a_prompt_is_unlikely(memory):
    model, tokenizer = memory
    fact = Fact(["s0 r0 [Y]", "s1 r1 [Y]"], "o0", id="mixed")  # the model answers the second with o3
    chosen = NeuronSet.of({planted.sites()[0]: [0, 3]})
    result = suppress(model, tokenizer, [fact], {"mixed": chosen}, controls=0)
    low, high = np.exp([0.0, 5.0]) / (np.exp(5.0) + 9)
    assert result.value(measure="ratio_of_means") == pytest.approx(0.2 / (low + high) - 1)
    assert result.value(measure="mean_of_ratios") == pytest.approx((0.1 / low + 0.1 / high) / 2 - 1)
    assert result.value(measure="median_ratio") == pytest.approx((0.1 / low + 0.1 / high) / 2)
    assert result.tables["effect_summary"]["low"].isna().all()  # one fact has no spread over facts


@pytest.mark.parametrize("positions", ["slot", "all"])
@pytest.mark.parametrize("max_tokens", [64, 100_000])
@pytest.mark.parametrize("name", ["fact-bert", "fact-gpt", "stories260k"])
def test_rows_of_one_batch_are_what_single_interventions_are(name, positions, max_tokens):
    loaded = load_model(name)
    model, tokenizer = loaded.model.double(), loaded.tokenizer
    fact = Fact(["There was a girl named [Y]", "the girl's name was [Y]"], "Lily")
    if name != "stories260k":
        fact = dataclasses.replace(facts(name, limit=1)[0], held_out=())
    chosen = next(iter(drawn(model, [fact]).values()))
    before = hash_model(model)
    result = measure_effect(
        model, tokenizer, [fact], chosen, factors=(0.0, 2.0, 0.5), controls=2, positions=positions,
        max_tokens=max_tokens, sisters=0, others=0,
    )  # fmt: skip
    assert hash_model(model) == before
    prompts = encode(tokenizer, model, fact.prompts, fact.answer)
    for row in result.tables["effects"].to_dict("records"):
        neurons = chosen if row["neurons"] == "chosen" else chosen.matched_random(seed=row["seed"])
        mask = torch.zeros_like(prompts.inputs["input_ids"], dtype=torch.bool)
        mask.scatter_(1, prompts.positions, True)
        where = mask if positions == "slot" else None
        with torch.no_grad(), intervene(model, neurons, "scale", row["factor"], positions=where):
            logits = call_model(model, prompts.inputs).logits
        at = logits[torch.arange(len(prompts)), prompts.positions[:, 0]].log_softmax(-1)
        log_p = at.gather(1, prompts.answers)[:, 0]
        assert row["log_p_after"] == pytest.approx(float(log_p.mean()), rel=1e-9)
        assert row["right_after"] == float((at.argmax(1) == prompts.answers[:, 0]).double().mean())


def test_mean_ablation(bert):
    model, tokenizer = bert.model, bert.tokenizer
    known = facts("fact-bert", limit=1)[:2]
    chosen = drawn(model, known)
    means = {site: np.full(site.width, 0.25) for site in find_sites(model)}
    result = suppress(model, tokenizer, known, chosen, reference=means, controls=0, others=0)
    for fact in known:
        prompts = encode(tokenizer, model, fact.prompts, fact.answer)
        mask = torch.zeros_like(prompts.inputs["input_ids"], dtype=torch.bool).scatter(
            1, prompts.positions, True
        )
        with torch.no_grad(), intervene(model, chosen[fact.id], "mean", means, positions=mask):
            logits = call_model(model, prompts.inputs).logits
        at = logits[torch.arange(len(prompts)), prompts.positions[:, 0]].log_softmax(-1)
        found = rows(result, fact=fact.id, probe="own")["log_p_after"].item()
        assert found == pytest.approx(float(at.gather(1, prompts.answers).mean()), abs=1e-4)
    with pytest.raises(InvalidArgumentError, match="has nothing for"):
        suppress(model, tokenizer, known, chosen, reference={"no": means})


def test_answers_of_several_tokens():
    loaded = load_model("stories260k")
    model, tokenizer = loaded.model, loaded.tokenizer
    chosen = NeuronSet.of({find_sites(model)[3]: [1, 2, 3]})
    fact = Fact(["There was a boy named [Y]", "a dog named [Y]"], "Robert", id="r")
    with pytest.raises(InvalidArgumentError, match="tokens"):
        suppress(model, tokenizer, [fact], chosen)
    result = suppress(model, tokenizer, [fact], chosen, multi_token=True, controls=1)
    prompts = encode(tokenizer, model, fact.prompts, fact.answer, multi_token=True)
    with torch.no_grad():
        logits = call_model(model, prompts.inputs).logits[torch.arange(2)[:, None], prompts.positions]
    wanted = logits.log_softmax(-1).gather(-1, prompts.answers[..., None])[..., 0].sum(1).mean()
    assert result.tables["effects"]["log_p_before"].iloc[0] == pytest.approx(float(wanted), abs=1e-4)


def test_what_cannot_be_measured_is_listed_and_the_rest_goes_on(memory, located):
    known = [
        *planted.facts(),
        Fact(["s0 r0 [Y]"], "o9999", id="unknown"),
        Fact(["s0 r0 [Y]"], "o1", id="unlocated"),
    ]
    sets = {**located, "unknown": located["s0r0"], "s1r1": NeuronSet()}
    result = suppress(*memory, known, sets, controls=1, unrelated=["s0 strange", ("s2 r1 [Y]", "o5")])
    problems = result.tables["effect_problems"].set_index("fact")["problem"]
    assert "o9999" in problems.loc[["unknown"]].iloc[0]
    assert "strange" in problems[""] or "[UNK]" in problems[""]  # once, not for each fact
    assert problems["unlocated"] == "no neurons are given for it" and "is empty" in problems["s1r1"]
    assert result.tables["effects"]["fact"].nunique() == 5
    unrelated = rows(result, probe="unrelated", neurons="chosen")
    assert (unrelated["n_prompts"] == 1).all() and "s2r1" not in set(unrelated["fact"])  # not its own answer
    assert "problems" in result.summary() and "own: P changes by -89.4 %" in result.summary()


def test_sites_chosen_whole_have_no_random_sets(memory):
    result = suppress(*memory, planted.facts()[:1], NeuronSet.of(planted.sites()), controls=2)
    assert set(result.tables["effects"]["neurons"]) == {"chosen"}
    assert "chosen whole" in result.tables["effect_problems"]["problem"].iloc[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factors": ()}, "at least one"),
        ({"factors": (0, 0)}, "different"),
        ({"factors": (float("nan"),)}, "finite"),
        ({"controls": -1}, "controls"),
        ({"positions": "slots"}, "positions"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"unrelated": "a text"}, "must be a list"),
        ({"unrelated": [3]}, "unrelated must hold"),
    ],
)
def test_wrong_arguments(memory, located, options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        measure_effect(*memory, planted.facts(), located, **options)


def test_no_facts_and_unreadable_texts(memory, located):
    with pytest.raises(InvalidArgumentError, match="no fact"):
        suppress(*memory, [], located)
    with pytest.raises(FactError, match="last word"):
        suppress(*memory, planted.facts(), located, unrelated=["word"])


def test_saved_loaded_and_the_same_again(memory, located, tmp_path):
    result = amplify(*memory, planted.facts(), located, controls=2)
    assert Effect.load(result.save(tmp_path / "effect")) == result
    assert amplify(*memory, planted.facts(), located, controls=2, block_size=2) == result
    assert result.factors == (2.0,)
    with pytest.raises(InvalidArgumentError, match="no average"):
        result.value("neighbour")


def test_a_pass_resumes_where_it_was_cut(memory, located, tmp_path, monkeypatch):
    known, file = planted.facts(), tmp_path / "state"
    options = {"block_size": 1, "checkpoint": file, "checkpoint_every": 0.0}
    whole = suppress(*memory, known, located)
    run, seen = Job.run, []

    def failing(self, state, block):
        if block[0] == 3:
            raise KeyboardInterrupt
        return run(self, state, block)

    with monkeypatch.context() as patch:
        patch.setattr(Job, "run", failing)
        with pytest.raises(KeyboardInterrupt):
            suppress(*memory, known, located, **options)
    with pytest.raises(ResultError, match="not a checkpoint of this pass"):
        suppress(*memory, known, {**located, "s0r0": located["s0r1"]}, **options)
    monkeypatch.setattr(
        Job, "run", lambda self, state, block: seen.append(block[0]) or run(self, state, block)
    )
    assert suppress(*memory, known, located, **options) == whole
    assert seen == [3, 4, 5]


def test_processes_give_the_same(memory, located):
    pytest.importorskip("loky")
    options = {"block_size": 2, "controls": 1}
    local = suppress(*memory, planted.facts(), located, **options)
    assert suppress(*memory, planted.facts(), located, engine="processes", workers=2, **options) == local


def test_unrelated_texts_may_end_in_words_of_several_tokens():
    loaded = load_model("stories260k")
    chosen = NeuronSet.of({find_sites(loaded.model)[3]: [1, 2, 3]})
    fact = Fact(["There was a girl named [Y]"], "Lily", id="lily")
    texts = ["They lived happily ever after.", "She loved to play outside in the park"]
    result = suppress(loaded.model, loaded.tokenizer, [fact], chosen, unrelated=texts, controls=0)
    assert rows(result, probe="unrelated")["n_prompts"].tolist() == [2]
    assert not len(result.tables["effect_problems"])
    alone = suppress(loaded.model, loaded.tokenizer, [fact], chosen, controls=0)
    own = [rows(one, probe="own")["log_p_after"].item() for one in (result, alone)]
    assert own[0] == pytest.approx(own[1], abs=1e-5)
