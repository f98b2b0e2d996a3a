"""From a table to a result: figures, confidence, refit, saving, every kind of target, bad input."""

import numpy as np
import pandas as pd
import pytest

from neuronwise.discover import METHODS, Discovery, Group, Method, Shared, discover
from neuronwise.errors import DataError, FormulaError, InvalidArgumentError
from neuronwise.formula import Formula
from neuronwise.store import load_result

NAMES = ["age", "height", "width"]


def data(n=400, seed=0, noise=0.2):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, (n, 3))
    y = X**2 @ [1, -2, 0.5] + np.sin(3 * X) @ [0.5, 1, -1] + 3
    return pd.DataFrame(X, columns=NAMES), y + noise * rng.standard_normal(n)


_QUICK = {"bases": "x, x**2, sin(3*x)", "confidence": "none"}


def _wild(X, y, row):
    far = X.copy()
    far.loc[row, "age"] = 100.0
    return far, y


@pytest.fixture(scope="module")
def found():
    X, y = data()
    return discover(X, y, resamples=4)


class TestResult:
    def test_the_formula_and_what_is_known_of_it(self, found):
        assert found.terms == ("x**2", "sin(3*x)")
        assert found.formula.inputs == tuple(NAMES)
        assert found.formula.weights["w1"] == pytest.approx([1, -2, 0.5], abs=0.05)
        assert found.alternatives == []
        assert found.task == "regression"
        assert found.outputs == (found.formula,)
        assert str(found.neuron) == "<w1, x**2> + <w2, sin(3*x)> + b1"

    def test_figures_are_of_rows_that_the_search_has_not_seen(self, found):
        fresh, target = data(4000, seed=9)
        low, high = found.interval("r2")
        assert low < found.figures["r2"] < high
        assert low - 0.003 < found.score(fresh, target) < high + 0.003
        assert found.figures["rows_search"] == 300
        assert found.figures["rows_held_out"] == 100
        assert found.figures["rmse"] == pytest.approx(0.2, abs=0.05)
        assert found.figures["gain_over_linear"] > 0.8
        assert found.figures["seconds"] > 0
        assert "again to all rows" in " ".join(found.notes)

    def test_the_target_and_the_ranges_of_the_inputs_are_recorded(self):
        X, y = data()
        whole = discover(X, pd.Series(y, name="load"), confidence="none", held_out=0)
        assert whole.target == "load"
        np.testing.assert_array_equal(whole.ranges, np.stack([X.min(), X.max()], axis=1))
        part = discover(X.to_numpy(), y, confidence="none", bases="x")
        assert part.target == ""
        assert (part.ranges[:, 0] >= whole.ranges[:, 0]).all() and (
            part.ranges[:, 1] <= whole.ranges[:, 1]
        ).all()

    def test_intervals_hold_possible_values_only(self):
        X, _ = data(60)
        exact = X["age"] + 1e-6 * np.sin(40 * X["width"])
        wild = exact.copy()
        wild.iloc[::7] *= 50
        for y in (exact, wild):
            found = discover(X, y, bases="x", confidence="none")
            assert found.interval("r2")[1] <= 1 and found.interval("r2_linear")[1] <= 1
            assert found.interval("rmse")[0] >= 0
        labels = X["age"] + 0.3 * X["height"] > 0
        sure = discover(X, labels, bases="x", confidence="none")
        assert sure.figures["accuracy"] > 0.8
        assert sure.interval("accuracy")[1] <= 1 and sure.interval("deviance_explained")[1] <= 1

    def test_a_wild_row_that_was_held_out_does_not_bend_the_formula(self):
        X, y = data()
        place = next(row for row in range(400) if discover(*_wild(X, y, row), **_QUICK).ranges[0, 1] < 3)
        found = discover(*_wild(X, y, place), **_QUICK)
        assert "no better than a constant" not in " ".join(found.notes)
        raw = discover(*_wild(X, y, place), **_QUICK, scale="none")
        assert raw.figures["r2"] < 0
        assert "On the held-out rows the formula is no better than a constant" in " ".join(raw.notes)
        assert "were clipped: age (1)." in " ".join(found.notes)
        assert "all rows but the 1 held-out" in " ".join(found.notes)
        assert found.formula.weights["w1"] == pytest.approx([1, -2, 0.5], abs=0.05)

    def test_a_class_that_is_missing_in_a_half_is_no_hindrance(self):
        X, _ = data(200)
        labels = np.digitize(X["age"], [-1, 1]).astype(object)
        labels[[3, 90, 150]] = 9
        found = discover(X, labels, task="classification", bases="x, x**2", resamples=6)
        assert "x" in found.terms

    def test_the_interval_covers_the_truth(self):
        covered = 0
        for seed in range(10):
            X, y = data(200, seed=seed, noise=1.0)
            one = discover(X, y, bases="x**2, sin(3*x)", confidence="none", held_out=0.5)
            fresh, target = data(4000, seed=seed + 100, noise=1.0)
            low, high = one.interval("r2")
            covered += low <= one.score(fresh, target) <= high
        assert covered >= 7

    def test_tables(self, found):
        terms = found.tables["formula_terms"]
        best = terms[terms["rank"] == 0]
        assert best["share"].sum() == pytest.approx(1)
        assert best["base"].tolist() == ["x**2", "sin(3*x)", ""]
        assert best["frequency"].iloc[0] == 1.0
        weights = found.tables["term_weights"]
        first = weights[(weights["rank"] == 0) & (weights["term"] == 0)]
        assert first["input"].tolist() == NAMES
        assert first["weight"].to_numpy() == pytest.approx(found.formula.weights["w1"])
        table = found.to_frame()
        assert table["delta"].iloc[0] == 0
        assert (table["explained"].iloc[0], table["held_out"].iloc[0]) == pytest.approx(
            (0.99, 0.99), abs=0.01
        )

    def test_confidence(self, found):
        table = found.confidence
        assert table["base"].tolist()[:2] == ["x**2", "sin(3*x)"] or table["base"].tolist()[:2] == [
            "sin(3*x)",
            "x**2",
        ]
        assert table["frequency"].tolist()[:3] == [1, 1, 0]

    def test_saved_and_read_back(self, found, tmp_path):
        again = load_result(found.save(tmp_path / "result"))
        assert isinstance(again, Discovery)
        assert again == found
        assert again.formula == found.formula
        X, _ = data()
        assert np.array_equal(again.predict(X), found.predict(X))
        assert again.notes == found.notes

    def test_the_same_again(self, found):
        X, y = data()
        assert discover(X, y, resamples=4) == found
        one, other = (discover(X, y, confidence="none", seed=seed) for seed in (0, 1))
        assert one != other

    def test_a_round_trip_by_text(self, found):
        X, _ = data()
        formula = found.formula
        again = Formula(str(formula), inputs=formula.inputs, weights=formula.weights)
        assert np.array_equal(again.evaluate(np.ascontiguousarray(X)), found.predict(X))

    def test_summary(self, found):
        text = found.summary()
        assert "group: <w1, x**2> + <w2, sin(3*x)>" in text
        assert "r2: 0.99" in text

    def test_unknown_figures_are_refused(self, found):
        with pytest.raises(InvalidArgumentError, match="r2_linear"):
            found.interval("r3")


