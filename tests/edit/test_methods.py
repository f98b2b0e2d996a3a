"""ROME, MEMIT and FiNE: closed forms, every family, several tokens, and no trace afterwards."""

from dataclasses import replace

import pytest
import torch

from neuronwise.data import Fact, encode, hash_model
from neuronwise.edit import fine, key_covariance, key_covariances, memit, memit_update, rank_one_update, rome
from neuronwise.edit._contexts import last_subject_token, resolve_prefixes
from neuronwise.edit._logits import token_log_probs
from neuronwise.errors import EmptyCorpusError, FactError, InvalidArgumentError, PatchError
from neuronwise.hooks import call_model, capture
from neuronwise.sites import NeuronSet, find_sites
from tests.edit import zoo

FAMILIES = (*zoo.LANGUAGE_MODELS, "t5")
SETTINGS = {"weight_decay": 0.0, "clamp": 50.0, "lr": 0.3, "steps": 25, "prefixes": 0, "stop_loss": 0.1}


def probability(model, tokenizer, fact, answer=None):
    """Mean probability of the new answer over the fact's own prompts."""
    prompts = encode(tokenizer, model, fact.prompts, answer or fact.new_answer, multi_token=True)
    flags = {module: module.training for module in model.modules()}
    model.eval()
    with torch.no_grad():
        values, _ = token_log_probs(call_model(model, prompts.inputs), prompts)
    for module, flag in flags.items():
        module.training = flag
    return float(values.sum(1).exp().mean())


def site_of(model, family):
    """The last layer that still reaches the answer from the subject; of T5, that of the decoder."""
    sites = find_sites(model)
    return sites[2] if family == "t5" else sites[0]


def make(method, model, tokenizer, fact, site, **options):
    if method == "rome":
        return rome(
            model, tokenizer, fact, site, **{"covariance": torch.eye(site.width), **SETTINGS, **options}
        )
    if method == "memit":
        spread = {site: torch.eye(site.width)}
        return memit(
            model, tokenizer, fact, site, **{"covariance": spread, "weight": 0.1, **SETTINGS, **options}
        )
    neurons = NeuronSet.of({site: range(12)})
    return fine(model, tokenizer, fact, neurons, **{"lr": 0.5, "steps": 40, **options})


def test_rank_one_closed_form():
    spread = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    key, value = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    left, right = rank_one_update(torch.eye(2), key, value, spread)
    new = torch.eye(2) + left @ right
    torch.testing.assert_close(
        new, torch.tensor([[0.0, 0.5], [1.0, 0.5]], dtype=torch.float64), atol=1e-12, rtol=0
    )
    torch.testing.assert_close(new @ key.double(), value.double(), atol=1e-12, rtol=0)


def test_memit_closed_form():
    spread = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    key, value = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]])
    left, right = memit_update(torch.eye(2), key, value, spread)
    new = torch.eye(2) + left @ right
    torch.testing.assert_close(
        new, torch.tensor([[0.6, 0.2], [0.4, 0.8]], dtype=torch.float64), atol=1e-12, rtol=0
    )


def test_memit_meets_all_its_values_where_nothing_else_counts():
    generator = torch.Generator().manual_seed(0)
    weight, keys, values = (torch.randn(s, generator=generator).double() for s in ((3, 6), (6, 4), (3, 4)))
    left, right = memit_update(weight, keys, values, 1e-10 * torch.eye(6))
    torch.testing.assert_close((weight + left @ right) @ keys, values, atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["rome", "memit", "fine"])
def test_every_method_writes_the_new_answer_and_leaves_no_trace(method, family):
    model, tokenizer = zoo.language_model(family)
    site = site_of(model, family)
    before, start = zoo.trace(model), probability(model, tokenizer, zoo.FACT)
    patch = make(method, model, tokenizer, zoo.FACT, site)
    assert zoo.trace(model) == before
    with patch.applied(model):
        assert probability(model, tokenizer, zoo.FACT) > 2 * start
    assert zoo.trace(model) == before
    if family == "gpt2":
        assert patch == make(method, model, tokenizer, zoo.FACT, site)
    assert patch.facts[0]["new_answer"] == "Rome" and "held_out" not in patch.facts[0]
    assert [change.parameter for change in patch.changes] == [site.writes.parameter]


