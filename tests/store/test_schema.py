from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from neuronwise.errors import InvalidArgumentError
from neuronwise.store import TABLES
from neuronwise.store.schema import markdown, table_schema

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "schema.md"


def test_the_page_is_what_the_schema_says():
    assert PAGE.read_text(encoding="utf-8") == markdown(), "run: python docs/_schema.py"


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_whole(name):
    table = TABLES[name]
    assert table.name == name
    assert set(table.keys) <= set(table.column_names)
    assert len(set(table.column_names)) == len(table.columns)
    for column in table.columns:
        assert column.doc.endswith((".", ". "))
        assert not column.choices or pa.types.is_string(column.type)


def test_an_unknown_table_lists_the_closest():
    with pytest.raises(InvalidArgumentError, match=r"no table 'neuron'.*neurons"):
        table_schema("neuron")


def test_the_schema_cannot_be_changed_by_accident():
    with pytest.raises(TypeError):
        TABLES["mine"] = TABLES["neurons"]  # type: ignore[index]


def test_importing_the_store_leaves_the_heavy_packages_alone():
    code = "import sys, neuronwise.store; print(*{'duckdb', 'matplotlib', 'torch'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