class TestPrediction:
    def test_columns_may_come_in_any_order(self, found):
        X, _ = data()
        assert np.array_equal(
            found.predict(X[["width", "age", "height"]].assign(more="text")), found.predict(X)
        )
        assert np.array_equal(found.predict(X.to_numpy()), found.predict(X))
        assert np.array_equal(found.predict(np.asfortranarray(X)), found.predict(np.ascontiguousarray(X)))

    def test_tables_that_do_not_fit(self, found):
        X, _ = data()
        with pytest.raises(DataError, match="lacks the columns height"):
            found.predict(X.drop(columns="height"))
        with pytest.raises(DataError, match="3 inputs; this table has 2"):
            found.predict(X.to_numpy()[:, :2])
        with pytest.raises(InvalidArgumentError, match="no probabilities"):
            found.predict_proba(X)

    def test_rows_outside_a_domain_are_named(self):
        X = np.random.default_rng(0).uniform(1, 3, (100, 2))
        one = discover(X, np.log(X).sum(1), bases="log(x)", confidence="none")
        X[7, 1] = -1
        with pytest.raises(DataError, match="not defined on 1 row, the first of them row 7"):
            one.predict(X)

    def test_huge_inputs_are_standardised_and_clipped(self):
        X, y = data()
        one = discover(X * 1e6, y, confidence="none")
        assert one.figures["r2"] > 0.9
        with pytest.warns(UserWarning, match=r"Inputs far outside.*rows: \d+ of"):
            assert np.isfinite(one.predict(X * 1e9)).all()
        assert not one.scaling.raw

    def test_one_outlier_at_100_deviations(self):
        X, y = data()
        X.iloc[0, 0] = 200.0
        for seed in range(4):  # among the rows of the search, or the held-out ones
            one = discover(X, y, confidence="none", seed=seed)
            assert one.figures["r2"] > 0.75
            with pytest.warns(UserWarning, match="Inputs far outside.*rows: 1 of"):
                assert np.isfinite(one.predict(X)).all()