@pytest.mark.parametrize(
    ("family", "method", "answer"),
    [
        *((family, method, "Rome") for family in FAMILIES for method in ("rome", "memit", "fine")),
        *((family, method, "New York") for family in ("llama", "t5") for method in ("rome", "memit", "fine")),
    ],
)
def test_the_patched_model_says_what_the_search_promised(method, family, answer):
    """In the last layer and at the answer's place nothing stands between what is written and what is said."""
    model, tokenizer = zoo.language_model(family)
    site = find_sites(model)[-1]
    fact = replace(zoo.FACT, prompts=zoo.FACT.prompts[:1], new_answer=answer)
    options = (
        {} if method == "fine" else {"position": "answer"} | ({"weight": 1e-9} if method == "memit" else {})
    )
    patch = make(method, model, tokenizer, fact, site, **options)
    start = probability(model, tokenizer, fact)
    noted = patch.parameters[{"rome": "value", "memit": "values", "fine": "outcome"}[method]]
    promised = (noted[0] if method == "memit" else noted)["probability"]
    with patch.applied(model):
        said = probability(model, tokenizer, fact)
    if answer == "Rome" or method == "fine":
        assert said == pytest.approx(promised, rel=1e-2)
    assert said > 2 * start


@pytest.mark.parametrize("family", FAMILIES)
def test_the_edited_layer_writes_the_value_for_the_key(family):
    """W' k* = W k* + delta, at the place where the fact is edited, whatever the orientation of the weight."""
    model, tokenizer = zoo.language_model(family)
    model.eval()
    site = site_of(model, family)
    fact = replace(zoo.FACT, prompts=zoo.FACT.prompts[:1])
    patch = make("rome", model, tokenizer, fact, site, prefixes=0)
    prompts = encode(tokenizer, model, fact.prompts, "Rome")
    ids = prompts.inputs["decoder_input_ids" if family == "t5" else "input_ids"][0].tolist()
    token = tokenizer.convert_tokens_to_ids("<extra_id_0>" if family == "t5" else "France")
    with torch.no_grad(), capture(model, [site], copy=True) as cap:
        call_model(model, prompts.inputs)
    key = cap[site][0, ids.index(token)].double()
    change = patch.changes[0]
    product = (change.left @ change.right).movedim(site.writes.axis, 0)
    moved = key @ product
    delta = change.left[:, 0] if site.writes.axis == 1 else change.right[0]
    torch.testing.assert_close(moved, delta, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["rome", "memit", "fine"])
def test_an_exception_inside_leaves_no_trace(method, monkeypatch):
    model, tokenizer = zoo.language_model("gpt2")
    site, before = find_sites(model)[0], zoo.trace(model)
    calls = []

    def fail(self, closure=None):
        calls.append(torch.rand(1))
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(torch.optim.Adam, "step", fail)
    with pytest.raises(KeyboardInterrupt):
        make(method, model, tokenizer, zoo.FACT, site)
    assert len(calls) == 3
    assert zoo.trace(model) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", ["rome", "memit", "fine"])
def test_other_types_of_weights(method, dtype):
    model, tokenizer = zoo.language_model("llama")
    model.to(dtype)
    site, before = find_sites(model)[0], zoo.trace(model)
    start = probability(model, tokenizer, zoo.FACT)
    with make(method, model, tokenizer, zoo.FACT, site).applied(model):
        assert model.get_parameter(site.writes.parameter).dtype == dtype
        assert probability(model, tokenizer, zoo.FACT) > 2 * start
    assert zoo.trace(model) == before


def test_masked_models_take_one_token():
    model, tokenizer = zoo.language_model("bert")
    with pytest.raises(FactError, match="one"):
        make("rome", model, tokenizer, replace(zoo.FACT, new_answer="New York"), find_sites(model)[0])


def test_the_encoder_of_an_encoder_decoder_can_be_edited():
    model, tokenizer = zoo.language_model("t5")
    site, before = find_sites(model)[0], zoo.trace(model)
    assert "encoder" in site.path
    start = probability(model, tokenizer, zoo.FACT)
    with make("rome", model, tokenizer, zoo.FACT, site).applied(model):
        assert probability(model, tokenizer, zoo.FACT) > start
    assert zoo.trace(model) == before


@pytest.mark.parametrize("family", zoo.LANGUAGE_MODELS)
def test_memit_spreads_several_facts_over_layers(family):
    model, tokenizer = zoo.language_model(family)
    other = Fact(("the capital of Spain is [Y]",), "Madrid", subject="Spain", id="spain", new_answer="Berlin")
    sites, before = find_sites(model), zoo.trace(model)
    spreads = {site: torch.eye(site.width) for site in sites}
    facts = [replace(zoo.FACT, prompts=zoo.FACT.prompts[:1]), other]
    options = {**SETTINGS, "weight": 0.05, "position": "answer"}
    starts = [probability(model, tokenizer, fact) for fact in facts]
    patch = memit(model, tokenizer, facts, list(reversed(sites)), covariance=spreads, **options)
    assert zoo.trace(model) == before
    assert [change.parameter for change in patch.changes] == [site.writes.parameter for site in sites]
    assert {min(change.left.shape[1], change.right.shape[0]) for change in patch.changes} == {2}
    with patch.applied(model):
        for fact, start in zip(facts, starts, strict=True):
            assert probability(model, tokenizer, fact) > min(4 * start, 0.7)


