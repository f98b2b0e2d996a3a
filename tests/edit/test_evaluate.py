"""The evaluator against figures worked out by hand, its controls, and what it does about bad facts."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats

from neuronwise.data import Fact, Probe, encode, hash_model
from neuronwise.edit import EditEvaluation, Patch, erase_slots, evaluate_edit, update_slots
from neuronwise.edit._intervals import interval
from neuronwise.errors import InvalidArgumentError, PatchError
from neuronwise.sites import NeuronSet, find_sites
from neuronwise.store import load_result
from tests.edit import zoo

TEXTS = ["people in Italy speak French", "a big old river in the town .", "the city of Berlin is old"]
SPAIN = Fact(
    ("the capital of Spain is [Y]",),
    "Madrid",
    id="spain",
    relation="capital",
    subject="Spain",
    new_answer="Berlin",
)
ITALY = Fact(("people in Italy speak [Y]",), "Spanish", id="italy", relation="language", subject="Italy")
NEAR = Fact(("the capital of the big town is [Y]",), "Paris", id="town", relation="capital", subject="town")


def strong_edit(model, tokenizer, fact):
    """Push every neuron's slot of the last layer towards the new answer: works, and hurts everything else."""
    token = tokenizer.convert_tokens_to_ids(fact.new_answer)
    everyone = NeuronSet.of(find_sites(model)[-1])
    return update_slots(model, everyone, add=token, embedding="output", strengths=(1, 30), fact=fact)


def erase(model, tokenizer, fact):
    return erase_slots(model, NeuronSet.of({find_sites(model)[0]: range(15)}), fact=fact)


def by_hand(model, tokenizer, prompt, answer):
    """Log probability of a one-token answer and the most likely token."""
    prompts = encode(tokenizer, model, [prompt], answer)
    with torch.no_grad():
        logits = model(**prompts.inputs).logits[0, int(prompts.positions[0, 0])]
    number = tokenizer.convert_tokens_to_ids(answer)
    return float(torch.log_softmax(logits.double(), -1)[number]), int(logits.argmax())


@pytest.mark.parametrize("family", zoo.LANGUAGE_MODELS)
def test_figures_of_prompts_and_text_are_those_worked_out_by_hand(family):
    model, tokenizer = zoo.language_model(family)
    edit = partial(strong_edit, model, tokenizer)
    facts = [zoo.FACT, SPAIN]
    before = zoo.trace(model)
    found = evaluate_edit(
        model,
        tokenizer,
        facts,
        {"push": edit},
        corpus=TEXTS,
        controls=2,
        pool=[*facts, ITALY, NEAR],
        batch_size=3,
    )
    assert zoo.trace(model) == before
    model.eval()
    prompts = found.tables["edit_prompts"]
    france = prompts[
        (prompts["fact"] == "france") & (prompts["method"] == "push") & (prompts["control"] == "edit")
    ]
    assert france.groupby("probe").size().to_dict() == {
        "edit": 2, "held_out": 1, "neighbour": 1, "sister": 1, "unrelated": 1,
    }  # fmt: skip
    patch = edit(zoo.FACT)
    for row in france.itertuples():
        old, top_before = by_hand(model, tokenizer, row.prompt, row.answer)
        with patch.applied(model):
            new, top = by_hand(model, tokenizer, row.prompt, row.answer)
        assert row.log_p_answer_before == pytest.approx(old, abs=1e-4)
        assert row.log_p_answer == pytest.approx(new, abs=1e-4)
        rome = tokenizer.convert_tokens_to_ids("Rome")
        expected = top == rome if row.probe in ("edit", "held_out") else top == top_before
        assert row.success == expected
        assert row.prefers == float(row.log_p_answer > row.log_p_other)
    share = france[france["probe"] == "edit"]["success"].mean()
    spain = prompts[
        (prompts["fact"] == "spain") & (prompts["control"] == "edit") & (prompts["probe"] == "edit")
    ]
    assert found.value("push", "reliability") == pytest.approx((share + spain["success"].mean()) / 2)
    check_text(model, tokenizer, found, patch)


def check_text(model, tokenizer, found, patch):
    if "Masked" in type(model).__name__:
        assert found.tables["edit_text"]["tokens"].iloc[0] >= len(TEXTS)
        return

    def log_probs():
        parts, targets = [], []
        for text in TEXTS:
            ids = torch.tensor(tokenizer(text)["input_ids"])
            with torch.no_grad():
                parts.append(torch.log_softmax(model(input_ids=ids[None]).logits[0, :-1].double(), -1))
            targets.append(ids[1:])
        return torch.cat(parts), torch.cat(targets)

    base, targets = log_probs()
    with patch.applied(model):
        new, _ = log_probs()
    text = found.tables["edit_text"]
    row = text[(text["fact"] == "france") & (text["control"] == "edit")].iloc[0]
    assert row["tokens"] == len(targets)
    assert row["nll_before"] == pytest.approx(float(-base.gather(1, targets[:, None]).mean()), rel=1e-5)
    assert row["nll"] == pytest.approx(float(-new.gather(1, targets[:, None]).mean()), rel=1e-5)
    assert row["kl"] == pytest.approx(float((base.exp() * (base - new)).sum(1).mean()), rel=1e-4)
    assert found.value("none", "perplexity", control="none") == pytest.approx(
        np.exp(row["nll_before"]), rel=1e-6
    )


