"""Tables as users have them: what is refused, with which words, and what is made of the rest."""

import numpy as np
import pandas as pd
import pytest
import torch

from neuronwise.discover import make_problem
from neuronwise.errors import DataError, InvalidArgumentError


def table(n=40, d=3, seed=0):
    return np.random.default_rng(seed).uniform(-2, 2, (n, d))


class TestBadInput:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_a_value_that_is_no_number_is_named_by_column_and_row(self, value):
        frame = pd.DataFrame(table(), columns=["age", "height", "width"])
        frame.loc[7, "height"] = value
        with pytest.raises(DataError, match=r"1 value .* column 'height', row 7 .*SimpleImputer"):
            make_problem(frame, np.arange(40.0))

    def test_the_row_is_the_place_and_the_index_is_named_too(self):
        frame = pd.DataFrame(table(), index=range(100, 140)).rename(columns=str)
        frame.iloc[3, 1] = np.nan
        with pytest.raises(DataError, match=r"column '1', row 3 \(index 103\)"):
            make_problem(frame, np.arange(40.0))

    def test_missing_values_of_nullable_columns_are_found(self):
        frame = pd.DataFrame(table(), columns=list("abc"))
        frame["n"] = pd.array([1, 2, None, *range(37)], dtype="Int64")
        with pytest.raises(DataError, match="column 'n', row 2"):
            make_problem(frame, np.arange(40.0))

    def test_texts_are_refused_with_how_to_encode_them(self):
        frame = pd.DataFrame(table(), columns=list("abc")).assign(town="Ulm", when=pd.Timestamp("2020-01-01"))
        with pytest.raises(DataError, match=r"'town', 'when' \(2 in all\).*get_dummies"):
            make_problem(frame, np.arange(40.0))
        mixed = table().astype(object)
        mixed[4, 1] = "high"
        with pytest.raises(DataError, match=r"not numbers: 'x1' \(1 in all\)"):
            make_problem(mixed, np.arange(40.0))

    @pytest.mark.parametrize(
        ("y", "task", "words"),
        [
            (np.full(40, 3.0), "auto", "constant"),
            (np.full(40, 3.0), "count", "constant"),
            (["a"] * 40, "auto", "one class only, 'a'"),
            (pd.Series(["a"] * 40, dtype=object), "auto", "one class only, 'a'"),
            (np.arange(39.0), "auto", "40 rows and y has 39"),
            (np.r_[np.arange(39.0), np.nan], "auto", "first in row 39"),
            (np.r_[np.arange(39.0), -1.0], "count", "row 39 has -1"),
            (np.r_[np.arange(39.0), 0.5], "count", "row 39 has 0.5"),
            (np.arange(40).astype(str), "auto", "40 classes in 40 rows"),
            (["a", None] * 20, "auto", "20 missing values, the first in row 1"),
            (["a", "b"] * 20, "regression", "task='classification'"),
            (np.full(40, 1e200), "auto", "Rescale"),
            (np.zeros((40, 2, 2)), "auto", "shape"),
        ],
    )
    def test_targets_that_cannot_be_learnt(self, y, task, words):
        with pytest.raises(DataError, match=words):
            make_problem(table(), y, task=task)

    @pytest.mark.parametrize(
        ("X", "words"),
        [
            (np.arange(40.0), "reshape"),
            (np.zeros((40, 0)), "no columns"),
            (table() + 1j, "complex"),
            ([[1.0], [1.0, 2.0]], "not a table"),
            (np.full((40, 2), 1e200), "Rescale"),
        ],
    )
    def test_inputs_that_are_no_table(self, X, words):
        with pytest.raises(DataError, match=words):
            make_problem(X, np.arange(40.0))

    def test_a_target_column_that_is_not_there_lists_the_closest(self):
        frame = pd.DataFrame(table(), columns=["price", "rooms", "size"])
        with pytest.raises(DataError, match=r"no target column 'prize'.*price"):
            make_problem(frame, "prize")
        with pytest.raises(InvalidArgumentError, match="not a DataFrame"):
            make_problem(table(), "price")

    def test_too_few_rows(self):
        with pytest.raises(DataError, match="9 rows; a search needs at least 10"):
            make_problem(table(9), np.arange(9.0))

    def test_fewer_rows_than_inputs_are_noted(self):
        problem = make_problem(table(20, 30), np.arange(20.0) ** 2)
        assert any("no more rows (20) than inputs (30)" in note for note in problem.notes)

    @pytest.mark.parametrize(
        "weight",
        [np.ones(39), np.r_[np.ones(39), -1], np.r_[np.ones(39), np.nan], np.r_[np.ones(3), np.zeros(37)]],
    )
    def test_sample_weights_are_checked(self, weight):
        with pytest.raises(DataError, match="weight"):
            make_problem(table(), np.arange(40.0), sample_weight=weight)

    def test_arguments_are_checked(self):
        X, y = table(), np.arange(40.0)
        for options, words in (
            ({"task": "ranking"}, "no task 'ranking'"),
            ({"scale": "minmax"}, "scale must be"),
            ({"clip": 0.5}, "clip must be"),
            ({"inputs": ["a"]}, "inputs must be 3 different"),
            ({"inputs": ["a", "a", "b"]}, "inputs must be 3 different"),
            ({"bases": "log(x)"}, "No base function can be used"),
        ):
            with pytest.raises(InvalidArgumentError, match=words):
                make_problem(X, y, **options)


