import numpy as np
import pandas as pd
import pytest

from neuronwise.discover import discover
from neuronwise.errors import InvalidArgumentError
from neuronwise.report import discovery as view
from neuronwise.report._found import term_curves
from neuronwise.sites import NeuronSet
from tests.report.pages import HOSTILE, Page

NAMES = ["age", "bmi", "blood pressure"]
BASES = "x, x**2, sin(3*x), tanh(x), log(x)"


def table(*, names=NAMES, n=160, scale=1.0):
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, (n, len(names)))
    y = X[:, :3] ** 2 @ [1, -2, 0.5] + np.sin(3 * X[:, 0]) + rng.normal(0, 0.1, n)
    return pd.DataFrame(X * scale, columns=names), y


@pytest.fixture(scope="module")
def found():
    return discover(*table(), bases=BASES, resamples=4)


@pytest.fixture(scope="module")
def classes():
    X, y = table(n=240)
    labels = np.array(["low", "middle", "high"])[np.digitize(y, np.quantile(y, [1 / 3, 2 / 3]))]
    return discover(X, labels, bases="x, x**2", confidence="none")


def test_page_shows_formula_figures_confidence_and_what_was_dropped(found, tmp_path):
    written = Page(found.report(tmp_path / "page.html"))
    assert found.terms == ("x**2", "sin(3*x)")
    assert written.tags.count("math") == 2 and r"\mathrm{blood\ pressure}^{2}" in written.source
    assert str(found.formula.expanded().rounded(6)) in written.text
    value, (low, high) = found.figures["r2"], found.interval("r2")
    assert f"{value:.3f} [{low:.3f}, {high:.3f}]" in written.text and "Linear formula" in written.text
    assert "Share of 4 halves" in written.text and found.notes[-1] in written.text
    assert found.dropped["log(x)"] in written.text
    assert all(reference.startswith("#") for reference in written.references)
    assert len(written.ids) == len(set(written.ids))
    assert "://" not in written.source.replace("http://www.w3.org/1998/Math/MathML", "")
    assert written.source.count('role="img"') == 4  # confidence, and a curve for each input
    assert "no influence" not in written.text


def test_weights_are_those_of_the_formula(found, tmp_path):
    written = Page(found.report(tmp_path / "page.html"))
    weights = found.formula.weights
    for name in weights:
        for weight in weights[name]:
            assert f"{weight:#.3g}".replace("-", "−") in written.text
    assert "var(--up), 0.60" in written.source and "var(--down), 0.60" in written.source


def test_curves_add_up_to_the_prediction(found):
    curves = term_curves(found)
    X = curves.places.T
    constant = found.formula.evaluate(np.zeros((1, 3)))
    np.testing.assert_allclose(curves.values[0].sum(0) + constant, found.formula.evaluate(X), atol=1e-9)
    assert curves.order[0] == 1 and not curves.others
    assert found.inputs[curves.order[0]] == "bmi"


def test_curves_are_over_the_inputs_as_they_were_given():
    X, y = table(scale=100.0)
    result = discover(X, y, bases="x, x**2", confidence="none")
    assert not result.scaling.raw
    along = view.plot(result, name="bmi").lines[1].get_xdata()
    assert [along[0], along[-1]] == pytest.approx(result.ranges[1])
    assert X["bmi"].min() <= along[0] < -180 and 180 < along[-1] <= X["bmi"].max()


def test_curves_of_raw_inputs_are_over_the_range_of_each_one():
    X, y = table()
    X["age"] = (X["age"] + 2) / 4
    result = discover(X, y, bases="x, x**2", confidence="none")
    assert result.scaling.raw
    ends = [view.plot(result, name=name).lines[1].get_xdata()[[0, -1]] for name in NAMES[:2]]
    assert ends[0] == pytest.approx([0, 1], abs=0.05)
    assert ends[1] == pytest.approx([-2, 2], abs=0.1)