def test_the_unedited_model_and_the_controls_stand_beside_the_edit(tmp_path):
    model, tokenizer = zoo.language_model("gpt2")
    neurons = NeuronSet.of({find_sites(model)[-1]: [1, 5]})
    edit = lambda fact: update_slots(model, neurons, add=9, embedding="output", fact=fact)  # noqa: E731
    found = evaluate_edit(
        model, tokenizer, [zoo.FACT, SPAIN], {"edit": edit}, corpus=TEXTS, controls=3, seed=5
    )
    frame = found.to_frame()
    assert set(zip(frame["method"], frame["control"], strict=True)) == {
        ("none", "none"), ("edit", "edit"), ("edit", "random"),
    }  # fmt: skip
    assert found.value("none", "kl", control="none") == 0
    assert found.value("none", "sister", control="none") == 1
    assert found.value("edit", "kl") > 0 and found.value("edit", "kl", control="random") > 0
    prompts = found.tables["edit_prompts"]
    assert set(prompts["seed"].dropna()) == {5, 6, 7}
    random = prompts[(prompts["control"] == "random") & (prompts["probe"] == "edit")]
    expected = random.groupby("fact")["success"].mean().mean()
    assert found.value("edit", "reliability", control="random") == pytest.approx(expected)
    assert np.isnan(found.value("edit", "symmetry"))
    again = evaluate_edit(
        model, tokenizer, [zoo.FACT, SPAIN], {"edit": edit}, corpus=TEXTS, controls=3, seed=5
    )
    assert again == found
    loaded = load_result(found.save(tmp_path / "result"))
    assert isinstance(loaded, EditEvaluation) and loaded == found
    assert "reliability" in str(loaded) and "random" in str(loaded)
    assert list(found.side_by_side().index) == [("none", "none"), ("edit", "edit"), ("edit", "random")]


def test_erased_facts_are_evaluated_by_the_fall_of_the_old_answer():
    model, tokenizer = zoo.language_model("gpt2")
    fact = replace(zoo.FACT, new_answer=None)
    found = evaluate_edit(
        model, tokenizer, [fact], partial(erase, model, tokenizer), controls=0, pool=[SPAIN]
    )
    rows = found.tables["edit_prompts"]
    own = rows[(rows["control"] == "edit") & (rows["probe"] == "edit")]
    assert (own["answer"] == "Paris").all() and (own["other"] == "").all() and own["log_p_other"].isna().all()
    fell = (own["log_p_answer"] < own["log_p_answer_before"]).mean()
    summary = found.to_frame()
    metric = summary[(summary["control"] == "edit") & (summary["metric"] == "reliability")].set_index(
        "measure"
    )
    assert metric.loc["probability", "value"] == pytest.approx(fell)
    assert metric.loc["argmax", "value"] == (own["top"].str.strip() != "Paris").mean()
    sister = rows[(rows["control"] == "edit") & (rows["probe"] == "sister")].iloc[0]
    assert sister["prefers"] == float(sister["log_p_answer"] >= sister["log_p_answer_before"] - np.log(2))


def test_probes_of_the_fact_are_asked_by_their_kind():
    model, tokenizer = zoo.language_model("gpt2")
    probes = [
        Probe("symmetry", "Rome is the capital of [Y]", "France"),
        Probe("portability", "people in the capital of France speak [Y]", "French"),
        Probe("neighbour", "the old capital of France is [Y]", "Paris"),
        Probe("attribute", "the capital of Italy is [Y]", "Rome"),
        Probe("paraphrase", "the capital of the people of France is [Y]", "Rome"),
    ]
    fact = replace(zoo.FACT, probes=tuple(probes))
    found = evaluate_edit(model, tokenizer, [fact], partial(strong_edit, model, tokenizer), controls=0)
    rows = found.tables["edit_prompts"]
    rows = rows[rows["control"] == "edit"].set_index("probe")
    assert rows.loc["symmetry", "other"] == rows.loc["attribute", "other"] == "Paris"
    assert rows.loc["neighbour", "other"] == "Rome" and rows.loc["neighbour", "answer"] == "Paris"
    assert rows.loc["symmetry", "success"] == (rows.loc["symmetry", "top"].strip() == "France")
    assert set(found.to_frame()["metric"]) == {
        "reliability", "generality", "symmetry", "portability", "neighbour", "attribute",
    }  # fmt: skip
    frame = found.to_frame()
    assert frame[(frame["metric"] == "generality") & (frame["control"] == "edit")]["n"].iloc[0] == 2


