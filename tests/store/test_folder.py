"""Folders that are not whole: recognised when read, and not left behind when written."""

from __future__ import annotations

import errno
import json
import resource
import signal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neuronwise.errors import IncompleteResultError, NotAResultError, TamperedResultError, WriteError
from neuronwise.files import sha256_file
from neuronwise.store import Result, folder, load_result, query

from . import samples


@pytest.fixture
def run(tmp_path):
    return samples.toy().save(tmp_path / "run")


def every_way_in(path):
    yield lambda: samples.Toy.load(path)
    yield lambda: load_result(path)
    yield lambda: query(path, "FROM neurons")


def test_not_a_result(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for name, message in {"nowhere": "no folder", "file": "is a file", "empty": "has no manifest"}.items():
        for way in every_way_in(tmp_path / name):
            with pytest.raises(NotAResultError, match=message):
                way()


def test_a_manifest_of_bytes(run):
    (run / "manifest.json").write_bytes(b"\xff\xfe")
    with pytest.raises(NotAResultError, match="not JSON"):
        Result.load(run)


def test_a_missing_file(run):
    (run / "examples.parquet").unlink()
    for way in every_way_in(run):
        with pytest.raises(IncompleteResultError, match=r"examples\.parquet"):
            way()


def test_a_file_cut_short(run):
    path = run / "examples.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    for way in every_way_in(run):
        with pytest.raises(TamperedResultError, match=r"examples\.parquet.*bytes"):
            way()


@pytest.mark.parametrize("name", ["examples.parquet", "arrays.safetensors"])
def test_a_changed_file_of_the_same_size(run, name):
    path = run / name
    data = bytearray(path.read_bytes())
    data[-1 if name.startswith("arrays") else len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(TamperedResultError, match=f"{name}.*hash"):
        Result.load(run)
    with pytest.raises(TamperedResultError, match="hash"):
        query(run, "FROM neurons", verify=True)
    Result.load(run, verify=False)


def test_a_file_changed_after_loading(run):
    loaded = Result.load(run)
    (run / "examples.parquet").unlink()
    with pytest.raises(IncompleteResultError):
        loaded.tables["examples"]
    (run / "examples.parquet").write_bytes(b"PAR1")
    with pytest.raises(TamperedResultError):
        loaded.rows("examples", neuron=0)


def forge(run, name, write):
    """Replace a file and make the manifest agree with it."""
    write(run / name)
    values = json.loads((run / "manifest.json").read_text())
    values["files"][name].update(sha256=sha256_file(run / name), bytes=(run / name).stat().st_size)
    (run / "manifest.json").write_text(json.dumps(values))


def test_a_forged_table_is_refused_when_read(run):
    forge(run, "examples.parquet", lambda path: path.write_bytes(b"PAR1" * 9))
    with pytest.raises(TamperedResultError, match="cannot be read"):
        Result.load(run).tables["examples"]
    with pytest.raises(TamperedResultError, match="not a Parquet file"):
        query(run, "FROM examples")
    other = samples.examples().astype({"neuron": "int64"})
    forge(run, "examples.parquet", lambda path: pq.write_table(pa.Table.from_pandas(other), path))
    with pytest.raises(
        TamperedResultError, match=r"column 'site' is large_string, not string|'neuron' is int64"
    ):
        Result.load(run).tables["examples"]
    forge(run, "examples.parquet", lambda path: pd.DataFrame({"site": ["a"]}).to_parquet(path))
    with pytest.raises(TamperedResultError):
        Result.load(run).rows("examples", neuron=1)


def test_forged_arrays_are_refused(run):
    forge(run, "arrays.safetensors", lambda path: path.write_bytes(b"\x80\x04K\x01."))
    with pytest.raises(TamperedResultError, match="not a safetensors file"):
        Result.load(run)


def test_other_files_in_the_folder_are_ignored(run):
    (run / "report.html").write_text("<html>")
    samples.neurons().to_parquet(run / "sites.parquet")
    assert samples.Toy.load(run) == samples.toy()


def test_an_existing_folder_is_kept_unless_asked(run, tmp_path):
    with pytest.raises(WriteError, match="overwrite=True"):
        samples.toy(shift=1).save(run)
    assert samples.Toy.load(run) == samples.toy()
    samples.toy(shift=1).save(run, overwrite=True)
    assert samples.Toy.load(run) == samples.toy(shift=1)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_overwrite_never_replaces_what_is_not_a_result(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for target in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(WriteError, match="is not a result"):
            samples.toy().save(target, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    samples.toy().save(tmp_path / "empty", overwrite=True)


@pytest.mark.parametrize("step", ["write_table", "save_file", "_sync"])
@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), WriteError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_failure_in_the_middle_leaves_nothing(tmp_path, monkeypatch, step, earlier, failure, expected):
    target = tmp_path / "run"
    if earlier:
        samples.toy(shift=1).save(target)
    calls = []
    whole = getattr(folder, step)

    def fails(*args):
        calls.append(args)
        # Of two tables the second fails, when the first is there.
        if step != "save_file" and len(calls) < 2:
            return whole(*args)
        raise failure

    monkeypatch.setattr(folder, step, fails)
    with pytest.raises(expected) as caught:
        samples.toy().save(target, overwrite=True)
    if expected is WriteError:
        assert "No space left" in str(caught.value)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == (["run"] if earlier else [])
    if earlier:
        assert samples.Toy.load(target) == samples.toy(shift=1)


@pytest.mark.parametrize("limit", [100, 6000])
def test_a_file_system_that_refuses_to_grow_a_file(tmp_path, limit):
    """Real writers against a real refusal: the first limit stops a table, the second the arrays."""
    big = samples.toy()
    big = samples.Toy(
        {"neurons": big.tables["neurons"]}, big.manifest, {"big": pd.Series(range(5000)).to_numpy()}
    )
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    old_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old_limit[1]))
        with pytest.raises(WriteError, match=r"too large|File too large"):
            big.save(tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)
    assert list(tmp_path.iterdir()) == []
