"""The package as a whole: its public names, what importing it costs, and what its source must never do."""

import ast
import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import neuronwise

SOURCE = Path(neuronwise.__file__).parent
ROOMS = sorted(info.name for info in pkgutil.iter_modules([str(SOURCE)]) if not info.name.startswith("_"))
HEAVY = {
    "torch",
    "numpy",
    "pandas",
    "pyarrow",
    "matplotlib",
    "duckdb",
    "transformers",
    "typer",
    "rich",
    "jinja2",
}


def modules_after(code: str) -> set[str]:
    """Top-level packages in ``sys.modules`` of a fresh process that ran ``code``."""
    code += "; import json, sys; print(json.dumps([name.partition('.')[0] for name in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("name", neuronwise.__all__)
def test_every_public_name_resolves_to_what_its_room_says(name):
    value = getattr(neuronwise, name)
    if name == "errors":
        assert value is importlib.import_module("neuronwise.errors")
    else:
        room, attribute = neuronwise._NAMES[name]
        module = importlib.import_module(f"neuronwise.{room}")
        assert value is getattr(module, attribute)
        assert attribute in module.__all__


def test_public_names_are_sorted_and_are_the_table():
    assert neuronwise.__all__ == sorted(neuronwise.__all__)
    assert set(neuronwise.__all__) == {*neuronwise._NAMES, "errors"}
    assert set(neuronwise.__all__) <= set(dir(neuronwise))


@pytest.mark.parametrize("room", neuronwise._ROOMS)
def test_some_rooms_are_used_by_their_own_name(room):
    done = subprocess.run(
        [sys.executable, "-c", f"import neuronwise as nw; print(nw.{room}.__name__)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.strip() == f"neuronwise.{room}"
    assert room in dir(neuronwise)


def test_an_unknown_name_is_an_attribute_error_that_lists_close_ones():
    with pytest.raises(AttributeError, match="observe"):
        _ = neuronwise.obsrve
    assert not hasattr(neuronwise, "nothing_of_the_sort")


def test_observe_stays_the_function_after_its_room_is_imported():
    room = importlib.import_module("neuronwise.observe")
    neuronwise.observe = room  # what Python does after importing the room
    assert callable(neuronwise.observe)
    assert neuronwise.observe.__name__ == "observe"


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_lists_names_that_exist_each_once(room):
    module = importlib.import_module(f"neuronwise.{room}")
    assert len(module.__all__) == len(set(module.__all__))
    missing = [name for name in module.__all__ if not hasattr(module, name)]
    assert not missing


def test_importing_the_package_imports_nothing_heavy():
    assert not modules_after("import neuronwise") & HEAVY


def test_importing_the_command_line_imports_no_torch():
    assert not modules_after("import neuronwise.cli") & (HEAVY - {"typer", "rich"})


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """Every call in a module as (dotted name, node)."""
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def imported(tree: ast.AST) -> set[str]:
    """Top-level packages that a module imports anywhere."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(SOURCE)) for file in FILES])
def test_source_never_runs_code_from_a_file(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert not imported(tree) & {"pickle", "dill", "shelve", "marshal"}
    for name, call in calls(tree):
        words = {word.arg: word.value for word in call.keywords}
        assert name not in {"eval", "exec", "builtins.eval", "builtins.exec"}, ast.unparse(call)
        assert name not in {"joblib.load", "cloudpickle.loads", "cloudpickle.load"}, ast.unparse(call)
        if name == "torch.load":
            assert "weights_only" in words, ast.unparse(call)
        if name in {"np.load", "numpy.load"}:
            allow = words.get("allow_pickle")
            assert allow is None or (isinstance(allow, ast.Constant) and allow.value is False), ast.unparse(
                call
            )


def test_the_package_is_marked_as_typed():
    assert (SOURCE / "py.typed").is_file()