def test_bad_facts_are_listed_and_the_rest_goes_on():
    model, tokenizer = zoo.language_model("gpt2")
    before = hash_model(model)
    unknown = replace(SPAIN, id="oslo", new_answer="Oslo")
    partly = replace(SPAIN, id="partly", probes=(Probe("sister", "the capital of Norway is [Y]", "Oslo"),))

    def edit(fact):
        if fact.id == "spain":
            raise PatchError("not this one")
        return strong_edit(model, tokenizer, fact)

    found = evaluate_edit(
        model, tokenizer, [unknown, SPAIN, partly, zoo.FACT], {"push": edit}, controls=1, per_kind=0
    )
    problems = found.problems.set_index("fact")["problem"]
    assert set(problems.index) == {"oslo", "spain", "partly"}
    assert "Oslo" in str(problems["oslo"]) and "PatchError: not this one" in problems["spain"]
    rows = found.tables["edit_prompts"]
    assert set(rows[rows["method"] == "push"]["fact"]) == {"partly", "france"}
    assert "sister" not in set(rows["probe"])
    assert hash_model(model) == before


def test_all_facts_together_are_one_patch():
    model, tokenizer = zoo.language_model("gpt2")
    given = []

    def edit(facts):
        given.append([fact.id for fact in facts])
        return strong_edit(model, tokenizer, facts[0])

    facts = [zoo.FACT, SPAIN]
    found = evaluate_edit(model, tokenizer, facts, {"both": edit}, corpus=TEXTS, controls=1, together=True)
    assert given == [["france", "spain"]]
    text = found.tables["edit_text"]
    assert len(text) == 3 and set(text["fact"]) == {""}
    rows = found.tables["edit_prompts"]
    assert set(rows["fact"]) == {"france", "spain"}
    # Each would be the other's sister, but both are edited.
    assert "sister" not in set(rows["probe"])


def test_a_control_of_ones_own_is_used():
    model, tokenizer = zoo.language_model("gpt2")
    seeds = []

    def control(fact, seed):
        seeds.append((fact.id, seed))
        return Patch.of(model, [], "nothing", parameters={})

    found = evaluate_edit(
        model,
        tokenizer,
        [SPAIN],
        {"push": partial(strong_edit, model, tokenizer)},
        controls=2,
        control=control,
        corpus=TEXTS,
    )
    assert seeds == [("spain", 0), ("spain", 1)]
    assert found.value("push", "kl", control="random") == 0


def test_encoder_decoders_are_asked_prompts_but_no_text():
    model, tokenizer = zoo.language_model("t5")
    edit = partial(strong_edit, model, tokenizer)
    fact = replace(zoo.FACT, prompts=zoo.FACT.prompts[:1])
    found = evaluate_edit(model, tokenizer, [fact], edit, controls=0)
    rows = found.tables["edit_prompts"]
    assert set(rows["probe"]) == {"edit", "held_out"}
    own = rows[(rows["control"] == "edit") & (rows["probe"] == "edit")]
    assert own["log_p_answer"].iloc[0] > own["log_p_answer_before"].iloc[0]
    with pytest.raises(InvalidArgumentError, match="encoder-decoder"):
        evaluate_edit(model, tokenizer, [fact], edit, corpus=TEXTS)


def test_intervals_are_exact_at_the_ends_and_bootstrapped_between():
    ones = interval(np.ones(20), share=True, seed=0)
    assert ones == pytest.approx((0.025 ** (1 / 20), 1.0))
    values = np.random.default_rng(0).normal(2.0, 1.0, 400)
    low, high = interval(values, share=False, seed=0)
    half = 1.96 * stats.sem(values)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)
    assert interval(values, share=False, seed=0) == (low, high)
    assert all(np.isnan(interval(np.empty(0), share=True, seed=0)))
    assert all(np.isnan(interval(np.array([2.0]), share=False, seed=0)))
    assert interval(np.array([2.0, 2.0]), share=False, seed=0) == (2.0, 2.0)


def test_what_cannot_be_done_is_said():
    model, tokenizer = zoo.language_model("gpt2")
    edit = partial(strong_edit, model, tokenizer)
    for match, call in [
        ("no fact", lambda: evaluate_edit(model, tokenizer, [], edit)),
        ("no method", lambda: evaluate_edit(model, tokenizer, [SPAIN], {})),
        ("'none' is", lambda: evaluate_edit(model, tokenizer, [SPAIN], {"none": edit})),
        ("controls", lambda: evaluate_edit(model, tokenizer, [SPAIN], edit, controls=-1)),
    ]:
        with pytest.raises(InvalidArgumentError, match=match):
            call()