def test_a_layer_from_which_the_subject_does_not_reach_the_answer_is_an_error():
    model, tokenizer = zoo.language_model("gpt2")
    site = find_sites(model)[-1]
    with pytest.raises(PatchError, match=r"does not reach the answer.*position='answer'"):
        make("rome", model, tokenizer, zoo.FACT, site)
    patch = make("rome", model, tokenizer, zoo.FACT, site, position="answer")
    with patch.applied(model):
        assert probability(model, tokenizer, zoo.FACT) > 0.3
    unknown = make("rome", model, tokenizer, replace(zoo.FACT, subject="Atlantis"), site, kl_factor=0.0)
    bare = make("rome", model, tokenizer, replace(zoo.FACT, subject=""), site)
    assert torch.equal(unknown.changes[0].right, bare.changes[0].right)


def test_covariance_is_the_mean_product_over_real_tokens():
    model, tokenizer = zoo.language_model("gpt2")
    texts = ["the capital of France is Paris", "the river", "people speak French in the town ."]
    sites, before = find_sites(model), zoo.trace(model)
    found = key_covariances(model, texts, sites, tokenizer=tokenizer, batch_size=3)
    assert zoo.trace(model) == before
    model.eval()
    for site in sites:
        keys = []
        for text in texts:
            with torch.no_grad(), capture(model, site, copy=True) as cap:
                model(torch.tensor([tokenizer(text)["input_ids"]]))
            keys.append(cap[site][0].double())
        joined = torch.cat(keys)
        torch.testing.assert_close(found[site], joined.T @ joined / len(joined), rtol=1e-5, atol=1e-7)
        assert found[site].dtype == torch.float64
    single = key_covariance(model, texts, sites[0], tokenizer=tokenizer, batch_size=1)
    torch.testing.assert_close(single, found[sites[0]], rtol=1e-5, atol=1e-7)
    with pytest.raises(EmptyCorpusError):
        key_covariance(model, [], sites[0], tokenizer=tokenizer)


def test_a_singular_covariance_is_an_error_that_a_ridge_mends():
    model, tokenizer = zoo.language_model("gpt2")
    site = find_sites(model)[0]
    thin = torch.zeros(site.width, site.width)
    thin[0, 0] = 1.0
    with pytest.raises(PatchError, match=r"singular.*ridge="):
        make("rome", model, tokenizer, zoo.FACT, site, covariance=thin)
    make("rome", model, tokenizer, zoo.FACT, site, covariance=thin, ridge=0.01)


def test_fine_changes_nothing_but_the_chosen_slots_and_stops_early():
    model, tokenizer = zoo.language_model("llama")
    sites = find_sites(model)
    chosen = NeuronSet.of({sites[0]: [3, 7], sites[1]: [0]})
    patch = fine(model, tokenizer, zoo.FACT, chosen, lr=0.5, stop_probability=0.5, steps=300)
    outcome = patch.parameters["outcome"]
    assert outcome["probability"] >= 0.5 and 0 < outcome["steps"] < 300
    old = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with patch.applied(model):
        changed = {
            name: parameter.detach() != old[name]
            for name, parameter in model.named_parameters()
            if not torch.equal(parameter, old[name])
        }
    assert set(changed) == {site.writes.parameter for site in sites}
    assert changed[sites[0].writes.parameter].any(0).nonzero()[:, 0].tolist() == [3, 7]
    assert changed[sites[1].writes.parameter].any(0).nonzero()[:, 0].tolist() == [0]
    with pytest.raises(InvalidArgumentError, match="last 2 layers"):
        fine(model, tokenizer, zoo.FACT, chosen, frozen_layers=2)
    kept = fine(model, tokenizer, zoo.FACT, chosen, frozen_layers=1, steps=2)
    assert [change.parameter for change in kept.changes] == [sites[0].writes.parameter]


def test_fine_keeps_what_it_is_told_to_keep():
    model, tokenizer = zoo.language_model("gpt2")
    chosen = NeuronSet.of({find_sites(model)[0]: range(20)})
    keep = ("the capital of Spain is [Y]", "people in Italy speak [Y]")
    sister = Fact(keep[:1], "Madrid")
    before = probability(model, tokenizer, sister, "Madrid")
    changes = []
    for factor in (0.0, 300.0):
        patch = fine(
            model,
            tokenizer,
            zoo.FACT,
            chosen,
            lr=0.3,
            steps=60,
            stop_probability=1.0,
            kl_factor=factor,
            kl_prompts=keep,
        )
        with patch.applied(model):
            changes.append(abs(probability(model, tokenizer, sister, "Madrid") - before))
    assert changes[1] < 0.5 * changes[0]


