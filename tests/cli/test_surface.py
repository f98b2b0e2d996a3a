"""The command line as a newcomer meets it: help, version, the module, the demo, and what is written how."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import neuronwise as nw
from neuronwise.cli import foundation, screen
from neuronwise.cli.running import EXIT_CODES
from tests.cli.conftest import MODEL

COMMANDS = ("demo", "sites", "observe", "query", "report", "ablate", "check")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_explains_every_option_and_fits_80_columns(run, name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = run(name, "--help")
    assert done.exit_code == 0
    assert "--json" in done.stdout
    assert f"$ neuronwise {name}" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    for line in done.stdout.splitlines():
        if line.startswith("│ --"):
            # Something beside the option's name and type: its words.
            assert len(line.strip("│ ").split("  ", 1)[-1].split()) > 2, line


def test_the_main_help_lists_commands_and_exit_codes(run):
    text = run("--help").stdout
    assert all(f"│ {name} " in text for name in COMMANDS)
    assert all(f"{code}  {meaning}" in text for code, meaning in EXIT_CODES.items())


def test_the_page_on_the_command_line_lists_every_exit_code_and_command():
    page = (Path(__file__).parents[2] / "docs" / "howto" / "cli.md").read_text(encoding="utf-8")
    assert all(f"| {code} | {meaning}" in page for code, meaning in EXIT_CODES.items())
    assert all(f"neuronwise {name}" in page for name in COMMANDS)


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["observe", "--help"]])
def test_help_and_version_import_nothing_heavy(words):
    code = (
        "import sys\nfrom neuronwise.cli import main\n"
        f"sys.argv = ['neuronwise', *{words!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'numpy', 'pandas', 'transformers', 'duckdb', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_the_module_is_the_command_and_json_stands_alone_in_a_pipe():
    done = subprocess.run(
        [sys.executable, "-m", "neuronwise", "sites", MODEL, "--json"], capture_output=True, timeout=120
    )
    assert done.returncode == 0
    assert done.stderr == b""
    assert json.loads(done.stdout)["neurons"] == 860


def test_version(run):
    done = run("--version")
    assert done.stdout == f"neuronwise {nw.__version__}\n"


def test_the_quick_demo_from_end_to_end(run, tmp_path):
    done = run("demo", "--quick", "--out", tmp_path / "demo")
    assert done.exit_code == 0, done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    shown = " ".join(done.stdout.split())
    assert foundation._SENTENCE in shown
    assert "This is, word for word, what it is documented to say." in shown
    for heading in (
        "1. A language model",
        "4. The most selective neurons",
        "6. One fact: a girl named Lily",
        "7. Neurons for a table",
        "8. Neurons that stand for one thing",
        "9. Kept for later",
    ):
        assert heading in shown
    assert "860 neurons in 5 layers" in shown
    assert max(len(line) for line in done.stdout.splitlines() if str(tmp_path) not in line) < 200
    assert (tmp_path / "demo" / "report.html").stat().st_size > 10_000
    effect = nw.load(tmp_path / "demo" / "ablation")
    assert len(effect.random_changes) == 2
    assert f"{effect.change:+.4f}" in shown
    assert len(nw.load(tmp_path / "demo" / "activity").to_frame()) == 860
    assert "little girl named Tim" in shown
    assert "Undone, the model is what it was, to the last bit." in shown
    assert set(nw.load(tmp_path / "demo" / "knowledge").ids) == {"girl", "boy"}
    assert (tmp_path / "demo" / "girl.html").stat().st_size > 10_000
    assert nw.load(tmp_path / "demo" / "formula").terms == ("x**2", "sin(2*x)")
    assert "<w1, x**2> + <w2, sin(2*x)> + b1" in shown
    assert (tmp_path / "demo" / "formula.html").stat().st_size > 10_000
    verdicts = nw.load(tmp_path / "demo" / "audit").tables["verdicts"]
    assert verdicts["inhibitor"].tolist() == ["reversed", "tail", "selective"]
    assert all(" ".join(sentence.split()) in shown for sentence in verdicts["sentence"])
    assert (tmp_path / "demo" / "audit.html").stat().st_size > 10_000


def test_the_demo_leaves_folders_that_are_not_its_own_alone(run, tmp_path):
    (tmp_path / "activity").mkdir()
    (tmp_path / "activity" / "precious.txt").write_text("mine")
    done = run("demo", "--quick", "--out", tmp_path, "--json")
    assert done.exit_code == 4
    assert (tmp_path / "activity" / "precious.txt").read_text() == "mine"


def test_json_holds_what_json_can_hold():
    frame = pd.DataFrame({"a": [1.5, math.nan], "b": pd.array([1, None], dtype="Int64"), "c": [b"\x00", b""]})
    value = {
        "frame": frame,
        "array": np.array([1, 2]),
        "one": np.float32(0.5),
        "yes": np.bool_(True),
        "up": math.inf,
    }
    assert json.loads(json.dumps(screen.plain(value), allow_nan=False)) == {
        "frame": [{"a": 1.5, "b": 1, "c": "AA=="}, {"a": None, "b": None, "c": ""}],
        "array": [1, 2],
        "one": 0.5,
        "yes": True,
        "up": None,
    }


def test_text_of_others_cannot_steer_the_terminal():
    assert screen.visible("a\x1b[31mb\tc\n") == "a\\x1b[31mb\\tc⏎"
    assert screen.visible("a\nb\r", lines=True) == "a\nb\\r"


def test_a_table_shows_markup_as_text_and_says_when_it_is_cut(capsys):
    shown = screen.Screen()
    shown.table(
        pd.DataFrame({"text": ["[bold]x[/bold]", "y", "z"], "number": [0.123456, 2.0, np.nan]}), limit=2
    )
    out = capsys.readouterr().out
    assert "[bold]x[/bold]" in out
    assert "0.1235" in out
    assert "3 rows in all" in out
