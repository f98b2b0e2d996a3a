"""The model is a guest's host: nothing of it changes, whatever is asked and whatever goes wrong."""

import numpy as np
import pytest
import torch
from torch import nn

from neuronwise.attribute import (
    METHODS,
    Answers,
    IntegratedGradients,
    LogProbability,
    NeuronActivation,
    attribute,
)
from neuronwise.errors import BatchMismatchError, CompiledModelError, HookError, InvalidArgumentError
from neuronwise.sites import Site, Sites
from tests.attribute.models import build, case
from tests.contracts.test_interventions import same, state

UNFIT = {"bert": ("direct_logit", "log_probability_increase", "deeplift"), "gpt2": ("deeplift",)}


def prepared(name):
    """A model in training mode with gradients, frozen parts and a buffer."""
    found = case(name)
    parameters = list(found.model.parameters())
    found.model.train()
    parameters[0].requires_grad_(False)
    parameters[1].grad = torch.ones_like(parameters[1])
    return found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_nothing_is_left_behind(name, method):
    found = prepared(name)
    before = state(found.model)
    run = {**_run(found), "method": method}
    if method in UNFIT[name]:
        with pytest.raises(InvalidArgumentError):
            attribute(**run)
    else:
        attribute(**run)
    same(before, state(found.model))


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("method", ["integrated_gradients", "conductance", "noise_grad", "ablation"])
def test_nothing_is_left_behind_by_an_exception_in_the_target(method, after):
    found = prepared("gpt2")
    before, calls = state(found.model), []

    def target(output, examples):
        calls.append(1)
        if len(calls) > after:
            raise ZeroDivisionError
        return output.logits[:, -1, 0]

    with pytest.raises(ZeroDivisionError):
        attribute(found.model, found.inputs, target, method=method, positions=[0], memory=1)
    same(before, state(found.model))


def test_parameters_get_no_gradients_while_it_runs():
    found = case("gpt2")
    seen = []

    def target(output, examples):
        seen.append([parameter.requires_grad for parameter in found.model.parameters()])
        return output.logits[:, 0, 0]

    attribute(found.model, found.inputs, target, positions=[0])
    assert seen and not any(any(flags) for flags in seen)
    assert all(parameter.requires_grad for parameter in found.model.parameters())


@pytest.mark.parametrize("name", ["gpt2", "bert", "llama"])
def test_float32_agrees_with_float64(name):
    exact, rough = case(name), case(name, dtype=torch.float32)
    results = [
        attribute(
            found.model, found.inputs, LogProbability(found.answers), method=IntegratedGradients(nodes=8)
        )
        for found in (exact, rough)
    ]
    for site in exact.sites:
        scale = np.abs(results[0].scores[site]).max()
        assert np.abs(results[0].scores[site] - results[1].scores[site]).max() < 2e-5 * scale + 1e-6