def test_curves_stop_where_inputs_are_clipped():
    X, y = table(scale=100.0)
    X.loc[3, "bmi"] = 1e6
    result = discover(X, y, bases="x, x**2", confidence="none", held_out=0)
    assert view.plot(result, name="bmi").lines[1].get_xdata()[-1] < 1000


def test_terms_that_are_products_have_weights_and_no_curve(tmp_path):
    rng = np.random.default_rng(1)
    X = rng.uniform(-2, 2, (200, 3))
    result = discover(X, X[:, 0] * X[:, 1], method="interactions", confidence="none")
    written = Page(result.report(tmp_path / "page.html"))
    assert "they are no sums over single inputs" in written.text and "<w1, x>*<w2, x>" in written.text
    assert "w1 in <w1, x>*<w2, x>" in written.text
    with pytest.raises(InvalidArgumentError, match="Confidence was not measured"):
        result.plot()


def test_plot_draws_confidence_or_a_curve(found, classes):
    ax = found.plot()
    assert [text.get_text() for text in ax.get_yticklabels()][-2:] == ["sin(3*x)", "x**2"]
    assert view.plot(found, name="age").get_xlabel() == "age"
    ax = classes.plot()  # no confidence: the curve of the input that varies most, a line a class
    assert ax.get_xlabel() == "bmi"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["high", "low", "middle"]
    with pytest.raises(InvalidArgumentError, match="no input 'ag'"):
        view.plot(found, name="ag")


def test_page_of_classes_has_a_map_for_each(classes, tmp_path):
    written = Page(classes.report(tmp_path / "page.html"))
    assert "the same for all outputs" in written.text and "Share of right classes" in written.text
    assert sum(f"Weights of inputs in terms, {label}" in written.source for label in classes.classes) == 3
    assert 'confidence="none"' in written.text


def test_knockoffs_have_statistics(tmp_path):
    X, y = table(n=300)
    result = discover(X, y, bases="x, x**2, x**3, sin(3*x), tanh(x)", confidence="knockoffs")
    written = Page(result.report(tmp_path / "page.html"))
    assert "false discovery rate of 0.1" in written.text and "Tested through" in written.text
    assert "decoys" in result.plot().get_xlabel()


def test_page_where_nothing_was_found(tmp_path):
    X, _ = table()
    y = np.random.default_rng(7).normal(size=len(X))
    result = discover(X, y, bases="x, x**2", confidence="none", held_out=0.0)
    assert result.terms == ()
    written = Page(result.report(tmp_path / "page.html"))
    assert "no input has an influence" in written.text and "No rows were held out" in written.text
    assert result.plot().get_xlabel() == "age"


def test_inputs_that_matter_less_are_left_out(tmp_path):
    names = [f"input {number}" for number in range(12)]
    X, _ = table(names=names)
    y = X.to_numpy() ** 2 @ np.arange(1.0, 13.0)
    result = discover(X, y, bases="x, x**2", confidence="none")
    written = Page(result.report(tmp_path / "page.html"))
    assert "Left out, as they vary no more than these: input 2, input 1, input 0." in written.text
    assert written.source.count('role="img"') == 9


def test_same_bytes_and_escaped(found, tmp_path):
    first = found.report(tmp_path / "a.html").read_bytes()
    assert found.report(tmp_path / "b.html").read_bytes() == first
    X, y = table(names=[HOSTILE, "<b>b</b>", "c & d"])
    hostile = discover(X, y, bases="x**2, sin(3*x)", confidence="none")
    written = Page(hostile.report(tmp_path / "page.html", title=HOSTILE))
    assert "<script>alert" not in written.source and len(written.scripts) == 1
    assert "<b>" not in written.source and "c & d" in written.text


def test_wrong_arguments(found, tmp_path):
    with pytest.raises(InvalidArgumentError, match="about a formula"):
        found.report(tmp_path / "page.html", neurons=NeuronSet())
