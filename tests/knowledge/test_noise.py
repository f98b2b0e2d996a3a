import numpy as np
import pytest
import torch

from neuronwise.attribute import (
    GradientTimesActivation,
    IntegratedGradients,
    NoiseGrad,
    Probability,
    attribute,
)
from neuronwise.data import encode, hash_model, load_model
from neuronwise.errors import InvalidArgumentError
from neuronwise.hooks import call_model
from neuronwise.knowledge.noise import noise_level, smoothed

pytest.importorskip("transformers")

PROMPTS = ["Once upon a time, there was a little girl named [Y]", "There was a girl named [Y]"]


@pytest.fixture(scope="module")
def small():
    return load_model("stories260k")


@pytest.fixture(scope="module")
def prompts(small):
    return encode(small.tokenizer, small.model, PROMPTS, "Lily")


def log_p(model, prompts):
    with torch.no_grad():
        logits = call_model(model, prompts.inputs).logits[torch.arange(len(prompts)), prompts.positions[:, 0]]
    return float(logits.log_softmax(-1).gather(1, prompts.answers).mean())


def test_the_answers_lose_as_much_as_was_asked_for(small, prompts):
    before, state = hash_model(small.model), torch.get_rng_state()
    level = noise_level(small.model, prompts, fall=0.2, samples=4, seed=3)
    assert hash_model(small.model) == before and torch.equal(torch.get_rng_state(), state)
    assert all(parameter.requires_grad for parameter in small.model.parameters())
    assert noise_level(small.model, prompts, fall=0.2, samples=4, seed=3) == level

    drawn, falls = torch.Generator().manual_seed(3), []
    clean = log_p(small.model, prompts)
    for _ in range(4):
        noisy = load_model("stories260k").model
        with torch.no_grad():
            for weight in noisy.parameters():
                weight.mul_(1 + level * torch.randn(weight.shape, generator=drawn))
        falls.append(clean - log_p(noisy, prompts))
    assert np.mean(falls) == pytest.approx(0.2, rel=0.05)


def test_more_may_be_lost_with_more_noise(small, prompts):
    levels = [noise_level(small.model, prompts, fall=fall, samples=2) for fall in (0.02, 0.1, 0.5)]
    assert levels == sorted(levels) and len(set(levels)) == 3
    assert noise_level(small.model, prompts, fall=1000.0, samples=1) == 1.0


def test_a_fall_that_the_smallest_noise_exceeds(small):
    # Of an unlikely answer noise changes the probability at once, and by chance downwards.
    unlikely = encode(small.tokenizer, small.model, PROMPTS, "the")
    with pytest.raises(InvalidArgumentError, match="answers the model knows"):
        for seed in range(8):
            noise_level(small.model, unlikely, fall=1e-7, samples=1, seed=seed)
    with pytest.raises(InvalidArgumentError, match="more than 0"):
        noise_level(small.model, unlikely, fall=0.0)


def test_one_prompt_mode(small, prompts):
    one = prompts.select([0])
    method = smoothed(small.model, one, samples=3, seed=1)
    assert isinstance(method, NoiseGrad) and isinstance(method.method, IntegratedGradients)
    assert (method.samples, method.seed) == (3, 1)
    assert method.std == noise_level(small.model, one, samples=3, seed=1)
    found = attribute(small.model, one.inputs, Probability(one), method=method)
    plain = attribute(small.model, one.inputs, Probability(one))
    shared = len(found.neurons().top(20) & plain.neurons().top(20))
    assert 12 <= shared < 20
    assert (
        smoothed(small.model, one, GradientTimesActivation(), samples=1).method == GradientTimesActivation()
    )
