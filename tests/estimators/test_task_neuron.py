"""Networks of task neurons: the guard, bad input, reproducibility, scikit-learn's tools, saving."""

import io
import json
from types import SimpleNamespace

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from neuronwise.discover import Group
from neuronwise.errors import (
    DataError,
    FormulaError,
    IncompleteResultError,
    InvalidArgumentError,
    NotAResultError,
    TamperedResultError,
    WriteError,
)
from neuronwise.estimators import Guard, TaskNeuronClassifier, TaskNeuronRegressor
from neuronwise.estimators._guard import _decide
from neuronwise.estimators._picture import curves
from neuronwise.formula import Formula

FAR = "Inputs far outside"
QUICK = {"hidden": (8,), "max_epochs": 40, "learning_rate": 0.02}


def waves(n=400, d=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, (n, d))
    return X, np.sin(3 * X) @ np.array([1.0, -2.0, 0.5])[:d] + 0.1 * rng.normal(size=n)


def plane(n=300, d=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    return X, X @ np.arange(1.0, d + 1) + 0.3 * rng.normal(size=n)


@pytest.fixture(scope="module")
def judged():
    X, y = waves()
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    return SimpleNamespace(X=frame, y=y, model=TaskNeuronRegressor(**QUICK).fit(frame[:300], y[:300]))


def test_the_guard_keeps_a_neuron_that_is_worth_it(judged):
    guard = judged.model.guard_
    assert guard.kept == "task"
    assert guard.p_value < guard.level
    assert guard.low > 0
    assert list(guard.folds["formula"].unique()) != ["linear"]
    assert "sin(3*x)" in str(judged.model.formula_)
    assert judged.model.formula_.weights  # with its numbers
    assert judged.model.kind_ is not None
    assert judged.model.score(judged.X[300:], judged.y[300:]) > 0.9


def test_the_formula_is_about_the_inputs_where_they_are_small():
    rng = np.random.default_rng(7)
    X = rng.uniform(-2, 2, (900, 4))
    y = 1.5 * np.sin(2 * X[:, 0]) - np.sin(2 * X[:, 3]) + 0.8 * X[:, 1] ** 2 - 0.5 * X[:, 2] ** 2
    y += 0.2 * rng.normal(size=len(y))
    model = TaskNeuronRegressor(hidden=(16,), guard=False, learning_rate=0.02).fit(X[:600], y[:600])
    assert [str(term.base) for term in model.formula_.terms if term.base] == ["x**2", "sin(2*x)"]
    assert model.scale_ == "none"
    assert model.formula_scaler_.raw
    assert model.module_.neurons1.normalise == "all"
    assert model.score(X[600:], y[600:]) > 0.97  # 0.985 is all that the noise leaves
    with pytest.warns(UserWarning, match=FAR) as said:
        farthest, far = (model.predict(np.full((1, 4), value)) for value in (1e100, 1e9))
    assert [warning.filename for warning in said] == [__file__] * 2
    assert np.isfinite(far).all()
    np.testing.assert_array_equal(farthest, far)
    with_units = TaskNeuronRegressor("x + x**2", hidden=(4,), guard=False, max_epochs=2).fit(1e3 * X, y)
    always = clone(with_units).set_params(scale="standard").fit(X, y)
    for one in (with_units, always):
        assert one.scale_ == "standard"
        assert one.module_.neurons1.normalise == "inputs"
        assert one.formula_scaler_ is one.input_scaler_
    linear = TaskNeuronRegressor("linear", hidden=(4,), max_epochs=2).fit(X, y)
    assert linear.scale_ == "none"
    assert not linear.input_scaler_.raw


def test_inputs_far_from_zero_are_learnt_as_well_as_they_are():
    X, y = waves(400)
    y = (X**2).sum(1)
    near, far = (
        TaskNeuronRegressor("x + x**2", guard=False, task_layers=layers, **QUICK).fit(
            X[:300] + shift, y[:300]
        )
        for shift, layers in ((0, "first"), (7.5, "first"))
    )
    assert near.scale_ == far.scale_ == "none"
    assert near.score(X[300:], y[300:]) > 0.97
    assert far.score(X[300:] + 7.5, y[300:]) > 0.97


def test_the_guard_refuses_a_neuron_that_does_harm():
    X, y = plane()
    model = TaskNeuronRegressor("sin(3*x)", **QUICK).fit(X, y)
    assert model.guard_.kept == "linear"
    assert model.guard_.gain < 0
    assert "no gain" in str(model.guard_)
    assert model.kind_ is None
    assert str(model.formula_).startswith("<w1, sin(3*x)>")  # what was asked for is not forgotten
    plain = TaskNeuronRegressor("linear", **QUICK).fit(X, y)
    np.testing.assert_array_equal(model.predict(X), plain.predict(X))
    forced = TaskNeuronRegressor("sin(3*x)", guard=False, **QUICK).fit(X, y)
    assert forced.guard_ is None
    assert forced.kind_ is not None


def test_noise_and_linear_data_keep_the_linear_network():
    X, y = plane()
    found = TaskNeuronRegressor(**QUICK).fit(X, y)
    assert found.guard_.kept == "linear"
    assert "no term beyond" in found.guard_.reason
    noise = TaskNeuronRegressor(**QUICK).fit(X, np.random.default_rng(5).normal(size=len(X)))
    assert noise.guard_.kept == "linear"
    few = TaskNeuronRegressor("x**2", **QUICK).fit(X[:30], y[:30])
    assert "too few" in few.guard_.reason


def test_the_test_of_the_guard_allows_for_folds_that_overlap():
    gains = np.array([0.1, 0.2, 0.15, 0.05, 0.1])
    folds = pd.DataFrame({"linear": 1 + gains, "task": 1.0, "gain": gains})
    guard = _decide(folds, classes=False)
    # Nadeau and Bengio: t = mean / sqrt((1/5 + 1/4) * variance), 4 degrees of freedom.
    assert guard.gain == pytest.approx(0.12)
    assert guard.p_value == pytest.approx(0.01746, abs=1e-5)
    assert guard.kept == "task"
    wide = _decide(folds.assign(gain=gains * [4, -1, 1, 1, 1]), classes=False)
    assert wide.kept == "linear"
    assert "within chance" in wide.reason
    same = _decide(folds.assign(gain=0.0), classes=False)
    assert (same.kept, same.p_value) == ("linear", 1.0)
    worse = _decide(folds.assign(task_error=0.2, linear_error=0.1), classes=True)
    assert worse.kept == "linear"
    assert "wrong class" in worse.reason


def test_the_same_seed_gives_the_same_network_and_touches_no_global_state():
    X, y = waves(200)
    before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    short = TaskNeuronRegressor(**QUICK | {"max_epochs": 5})
    one, two, other = (clone(short).set_params(random_state=seed).fit(X, y) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.predict(X), two.predict(X))
    assert one.guard_.gain == two.guard_.gain
    assert not np.array_equal(one.predict(X), other.predict(X))
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(torch_before, torch.get_rng_state())
    for state in (None, np.random.RandomState(0), np.random.default_rng(0)):
        TaskNeuronRegressor("linear", hidden=(), max_epochs=2, random_state=state).fit(X, y)
    with pytest.raises(InvalidArgumentError, match="random_state"):
        TaskNeuronRegressor(random_state="seed").fit(X, y)


def test_rows_of_weight_0_are_as_good_as_absent():
    X, y = waves(120)
    weight = np.ones(120)
    weight[::4] = 0
    spoilt = np.where(weight > 0, y, 1e6)
    model = TaskNeuronRegressor("x + sin(3*x)", guard=False, **QUICK)
    one = clone(model).fit(X, spoilt, sample_weight=weight)
    two = clone(model).fit(X[weight > 0], y[weight > 0])
    np.testing.assert_array_equal(one.predict(X), two.predict(X))


def test_weights_count():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 1))
    y = np.where(np.arange(200) < 100, 1.0, -1.0) + 0.01 * rng.normal(size=200)
    weight = np.where(np.arange(200) < 100, 9.0, 1.0)
    model = TaskNeuronRegressor("linear", hidden=(), max_epochs=60, learning_rate=0.05).fit(
        X, y, sample_weight=weight
    )
    assert model.predict(X).mean() == pytest.approx(0.8, abs=0.15)


