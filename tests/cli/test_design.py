"""The commands on tables."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from neuronwise.discover import Discovery
from neuronwise.estimators import Comparison, load_estimator


@pytest.fixture(scope="module")
def tank(tmp_path_factory):
    """A table with a known formula and a column of categories."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.uniform(-2, 2, (160, 3)), columns=["depth", "heat", "flow"])
    frame["kind"] = rng.choice(["old", "new"], 160)
    frame["load"] = frame["depth"] ** 2 - 2 * frame["heat"] ** 2 + 0.05 * rng.normal(size=160)
    path = tmp_path_factory.mktemp("design") / "tank.csv"
    frame.to_csv(path, index=False)
    return path


def test_discover_finds_the_formula_and_saves_it(run, tank, tmp_path):
    done = run(
        "design", "discover", tank, "-t", "load", "--drop", "kind", "--resamples", 4, "--out", tmp_path / "f"
    )
    assert done.exit_code == 0, done.stderr
    assert "x**2" in done.stdout.splitlines()[0]
    assert "r2" in done.stdout
    found = Discovery.load(tmp_path / "f")
    assert found.terms == ("x**2",)
    assert found.inputs == ("depth", "heat", "flow")


def test_discover_says_which_base_functions_it_left_out_and_writes_small_formulas_with_numbers(run, tank):
    options = ("-t", "load", "--drop", "kind", "--confidence", "none", "--bases", "x, x**2, log(x)")
    done = run("design", "discover", tank, *options)
    assert done.exit_code == 0, done.stderr
    assert "log(x) was left out: not finite for" in done.stderr
    assert "With its numbers: " in done.stdout and "*depth**2" in done.stdout
    assert max(len(number) for number in done.stdout.splitlines()[0].split()) < 12
    assert "How sure we are" not in done.stdout
    done = run("design", "discover", tank, *options, "--shift", "--json")
    assert done.exit_code == 0, done.stderr
    assert not any(row["dropped"] for row in json.loads(done.stdout)["bases"])


def test_discover_says_that_nothing_was_found(run, tmp_path):
    rng = np.random.default_rng(5)
    pd.DataFrame(rng.normal(size=(80, 2)), columns=["a", "y"]).to_csv(tmp_path / "n.csv", index=False)
    done = run("design", "discover", tmp_path / "n.csv", "-t", "y", "--bases", "x, x**2", "--resamples", 2)
    assert done.exit_code == 0, done.stderr
    assert "None was found, on all rows or on halves of them." in done.stdout


