import json
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from neuronwise.data import split_target
from neuronwise.errors import DataError, InvalidArgumentError
from neuronwise.estimators import Comparison, compare
from neuronwise.estimators._learners import LEARNERS, REFERENCE, chosen
from neuronwise.intervals import resampled_interval
from neuronwise.store import load_result

QUICK = {"tune": 1, "max_epochs": 12, "hidden": (8,), "progress": False, "confidence": "none"}


def waves(n=200, d=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))  # the networks see standardised inputs; these hardly change by that
    return X, np.sin(3 * X) @ np.array([1.0, -1.5, 2.0]) + 0.05 * rng.normal(size=n)


@pytest.fixture(scope="module")
def comparison():
    X, y = waves()
    names = ["task", "task_matched", "quadratic", "quadratic_matched", "linear_model"]
    return compare(
        pd.DataFrame(X, columns=["a", "b", "c"]),
        y,
        learners=names,
        folds=4,
        tune=2,
        max_epochs=60,
        hidden=(8,),
        confidence="none",
    )


def test_task_neurons_win_where_the_target_is_made_of_their_base_functions(comparison):
    row = comparison.difference("task")
    assert row["verdict"] == "better"
    assert row["gain"] > 0.3  # the linear network is far off; nrmse is in standard deviations of the target
    assert "sin(" in comparison.tables["comparison_fits"].query("learner == 'task'")["formula"].iloc[0]
    assert "significantly better" in comparison.verdict()
    assert comparison.discovery.terms != ()


def test_matched_networks_have_no_more_parameters(comparison):
    fits = comparison.tables["comparison_fits"].groupby("learner")["parameters"].max()
    assert fits["linear"] == 8 * 4 + 9
    assert fits["quadratic"] == 8 * 7 + 9
    assert fits["quadratic_matched"] <= fits["linear"]
    assert fits["task_matched"] <= fits["linear"]


def test_tables_fit_together(comparison):
    tables = comparison.tables
    folds, means = tables["comparison_folds"], tables["comparison"]
    expected = folds.groupby(["metric", "learner"])["value"].mean()
    for row in means.itertuples():
        assert row.mean == pytest.approx(expected[row.metric, row.learner])
    kept = tables["out_of_fold"]
    assert kept.groupby("learner")["row"].nunique().eq(200).all()
    task = kept[kept["learner"] == "task"]
    rmse = np.sqrt(((task["actual"] - task["predicted"]) ** 2).groupby(task["fold"]).mean())
    spread = waves()[1].std()
    own = folds[(folds["learner"] == "task") & (folds["metric"] == "nrmse")].set_index("fold")["value"]
    np.testing.assert_allclose(rmse / spread, own, rtol=1e-9)
    settings = tables["comparison_fits"]["settings"].map(json.loads)
    assert settings.map(bool).all()
    assert set(tables["learning_curves"]["learner"]) == {
        "linear",
        "task",
        "task_matched",
        "quadratic",
        "quadratic_matched",
    }


def test_it_is_saved_and_loaded(comparison, tmp_path):
    again = load_result(comparison.save(tmp_path / "comparison"))
    assert again.verdict() == comparison.verdict()
    assert str(again.discovery.formula) == str(comparison.discovery.formula)
    pd.testing.assert_frame_equal(again.to_frame(), comparison.to_frame())


def test_the_interval_is_that_of_the_corrected_t_test():
    differences = np.array([0.3, 0.1, 0.4, 0.2, 0.25])
    mean, low, high, p = resampled_interval(differences, 0.25)
    error = np.sqrt((1 / 5 + 0.25) * differences.var(ddof=1))
    assert mean == pytest.approx(0.25)
    assert (low + high) / 2 == pytest.approx(mean)
    assert (high - mean) / error == pytest.approx(stats.t.ppf(0.975, 4))
    assert p == pytest.approx(2 * stats.t.sf(mean / error, 4))
    # Without the correction it is the plain paired t-test.
    plain = resampled_interval(differences, 0.0)
    assert plain[3] == pytest.approx(stats.ttest_1samp(differences, 0.0).pvalue)
    assert np.isnan(resampled_interval(differences[:1], 0.25)[1])


def test_the_same_seed_gives_the_same_figures_on_any_engine():
    X, y = waves(120)
    first, second = (
        compare(X, y, learners=["linear_model", "quadratic"], folds=2, engine=engine, workers=2, **QUICK)
        for engine in ("local", "processes")
    )
    columns = ["learner", "fold", "metric", "value"]
    pd.testing.assert_frame_equal(
        first.tables["comparison_folds"][columns], second.tables["comparison_folds"][columns]
    )


