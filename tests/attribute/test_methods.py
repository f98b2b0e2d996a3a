"""The methods beside integrated gradients: what they claim holds."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from neuronwise.attribute import (
    Ablation,
    Answers,
    Counterfactual,
    DeepLift,
    DirectLogitAttribution,
    IntegratedGradients,
    LogitDifference,
    LogProbability,
    LogProbabilityIncrease,
    Probability,
    attribute,
)
from neuronwise.errors import InvalidArgumentError
from neuronwise.sites import NeuronSet, Sites
from tests.attribute.models import build, case, sites_of


def hidden(model, path, inputs, *, tensor="output"):
    """The first tensor that comes by a module, read by a hook of the test's own."""
    kept = []

    def keep(_, args, output):
        value = args[0] if tensor == "input" else output
        kept.append(value if isinstance(value, torch.Tensor) else value[0])

    handle = model.get_submodule(path).register_forward_hook(keep)
    with torch.no_grad():
        model(**inputs)
    handle.remove()
    return kept[0]


FINAL = {"gpt2": "transformer.ln_f", "llama": "model.norm", "neox": "gpt_neox.final_layer_norm"}
PARTS = {
    "gpt2": ("transformer.drop", "transformer.h.{}.attn", "transformer.h.{}.mlp.c_proj"),
    "llama": ("model.embed_tokens", "model.layers.{}.self_attn", "model.layers.{}.mlp.down_proj"),
}


