"""Exit codes, and errors as one line in plain words."""

import re
import subprocess
import sys

import pytest
import torch

import neuronwise as nw
from neuronwise.cli import foundation
from neuronwise.hooks import CheckReport, CheckRow
from tests.cli.conftest import MODEL


def failed(done, code, *words):
    """Whether a command ended with that code, one error line with these words, and nothing on standard output."""
    assert done.exit_code == code, (done.exit_code, done.stderr)
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    return True


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("sites", MODEL, "--where", "model.layrs"), "model.layers"),
        (("ablate", MODEL, "stories", "--neurons", "0:9999"), "9999"),
        (("ablate", MODEL, "stories", "--neurons", "what"), "what"),
        (("ablate", MODEL, "stories", "--neurons", "0:1", "--how", "scale"), "--value"),
        (("ablate", MODEL, "stories", "--neurons", "0:1", "--how", "mean"), "--from"),
        (("sites", MODEL, "--device", "cuba"), "cuba"),
        (
            ("ablate", MODEL, "stories", "--neurons", "0:1", "--metric", "los", "--limit", "2"),
            "next_token_loss",
        ),
    ],
)
def test_a_wrong_argument_or_address_is_2(run, words, expected):
    assert failed(run(*words), 2, expected)


@pytest.mark.parametrize(
    "words",
    [
        ("sites",),
        ("ablate", MODEL, "stories"),
        ("observe", MODEL, "stories"),
        ("observe", MODEL, "stories", "--out", "x", "--engine", "magic"),
        ("query", "folder"),
        ("nonsense",),
        ("sites", MODEL, "--nonsense"),
        ("sites", MODEL, "--dtype", "float31"),
        ("ablate", MODEL, "stories", "--neurons", "0:1", "--by", "max"),
        ("ablate", MODEL, "stories", "--neurons", "0:1", "--from", "activity", "--top", 20),
        ("ablate", MODEL, "stories", "--neurons", "0:1", "--lowest"),
    ],
)
def test_wrong_usage_is_2_and_shows_the_usage(run, words):
    done = run(*words)
    assert done.exit_code == 2
    assert "Usage: " in done.stderr
    assert done.stdout == ""


def test_sql_that_is_refused_is_2_and_lists_the_tables(run, observed):
    folder, _ = observed
    assert failed(run("query", folder, "SELECT nope FROM neurons"), 2, "nope", "neurons(site, layer, neuron")
    done = run("query", folder, "SELECT 1", "--csv", "--json")
    assert done.exit_code == 2


def test_an_unknown_statistic_is_2(run, observed):
    folder, _ = observed
    assert failed(run("ablate", MODEL, "stories", "--from", folder, "--by", "kurtoses"), 2, "kurtosis")


def test_data_or_a_model_that_cannot_be_used_is_3(run, tmp_path):
    assert failed(run("sites", tmp_path / "nowhere"), 3, "nowhere")
    assert failed(run("observe", MODEL, tmp_path / "no.txt", "--out", tmp_path / "out"), 3, "no.txt")
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n")
    assert failed(run("observe", MODEL, empty, "--out", tmp_path / "out"), 3)
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text('{"model_type": "llama"}')
    torch.save({}, pickled / "pytorch_model.bin")
    assert failed(run("sites", pickled), 3, "pickle")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.txt", "pickled"]


def test_a_result_that_is_none_or_was_changed_is_4(run, observed, tmp_path):
    folder, _ = observed
    assert failed(run("query", tmp_path, "SELECT 1"), 4, "manifest")
    copy = tmp_path / "copy"
    nw.load(folder).save(copy)
    table = copy / "neurons.parquet"
    table.write_bytes(table.read_bytes()[:-1] + b"?")
    assert failed(run("report", copy, "--out", tmp_path / "page.html"), 4, "neurons.parquet")
    assert not (tmp_path / "page.html").exists()


