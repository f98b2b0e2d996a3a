"""Running the command line in this process, and one observed folder for all tests that read it."""

import pytest
from typer.testing import CliRunner

from neuronwise.cli import app

MODEL = "stories260k"


@pytest.fixture(scope="session")
def run():
    """Run a command; the result has exit_code, stdout and stderr."""

    def call(*words):
        return CliRunner().invoke(app, [str(word) for word in words])

    return call


@pytest.fixture(scope="session")
def observed(run, tmp_path_factory):
    """A folder that ``observe`` wrote, with what it said."""
    folder = tmp_path_factory.mktemp("cli") / "activity"
    done = run("observe", MODEL, "stories", "--limit", 4, "--max-length", 64, "--out", folder)
    assert done.exit_code == 0, done.stderr
    return folder, done
