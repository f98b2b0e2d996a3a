"""The code on the pages of the documentation runs."""

import gzip
import re
from pathlib import Path

import pytest

import neuronwise as nw
from neuronwise.cli import app
from neuronwise.cli.running import EXIT_CODES
from neuronwise.data import bundled
from neuronwise.data.samples import STORY_SEPARATOR

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "docs" / "tutorial.md",
    *sorted((ROOT / "docs" / "howto").glob("*.md")),
    *sorted((ROOT / "docs" / "tutorial").glob("*.md")),
]
# Tutorials that train many networks; README and the how-to pages run the same calls on less.
SLOW = {ROOT / "docs" / "tutorial" / f"{name}.md" for name in ("task_neuron", "monosemanticity")}
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture
def few_stories(monkeypatch):
    """The pages as they stand, but on 24 of the bundled stories, which is enough to see whether the code runs."""
    whole = nw.corpus

    def corpus(source, **options):
        if source != "stories":
            return whole(source, **options)
        text = gzip.decompress(bundled("stories").read_bytes()).decode("utf-8")
        return whole(text.split(STORY_SEPARATOR)[:24], name="stories", **options)

    monkeypatch.setattr(nw, "corpus", corpus)


# What Lightning warns of on its own: a call of torch's that will go, and loaders without workers.
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.usefixtures("few_stories")
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] if page in SLOW else []) for page in PAGES],
    ids=[page.stem for page in PAGES],
)
def test_code_of_the_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    blocks = BLOCK.findall(text)
    assert blocks
    namespace = {"__name__": page.stem}
    for block in blocks:
        line = text[: text.index(block)].count("\n")
        code = compile("\n" * line + block, str(page), "exec")
        exec(code, namespace)


def test_every_how_to_page_is_in_the_table_of_contents():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    missing = [page.stem for page in PAGES[2:] if f"{page.parent.name}/{page.stem}\n" not in index]
    assert not missing


def test_the_page_of_the_command_line_lists_every_command_and_exit_code():
    page = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    commands = {command.name for command in app.registered_commands}
    assert commands == set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert {
        int(code): text for code, text in re.findall(r"^\| (\d+) \| (.*) \|$", page, re.MULTILINE)
    } == EXIT_CODES