def test_bfloat16_and_autocast_run_and_come_near():
    exact = attribute(**_run(case("gpt2")))
    half = attribute(**_run(case("gpt2", dtype=torch.bfloat16)))
    rough = case("gpt2", dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = attribute(**_run(rough))
    for result in (half, cast):
        for site, scores in exact.scores.items():
            assert np.isfinite(result.scores[site]).all()
            assert np.corrcoef(scores.ravel(), result.scores[site].ravel())[0, 1] > 0.95


def _run(found):
    target = LogProbability(found.answers)
    return {
        "model": found.model,
        "inputs": found.inputs,
        "target": target,
        "method": IntegratedGradients(nodes=6),
    }


class TestErrors:
    def setup_method(self):
        self.found = case("gpt2")

    def attribute(self, target=None, **options):
        target = LogProbability(self.found.answers) if target is None else target
        return attribute(self.found.model, options.pop("inputs", self.found.inputs), target, **options)

    @pytest.mark.parametrize(
        ("positions", "words"),
        [
            ([9], "there is no 9"),
            (torch.tensor([[8], [8], [7]]), "Position 8 of example 1 is padding"),
            (torch.tensor([[8], [6]]), "2 rows, the batch 3 examples"),
            ([0.5], "whole numbers"),
            ("last", '"all"'),
            (torch.tensor([[0], [-1], [0]]), "no position to score"),
            ([], "whole numbers"),
        ],
    )
    def test_positions(self, positions, words):
        with pytest.raises(InvalidArgumentError, match=words):
            self.attribute(positions=positions)

    def test_targets(self):
        with pytest.raises(InvalidArgumentError, match="one number a row"):
            self.attribute(lambda output, examples: output.logits[:, -1])
        with pytest.raises(InvalidArgumentError, match="Target or a function"):
            self.attribute("log_probability")
        with pytest.raises(InvalidArgumentError, match="answers for 2 examples"):
            self.attribute(LogProbability(Answers(torch.tensor([1, 2]), torch.tensor([0, 0]))))
        with pytest.raises(InvalidArgumentError, match="outside the vocabulary"):
            self.attribute(LogProbability(Answers(torch.tensor([1, 2, 99]), torch.tensor([0, 0, 0]))))
        with pytest.raises(InvalidArgumentError, match="there are 9 positions"):
            self.attribute(
                LogProbability(Answers(torch.tensor([1, 2, 3]), torch.tensor([0, 0, 9]))), positions=[0]
            )
        with pytest.raises(InvalidArgumentError, match="Positions count from 0"):
            Answers(torch.tensor([1]), torch.tensor([-1]))
        with pytest.raises(InvalidArgumentError, match="must both be"):
            Answers(torch.tensor([1]), torch.tensor([1, 2]))
        with pytest.raises(InvalidArgumentError, match="no neuron 14"):
            NeuronActivation(self.found.sites[0], 14)

    def test_a_model_without_a_head_says_what_can_be_done(self):
        import transformers as tf

        model = tf.GPT2Model(self.found.model.config).eval()
        with pytest.raises(InvalidArgumentError, match="target of your own"):
            attribute(model, self.found.inputs, LogProbability(self.found.answers))
        found = attribute(
            model, self.found.inputs, lambda out, examples: out.last_hidden_state[:, 3, 0], positions=[3]
        )
        assert found.converged

    def test_a_model_without_neurons(self):
        with pytest.raises((InvalidArgumentError, LookupError)):
            attribute(nn.Linear(2, 2), torch.ones(1, 2), lambda output, examples: output[:, 0])
        with pytest.raises(InvalidArgumentError, match="no site"):
            self.attribute(sites=Sites([]))

    def test_methods_forms_and_memory(self):
        with pytest.raises(InvalidArgumentError, match="integrated_gradients"):
            self.attribute(method="integrated_gradient")
        with pytest.raises(InvalidArgumentError, match="bytes"):
            self.attribute(memory=0)
        with pytest.raises(InvalidArgumentError, match="rule"):
            IntegratedGradients(rule="simpson")
        with pytest.raises(InvalidArgumentError, match="at least 2"):
            IntegratedGradients(rule="trapezoid", nodes=1)
        with pytest.raises(InvalidArgumentError, match="tolerance"):
            IntegratedGradients(tolerance=0.0)

    def test_batches(self):
        with pytest.raises(InvalidArgumentError, match="no examples"):
            self.attribute(inputs={"input_ids": torch.zeros(0, 3, dtype=torch.long)})
        with pytest.raises(BatchMismatchError):
            attribute(nn.Linear(2, 2), torch.ones(1, 2, dtype=torch.float64), lambda out, examples: out[:, 0],
                      sites=Site("", "output", width=2))  # fmt: skip

    def test_compiled_models(self):
        model = nn.DataParallel(build("blocks"))
        with pytest.raises(CompiledModelError):
            attribute(model, {"input_ids": torch.ones(1, 3, dtype=torch.long)}, lambda out, examples: out[:, 0, 0],
                      sites=Site("module.layers.0.down", "input", width=14))  # fmt: skip

    def test_a_site_behind_a_folded_batch(self):
        class Folded(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner, self.out = nn.Linear(3, 4), nn.Linear(4, 1)

            def forward(self, x):
                return self.out(self.inner(x.flatten(0, 1))).reshape(x.shape[:2])

        with pytest.raises((InvalidArgumentError, HookError), match="first axis"):
            attribute(
                Folded(),
                torch.ones(2, 5, 3),
                lambda out, examples: out[:, 0],
                sites=Site("out", "input", width=4),
            )