def test_several_outputs():
    X, y = waves(200)
    both = np.column_stack([y, X[:, 0]])
    model = TaskNeuronRegressor(guard=False, **QUICK).fit(X, both)
    assert model.predict(X).shape == (200, 2)
    assert model.score(X, both) > 0.7
    assert model.fit(X, y[:, None]).predict(X).shape == (200, 1)


def test_labels_and_probabilities():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 2))
    labels = np.array(["near", "mid", "far"], dtype=object)[np.digitize((X**2).sum(1), [0.7, 2.0])]
    model = TaskNeuronClassifier(**QUICK, activation="tanh").fit(X[:200], labels[:200])
    assert model.classes_.tolist() == ["far", "mid", "near"]
    assert model.guard_.kept == "task"
    assert {"task_error", "linear_error"} <= set(model.guard_.folds)
    assert model.score(X[200:], labels[200:]) > 0.8
    probabilities = model.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    np.testing.assert_allclose(np.log(probabilities), model.predict_log_proba(X), atol=1e-9)


def test_huge_inputs_constant_columns_and_an_outlier():
    X, y = waves(300)
    plain = TaskNeuronRegressor("x + sin(3*x)", guard=False, **QUICK).fit(X[:200], y[:200])
    scaled = clone(plain).set_params(scale="standard").fit(X[:200], y[:200])
    huge = clone(scaled).fit(1e6 * X[:200] + 1e7, y[:200])
    np.testing.assert_allclose(huge.predict(1e6 * X + 1e7), scaled.predict(X), atol=1e-3)
    with pytest.warns(UserWarning, match=FAR):
        assert np.isfinite(plain.predict(np.full((1, 3), 1e100))).all()
    padded = np.column_stack([X, np.full(300, 7.0)])
    constant = clone(plain).fit(padded[:200], y[:200])
    assert constant.score(padded[200:], y[200:]) > 0.8
    spoilt = X.copy()
    spoilt[0, 0] = 100 * X[:, 0].std()
    outlier = clone(plain).fit(spoilt[:200], y[:200])
    assert outlier.score(X[200:], y[200:]) > 0.8


