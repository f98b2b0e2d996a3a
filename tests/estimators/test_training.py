"""The training loop: stacked networks, early stopping, divergence, scaling."""

import copy
import warnings

import numpy as np
import pytest
import torch

from neuronwise.discover.scaling import scaling_for
from neuronwise.errors import InvalidArgumentError
from neuronwise.estimators import TaskNeuronRegressor
from neuronwise.estimators._bundle import Modules, Stack, stackable
from neuronwise.estimators._fitting import Plan, fit_networks, prepare, split_rows
from neuronwise.estimators._inputs import Table
from neuronwise.estimators._network import build, count_parameters, settled
from neuronwise.estimators._neuron import Neuron, given
from neuronwise.estimators._train import Recipe, row_losses
from neuronwise.nn import kind

CPU = torch.device("cpu")


def network(
    spec, *, seed=0, inputs=3, hidden=(5, 4), outputs=2, task_layers="first", dtype=torch.float64, raw=False
):
    return build(
        None if spec == "linear" else kind(spec),
        inputs=inputs,
        hidden=hidden,
        outputs=outputs,
        activation="tanh",
        task_layers=task_layers,
        seed=seed,
        dtype=dtype,
        raw=raw,
    )


def recipe(**changes):
    values = {
        "learning_rate": 0.01,
        "weight_decay": 0.01,
        "batch_size": 16,
        "max_epochs": 12,
        "patience": 4,
        "device": CPU,
    }
    return Recipe(**(values | changes))