class TestDirectLogit:
    @pytest.mark.parametrize("name", ["gpt2", "llama"])
    def test_neurons_and_everything_else_add_up_to_the_logit(self, name):
        found = case(name)
        model, e, at, token = found.model, 1, 6, 17
        inputs = {key: value[e : e + 1, :7] for key, value in found.inputs.items()}
        result = attribute(model, found.inputs, LogProbability(found.answers), method="direct_logit")
        neurons = sum(scores[e].sum() for scores in result.scores.values())
        embedded, attention, down = PARTS[name]
        rest = hidden(model, embedded, inputs)[0, at]
        for layer in range(3):
            rest = rest + hidden(model, attention.format(layer), inputs)[0, at]
            bias = getattr(model.get_submodule(down.format(layer)), "bias", None)
            rest = rest + (0 if bias is None else bias.detach())
        stream = hidden(model, FINAL[name], inputs, tensor="input")[0, at]
        norm = model.get_submodule(FINAL[name])
        if name == "gpt2":
            centred = rest - rest.mean()
            through = centred / (stream.var(correction=0) + norm.eps).sqrt() * norm.weight + norm.bias
        else:
            through = rest / (stream.pow(2).mean() + norm.eps).sqrt() * norm.weight
        everything_else = float(through.detach() @ model.get_output_embeddings().weight[token].detach())
        with torch.no_grad():
            logit = float(model(**inputs).logits[0, at, token])
        assert neurons + everything_else == pytest.approx(logit, abs=1e-12)
        assert abs(neurons) > 1e-3

    @pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "t5", "blocks"])
    def test_a_difference_is_the_difference(self, name):
        found = case(name)
        method = DirectLogitAttribution(final_norm="norm") if name == "blocks" else DirectLogitAttribution()
        sites = Sites([site for site in found.sites if not site.path.startswith("encoder")])

        def scores(target):
            return attribute(found.model, found.inputs, target, sites=sites, method=method).scores

        other = Answers(torch.tensor([3, 3, 3]), found.answers.positions[:, 0])
        one, two = scores(LogProbability(found.answers)), scores(LogProbability(other))
        both = scores(LogitDifference(found.answers, 3))
        for site in sites:
            assert np.abs(one[site] - two[site] - both[site]).max() < 1e-12 and one[site].any()

    @pytest.mark.parametrize("name", ["neox", "t5"])
    def test_it_is_the_slope_of_the_logit_with_the_norm_held_fixed(self, name):
        """In the last layer nothing but the norm lies between; its centred derivative is the direct effect's part."""
        found = case(name)
        site = found.sites[-1]
        result = attribute(
            found.model,
            found.inputs,
            LogProbability(found.answers),
            sites=Sites([site]),
            method="direct_logit",
        )
        pushed = {}
        module = found.model.get_submodule(site.path)
        for sign in (1, -1):
            handle = module.register_forward_hook(
                lambda _, args, out, sign=sign: (
                    out + sign * 1e-5 * site.value_vectors(found.model)[3].detach()
                )
            )
            stream_path = "decoder.final_layer_norm" if name == "t5" else FINAL[name]
            pushed[sign] = hidden(found.model, stream_path, found.inputs, tensor="input")
            handle.remove()
        stream = (pushed[1] + pushed[-1]) / 2
        norm = found.model.get_submodule(stream_path)
        factor = 8**-0.5 if name == "t5" else 1.0
        for example in range(3):
            at, token = int(found.answers.positions[example, 0]), int(found.answers.answers[example, 0])
            z, v = stream[example, at], site.value_vectors(found.model)[3].detach()
            if name == "t5":
                through = v / (z.pow(2).mean() + norm.eps).sqrt() * norm.weight.detach()
            else:
                through = (v - v.mean()) / (z.var(correction=0) + norm.eps).sqrt() * norm.weight.detach()
            gain = factor * float(through @ found.model.get_output_embeddings().weight[token].detach())
            w = result.scores[site][example, 0, 3] / gain
            actual = hidden(found.model, site.path, found.inputs, tensor="input")[example, at, 3]
            assert w == pytest.approx(float(actual), rel=1e-6)

    def test_only_the_position_that_predicts_counts(self):
        found = case("gpt2")
        result = attribute(
            found.model, found.inputs, LogProbability(found.answers), method="direct_logit", positions="all"
        )
        for site in result.sites:
            for example, at in enumerate(found.answers.positions[:, 0].tolist()):
                assert np.flatnonzero(result.scores[site][example].any(-1)).tolist() == [at]

    @pytest.mark.parametrize("name", ["bert", "albert"])
    def test_post_norm_models_are_refused(self, name):
        found = case(name)
        with pytest.raises(InvalidArgumentError, match="final_norm="):
            attribute(found.model, found.inputs, LogProbability(found.answers), method="direct_logit")

    def test_a_named_norm_that_is_not_read_by_the_unembedding_is_found_out(self):
        found = case("gpt2")
        with pytest.raises(InvalidArgumentError, match="does not read the output of"):
            attribute(
                found.model, found.inputs, LogProbability(found.answers),
                method=DirectLogitAttribution(final_norm="transformer.h.1.ln_2"),
            )  # fmt: skip

    def test_encoders_and_models_without_a_head_are_refused(self):
        found = case("t5")
        with pytest.raises(InvalidArgumentError, match="is in the encoder"):
            attribute(found.model, found.inputs, LogProbability(found.answers), method="direct_logit")
        net = nn.Sequential(nn.Linear(2, 3), nn.GELU(), nn.Linear(3, 2))
        with pytest.raises(InvalidArgumentError, match="must be LogProbability"):
            attribute(net, torch.ones(1, 2), lambda out, examples: out[:, 0], method="direct_logit")
        answers = Answers(torch.tensor([1]), torch.tensor([0]))
        with pytest.raises(InvalidArgumentError, match="no unembedding"):
            attribute(net, torch.ones(1, 1, 2), LogProbability(answers), method="direct_logit")

    def test_a_block_that_scales_what_it_adds_is_found_out(self):
        found = case("blocks")
        handle = found.model.layers[2].register_forward_hook(
            lambda _, args, out: args[0] + 0.5 * (out - args[0])
        )
        with pytest.raises(InvalidArgumentError, match="does not add what its neurons write"):
            attribute(
                found.model, found.inputs, LogProbability(found.answers), sites=found.sites,
                method=DirectLogitAttribution(final_norm="norm"),
            )  # fmt: skip
        handle.remove()


