from __future__ import annotations

import json

import pytest

from neuronwise.errors import InvalidArgumentError, NotAResultError
from neuronwise.store import SCHEMA_VERSION, Manifest
from neuronwise.store.manifest import FileEntry

from . import samples

ENTRY = FileEntry(sha256="0" * 64, bytes=5, rows=1)


def test_round_trip():
    manifest = samples.manifest().with_files({"neurons.parquet": ENTRY})
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert manifest.created.endswith("+00:00")
    assert manifest.torch[0].isdigit()
    assert manifest.python.startswith("3.")


def test_what_is_given_later_does_not_change_it():
    parameters = {"top": 4}
    manifest = samples.manifest(action={"name": "observe", "parameters": parameters})
    parameters["top"] = 5
    assert manifest.action["parameters"] == {"top": 4}
    with pytest.raises(TypeError):
        manifest.action["name"] = "x"  # type: ignore[index]


@pytest.mark.parametrize("value", [object(), float("nan"), b"x"])
def test_only_json_goes_in(value):
    with pytest.raises(InvalidArgumentError, match="manifest's data must be plain JSON"):
        samples.manifest(data={"value": value})


def test_same_run_ignores_when_and_where():
    one = samples.manifest(created="2020-01-01T00:00:00+00:00", torch="1").with_files({"a": ENTRY})
    assert one.same_run(samples.manifest())
    assert not one.same_run(samples.manifest(seed=4))


def test_a_newer_version_says_so():
    values = json.loads(samples.manifest().to_json())
    values.update(schema_version=SCHEMA_VERSION + 1, neuronwise="9.9", surprise=1)
    with pytest.raises(NotAResultError, match=r"schema version 2 \(written by neuronwise 9.9\).*newer one"):
        Manifest.from_json(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": 3}, "'kind' is 3"),
        ({"seed": "x"}, "'seed' is 'x'"),
        ({"surprise": 1}, "unknown entry 'surprise'"),
        ({"schema_version": True}, "states no schema_version"),
        ({"schema_version": 0}, "states no schema_version"),
        ({"files": {"x.parquet": {"sha256": "0" * 64, "bytes": 1}}}, "neither hash nor size"),
        ({"files": {"x.parquet": {"sha256": "g" * 64, "bytes": 1, "rows": 1}}}, "neither hash nor size"),
        ({"files": {"x.parquet": {"sha256": "0" * 64, "bytes": -1, "rows": 1}}}, "neither hash nor size"),
    ],
)
def test_what_is_not_a_manifest_is_refused(change, message):
    values = json.loads(samples.manifest().to_json()) | change
    with pytest.raises(NotAResultError, match=message):
        Manifest.from_json(json.dumps(values))


@pytest.mark.parametrize("name", ["../x.parquet", "/etc/passwd", "a/b", "..", "", "c:x", "a\\b", "a\0b"])
def test_a_file_outside_the_folder_is_refused(name):
    values = json.loads(samples.manifest().to_json())
    values["files"] = {name: {"sha256": "0" * 64, "bytes": 1, "rows": 1}}
    with pytest.raises(NotAResultError, match="not the plain name of a file"):
        Manifest.from_json(json.dumps(values))


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"schema_version": "1"}', "{"])
def test_other_json_is_not_a_manifest(text):
    with pytest.raises(NotAResultError, match=r"here\.json"):
        Manifest.from_json(text, where="here.json")