def table(n=120, d=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    y = X**2 @ np.ones((d, 1)) + 0.1 * rng.normal(size=(n, 1))
    return Table(X, y, np.ones(n), False, tuple("abc"[:d]))


def plan(**changes):
    values = {
        "hidden": (6,),
        "task_layers": "first",
        "activation": "relu",
        "outputs": 1,
        "scale": "standard",
        "clip": 5.0,
        "dtype": torch.float64,
    }
    return Plan(**(values | {"recipe": recipe()} | changes))


@pytest.mark.parametrize("spec", ["linear", "x**2 + x", "x + sin(2*x) + exp(x)"])
def test_a_stack_computes_what_its_modules_compute(spec):
    inputs = torch.randn(3, 20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    modules = [network(spec, seed=seed) for seed in range(3)]
    assert stackable(modules, inputs)
    stack = Stack(modules, inputs)
    out = stack(stack.features(inputs))
    for number, module in enumerate(modules):
        module[0].load_state_dict(settled(module[0], inputs[number]).state_dict())
        torch.testing.assert_close(out[number], module.eval()(inputs[number]))
    other = network(spec, seed=9)
    stack.write(1, other)
    torch.testing.assert_close(other(inputs[1]), out[1])


def test_features_of_raw_inputs_are_uncorrelated_while_they_are_trained():
    generator = torch.Generator().manual_seed(0)
    inputs = 9 + torch.rand(2, 50, 3, dtype=torch.float64, generator=generator)
    inputs[:, :, 2] = 4.0  # an input that does not vary
    modules = [network("x + x**2 + sin(x)", seed=seed, raw=True) for seed in range(2)]
    stack = Stack(modules, inputs)
    seen = stack.features(inputs)
    first = seen[0].unflatten(-1, (3, 3))[..., 0]
    sizes = torch.linalg.eigvalsh(first.T @ first / len(first))
    raw = settled(modules[0][0], inputs[0]).features(inputs[0]).unflatten(-1, (3, 3))[..., 0]
    before = torch.linalg.eigvalsh(raw.T @ raw / len(raw))
    assert before[1] < 0.02
    torch.testing.assert_close(sizes[1:], before[1:] / (before[1:] + 1e-3))
    assert sizes[1] > 0.25
    out = stack(seen)
    other = network("x + x**2 + sin(x)", seed=9, raw=True)
    for number in range(2):
        stack.write(number, other)
        torch.testing.assert_close(other(inputs[number]), out[number])
        # What has never varied has no influence.
        moved = inputs[number].clone()
        moved[:, 2] = 5.0
        torch.testing.assert_close(other(moved), out[number])


@pytest.mark.parametrize(
    ("spec", "layers"), [("product", "first"), ("x**2 + x", "all"), ("sin(<w1, x>)*<w2, x**2>", "first")]
)
def test_other_kinds_are_trained_as_modules(spec, layers):
    modules = [network(spec, task_layers=layers)]
    inputs = torch.randn(1, 40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert not stackable(modules, inputs)
    rows = table()
    prepared = [prepare(rows, split_rows(rows.target, np.arange(120), 0.2, 0), "standard", 5.0)]
    (fitted,) = fit_networks(rows, prepared, [given(spec)], plan(task_layers=layers, hidden=(6, 5)), [0])
    assert fitted.course.best_loss < fitted.course.start
    assert fitted.course.best_epoch > 0


def test_modules_and_stack_learn_the_same():
    rows = table()
    inputs = torch.from_numpy(rows.X)[None]
    target = torch.from_numpy(rows.target)[None]
    trained = []
    for bundle_of in (Stack, Modules):
        module = network("x**2 + x", outputs=1)
        bundle = bundle_of([module], inputs)
        seen = bundle.features(inputs) if isinstance(bundle, Stack) else inputs
        optimizer = torch.optim.SGD([p for group in bundle.parameters() for p in group], lr=0.05)
        bundle.mode(training=True)
        for _ in range(5):
            optimizer.zero_grad()
            row_losses(bundle(seen), target).mean().backward()
            optimizer.step()
        bundle.keep([True])
        bundle.write(0, module)
        trained.append(module(inputs[0]).detach())
    torch.testing.assert_close(trained[0], trained[1])


def test_networks_trained_together_are_those_trained_alone():
    rows = table()
    prepared = [
        prepare(rows, split_rows(rows.target, np.arange(120), 0.2, seed), "standard", 5.0)
        for seed in range(3)
    ]
    neurons = [given("x**2 + x"), Neuron.linear(), given("x**2 + x")]
    together = fit_networks(rows, prepared, neurons, plan(), [4, 5, 6])
    for number in range(3):
        (alone,) = fit_networks(rows, [prepared[number]], [neurons[number]], plan(), [4 + number])
        for name, tensor in alone.module.state_dict().items():
            torch.testing.assert_close(tensor, together[number].module.state_dict()[name])
        assert alone.course.best_epoch == together[number].course.best_epoch


def test_the_best_weights_are_kept_and_training_stops():
    rows = table(n=60)
    split = split_rows(rows.target, np.arange(60), 0.3, 0)
    prepared = prepare(rows, split, "standard", 5.0)
    long = plan(recipe=recipe(learning_rate=0.1, max_epochs=200, patience=5))
    (fitted,) = fit_networks(rows, [prepared], [Neuron.linear()], long, [0])
    course = fitted.course
    assert len(course.epochs) == course.best_epoch + 5 < 200
    losses = [epoch[2] for epoch in course.epochs]
    assert course.best_loss == min(losses) == losses[course.best_epoch - 1]
    assert fitted.losses(rows, split.validate).mean() == pytest.approx(course.best_loss)


def test_scaling_and_validation_know_nothing_of_each_other():
    rows = table()
    split = split_rows(rows.target, np.arange(120), 0.25, 0)
    assert len(split.validate) == 30
    assert not set(split.fit) & set(split.validate)
    prepared = prepare(rows, split, "standard", 100.0)
    np.testing.assert_allclose(prepared.inputs.centre, rows.X[split.fit].mean(0))
    np.testing.assert_allclose(prepared.targets.scale, rows.target[split.fit].std(0))


def test_classes_are_split_in_proportion_and_few_rows_not_at_all():
    codes = np.repeat([0, 1, 2], [80, 15, 5])
    split = split_rows(codes, np.arange(100), 0.2, 0)
    assert np.bincount(codes[split.validate]).tolist() == [16, 3, 1]
    assert split_rows(codes, np.arange(19), 0.2, 0).validate is None
    assert split_rows(codes, np.arange(100), 0.0, 0).validate is None


def test_settled_statistics_are_those_of_all_rows():
    inputs = 3 + 2 * torch.randn(500, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layer = settled(network("x**2 + x")[0], inputs)
    torch.testing.assert_close(layer.running_mean, inputs.mean(0))
    assert not layer.training


def test_a_rate_that_diverges_is_lowered_and_said():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 2))
    y = X.sum(1)
    wild = TaskNeuronRegressor("x + x**3", guard=False, learning_rate=1e12, hidden=(4,), max_epochs=30)
    with pytest.raises(InvalidArgumentError, match="did not stay finite at any learning rate from 1e"):
        wild.fit(X, y)
    tamed = TaskNeuronRegressor(
        "linear", learning_rate=300.0, hidden=(4,), max_epochs=30, activation="identity"
    ).fit(X, y)
    assert tamed.history_["learning_rate"].iloc[0] < 300
    assert np.isfinite(tamed.history_["train_loss"]).all()
    assert np.isfinite(tamed.predict(X)).all()


def test_one_outlier_does_not_press_the_others_together():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(200, 2))
    values[0, 0] = 100.0
    scaler = scaling_for(values, "standard", 5.0)
    assert scaler.scale[0] == pytest.approx(1, abs=0.15)
    assert scaler.apply(values)[0, 0] == 5.0
    rare = np.zeros((200, 1))
    rare[:2] = 1
    kept = scaling_for(rare, "standard", 5.0).apply(rare)
    assert kept[0, 0] - kept[5, 0] > 1  # a rare indicator stays one


def test_a_network_is_made_without_touching_the_global_state():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, again, other = network("x**2", seed=1), network("x**2", seed=1), network("x**2", seed=2)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first[0].weight, again[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)


def test_parameters_are_counted():
    # 10 inputs, 50 task neurons of 2 terms: 50 * (2 * 10 + 1), sheet section 8.4; and the output.
    assert count_parameters("x**2 + x", 10, (50,), 1) == 1050 + 51
    assert count_parameters("x**2 + x", 10, (50,), 1, linear=True) == 550 + 51
    assert count_parameters("6*x**2 + 2*x - 3", 2, (), 1) == 5


def test_losses_of_rows():
    output = torch.tensor([[[1.0, 3.0], [0.0, 0.0]]])
    assert row_losses(output, torch.zeros(1, 2, 2)).tolist() == [[5.0, 0.0]]
    entropy = row_losses(output, torch.tensor([[1, 0]]))
    torch.testing.assert_close(entropy, torch.tensor([[np.log(1 + np.exp(-2.0)), np.log(2.0)]]).float())


def test_padding_has_no_influence():
    rows = table(n=101)
    copied = copy.deepcopy(rows)
    splits = [split_rows(rows.target, np.arange(count), 0.2, 0) for count in (100, 101)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        padded = fit_networks(
            rows,
            [prepare(rows, split, "standard", 5.0) for split in splits],
            [Neuron.linear()] * 2,
            plan(),
            [0, 1],
        )
    assert all(np.isfinite(each.course.best_loss) for each in padded)
    validated = padded[0].losses(rows, splits[0].validate).mean()
    assert validated == pytest.approx(padded[0].course.best_loss)
    np.testing.assert_array_equal(rows.X, copied.X)
