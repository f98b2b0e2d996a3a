"""The commands on monosemanticity."""

import json

import pytest

import neuronwise as nw
from neuronwise.cli.monosemanticity.options import inhibitor_of
from neuronwise.errors import InvalidArgumentError
from neuronwise.train import ReversedDeactivation, TailPenalty
from tests.cli.conftest import MODEL


def test_measure_shows_layers_and_names_neurons(run, tmp_path):
    options = ("--limit", 12, "--max-length", 48, "--measures", "phi_top,hoyer", "--no-rotation")
    done = run("monosemanticity", "measure", MODEL, "stories", *options, "--out", tmp_path / "m")
    assert done.exit_code == 0, done.stderr
    assert "phi_top" in done.stdout and "model.layers.4.mlp.down_proj:input" in done.stdout
    assert "The most extreme neurons" in done.stdout and ":input[" in done.stdout
    found = nw.load(tmp_path / "m")
    assert set(found.to_frame()["measure"]) == {"phi_top", "hoyer"}
    done = run("monosemanticity", "measure", MODEL, "stories", "--measures", "auc", "--out", tmp_path / "n")
    assert done.exit_code == 2 and "needs labels" in done.stderr
    assert run("report", tmp_path / "m", "--out", tmp_path / "m.html").exit_code == 0


@pytest.mark.parametrize(("texts", "told"), [(4, True), (60, False)])
def test_measure_says_where_samples_are_few(texts, told, run, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("The dog ran to the park.\n" * texts, encoding="utf-8")
    options = ("--measures", "phi_top", "--no-rotation", "--out", tmp_path / "m")
    done = run("monosemanticity", "measure", MODEL, file, *options)
    assert done.exit_code == 0, done.stderr
    assert ("Give more texts" in " ".join((done.stdout + done.stderr).split())) == told


def test_audit_of_a_table(run, tmp_path):
    done = run(
        "monosemanticity", "audit", "iris", "-t", "target", "-i", "tail:strength=0.5", "-i", "reversed", "--seeds", 2,
        "--epochs", 4, "--batch-size", 32, "--hidden", "8,6", "--sites", "4*", "--measures",
        "phi_top,class_selectivity",
        "--by", "phi_top", "--no-rotation", "--no-controls", "--probes", 1, "--out", tmp_path / "a",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    found = nw.load(tmp_path / "a")
    assert found.inhibitors == ("tail:strength=0.5", "reversed")
    shown = " ".join(done.stdout.split())
    assert all(" ".join(sentence.split()) in shown for sentence in found.tables["verdicts"]["sentence"])
    assert found.manifest.action["parameters"]["steps"] == 16
    assert found.manifest.action["parameters"]["sites"] == ["4:input"]
    again = run("report", tmp_path / "a", "--out", tmp_path / "a.html", "--json")
    assert again.exit_code == 0 and json.loads(again.stdout)


def test_audit_of_a_language_model(run, tmp_path):
    done = run(
        "monosemanticity", "audit", "stories", "--model", MODEL, "-i", "tail", "--seeds", 1, "--steps", 12,
        "--batch-size", 8, "--length", 16, "--limit", 6, "--measures", "phi_top", "--by", "phi_top", "--no-rotation",
        "--no-controls", "--probes", 1, "--out", tmp_path / "a", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["verdicts"][0]["verdict"] == "too few seeds"
    loss = next(row for row in document["figures"] if row["kind"] == "task" and row["inhibitor"] == "tail")
    assert 0 < loss["value"] < 5


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["iris", "-t", "target", "-i", "tial"], 2, "no inhibitor 'tial'"),
        (["iris", "-t", "target", "-i", "tail:strenth=1"], 2, "no setting 'strenth'"),
        (["iris", "-t", "target", "--epochs", "1"], 2, "warm-up"),
        (["diabetes", "-t", "target", "-i", "selectivity"], 2, "needs classes"),
        (["diabetes", "-t", "target", "--measures", "auc"], 2, "needs classes"),
        (["iris", "-t", "target", "--by", "phi"], 2, "no measure"),
        (["iris"], 2, "--target"),
        (["iris", "-t", "target", "--sites", "nowhere"], 2, "nowhere"),
        (["iris", "-t", "target", "--rate", "0"], 2, "--rate must be above 0"),
        (["iris", "-t", "target", "--rate", "-0.1"], 2, "--rate must be above 0"),
    ],
)
def test_errors_come_before_training(words, code, said, run, tmp_path):
    done = run("monosemanticity", "audit", *words, "--out", tmp_path / "a")
    assert done.exit_code == code, done.stderr
    assert said in " ".join(done.stderr.split())
    assert not (tmp_path / "a").exists()


def test_a_folder_in_use_is_refused_first(run, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine.txt").write_text("precious")
    for words in (["measure", "no-model", "stories"], ["audit", "no-table", "-t", "x"]):
        assert run("monosemanticity", *words, "--out", tmp_path / "a").exit_code == 4


def test_inhibitors_with_settings():
    assert inhibitor_of("tail:strength=0.1,selection=random") == TailPenalty(strength=0.1, selection="random")
    assert inhibitor_of("reversed:D=10,watch=true") == ReversedDeactivation(D=10, watch=True)
    with pytest.raises(InvalidArgumentError, match="name=value"):
        inhibitor_of("tail:0.1")
    with pytest.raises(InvalidArgumentError):
        inhibitor_of("reversed:top=many")