class TestTargets:
    def test_classes(self):
        X, y = data(600)
        X["group"] = np.where(y > y.mean(), "high", "low")
        one = discover(X, "group", confidence="none")
        assert one.classes == ("high", "low")
        assert one.score(X.drop(columns="group"), X["group"]) > 0.9
        assert one.predict_proba(X.drop(columns="group")).sum(1) == pytest.approx(1)
        assert set(one.predict(X.drop(columns="group"))) == {"high", "low"}
        assert one.figures["accuracy"] > one.figures["accuracy_constant"] + 0.3

    def test_many_classes(self, tmp_path):
        rng = np.random.default_rng(0)
        X = rng.uniform(-2, 2, (500, 3))
        labels = np.array(["a", "b", "c"])[
            (X**2 @ rng.standard_normal((3, 3)) + rng.gumbel(size=(500, 3))).argmax(1)
        ]
        one = discover(X, labels, confidence="none")
        assert one.terms == ("x**2",)
        assert len(one.outputs) == 3
        again = load_result(one.save(tmp_path / "result"))
        assert again.formula == one.formula
        assert np.array_equal(again.predict_proba(X), one.predict_proba(X))

    def test_a_class_with_one_row_is_searched(self):
        X, y = data()
        labels = np.where(y > y.mean(), "high", "low").astype(object)
        labels[3] = "odd"
        one = discover(X, labels, confidence="none", bases="x, x**2")
        assert one.classes == ("high", "low", "odd")

    def test_counts(self):
        X, y = data(600, noise=0)
        counts = np.random.default_rng(0).poisson(np.exp(0.5 * (y - 3)))
        one = discover(X, counts, task="count", confidence="none")
        assert one.terms == ("x**2", "sin(3*x)")
        assert one.score(X, counts) == pytest.approx(one.figures["deviance_explained"], abs=0.15)

    def test_several_outputs(self):
        X, y = data(noise=0)
        target = np.column_stack([y, X.to_numpy() @ [1, 2, 3]])
        one = discover(X, target, confidence="none")
        assert one.predict(X) == pytest.approx(target, abs=1e-8)
        assert one.score(X, target) == pytest.approx(1)


class TestChance:
    def test_nothing_beyond_chance(self):
        X, _ = data()
        one = discover(X, np.random.default_rng(1).standard_normal(400), confidence="none")
        assert one.terms == ()
        assert str(one.neuron) == "x"
        assert one.formula.evaluate(X.to_numpy()).std() < 1e-12
        assert "Nothing was found beyond chance" in " ".join(one.notes)
        assert abs(one.figures["r2"]) < 0.05

    def test_a_linear_target(self):
        X, _ = data()
        one = discover(X, X.to_numpy() @ [1, 2, 3.0], confidence="none")
        assert one.terms == ("x",)
        assert str(one.formula) == "<w1, x>"
        assert "linear formula suffices" in " ".join(one.notes)

    def test_without_held_out_rows_that_is_said(self):
        X, y = data()
        one = discover(X, y, held_out=0, confidence="none")
        assert "r2" not in one.figures
        assert "No rows were held out" in " ".join(one.notes)