def test_clipped_inputs_are_named_and_only_those_farther_out_than_any_seen(tmp_path):
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"size": rng.normal(100, 20, 400), "rare": (np.arange(400) % 100 == 0).astype(float)})
    made = TaskNeuronRegressor("x", scale="standard", guard=False, hidden=(4,), max_epochs=2)
    model = made.fit(X, X["size"] + X["rare"])
    again = TaskNeuronRegressor.load(model.save(tmp_path / "model"))
    far = X.head(10).assign(size=[1000.0, -1000.0, *X["size"][:8]])
    for one in (model, again):
        one.predict(X)  # 1 in a column that is nearly always 0 is clipped, and nothing to warn of
        with pytest.warns(
            UserWarning, match=FAR + r".*rows: 2 of 10; columns: 'size' to \[.*\] \(rows: 2\)\."
        ):
            one.predict(far)
    assert model.input_scaler_.apply(X.to_numpy())[:, 1].max() == 5
    low, high = model.input_scaler_.undo(np.array([[-5.0], [5.0]]))[:, 0]
    at_the_clip = X.head(2).assign(size=[high, low])
    with pytest.warns(UserWarning, match=FAR):
        np.testing.assert_allclose(
            model.predict(far)[:2], model.predict(at_the_clip.assign(rare=far["rare"]))
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda X, y: (X.assign(b=np.where(np.arange(60) == 7, np.nan, X["b"])), y),
            "NaN in column 'b', row 7",
        ),
        (
            lambda X, y: (X.assign(c=np.where(np.arange(60) == 3, np.inf, X["c"])), y),
            "inf.* in column 'c', row 3",
        ),
        (lambda X, y: (X.assign(a="red", c="tall"), y), "not numbers: 'a', 'c'.*OneHotEncoder"),
        (lambda X, y: (X.to_numpy() * 1e200, y), "square is not a finite"),
        (lambda X, y: (X, np.where(np.arange(60) == 9, np.nan, y)), "y contains NaN in row 9"),
        (lambda X, y: (X, np.full(60, 2.5)), "constant .2.5 in every row"),
        (lambda X, y: (X, np.column_stack([y, np.ones(60)])), "Output 1 .* constant"),
        (lambda X, y: (X, np.full(60, "high")), "not made of numbers.*classifier"),
        (lambda X, y: (X, y[:50]), "inconsistent numbers of samples"),
    ],
)
def test_bad_tables_are_refused(change, message):
    X, y = waves(60)
    with pytest.raises(ValueError, match=f"(?s){message}") as error:
        TaskNeuronRegressor(**QUICK).fit(*change(pd.DataFrame(X, columns=["a", "b", "c"]), y))
    assert isinstance(error.value, DataError) or "inconsistent" in message