def test_an_interrupted_comparison_goes_on(tmp_path, monkeypatch):
    from neuronwise.estimators._comparison_job import FoldJob

    X, y = waves(120)
    options = {"learners": ["linear_model"], "folds": 3, "checkpoint": tmp_path / "state", **QUICK}
    whole = compare(X, y, **{**options, "checkpoint": None})
    real, seen = FoldJob._split, []

    def interrupted(self, state, split):
        if split.fold == 2:
            raise KeyboardInterrupt
        real(self, state, split)

    monkeypatch.setattr(FoldJob, "_split", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare(X, y, **options)
    monkeypatch.setattr(
        FoldJob, "_split", lambda self, state, split: (seen.append(split.fold), real(self, state, split))
    )
    again = compare(X, y, **options)
    assert seen == [2]
    pd.testing.assert_frame_equal(again.tables["comparison_folds"], whole.tables["comparison_folds"])


def test_classes_and_given_folds():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, 2))
    labels = np.where((X**2).sum(1) > 1.4, "out", "in")
    folds = np.arange(150) % 3
    result = compare(
        X,
        labels,
        learners=["task", "linear_model"],
        folds=folds,
        **{**QUICK, "tune": 3, "max_epochs": 120},
    )
    means = result.to_frame().set_index(["metric", "learner"])["mean"]
    assert result.metric == "accuracy"
    assert means["accuracy", "linear_model"] < 0.75 < means["accuracy", "task"]
    assert {"log_loss", "auc"} <= set(result.to_frame()["metric"])
    assert result.manifest.action["parameters"]["classes"] == ["in", "out"]
    kept = result.tables["out_of_fold"]
    assert (kept["row"] % 3 == kept["fold"]).all()


def test_a_table_and_few_rows():
    X, y = waves(200)
    frame = pd.DataFrame(X, columns=["a", "b", "c"]).assign(price=y)
    result = compare(split_target(frame, "price"), learners=["linear_model"], folds=2, rows=50, **QUICK)
    assert result.tables["comparison_fits"]["train_rows"].eq(50).all()
    assert result.manifest.data["target"] == "price"


def test_every_learner_is_compared_once_unless_told_otherwise():
    names = [learner.name for learner in chosen(None)]
    assert names[0] == REFERENCE
    assert sorted(names) == sorted(name for name, learner in LEARNERS.items() if learner.installed)
    assert [learner.name for learner in chosen(["task", REFERENCE])] == [REFERENCE, "task"]


@pytest.mark.parametrize("classes", [0, 2, 3])
def test_thirty_rows_are_enough(classes):
    X, y = waves(30)
    target = pd.qcut(y, classes, labels=False) if classes else y
    result = compare(X, target, learners=["guarded", "task", "mlp"], folds=3, **QUICK)
    assert result.to_frame()["mean"].notna().all()
    assert any("No rows were held out" in note for note in result.discovery.notes)


def test_too_few_rows_are_refused_before_any_work(monkeypatch):
    monkeypatch.setattr(sys.modules["neuronwise.estimators.compare"], "discover", None)
    X, y = waves(12)
    with pytest.raises(DataError, match=r"Of 12 rows, a training part has 9 only.*about 13 rows"):
        compare(X, y, **QUICK)
    X, y = waves(13)
    with pytest.raises(TypeError):  # that is enough: the search begins
        compare(X, y, **QUICK)
    late = np.arange(30) > 14
    with pytest.raises(DataError, match="Without test part 0 there are not two classes"):
        compare(waves(30)[0], late, folds=late, **QUICK)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"learners": ["tusk"]}, InvalidArgumentError, "no learner 'tusk'.*task"),
        ({"learners": ["task", "task"]}, InvalidArgumentError, "differ"),
        ({"folds": 1}, InvalidArgumentError, "at least 2"),
        ({"folds": 1000}, DataError, "fewer than the 1000"),
        ({"folds": np.zeros(120)}, InvalidArgumentError, "one test part"),
        ({"folds": np.arange(7)}, InvalidArgumentError, "one number a row"),
        ({"folds": np.arange(120) % 2, "repeats": 2}, InvalidArgumentError, "repeats"),
        ({"tune": 0}, InvalidArgumentError, "tune must be at least 1"),
        ({"hidden": ()}, InvalidArgumentError, "hidden"),
        ({"rows": 9}, InvalidArgumentError, "rows must be at least 10"),
        ({"confidence": "stability", "resamples": 1}, InvalidArgumentError, "resamples"),
        ({"task": "count"}, DataError, "numbers or of classes|whole"),
    ],
)
def test_bad_arguments(options, error, message):
    X, y = waves(120)
    with pytest.raises(error, match=message):
        compare(X, y, **{"learners": ["linear_model"], **QUICK, **options})


def test_which_way_a_metric_is_better():
    assert not Comparison.more_is_better("nrmse")
    assert Comparison.more_is_better("auc")
    with pytest.raises(InvalidArgumentError, match=r"no metric 'rmse'.*nrmse"):
        Comparison.more_is_better("rmse")


def test_a_missing_target_and_missing_values():
    X, y = waves(120)
    with pytest.raises(InvalidArgumentError, match="y is missing"):
        compare(X)
    X[3, 1] = np.nan
    with pytest.raises(DataError, match="row 3"):
        compare(X, y)


@pytest.fixture(scope="module", params=[False, True], ids=["numbers", "classes"])
def everyone(request):
    """All learners that are installed, in one comparison: splits, searches and linear neurons are the same for all."""
    X, y = waves(90)
    return request.param, compare(X, y > 0 if request.param else y, folds=2, **QUICK)


@pytest.mark.parametrize("name", [name for name, learner in LEARNERS.items() if learner.installed])
def test_every_learner_fits_and_its_grid_can_be_set(everyone, name):
    classes, result = everyone
    assert result.to_frame().query("learner == @name")["mean"].notna().all()
    learner, fits = LEARNERS[name], result.tables["comparison_fits"].query("learner == @name")
    with_grid = learner.classes_grid if classes and learner.classes_grid else learner.grid
    assert len(fits) == 2
    for settings in fits["settings"].map(json.loads):
        assert set(settings) == set(with_grid)