def test_fine_control_trains_random_neurons():
    model, tokenizer = zoo.language_model("bert")
    site = find_sites(model)[0]
    patch = fine(model, tokenizer, zoo.FACT, NeuronSet.of({site: [1, 2]}), steps=3)
    control = patch.control(model, seed=1)
    assert len(control.parameters["neurons"][site.name]) == 2
    assert not {1, 2} & set(control.parameters["neurons"][site.name])
    assert control.parameters["outcome"]["steps"] == 3


def test_prefixes_are_sampled_from_the_model_by_seed():
    model, tokenizer = zoo.language_model("gpt2")
    before = zoo.trace(model)
    one, same, other = (
        resolve_prefixes(model, tokenizer, zoo.FACT.prompts, 4, tokens=5, seed=seed) for seed in (0, 0, 1)
    )
    assert zoo.trace(model) == before
    assert one == same != other and 0 < len(one) <= 4
    assert resolve_prefixes(model, tokenizer, zoo.FACT.prompts, ["In short"], tokens=5, seed=0) == [
        "In short"
    ]
    assert resolve_prefixes(model, tokenizer, ["the " * 20 + "[Y]"], 4, tokens=5, seed=0) == []
    masked, words = zoo.language_model("bert")
    assert resolve_prefixes(masked, words, zoo.FACT.prompts, 4, tokens=5, seed=0) == []
    patch = make("rome", model, tokenizer, zoo.FACT, find_sites(model)[0], prefixes=4, prefix_tokens=5)
    assert patch.parameters["prefixes"] == one
    for wrong in ("In short", -1):
        with pytest.raises(InvalidArgumentError, match="prefixes"):
            resolve_prefixes(model, tokenizer, zoo.FACT.prompts, wrong, tokens=5, seed=0)


@pytest.mark.parametrize(
    ("family", "prompt", "subject", "token"),
    [
        ("gpt2", "the capital of France is [Y]", "France", "France"),
        ("gpt2", "people of New York speak [Y]", "New York", "York"),
        ("bert", "the capital of France is [Y] .", "France", "France"),
        ("bert", "[Y] is the capital of Spain", "Spain", "Spain"),
        ("t5", "[Y] is the capital of New York", "New York", "York"),
    ],
)
def test_the_last_token_of_the_subject(family, prompt, subject, token):
    model, tokenizer = zoo.language_model(family)
    row = encode(tokenizer, model, [prompt], "Rome").inputs["input_ids"][0].tolist()
    at = last_subject_token(tokenizer, prompt, subject, row)
    assert tokenizer.convert_ids_to_tokens(row[at]) == token
    assert last_subject_token(tokenizer, prompt, "Atlantis", row) is None
    assert last_subject_token(tokenizer, prompt, "", row) is None


def test_what_cannot_be_done_is_said():
    model, tokenizer = zoo.language_model("gpt2")
    sites, before = find_sites(model), hash_model(model)
    site, eye = sites[0], torch.eye(24)
    chosen, spread = NeuronSet.of({site: [1]}), {site: eye}
    erased, unknown = replace(zoo.FACT, new_answer=None), replace(zoo.FACT, new_answer="Oslo")

    def run(method, fact=zoo.FACT, **options):
        return lambda: make(method, model, tokenizer, fact, site, **options)

    for error, match, call in [
        (InvalidArgumentError, "no new_answer", run("rome", erased)),
        (InvalidArgumentError, "no new_answer", run("fine", erased)),
        (InvalidArgumentError, "has shape", run("rome", covariance=torch.eye(3))),
        (InvalidArgumentError, "ridge", run("rome", ridge=-1.0)),
        (InvalidArgumentError, "steps must", run("rome", steps=0)),
        (InvalidArgumentError, "position", run("rome", position="end")),
        (InvalidArgumentError, "steps must", run("fine", lr=0.0)),
        (InvalidArgumentError, "weight", run("memit", weight=0.0)),
        (InvalidArgumentError, "no fact", lambda: memit(model, tokenizer, [], site, covariance=spread)),
        (InvalidArgumentError, "no fact", lambda: fine(model, tokenizer, [], chosen)),
        (
            InvalidArgumentError,
            "no covariance of",
            lambda: memit(model, tokenizer, zoo.FACT, sites, covariance=spread),
        ),
        (PatchError, "loss became", run("fine", lr=float("inf"))),
        (FactError, "does not know", run("rome", unknown)),
    ]:
        with pytest.raises(error, match=match):
            call()
        assert hash_model(model) == before
