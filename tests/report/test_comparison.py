import numpy as np
import pandas as pd
import pytest

from neuronwise.errors import InvalidArgumentError
from neuronwise.estimators import Comparison, compare
from neuronwise.report import comparison as view
from neuronwise.sites import NeuronSet
from tests.report.pages import HOSTILE, Page

QUICK = {"folds": 2, "tune": 1, "max_epochs": 4, "hidden": (6,), "bases": "x, x**2", "confidence": "none"}


def table(n=90):
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.uniform(-2, 2, (n, 3)), columns=["a", "b", "c"])
    return X, (X**2).sum(axis=1).to_numpy() + rng.normal(0, 0.1, n)


@pytest.fixture(scope="module")
def compared():
    return compare(*table(), learners=["task", "linear_model", "svm"], **QUICK)


@pytest.fixture(scope="module")
def classes():
    X, y = table()
    return compare(X, np.where(y > np.median(y), "above", "below"), learners=["linear_model"], **QUICK)


def altered(result, **tables):
    """The result with other tables."""
    kept = {name: result.tables[name] for name in result.tables}
    return Comparison({**kept, **tables}, result.manifest, result.arrays)


def test_page_starts_with_the_verdict_and_has_all_parts(compared, tmp_path):
    written = Page(compared.report(tmp_path / "page.html"))
    start, end = written.text.index(compared.verdict()), written.text.index("Means over the test parts")
    assert start < end
    row = compared.tables["comparison"].set_index(["learner", "metric"]).loc[("svm", "r2")]
    assert f"{row['mean']:#.3g} [" in written.text
    for part in (
        "The formula found on all rows",
        "Predicted against actual",
        "Learning curves",
        "Settings chosen",
    ):
        assert part in written.text
    for learner in compared.learners:
        assert f"{learner}" in written.text
    fits = compared.tables["comparison_fits"]
    assert str(int(fits["parameters"].dropna().iloc[0])) in written.text and "weight_decay" in written.text
    assert str(compared.discovery.formula.rounded(6)) in written.text
    assert all(reference.startswith("#") for reference in written.references)
    assert len(written.ids) == len(set(written.ids))


def test_predictions_are_those_of_linear_task_and_the_best(compared, classes, tmp_path):
    best = compared.to_frame().query("metric == 'nrmse'").sort_values("rank")["learner"].iloc[0]
    source = Page(compared.report(tmp_path / "page.html")).source
    shown = {name for name in compared.learners if f"Predicted against actual values, {name}" in source}
    assert shown == {"linear", "task", best}
    written = Page(classes.report(tmp_path / "classes.html"))
    frame = classes.tables["out_of_fold"]
    part = frame[(frame["learner"] == "linear") & (frame["actual"] == 1)]
    counts = [int((part["predicted"] == one).sum()) for one in (0, 1)]
    assert f"below {counts[0]} {counts[1]}" in written.text
    assert "Which classes are taken for others" in written.text and "Predicted against" not in written.text
    assert "All 90 rows of the test parts." in written.text
    few = altered(classes, out_of_fold=frame[frame["row"] < 40])
    assert "40 of the 90 rows of the test parts" in Page(few.report(tmp_path / "few.html")).text


def test_settings_have_the_names_of_the_learners(compared, tmp_path):
    fits = compared.tables["comparison_fits"].assign(
        settings='{"learner__C": 0.3, "learner__gamma": "scale"}'
    )
    written = Page(altered(compared, comparison_fits=fits).report(tmp_path / "page.html"))
    assert "C 0.3, gamma scale" in written.text and "learner__" not in written.text


def test_plot_has_the_best_on_top_and_marks_what_is_beyond_chance(compared):
    ax = compared.plot()
    rows = compared.tables["comparison_pairs"].query("metric == 'nrmse'").sort_values("gain")
    assert [text.get_text() for text in ax.get_yticklabels()] == rows["learner"].tolist()
    assert "less is better" in ax.get_xlabel()
    assert "more is better" in view.plot(compared, metric="r2").get_xlabel()
    pairs = compared.tables["comparison_pairs"].assign(verdict="better")
    legend = altered(compared, comparison_pairs=pairs).plot().get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["better"]


def test_many_fits_are_cut_and_that_is_said(compared, tmp_path):
    fits = pd.concat([compared.tables["comparison_fits"].assign(fold=fold) for fold in range(20)])
    fits = fits.drop_duplicates(["learner", "fold"]).reset_index(drop=True)
    many = pd.concat([fits, fits.assign(fold=fits["fold"] + 20)], ignore_index=True)
    written = Page(altered(compared, comparison_fits=many).report(tmp_path / "page.html"))
    assert f"And {len(many) - 100} more" in written.text


def test_only_linear_neurons(tmp_path):
    result = compare(*table(60), learners=["linear"], **QUICK)
    written = Page(result.report(tmp_path / "page.html"))
    assert "Learner Verdict" not in written.text and "Means over the test parts" in written.text
    assert "nrmse (less is better)" in written.text and "r2 (more is better)" in written.text
    with pytest.raises(InvalidArgumentError, match="no difference to draw"):
        result.plot()


def test_same_bytes_and_escaped(compared, tmp_path):
    first = compared.report(tmp_path / "a.html").read_bytes()
    assert compared.report(tmp_path / "b.html").read_bytes() == first
    fits = compared.tables["comparison_fits"].assign(formula=HOSTILE)
    written = Page(altered(compared, comparison_fits=fits).report(tmp_path / "page.html", title=HOSTILE))
    assert "<script>alert" not in written.source and len(written.scripts) == 1


def test_wrong_arguments(compared, tmp_path):
    with pytest.raises(InvalidArgumentError, match="about learners"):
        compared.report(tmp_path / "page.html", neurons=NeuronSet())
    with pytest.raises(InvalidArgumentError, match="no metric"):
        view.plot(compared, metric="r")