def test_one_class_is_refused():
    X, _ = waves(40)
    with pytest.raises(DataError, match=r"one class only \(no\)"):
        TaskNeuronClassifier(**QUICK).fit(X, ["no"] * 40)
    with pytest.raises(DataError, match="one class only"):
        TaskNeuronClassifier(**QUICK).fit(X, [0, 1] * 20, sample_weight=[0, 1] * 20)
    with pytest.raises(DataError, match="row 2"):
        TaskNeuronClassifier(**QUICK).fit(X, ["a", "b", None, *["a"] * 37])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"activation": "rellu"}, "relu"),
        ({"task_layers": "some"}, "first"),
        ({"dtype": "float16"}, "float32"),
        ({"hidden": 32}, "hidden"),
        ({"hidden": (8, 0)}, "hidden"),
        ({"max_epochs": 0}, "max_epochs"),
        ({"patience": True}, "patience"),
        ({"batch_size": "big"}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"clip": 0.5}, "clip"),
        ({"scale": "none"}, "standard"),
        ({"device": "toaster"}, "device"),
        ({"formula": None}, "formula"),
        ({"formula": 3}, "formula"),
        ({"method": "grupe"}, "group"),
        ({"bases": "polynomal"}, "polynomial"),
    ],
)
def test_wrong_parameters_are_refused(parameters, message):
    X, y = waves(60)
    with pytest.raises(InvalidArgumentError, match=message):
        TaskNeuronRegressor(**(QUICK | parameters)).fit(X, y)


def test_a_wrong_formula_shows_where():
    X, y = waves(60)
    with pytest.raises(FormulaError, match=r"\^"):
        TaskNeuronRegressor("x**2 + sinn(x)", **QUICK).fit(X, y)


@pytest.mark.parametrize(
    "formula", ["x**2 + x", "quadratic", Formula("x + tanh(x)"), ("x", "abs(x)"), "<w1, x>*<w2, x>"]
)
@pytest.mark.parametrize("layers", ["first", "all"])
def test_formulas_in_every_form_and_layer(formula, layers):
    X, y = waves(60)
    model = TaskNeuronRegressor(
        formula, guard=False, hidden=(4, 3), task_layers=layers, max_epochs=3, activation="silu"
    ).fit(X, y)
    assert np.isfinite(model.predict(X)).all()
    assert type(model.module_.neurons2).__name__ == ("NeuronLinear" if layers == "all" else "Linear")


def test_without_hidden_layers_the_output_is_the_task_neuron():
    X = np.random.default_rng(0).uniform(-2, 2, (300, 4))
    model = TaskNeuronRegressor("x**2 + x", hidden=(), guard=False, learning_rate=0.02, weight_decay=0).fit(
        X, (6 * X**2).sum(1)
    )
    assert model.score(X, (6 * X**2).sum(1)) > 0.99
    assert sum(p.numel() for p in model.module_.parameters()) == 9


def test_in_scikit_learns_tools(judged):
    X, y = waves(120)
    search = GridSearchCV(
        make_pipeline(
            StandardScaler(), TaskNeuronRegressor(guard=False, hidden=(8,), max_epochs=25, learning_rate=0.02)
        ),
        {"taskneuronregressor__formula": ["linear", "x + sin(3*x)"]},
        cv=2,
    ).fit(X, y)
    assert search.best_params_ == {"taskneuronregressor__formula": "x + sin(3*x)"}
    buffer = io.BytesIO()
    joblib.dump(judged.model, buffer)
    buffer.seek(0)
    again = joblib.load(buffer)
    np.testing.assert_array_equal(again.predict(judged.X), judged.model.predict(judged.X))
    assert again.discovery_ == judged.model.discovery_
    fresh = clone(judged.model)
    assert not hasattr(fresh, "module_")
    assert fresh.get_params() == judged.model.get_params()


def test_names_of_columns_are_kept_and_checked(judged):
    assert judged.model.feature_names_in_.tolist() == ["a", "b", "c"]
    assert judged.model.discovery_.inputs == ("a", "b", "c")
    with pytest.raises(ValueError, match="feature names"):
        judged.model.predict(judged.X.rename(columns={"a": "z"}))


def test_the_history(judged):
    history = judged.model.history_
    assert list(history.columns) == ["epoch", "train_loss", "validation_loss", "seconds", "learning_rate"]
    assert history["epoch"].tolist() == list(range(1, judged.model.n_iter_ + 1))
    assert judged.model.best_loss_ == history["validation_loss"].min()
    assert judged.model.loss_curve_ == history["train_loss"].tolist()
    assert history["seconds"].is_monotonic_increasing


def test_as_one_torch_module(judged):
    whole = judged.model.to_torch()
    rows = judged.X.to_numpy()
    out = whole(torch.from_numpy(rows.copy()))
    np.testing.assert_allclose(
        out.detach().numpy()[:, 0], judged.model.predict(judged.X), rtol=1e-4, atol=1e-5
    )
    assert whole(torch.from_numpy(rows.copy()).float()).dtype == torch.float32


