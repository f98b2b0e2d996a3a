"""Value slots: the planted memory of which every figure is known, and real families."""

import pytest
import torch
from torch import nn

from neuronwise.data import hash_model
from neuronwise.edit import erase_slots, set_slot, update_slots
from neuronwise.errors import InvalidArgumentError, NeuronIndexError, SiteNotFoundError
from neuronwise.sites import NeuronSet, Site, find_sites
from tests.edit import zoo

SUBJECTS, RELATIONS, OBJECTS = 4, 3, 10


class Memory(nn.Module):
    """One ReLU neuron for each subject and relation, which writes 5 times its object; logits are the objects."""

    def __init__(self):
        super().__init__()
        pairs = [(s, r) for s in range(SUBJECTS) for r in range(RELATIONS)]
        self.keys = nn.Linear(SUBJECTS + RELATIONS, len(pairs))
        self.act = nn.ReLU()
        self.values = nn.Linear(len(pairs), OBJECTS, bias=False)
        with torch.no_grad():
            self.keys.weight.zero_()
            self.keys.bias.fill_(-1.0)
            self.values.weight.zero_()
            for neuron, (s, r) in enumerate(pairs):
                self.keys.weight[neuron, s] = self.keys.weight[neuron, SUBJECTS + r] = 1.0
                self.values.weight[neuron % OBJECTS, neuron] = 5.0

    def forward(self, x):
        return self.values(self.act(self.keys(x)))


def probabilities(model):
    """P of every object for every fact, one row a fact (its neuron)."""
    eye, other = torch.eye(SUBJECTS), torch.eye(RELATIONS)
    rows = [torch.cat([eye[s], other[r]]) for s in range(SUBJECTS) for r in range(RELATIONS)]
    with torch.no_grad():
        return model(torch.stack(rows)).softmax(-1)


@pytest.mark.parametrize(("strengths", "expected"), [((1, 1), 0.942826), ((1, 8), 1.0), (None, 1.0)])
def test_the_planted_memory_is_rewritten_and_no_other_fact_moves(strengths, expected):
    model = Memory()
    site = find_sites(model)[0]
    before, fact, new = probabilities(model), 7, 2
    assert before[fact, fact].item() == pytest.approx(0.942826, abs=5e-7)
    words = torch.eye(OBJECTS)
    patch = update_slots(
        model, NeuronSet.of({site: [fact]}), remove=words[fact], add=words[new], strengths=strengths
    )
    assert torch.equal(probabilities(model), before)
    with patch.applied(model):
        after = probabilities(model)
    assert after[fact, new].item() == pytest.approx(expected, abs=5e-7)
    others = [row for row in range(len(before)) if row != fact]
    assert torch.equal(after[others], before[others])
    assert torch.equal(probabilities(model), before)


def test_erasing_the_planted_memory():
    model = Memory()
    site = find_sites(model)[0]
    before = probabilities(model)
    with erase_slots(model, NeuronSet.of({site: [7]})).applied(model):
        after = probabilities(model)
    assert after[7].tolist() == pytest.approx([0.1] * OBJECTS, abs=1e-7)
    assert torch.equal(after[[0, 11]], before[[0, 11]])


@pytest.mark.parametrize("family", [*zoo.LANGUAGE_MODELS, "t5"])
@pytest.mark.parametrize("variant", ["relative", "raw"])
def test_slots_of_every_family_follow_the_formula(family, variant):
    model, _ = zoo.language_model(family)
    site = find_sites(model)[-1]
    before = zoo.trace(model)
    words = model.get_input_embeddings().weight.detach()
    old = site.value_vectors(model).detach().clone()
    patch = update_slots(model, NeuronSet.of({site: [2, 9]}), remove=13, add=15, variant=variant)
    assert zoo.trace(model) == before
    with patch.applied(model):
        new = site.value_vectors(model).detach().clone()
    assert zoo.trace(model) == before
    for neuron in (2, 9):
        v, e, n = old[neuron], words[13], words[15]
        if variant == "relative":
            expected = v - v.norm() / e.norm() * e + 8 * v.norm() / n.norm() * n
        else:
            expected = v - 2 * e + 2 * n
        torch.testing.assert_close(new[neuron], expected)
    untouched = [n for n in range(site.width) if n not in (2, 9)]
    assert torch.equal(new[untouched], old[untouched])
    assert patch.parameters["neurons"] == {site.name: [2, 9]}