class TestTasks:
    @pytest.mark.parametrize(
        ("y", "task"),
        [
            (np.linspace(0, 1, 40), "regression"),
            (["yes", "no"] * 20, "classification"),
            (np.arange(40) % 2 == 0, "classification"),
            (np.arange(40) % 3, "classification"),
            (np.arange(40) % 3 + 1, "classification"),
            ((np.arange(40) % 2).astype(float), "classification"),
            (np.where(np.arange(40) % 2, 1, -1), "classification"),
            ((np.arange(40) % 3).astype(float), "regression"),
            (np.arange(40) % 7 * 10, "regression"),
            (np.arange(40), "regression"),
            (pd.Series(["a", "b"] * 20, dtype="category"), "classification"),
            (torch.linspace(0, 1, 40), "regression"),
        ],
    )
    def test_the_task_is_guessed(self, y, task):
        assert make_problem(table(), y).task == task

    def test_a_guess_of_whole_numbers_is_said(self):
        assert "class labels" in make_problem(table(), np.arange(40) % 3).notes[0]

    def test_labels_become_codes_and_indicators(self):
        problem = make_problem(table(), ["c", "a", "b", "a"] * 10)
        assert problem.classes == ("a", "b", "c")
        assert problem.y[:4].tolist() == [2, 0, 1, 0]
        assert problem.targets[0].tolist() == [0, 0, 1]
        assert problem.outputs == 3
        assert problem.link == "softmax"

    def test_the_response_of_classes_does_not_depend_on_their_names(self):
        y = np.random.default_rng(0).integers(0, 3, 60)
        X = table(60)
        here = make_problem(X, y).response
        there = make_problem(X, np.array(["z", "a", "k"])[y]).response
        # Another order of the classes turns the response, and changes no sum of squares that anything explains of it.
        part = X[:, :1] - X[:, :1].mean()
        explained = [((part.T @ one) ** 2).sum() for one in (here, there)]
        assert explained[0] == pytest.approx(explained[1], rel=1e-10)
        assert here.mean(0) == pytest.approx(0, abs=1e-12)

    def test_an_outlier_of_the_target_is_noted(self):
        y = np.random.default_rng(0).standard_normal(2000)
        y[5] += 100
        assert "follows it" in " ".join(make_problem(table(2000), y).notes)


