import pytest
import torch

from neuronwise.attribute import Answers, LogProbability, Probability, eliminate
from neuronwise.errors import InvalidArgumentError
from neuronwise.hooks import call_model, intervene
from tests.attribute.models import case, memory, solved


def problem_of(made, **options):
    target = LogProbability(made.answers)
    return solved(made.model, made.inputs, target, made.sites, positions="all", **options)


def by_hand(made, rows, k, step):
    """The same with one hook, one forward and one backward pass at a time, for the mean of some rows."""
    inputs = {name: values[rows] for name, values in made.inputs.items()}
    gone, values, order = [], [], []

    def passed():
        kept = {}

        def cut(site):
            def change(module, args):
                factor = torch.ones(site.width, dtype=args[0].dtype)
                factor[[index for own, index in gone if own == site]] = 0
                tensor = args[0] * factor
                kept[site] = tensor if tensor.requires_grad else tensor.requires_grad_()
                return (kept[site], *args[1:])

            return change

        with torch.enable_grad():
            handles = [
                made.model.get_submodule(site.path).register_forward_pre_hook(cut(site))
                for site in made.sites
            ]
            logits = made.model(**inputs).logits
            for handle in handles:
                handle.remove()
            at = torch.arange(len(rows))
            log_p = logits[at, made.answers.positions.reshape(-1)[rows]].log_softmax(-1)
            value = log_p[at, made.answers.answers.reshape(-1)[rows]].sum()
            slopes = torch.autograd.grad(value, [kept[site] for site in made.sites])
        scores = {}
        mask = inputs.get("attention_mask")
        for site, slope in zip(made.sites, slopes, strict=True):
            products = kept[site].detach() * slope
            if mask is not None:
                products = products * mask.unsqueeze(-1)
            for index, score in enumerate(products.sum((0, 1)).tolist()):
                scores[site, index] = score / len(rows)
        return value.item() / len(rows), scores

    for start in range(0, k, step):
        value, scores = passed()
        values.append(value)
        left = sorted((pair for pair in scores if pair not in gone), key=lambda pair: -scores[pair])
        best = left[: min(step, k - start)]
        gone += best
        order += best
    values.append(passed()[0])
    return order, values


@pytest.mark.parametrize("name", ["gpt2", "bert", "llama"])
@pytest.mark.parametrize(("k", "step"), [(6, 1), (7, 3)])
def test_elimination_is_what_it_is_by_hand(name, k, step):
    made = case(name)
    groups = torch.tensor([0, 1, 0])
    found = eliminate(problem_of(made), k, step=step, groups=groups)
    for group, rows in enumerate(([0, 2], [1])):
        order, values = by_hand(made, torch.tensor(rows), k, step)
        numbers = [list(made.sites).index(site) * 14 + index for site, index in order]
        assert found.order[group].tolist() == numbers
        assert found.values[group].tolist() == pytest.approx(values, abs=1e-10)
        for number, start in enumerate(range(0, k, step)):
            lost = values[number] - values[number + 1]
            assert found.drops[group, start : start + step].sum().item() == pytest.approx(lost, abs=1e-10)


def test_drops_add_up_and_values_are_those_of_an_ablation():
    made = case("gpt2")
    found = eliminate(problem_of(made), 10, step=4)
    assert found.drops.sum().item() == pytest.approx(
        (found.values[0, 0] - found.values[0, -1]).item(), abs=1e-12
    )
    with intervene(made.model, found.neurons(), "zero"), torch.no_grad():
        logits = call_model(made.model, made.inputs).logits
    rows = torch.arange(3)
    log_p = logits[rows, made.answers.positions.reshape(-1)].log_softmax(-1)
    assert log_p[rows, made.answers.answers.reshape(-1)].mean().item() == pytest.approx(
        found.values[0, -1].item(), abs=1e-10
    )


def test_memory_does_not_change_the_outcome():
    whole = eliminate(problem_of(case("gpt2")), 6, step=2, groups=torch.tensor([0, 0, 1]))
    parted = eliminate(problem_of(case("gpt2"), memory=1), 6, step=2, groups=torch.tensor([0, 0, 1]))
    assert torch.equal(whole.order, parted.order)
    assert torch.allclose(whole.drops, parted.drops, atol=1e-12)


def test_both_copies_of_a_fact_are_found():
    """Check C: either copy alone seems to be of little use (0.0568 of 0.8996); elimination takes both, and first."""
    model = memory(copies=2)
    x = model.query(1, 2)
    answers = Answers(torch.tensor([6]), torch.tensor([0]))
    problem = solved(model, x, Probability(answers), model.sites(), positions="all")
    found = eliminate(problem, 4, step=1)
    assert {number % 12 for number in found.order[0, :2].tolist()} == {6}
    assert sorted(found.order[0, :2].tolist()) == [6, 18]
    assert found.values[0, :3].tolist() == pytest.approx([0.999592, 0.942826, 0.1], abs=5e-7)
    assert found.drops[0].tolist() == pytest.approx([0.056766, 0.842826, 0, 0], abs=5e-7)


def test_neurons_have_their_drops_as_scores():
    made = case("gpt2")
    found = eliminate(problem_of(made), 9, step=2, groups=torch.tensor([0, 1, 1]))
    assert len(found.neurons(1, 5)) == 5 and not found.neurons(1, 5) - found.neurons(1)
    for group in (0, 1):
        frame = found.neurons(group).to_frame()
        names = [site.name for site in made.sites]
        scores = {
            names.index(site) * 14 + index: score
            for site, index, score in frame[["site", "neuron", "score"]].itertuples(index=False)
        }
        assert scores == dict(zip(found.order[group].tolist(), found.drops[group].tolist(), strict=True))
    first = set(found.order[1, :5].tolist())
    chosen = found.neurons(1, 5).to_frame()
    assert {names.index(s) * 14 + n for s, n in zip(chosen["site"], chosen["neuron"], strict=True)} == first


@pytest.mark.parametrize(("k", "step"), [(0, 1), (43, 1), (3, 0)])
def test_numbers_that_make_no_sense(k, step):
    with pytest.raises(InvalidArgumentError, match="k must be from 1 to 42"):
        eliminate(problem_of(case("gpt2")), k, step=step)