def test_discover_as_json(run, tank):
    done = run("design", "discover", tank, "-t", "load", "--encode", "--confidence", "none", "--json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["figures"]["r2"] > 0.99
    assert any(row["terms"] == "x**2" for row in document["formulas"])
    assert "became 2 columns" in done.stderr


def test_fit_and_predict(run, tank, tmp_path):
    done = run(
        "design", "fit", tank, "-t", "load", "--encode", "--formula", "x + x**2", "--no-guard",
        "--hidden", "6", "--max-epochs", 60, "--out", tmp_path / "model", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["parameters"] > 0
    fresh = pd.read_csv(tank).drop(columns="load").iloc[:20, ::-1]
    fresh.to_csv(tmp_path / "new.csv", index=False)
    done = run("design", "predict", tmp_path / "model", tmp_path / "new.csv", "-o", tmp_path / "out.csv")
    assert done.exit_code == 0, done.stderr
    fresh.assign(heat=[np.nan, *fresh["heat"][1:]]).to_csv(tmp_path / "holes.csv", index=False)
    holes = ("design", "predict", tmp_path / "model", tmp_path / "holes.csv", "-o", tmp_path / "few.csv")
    assert run(*holes).exit_code == 3
    done = run(*holes, "--drop-missing")
    assert done.exit_code == 0 and "Left out: 1 row with missing values; used: 19." in done.stderr
    predicted = pd.read_csv(tmp_path / "out.csv")["predicted"]
    assert pd.read_csv(tmp_path / "few.csv")["predicted"].tolist() == pytest.approx(predicted[1:].tolist())
    actual = pd.read_csv(tank)["load"][:20]
    assert np.corrcoef(predicted, actual)[0, 1] > 0.9
    model = load_estimator(tmp_path / "model")
    assert list(model.feature_names_in_) == ["depth", "heat", "flow", "kind=new", "kind=old"]


def test_predict_by_a_formula_of_a_search(run, tank, tmp_path):
    words = ("design", "discover", tank, "-t", "load", "--encode", "--confidence", "none", "--out")
    assert run(*words, tmp_path / "formula").exit_code == 0
    fresh = pd.read_csv(tank).drop(columns="load").iloc[:20, ::-1]
    fresh.assign(depth=[1000.0, *fresh["depth"][1:]]).to_csv(tmp_path / "new.csv", index=False)
    done = run("design", "predict", tmp_path / "formula", tmp_path / "new.csv", "-o", tmp_path / "out.csv")
    assert done.exit_code == 0, done.stderr
    assert done.stderr.count("Inputs far outside") == 1 and "'depth' to" in done.stderr
    predicted = pd.read_csv(tmp_path / "out.csv")["predicted"]
    assert np.corrcoef(predicted[1:], pd.read_csv(tank)["load"][1:20])[0, 1] > 0.99


def test_predict_classes_by_a_formula(run, tmp_path):
    words = (
        "design",
        "discover",
        "iris",
        "-t",
        "target",
        "--bases",
        "x, x**2",
        "--confidence",
        "none",
        "--out",
    )
    assert run(*words, tmp_path / "formula").exit_code == 0
    done = run("design", "predict", tmp_path / "formula", "iris", "-o", tmp_path / "out.csv")
    assert done.exit_code == 0, done.stderr
    frame = pd.read_csv(tmp_path / "out.csv")
    expected = Discovery.load(tmp_path / "formula").predict(frame.iloc[:, :4])
    assert (frame["predicted"] == expected).all()
    assert frame["probability of 2"].between(0, 1).all()


@pytest.mark.parametrize(
    "words",
    [
        ("discover", "tonk.csv", "-t", "load"),
        ("fit", "tonk.csv", "-t", "load", "-o", "model"),
        ("compare", "tonk.csv", "-t", "load", "-o", "comparison"),
        ("predict", ".", "tonk.csv", "-o", "out.csv"),
        ("predict", "modle", "tank.csv", "-o", "out.csv"),
        ("predict", ".", "tank.csv", "-o", "out.xls"),
    ],
)
def test_a_mistyped_name_is_found_out_before_anything_large_is_imported(tank, words):
    code = (
        "import sys\n"
        "from neuronwise.cli import app\n"
        "try:\n    app(sys.argv[1:])\n"
        "finally:\n    print(sorted({'torch', 'pandas', 'numpy', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "design", *words],
        cwd=tank.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (2, 3, 4), done.stderr
    assert done.stdout.strip() == "[]"
    if "tonk.csv" in words:
        assert "tonk.csv does not exist. Closest names (of 6): tank.csv" in done.stderr


def test_predicted_classes_have_probabilities(run, tmp_path):
    done = run(
        "design", "fit", "wine", "-t", "target", "--formula", "linear", "--hidden", "8", "--max-epochs", 30,
        "--out", tmp_path / "model",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    done = run("design", "predict", tmp_path / "model", "wine", "-o", tmp_path / "out.parquet", "--json")
    assert done.exit_code == 0, done.stderr
    frame = pd.read_parquet(tmp_path / "out.parquet")
    chances = frame[[name for name in frame.columns if name.startswith("probability of")]]
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-6)
    assert (frame["predicted"] == chances.to_numpy().argmax(1)).all()


def test_compare(run, tank, tmp_path):
    done = run(
        "design", "compare", tank, "-t", "load", "--drop", "kind", "--learners", "quadratic,linear_model",
        "--folds", 2, "--tune", 1, "--hidden", "6", "--max-epochs", 10, "--confidence", "none",
        "--out", tmp_path / "comparison",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "quadratic" in done.stdout
    assert "Best of all on average" in done.stdout
    assert Comparison.load(tmp_path / "comparison").learners == ("linear", "quadratic", "linear_model")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["discover", "TANK", "-t", "lode"], 3, "no column 'lode'"),
        (["discover", "TANK", "-t", "load"], 3, "not numeric: 'kind'"),
        (["discover", "none.csv", "-t", "load"], 3, "does not exist"),
        (["discover", "TANK", "-t", "load", "--drop", "kind", "--method", "groop"], 2, "group"),
        (["discover", "TANK", "-t", "load", "--drop", "kind", "--bases", "x, sin(x"], 2, "never closed"),
        (
            ["discover", "TANK", "-t", "kind", "--input", "heat", "--task", "regression"],
            3,
            "not made of numbers",
        ),
        (["fit", "TANK", "-t", "load", "--drop", "kind", "--hidden", "a,b", "--out", "OUT"], 2, "--hidden"),
        (
            ["fit", "TANK", "-t", "load", "--drop", "kind", "--formula", "swosh(x)", "--out", "OUT"],
            2,
            "swosh",
        ),
        (
            ["compare", "TANK", "-t", "load", "--drop", "kind", "--learners", "tusk", "--out", "OUT"],
            2,
            "'tusk'",
        ),
        (["predict", "OUT", "TANK", "-o", "OUT.csv"], 4, "not a saved estimator"),
        (["predict", "TANK", "TANK", "-o", "OUT.csv"], 4, "it is a file"),
    ],
)
def test_wrong_usage_is_one_clear_line(run, tank, tmp_path, words, code, message):
    places = {"TANK": str(tank), "OUT": str(tmp_path / "out"), "OUT.csv": str(tmp_path / "out.csv")}
    done = run("design", *(places.get(word, word) for word in words))
    assert done.exit_code == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_not_replaced(run, tank, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("mine")
    for command in ("discover", "fit", "compare"):
        done = run("design", command, tank, "-t", "load", "--drop", "kind", "--out", tmp_path / "precious")
        assert done.exit_code == 4, done.stderr
    assert (tmp_path / "precious" / "file").read_text() == "mine"