def test_saved_and_loaded(judged, tmp_path):
    folder = judged.model.save(tmp_path / "model")
    again = TaskNeuronRegressor.load(folder)
    np.testing.assert_array_equal(again.predict(judged.X), judged.model.predict(judged.X))
    assert again.get_params() == judged.model.get_params()
    assert again.formula_ == judged.model.formula_
    assert again.scale_ == judged.model.scale_ == "none"
    pd.testing.assert_frame_equal(curves(again), curves(judged.model))
    assert again.discovery_ == judged.model.discovery_
    assert again.guard_.reason == judged.model.guard_.reason
    pd.testing.assert_frame_equal(again.guard_.folds, judged.model.guard_.folds)
    pd.testing.assert_frame_equal(again.history_, judged.model.history_)
    assert again.feature_names_in_.tolist() == ["a", "b", "c"]
    with pytest.raises(WriteError):
        judged.model.save(folder)
    judged.model.save(folder, overwrite=True)


def test_a_saved_classifier(tmp_path):
    X, _ = waves(60)
    labels = np.where(X[:, 0] > 0, "yes", "no")
    model = TaskNeuronClassifier(
        Formula("x + x**2"),
        method=Group(max_terms=3),
        guard=False,
        hidden=(4,),
        max_epochs=5,
        task_layers="all",
    ).fit(X, labels)
    again = TaskNeuronClassifier.load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert again.predict(X).tolist() == model.predict(X).tolist()
    assert again.get_params() == model.get_params()
    assert again.discovery_ is None
    assert again.guard_ is None
    with pytest.raises(InvalidArgumentError, match="random_state"):
        model.set_params(random_state=np.random.RandomState(0)).save(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_what_is_no_saved_estimator_is_refused(judged, tmp_path):
    with pytest.raises(NotAResultError):
        TaskNeuronRegressor.load(tmp_path / "nothing")
    folder = judged.model.save(tmp_path / "model")
    with pytest.raises(NotAResultError, match="TaskNeuronRegressor, not a TaskNeuronClassifier"):
        TaskNeuronClassifier.load(folder)
    about = json.loads((folder / "estimator.json").read_text(encoding="utf-8"))
    (folder / "estimator.json").write_text(json.dumps(about | {"version": 99}), encoding="utf-8")
    with pytest.raises(NotAResultError, match="newer"):
        TaskNeuronRegressor.load(folder)
    (folder / "estimator.json").write_text(json.dumps(about | {"state": {}}), encoding="utf-8")
    with pytest.raises(NotAResultError, match="not a whole estimator"):
        TaskNeuronRegressor.load(folder)
    (folder / "estimator.json").write_text(json.dumps(about), encoding="utf-8")
    data = bytearray((folder / "arrays.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "arrays.safetensors").write_bytes(data)
    with pytest.raises(TamperedResultError):
        TaskNeuronRegressor.load(folder)
    (folder / "arrays.safetensors").unlink()
    with pytest.raises(IncompleteResultError):
        TaskNeuronRegressor.load(folder)
    other = tmp_path / "other"
    other.mkdir()
    (other / "letter.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InvalidArgumentError, match="not a saved estimator"):
        judged.model.save(other, overwrite=True)
    assert (other / "letter.txt").exists()


def test_the_picture(judged):
    axes = judged.model.plot()
    assert len(axes) == 2
    assert axes[0].get_xlabel() == "epoch"
    assert len(axes[1].lines) == 3
    assert judged.model.plot(axes[0]) is axes[0]
    assert axes[1].get_xlabel() == "input"
    # Each curve is the formula itself up to a constant, over the values that the input has.
    found = curves(judged.model)
    for number, name in enumerate("abc"):
        part = found[found["input"] == name]
        assert judged.X[name].min() <= part["value"].min() < part["value"].max() <= judged.X[name].max()
        rows = np.zeros((len(part), 3))
        rows[:, number] = part["value"]
        whole = judged.model.formula_.evaluate(rows)
        np.testing.assert_allclose(part["effect"], whole - whole.mean(), atol=1e-9)
    X, y = waves(60)
    alone = TaskNeuronRegressor("product", guard=False, hidden=(3,), max_epochs=2).fit(X, y).plot()
    assert alone.get_xlabel() == "epoch"


def test_a_guard_in_plain_words():
    guard = Guard("linear", "it was no better.")
    assert str(guard) == "linear neurons kept: it was no better."
    assert Guard.from_dict(guard.to_dict()).reason == guard.reason