class TestScale:
    def test_inputs_of_moderate_size_stay_as_they_are(self):
        X = table()
        problem = make_problem(X, np.arange(40.0))
        assert np.array_equal(problem.X, X)
        # What is predicted later may lie anywhere: it is clipped a little beyond what the search has seen.
        assert problem.scaling.apply(X * 100).max() == 1.5 * np.abs(X).max()
        assert make_problem(X, np.arange(40.0), scale="none").scaling.apply(X * 100).max() == 100 * X.max()

    @pytest.mark.parametrize("change", [lambda X: X * 1e6, lambda X: X + 1e4, lambda X: X * 0.01])
    def test_others_are_standardised(self, change):
        problem = make_problem(change(table()), np.arange(40.0))
        assert problem.X.mean(0) == pytest.approx(0, abs=1e-9)
        assert problem.X.std(0) == pytest.approx(1)
        assert "standardised" in " ".join(problem.notes)

    def test_one_wild_value_is_clipped_and_does_not_press_the_others(self):
        X = np.random.default_rng(0).standard_normal((1000, 2))
        X[3, 0] = 100.0
        problem = make_problem(X, np.arange(1000.0))
        assert problem.X[3, 0] == 5.0
        assert np.delete(problem.X[:, 0], 3).std() == pytest.approx(1, abs=0.05)

    def test_a_rare_indicator_keeps_its_ones(self):
        X = np.random.default_rng(0).standard_normal((1000, 2)) * 100
        X[:, 1] = 0
        X[:4, 1] = 1
        problem = make_problem(X, np.arange(1000.0))
        assert problem.X[0, 1] > problem.X[10, 1]

    def test_a_constant_column_is_noted_and_does_no_harm(self):
        X = table()
        X[:, 1] = 7.0
        problem = make_problem(X * 1000, np.arange(40.0))
        assert "weight 0: x1" in " ".join(problem.notes)
        assert np.isfinite(problem.X).all()


class TestBases:
    def test_undefined_ones_are_dropped_with_the_reason(self):
        problem = make_problem(table(), np.arange(40.0), bases="x, log(x), sqrt(x)")
        assert [str(base) for base in problem.bases] == ["x"]
        assert "not finite" in problem.dropped["log(x)"]

    def test_or_shifted_if_asked(self):
        X = table()
        problem = make_problem(X, np.arange(40.0), bases="x, log(x), sqrt(x), x**2", shift=True)
        assert not problem.dropped
        shifted = [base for base in problem.bases if "+" in str(base)]
        assert len(shifted) == 2
        for base in shifted:
            assert np.isfinite(base(X - 0.2)).all(), "there is room below the smallest value"

    def test_a_base_that_is_defined_already_is_not_shifted(self):
        problem = make_problem(table() + 3, np.arange(40.0), bases="log(x), 1/x", shift=True)
        assert {str(base) for base in problem.bases} == {"log(x)", "1/x"}

    def test_one_that_overflows_is_dropped(self):
        problem = make_problem(table() * 400, np.arange(40.0), scale="none")
        assert {"exp(2*x)", "exp(-2*x)"} <= set(problem.dropped)

    def test_they_come_simplest_first(self):
        problem = make_problem(table(), np.arange(40.0))
        complexity = [base.complexity for base in problem.bases]
        assert complexity == sorted(complexity)
        assert str(problem.bases[0]) == "x"


def test_rows_can_be_taken_and_the_target_must_vary_over_them():
    problem = make_problem(table(), np.r_[np.zeros(20), np.arange(20.0)], sample_weight=np.arange(40.0))
    part = problem.take(np.arange(15, 30))
    assert part.n == 15
    assert np.array_equal(part.X, problem.X[15:30])
    assert np.array_equal(part.weight, problem.weight[15:30])
    with pytest.raises(DataError, match="constant over these rows"):
        problem.take(np.arange(20))


def test_clipped_values_are_counted_by_input():
    X = table(200)
    X[3, 1] = 1e4
    notes = " ".join(make_problem(X, X[:, 0]).notes)
    assert "were clipped: x1 (1)." in notes
    assert "were clipped" not in " ".join(make_problem(table(200) * 100, X[:, 0]).notes)


def test_rows_without_one_of_the_classes_have_a_response():
    labels = np.arange(60) % 3
    whole = make_problem(table(60), labels, task="classification")
    part = whole.take(labels != 2)
    assert part.outputs == 3
    response = part.response
    assert response.shape == (40, 1)
    # Whitened: of mean 0 and variance 1.
    assert response.mean() == pytest.approx(0) and response.var() == pytest.approx(1)


def test_a_few_whole_numbers_that_are_no_codes_are_numbers_and_a_note_says_so():
    y = np.resize([1, 2, 3, 5, 6, 7], 90)
    problem = make_problem(table(90), y)
    assert problem.task == "regression"
    assert "task='classification' takes them for class labels" in " ".join(problem.notes)
    assert not make_problem(table(90), np.arange(90)).notes