@pytest.mark.parametrize("family", zoo.LANGUAGE_MODELS)
def test_erasing_and_setting_slots(family):
    model, tokenizer = zoo.language_model(family)
    site = find_sites(model)[0]
    words = model.get_input_embeddings().weight.detach()
    chosen = NeuronSet.of({site: [0, 5]})
    cases = [
        (erase_slots(model, chosen), torch.zeros(2, 16), [0, 5]),
        (
            erase_slots(model, chosen, to="unknown", unknown=tokenizer.unk_token_id),
            words[tokenizer.unk_token_id].expand(2, 16),
            [0, 5],
        ),
        (set_slot(model, site, 5, torch.arange(16.0)), torch.arange(16.0)[None], [5]),
    ]
    for patch, expected, neurons in cases:
        before = hash_model(model)
        with patch.applied(model):
            assert torch.equal(site.value_vectors(model)[neurons], expected)
        assert hash_model(model) == before


def test_the_control_is_the_same_edit_of_other_neurons():
    model, _ = zoo.language_model("gpt2")
    sites = find_sites(model)
    chosen = NeuronSet.of({sites[0]: [1], sites[1]: [2, 3]})
    control = erase_slots(model, chosen).control(model, seed=3)
    assert control.method == "erase_slots (random)"
    drawn = control.parameters["neurons"]
    assert {name: len(found) for name, found in drawn.items()} == {sites[0].name: 1, sites[1].name: 2}
    assert not set(drawn[sites[1].name]) & {2, 3}
    with control.applied(model):
        assert not sites[1].value_vectors(model)[drawn[sites[1].name]].any()


def test_the_output_embedding_and_lists_of_one_token():
    model, _ = zoo.language_model("bert")
    site = find_sites(model)[0]
    chosen = NeuronSet.of({site: [4]})
    old = site.value_vectors(model)[4].detach().clone()
    patch = update_slots(model, chosen, add=[7], variant="raw", embedding="output")
    with patch.applied(model):
        torch.testing.assert_close(
            site.value_vectors(model)[4], old + 2 * model.get_output_embeddings().weight[7]
        )


def test_shared_layers_have_one_slot_for_all_their_calls():
    model, _ = zoo.language_model("albert")
    sites = list(find_sites(model))
    same = [site for site in sites if site.writes == sites[0].writes]
    assert len(same) > 1
    patch = erase_slots(model, NeuronSet.of({site: [3] for site in same}))
    assert [len(change.index) for change in patch.changes] == [1]


def test_what_cannot_be_done_is_said():
    model, _ = zoo.language_model("gpt2")
    site = find_sites(model)[0]
    chosen, memory = NeuronSet.of({site: [1]}), Memory()
    planted = NeuronSet.of({find_sites(memory)[0]: [1]})
    for error, match, call in [
        (
            InvalidArgumentError,
            "one token, and the answer has 2",
            lambda: update_slots(model, chosen, add=[3, 4]),
        ),
        (InvalidArgumentError, "no neuron", lambda: erase_slots(model, NeuronSet())),
        (InvalidArgumentError, "nothing would change", lambda: update_slots(model, chosen)),
        (InvalidArgumentError, "variant", lambda: update_slots(model, chosen, add=3, variant="both")),
        (InvalidArgumentError, "no token 99", lambda: update_slots(model, chosen, add=99)),
        (InvalidArgumentError, "needs unknown=", lambda: erase_slots(model, chosen, to="unknown")),
        (InvalidArgumentError, "to must be", lambda: erase_slots(model, chosen, to="nothing")),
        (
            InvalidArgumentError,
            "embedding must be",
            lambda: update_slots(model, chosen, add=3, embedding="x"),
        ),
        (InvalidArgumentError, "own width", lambda: update_slots(model, chosen, add=torch.ones(5))),
        (InvalidArgumentError, "one axis", lambda: update_slots(model, chosen, add=torch.ones(5, 1))),
        (InvalidArgumentError, "zero or not", lambda: update_slots(model, chosen, add=torch.zeros(16))),
        (InvalidArgumentError, "has shape", lambda: set_slot(model, site, 1, torch.ones(3))),
        (NeuronIndexError, "no neuron 24", lambda: set_slot(model, site, 24, torch.ones(16))),
        (
            SiteNotFoundError,
            "not known which weight",
            lambda: erase_slots(model, NeuronSet.of({Site("lm_head", "output", width=50): [1]})),
        ),
        (
            InvalidArgumentError,
            "input embedding",
            lambda: update_slots(memory, planted, add=3),
        ),
    ]:
        before = zoo.trace(model)
        with pytest.raises(error, match=match):
            call()
        assert zoo.trace(model) == before