class TestLogProbabilityIncrease:
    @pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "t5", "blocks"])
    def test_by_hand(self, name):
        found = case(name)
        norm_path = {"t5": "decoder.final_layer_norm", "blocks": "norm", **FINAL}[name]
        method = LogProbabilityIncrease(final_norm="norm") if name == "blocks" else LogProbabilityIncrease()
        sites = Sites([site for site in found.sites if not site.path.startswith("encoder")])
        result = attribute(
            found.model, found.inputs, LogProbability(found.answers), sites=sites, method=method
        )
        site, example, neuron = sites[1], 2, 6
        at, token = int(found.answers.positions[example, 0]), int(found.answers.answers[example, 0])
        block = f"{site.stack}.{site.layer}"
        z = (hidden(found.model, block, found.inputs) - hidden(found.model, site.path, found.inputs))[
            example, at
        ]
        w = hidden(found.model, site.path, found.inputs, tensor="input")[example, at, neuron]
        norm, head = found.model.get_submodule(norm_path), found.model.get_output_embeddings()
        factor = 8**-0.5 if name == "t5" else 1.0

        def log_p(stream):
            return float(head(factor * norm(stream)).log_softmax(-1)[token].detach())

        expected = log_p(z + w * site.value_vectors(found.model)[neuron]) - log_p(z)
        assert result.scores[site][example, 0, neuron] == pytest.approx(expected, abs=1e-12)

    def test_in_pieces_and_among_some(self):
        found = case("gpt2")
        target = LogProbability(found.answers)
        whole = attribute(found.model, found.inputs, target, method=LogProbabilityIncrease())
        chosen = NeuronSet.of({found.sites[1]: [2, 5]})
        some = attribute(
            found.model, found.inputs, target, method=LogProbabilityIncrease(among=chosen), memory=1
        )
        for site in found.sites:
            kept = np.isin(np.arange(14), chosen.indices(site))
            assert np.abs(some.scores[site][..., kept] - whole.scores[site][..., kept]).max(initial=0) < 1e-14
            assert np.isnan(some.scores[site][..., ~kept]).all()
        assert some.neurons().top(1).sites == (found.sites[1],)

    @pytest.mark.parametrize("name", ["bert", "albert"])
    def test_post_norm_models_are_refused(self, name):
        found = case(name)
        with pytest.raises(InvalidArgumentError, match=r"integrated_gradients|block"):
            attribute(
                found.model, found.inputs, LogProbability(found.answers), method="log_probability_increase"
            )

    def test_a_post_norm_block_of_the_users_own_is_refused(self):
        found = case("blocks")
        handle = found.model.layers[1].register_forward_hook(lambda _, args, out: torch.layer_norm(out, (8,)))
        with pytest.raises(InvalidArgumentError, match="post-norm"):
            attribute(
                found.model, found.inputs, LogProbability(found.answers), sites=found.sites,
                method=LogProbabilityIncrease(final_norm="norm"),
            )  # fmt: skip
        handle.remove()

    def test_other_targets_are_refused(self):
        found = case("gpt2")
        with pytest.raises(InvalidArgumentError, match="LogProbability or Probability"):
            attribute(
                found.model,
                found.inputs,
                LogitDifference(found.answers, 1),
                method="log_probability_increase",
            )


class TestReferences:
    def runs(self):
        found = case("gpt2")
        other = {**found.inputs, "input_ids": found.inputs["input_ids"].flip(0).roll(1, 1)}
        return found, other

    def test_gradient_with_another_run_is_attribution_patching(self):
        found, other = self.runs()
        target = LogProbability(found.answers)
        patched = attribute(
            found.model, found.inputs, target, method="gradient_x_activation", reference=Counterfactual(other)
        )
        exact = attribute(
            found.model, found.inputs, target, method="ablation", reference=Counterfactual(other)
        )
        site = found.sites[0]
        step = 1e-4
        for example, neuron in ((0, 2), (2, 11)):
            at = int(found.answers.positions[example, 0])
            there = hidden(found.model, site.path, other, tensor="input")[example, at, neuron]
            here = hidden(found.model, site.path, found.inputs, tensor="input")[example, at, neuron]
            values = []
            for value in (here + step * (here - there), here - step * (here - there), there):

                def put(_, args, value=value, at=at, example=example, neuron=neuron):
                    changed = args[0].clone()
                    changed[example, at, neuron] = value
                    return (changed,)

                handle = found.model.get_submodule(site.path).register_forward_pre_hook(put)
                with torch.no_grad():
                    logits = found.model(**found.inputs).logits[example, at]
                values.append(float(logits.log_softmax(-1)[int(found.answers.answers[example, 0])]))
                handle.remove()
            slope = (values[0] - values[1]) / (2 * step)
            assert patched.scores[site][example, 0, neuron] == pytest.approx(slope, rel=1e-6, abs=1e-10)
            lost = exact.value[example] - values[2]
            assert exact.scores[site][example, 0, neuron] == pytest.approx(lost, abs=1e-12)

    @pytest.mark.parametrize("joint", [False, True])
    def test_integrated_gradients_add_up_from_another_run(self, joint):
        found, other = self.runs()
        result = attribute(
            found.model, found.inputs, Probability(found.answers), reference=Counterfactual(other),
            method=IntegratedGradients(joint=joint, tolerance=1e-11),
        )  # fmt: skip
        assert result.gap < 1e-12 and result.manifest.action["parameters"]["reference"] == "counterfactual"

    def test_the_run_itself_as_reference_gives_nothing(self):
        found, _ = self.runs()
        result = attribute(
            found.model, found.inputs, Probability(found.answers), reference=Counterfactual(found.inputs)
        )
        assert all(np.abs(scores).max() < 1e-15 for scores in result.scores.values())

    def test_means(self):
        found, _ = self.runs()
        means = {site.name: np.linspace(-1, 1, 14) for site in found.sites}
        result = attribute(
            found.model, found.inputs, LogProbability(found.answers), method="activation", reference=means
        )
        site = found.sites[2]
        w = hidden(found.model, site.path, found.inputs, tensor="input")[0, 8]
        assert result.scores[site][0, 0] == pytest.approx(w.numpy() - means[site.name], abs=1e-15)

    def test_references_that_do_not_fit(self):
        found, other = self.runs()
        target = LogProbability(found.answers)
        for reference, words in (
            ({found.sites[0].name: np.zeros(14)}, "has nothing for"),
            ({site: np.zeros(3) for site in found.sites}, "one value a neuron"),
            (0.0, "activity.means"),
            (Counterfactual({name: value[:2] for name, value in other.items()}), "answers for 3"),
        ):
            with pytest.raises(InvalidArgumentError, match=words):
                attribute(found.model, found.inputs, target, reference=reference)