class TestMethods:
    @pytest.mark.parametrize("method", ["shared", Group(max_terms=1), Shared(width=2)])
    def test_by_name_or_with_settings(self, method):
        X, y = data()
        one = discover(X, y, method=method, confidence="none")
        assert isinstance(one.formula, Formula)

    def test_knockoffs(self):
        X, y = data(600)
        one = discover(X, y, confidence="knockoffs", bases="x, x**2, sin(3*x), abs(x)", fdr=0.2)
        table = one.confidence.set_index("base")
        assert table.loc["x**2", "statistic"] > table.loc["x", "statistic"]

    def test_every_method_is_one(self):
        for name, method in METHODS.items():
            assert isinstance(method(), Method)
            assert method().name == name

    def test_a_method_without_a_refit_says_whose_numbers_they_are(self):
        class Fixed:
            name = "group"

            def search(self, problem, *, engine="local", workers=None):
                return Group().search(problem)

        X, y = data()
        with pytest.raises(TypeError):
            discover(X, y, method=Fixed(), confidence="none")  # settings are read from a data class


class TestBadArguments:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"method": "magic"}, "no search method 'magic'"),
            ({"method": 3}, "or a Method"),
            ({"held_out": 1.0}, "held_out"),
            ({"margin": -1.0}, "margin"),
            ({"confidence": "sure"}, "confidence must be one of"),
            ({"bases": "nothing"}, "preset"),
            ({"engine": "cloud", "resamples": 4}, "engine"),
        ],
    )
    def test_are_refused(self, options, words):
        X, y = data(60)
        with pytest.raises(InvalidArgumentError, match=words):
            discover(X, y, **options)

    def test_formulas_show_where_they_are_wrong(self):
        X, y = data(60)
        with pytest.raises(FormulaError):
            discover(X, y, bases="sin(x")

    def test_too_few_rows_to_hold_any_out(self):
        X, y = data(20)
        with pytest.raises(DataError, match="leaves 15 to search and 5"):
            discover(X, y)

    def test_fewer_rows_than_inputs(self):
        rng = np.random.default_rng(0)
        X = rng.uniform(-2, 2, (60, 80))
        one = discover(
            X, 5 * X[:, 3] ** 2 + 0.1 * rng.standard_normal(60), bases="polynomial", confidence="none"
        )
        assert "no more rows (60) than inputs (80)" in " ".join(one.notes)
        assert one.terms == ("x**2",)


class _Untouched(Group):
    """A method that must not be asked."""

    def search(self, problem, **_):
        raise AssertionError("searched before arguments were checked")


@pytest.mark.parametrize(
    "arguments", [{"resamples": 3}, {"resamples": 0}, {"confidence": "knockoffs", "fdr": 1.5}]
)
def test_settings_of_the_confidence_are_checked_before_the_search(arguments):
    with pytest.raises(InvalidArgumentError, match=r"resamples must be|fdr must be"):
        discover(*data(), method=_Untouched(), **arguments)


class TestBeforeTheSearch:
    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"engine": "nonsense"}, "Unknown engine 'nonsense'"),
            ({"workers": 0}, "workers must be at least 1"),
            ({"resamples": 7}, "even number"),
            ({"outlying": "drop"}, "outlying must be"),
        ],
    )
    def test_wrong_arguments_are_refused(self, wrong, message, monkeypatch):
        monkeypatch.setattr(Group, "search", lambda *_, **__: pytest.fail("the search has begun"))
        X, y = data(60)
        with pytest.raises(InvalidArgumentError, match=message):
            discover(X, y, **wrong)

    @pytest.mark.parametrize("method", ["interactions", "low_rank"])
    def test_base_functions_are_refused_where_nothing_would_come_of_them(self, method):
        X, y = data(60)
        with pytest.raises(InvalidArgumentError, match=f"'{method}' has terms of its own"):
            discover(X, y, method=method, bases="x, sin(x)", confidence="none")

    def test_one_thing_is_counted_as_one(self):
        X, y = data(60)
        with pytest.raises(DataError, match="has 1 value NaN or infinite"):
            discover(X.replace(X.iloc[3, 0], np.nan), y)
        with pytest.raises(DataError, match="The table has 1 row;"):
            discover(X[:1], y[:1])
