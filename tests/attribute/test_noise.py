"""NoiseGrad, SmoothGrad and FusionGrad."""

import numpy as np
import pytest
import torch
from torch import nn

from neuronwise.attribute import (
    Counterfactual,
    FusionGrad,
    GradientTimesActivation,
    IntegratedGradients,
    LogProbability,
    NoiseGrad,
    SmoothGrad,
    attribute,
)
from neuronwise.errors import InvalidArgumentError
from neuronwise.sites import Site
from tests.attribute.models import case

WRAPPERS = (NoiseGrad, SmoothGrad, FusionGrad)
GRADIENT = GradientTimesActivation()


def of(found, method, **options):
    return attribute(
        found.model, found.inputs, LogProbability(found.answers), sites=found.sites, method=method, **options
    )


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_without_noise_it_is_the_plain_score(wrapper):
    found = case("gpt2")
    none = {"std": 0.0, "input_std": 0.0} if wrapper is FusionGrad else {"std": 0.0}
    noisy, plain = of(found, wrapper(IntegratedGradients(), **none)), of(found, IntegratedGradients())
    for site in found.sites:
        assert np.array_equal(noisy.scores[site], plain.scores[site])
    assert noisy.tables["completeness"].equals(plain.tables["completeness"])


@pytest.mark.parametrize("name", ["gpt2", "bert", "t5", "blocks"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_noise_is_seeded_leaves_no_trace_and_its_completeness_is_the_mean(wrapper, name):
    found = case(name)
    weights = {key: value.clone() for key, value in found.model.state_dict().items()}
    state = torch.get_rng_state()
    method = wrapper(IntegratedGradients(tolerance=1e-9), samples=3, seed=4)
    one, two = of(found, method), of(found, method)
    other = of(found, wrapper(IntegratedGradients(tolerance=1e-9), samples=3, seed=5))
    plain = of(found, IntegratedGradients(tolerance=1e-9))
    for site in found.sites:
        assert np.array_equal(one.scores[site], two.scores[site])
        assert not np.allclose(one.scores[site], other.scores[site], rtol=1e-3, atol=0)
        assert not np.allclose(one.scores[site], plain.scores[site], rtol=1e-3, atol=0)
    assert one.gap < 1e-6 and one.converged
    assert torch.equal(state, torch.get_rng_state())
    for key, value in found.model.state_dict().items():
        assert torch.equal(value, weights[key])


def test_the_mean_is_the_mean_of_the_samples_made_by_hand():
    found = case("blocks")
    mean = of(found, NoiseGrad(GRADIENT, samples=2, std=0.1, seed=7))
    drawn = torch.Generator().manual_seed(7)
    kept = {key: value.clone() for key, value in found.model.state_dict().items()}
    parts = []
    for _ in range(2):
        with torch.no_grad():
            for name, weight in found.model.named_parameters():
                factors = 1 + 0.1 * torch.randn(weight.shape, generator=drawn, dtype=torch.float32)
                weight.copy_(kept[name] * factors)
        parts.append(of(found, GRADIENT).scores)
    for site in found.sites:
        assert mean.scores[site] == pytest.approx((parts[0][site] + parts[1][site]) / 2, abs=1e-14)


def test_smoothing_is_relative_to_the_inputs_spread():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 1, bias=False)).double()
    site = Site("1", "input", width=4)
    x = torch.randn(5, 3, dtype=torch.float64)

    def scores(x, seed):
        method = SmoothGrad(GRADIENT, samples=2, std=0.3, seed=seed)
        return attribute(model, x, lambda out, examples: out[:, 0], sites=site, method=method).scores[site]

    assert scores(10 * x, 1) == pytest.approx(10 * scores(x, 1), abs=1e-12)
    drawn = torch.Generator().manual_seed(1)
    noise = (
        0.3
        * x.std()
        * torch.stack([torch.randn(5, 3, generator=drawn, dtype=torch.float64) for _ in range(2)])
    )
    expected = ((x + noise.mean(0)) @ model[0].weight.T * model[1].weight[0]).detach().numpy()
    assert scores(x, 1)[:, 0] == pytest.approx(expected, abs=1e-12)


def test_for_a_product_of_independent_layers_the_expectation_is_the_plain_score():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 1, bias=False)).double()
    site, x = Site("1", "input", width=4), torch.randn(1, 3, dtype=torch.float64)

    def scores(method):
        found = attribute(model, x, lambda out, examples: out[:, 0], sites=site, method=method)
        return found.scores[site][0, 0]

    samples, std = 3000, 0.2
    mean, plain = scores(NoiseGrad(GRADIENT, samples=samples, std=std)), scores(GRADIENT)
    # Score i is u_i a sum_j W_ij b_j x_j with independent a, b of mean 1 and variance std**2.
    u, terms = model[1].weight[0], model[0].weight * x
    second = (1 + std**2) * (terms.sum(1) ** 2 + std**2 * (terms**2).sum(1))
    error = (u.abs() * (second - terms.sum(1) ** 2).sqrt() / samples**0.5).detach().numpy()
    assert (np.abs(mean - plain) < 4 * error).all()
    assert not np.allclose(mean, plain, rtol=1e-6, atol=0)


def test_another_run_as_reference_is_run_with_the_same_noise():
    found = case("gpt2")
    result = of(found, NoiseGrad(IntegratedGradients(), samples=2), reference=Counterfactual(found.inputs))
    assert all(np.abs(scores).max() < 1e-12 for scores in result.scores.values())


def test_a_failing_score_leaves_the_weights_as_they_were():
    found = case("blocks")
    weights = {key: value.clone() for key, value in found.model.state_dict().items()}
    calls = []

    def target(output, examples):
        calls.append(1)
        if len(calls) > 3:
            raise ZeroDivisionError
        return output[:, -1, 0]

    with pytest.raises(ZeroDivisionError):
        attribute(found.model, found.inputs, target, sites=found.sites, method=NoiseGrad(samples=5))
    for key, value in found.model.state_dict().items():
        assert torch.equal(value, weights[key])


@pytest.mark.parametrize("options", [{"samples": 0}, {"std": -0.1}, {"std": float("nan")}])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_settings_out_of_range(wrapper, options):
    with pytest.raises(InvalidArgumentError, match="at least 1 sample"):
        wrapper(**options)


def test_what_was_run_is_told():
    found = case("blocks")
    told = of(found, NoiseGrad(GRADIENT, samples=2)).manifest.action["parameters"]["method"]
    assert told == {
        "name": "noise_grad", "method": {"name": "gradient_x_activation"}, "samples": 2, "std": 0.1, "seed": 0,
    }  # fmt: skip