class TestDeepLift:
    def test_where_it_is_not_exact_it_says_so(self):
        found = case("gpt2")
        with pytest.raises(InvalidArgumentError, match="IntegratedGradients"):
            attribute(found.model, found.inputs, LogProbability(found.answers), method="deeplift")
        result = attribute(
            found.model, found.inputs, LogProbability(found.answers), method=DeepLift(exact=False)
        )
        assert result.gap > 1e-3 and not result.converged

    def test_modules_of_transformers_are_known(self):
        from transformers.activations import ACT2FN

        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(3, 5), ACT2FN["gelu_new"], nn.Linear(5, 4), ACT2FN["gelu"], nn.Linear(4, 1)
        )
        x = torch.randn(4, 3, dtype=torch.float64)
        from neuronwise.sites import Site

        site = Site("0", "output", width=5)
        result = attribute(model.double(), x, lambda out, examples: out[:, 0], sites=site, method="deeplift")
        assert result.gap < 1e-12

    def test_in_pieces_it_is_the_same(self):
        torch.manual_seed(0)
        from neuronwise.sites import Site

        model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1)).double()
        x, site = torch.randn(4, 3, dtype=torch.float64), Site("0", "output", width=5)
        one, two = (
            attribute(model, x, lambda out, examples: out[:, 0], sites=site, method="deeplift", memory=memory)
            for memory in (1, 1 << 30)
        )
        assert np.abs(one.scores[site] - two.scores[site]).max() < 1e-15 and one.scores[site].any()


def test_ablation_among_some_and_in_pieces():
    found = case("llama")
    chosen = NeuronSet.of({found.sites[0]: [1, 9]})
    target = Probability(found.answers)
    whole = attribute(found.model, found.inputs, target, method="ablation")
    some = attribute(found.model, found.inputs, target, method=Ablation(among=chosen), memory=1)
    for site in found.sites:
        kept = np.isin(np.arange(14), chosen.indices(site))
        assert np.abs(some.scores[site][..., kept] - whole.scores[site][..., kept]).max(initial=0) < 1e-14
        assert np.isnan(some.scores[site][..., ~kept]).all()
    assert some.manifest.action["parameters"]["method"]["among"] == {found.sites[0].name: [1, 9]}
    with pytest.raises(InvalidArgumentError, match="no neuron"):
        Ablation(among=NeuronSet())


def test_conductance_goes_along_the_embedding():
    """With everything behind one linear site, conductance is gradient times the change of the activation."""
    model = build("blocks")
    sites = sites_of("blocks", model)
    ids = torch.randint(1, 20, (2, 5), generator=torch.Generator().manual_seed(3))
    target = LogProbability(Answers(torch.tensor([3, 4]), torch.tensor([4, 4])))
    result = attribute(model, {"input_ids": ids}, target, sites=sites, method="conductance", positions="all")
    table = result.tables["completeness"]
    with torch.no_grad():
        model.embed.weight.mul_(0.0)
        zero = model(ids)[:, -1].log_softmax(-1)[[0, 1], [3, 4]]
    assert table["reference"][:2].to_numpy() == pytest.approx(zero.numpy(), abs=1e-12)
    assert math.isfinite(result.gap) and result.converged