def test_a_folder_in_use_is_4_before_any_work(run, observed, monkeypatch):
    folder, _ = observed
    monkeypatch.setattr(nw, "load_model", lambda name: pytest.fail("the model was loaded"))
    assert failed(run("observe", MODEL, "stories", "--out", folder), 4, "--overwrite")
    assert failed(run("ablate", MODEL, "stories", "--neurons", "0:1", "--out", folder), 4, "--overwrite")


def test_an_ablation_is_not_what_neurons_are_chosen_from(run, tmp_path):
    words = ("ablate", MODEL, "stories", "--limit", 1, "--max-length", 16, "--controls", 0)
    assert run(*words, "--neurons", "0:1", "--out", tmp_path / "effect").exit_code == 0
    assert failed(run(*words, "--from", tmp_path / "effect"), 4, "ablation")


def test_a_missing_extra_is_5_and_says_how_to_install_it(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert failed(run("sites", MODEL), 5, "pip install 'neuronwise[hf]'")


def test_a_check_that_fails_is_1(run, monkeypatch):
    report = CheckReport(
        (CheckRow("sites reached", True, "5 of 5"), CheckRow("gradients flow", False, "none there"))
    )
    monkeypatch.setattr(nw, "check", lambda model, batch, sites: report)
    done = run("check", MODEL)
    assert done.exit_code == 1
    assert re.search(r"gradients flow\s+FAILED\s+none there", done.stdout)
    done = run("check", MODEL, "--json")
    assert done.exit_code == 1
    assert '"passed": false' in done.stdout


def test_a_demo_whose_model_says_something_else_is_1(run, monkeypatch, tmp_path):
    monkeypatch.setattr(foundation, "_SENTENCE", "Once upon a time, there was a cat.")
    monkeypatch.setattr("neuronwise.cli.demo.CHAPTERS", (("model", "A language model", foundation.load),))
    done = run("demo", "--quick", "--out", tmp_path)
    assert done.exit_code == 1
    assert "there was a cat" in done.stderr


def test_what_was_not_foreseen_is_70_and_debug_shows_where(run, monkeypatch):
    def broken(model):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(nw, "find_sites", broken)
    assert failed(run("sites", MODEL), 70, "ZeroDivisionError: oh", "--debug")
    done = run("--debug", "sites", MODEL)
    assert done.exit_code == 70
    assert "Traceback" in done.stderr
    assert "in broken" in done.stderr
    assert "Traceback" not in run("sites", MODEL).stderr
    monkeypatch.setenv("NEURONWISE_DEBUG", "1")
    assert "Traceback" in run("sites", MODEL).stderr


def test_ctrl_c_is_130_and_says_how_to_go_on(run, monkeypatch, tmp_path):
    def interrupted(*arguments, checkpoint, **options):
        if checkpoint is not None:
            checkpoint.write_text("state")
        raise KeyboardInterrupt

    monkeypatch.setattr(nw, "observe", interrupted)
    saved, out = tmp_path / "pass.checkpoint", tmp_path / "out"
    words = ("observe", MODEL, "stories", "--out", out)
    assert failed(run(*words, "--checkpoint", saved), 130, "goes on from", "pass.checkpoint")
    assert failed(run(*words), 130, "Interrupted")
    assert not out.exists()


def test_our_warnings_are_seen_and_those_of_other_packages_are_not(run, tmp_path):
    loaded = nw.load_model(MODEL)
    with torch.no_grad():
        loaded.model.model.layers[2].mlp.up_proj.weight[7] = float("inf")
    loaded.model.save_pretrained(tmp_path / "broken")
    loaded.tokenizer.save_pretrained(tmp_path / "broken")
    words = (
        "observe",
        tmp_path / "broken",
        "stories",
        "--limit",
        1,
        "--max-length",
        16,
        "--reducers",
        "moments",
    )
    done = run(*words, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0
    lines = done.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("warning: ")
    assert "NaN or infinite" in lines[0]


def test_a_reader_that_leaves_early_gets_no_traceback(observed):
    folder, _ = observed
    sql = "SELECT * FROM contexts c1 LIMIT 20000"
    command = f"'{sys.executable}' -m neuronwise query '{folder}' '{sql}' --csv | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("site,neuron")
    assert done.stderr == ""
