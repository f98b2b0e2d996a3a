"""Folding blocks: order, endings, checkpoints, engines."""

import json

import pytest
import torch
from safetensors import SafetensorError

from neuronwise.engine import ENGINES, Checkpoint, blocks_of, map_reduce
from neuronwise.errors import InvalidArgumentError, MissingExtraError, ResultError, WriteError


class Listing:
    """A job whose result shows which blocks were run, and in which order they were merged."""

    def __init__(self, end=None, fail_at=None):
        self.end, self.fail_at = end, fail_at

    def start(self):
        return []

    def run(self, state, block):
        number, start, _ = block
        if number == self.fail_at:
            raise KeyboardInterrupt
        if self.end is not None and start >= self.end:
            return False
        state.append(number)
        return True

    def merge(self, state, other):
        state.extend(other)

    def dump(self, state):
        return {"numbers": torch.tensor(state)}

    def restore(self, tensors):
        return tensors["numbers"].tolist()

    def fingerprint(self):
        return "listing"


def test_blocks_cover_everything_once():
    for total in (1, 31, 32, 300, 513, 100_000):
        blocks = list(blocks_of(total))
        assert [number for number, _, _ in blocks] == list(range(len(blocks)))
        assert [i for _, a, b in blocks for i in range(a, b)] == list(range(total))
        assert len(blocks) <= max(16, -(-total // 4096))
    assert list(blocks_of(10, 4)) == [(0, 0, 4), (1, 4, 8), (2, 8, 10)]
    assert list(blocks_of(0)) == []


@pytest.mark.parametrize("engine", ["local", "processes"])
def test_merged_in_order(engine):
    seen = []
    state = map_reduce(Listing(), blocks_of(50, 5), engine=engine, workers=2, on_block=seen.append)
    assert state == list(range(10))
    assert seen == list(blocks_of(50, 5))


def test_a_stream_ends_with_an_empty_block():
    assert map_reduce(Listing(end=23), blocks_of(None, 10)) == [0, 1, 2]


def test_interrupted_and_resumed(tmp_path):
    file = tmp_path / "deep" / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        map_reduce(Listing(fail_at=6), blocks_of(50, 5), checkpoint=file, checkpoint_every=0.0)
    done, tensors = Checkpoint(file, "listing").read()
    assert done == 6
    assert tensors["numbers"].tolist() == list(range(6))
    seen = []
    state = map_reduce(Listing(), blocks_of(50, 5), checkpoint=file, on_block=seen.append)
    assert state == list(range(10))
    assert [number for number, _, _ in seen] == [6, 7, 8, 9]
    assert list(file.parent.iterdir()) == []


def test_a_checkpoint_of_another_pass_is_refused(tmp_path):
    file = tmp_path / "state.safetensors"
    Checkpoint(file, "other").write(3, {"numbers": torch.arange(3)})
    with pytest.raises(ResultError, match="not a checkpoint of this pass"):
        map_reduce(Listing(), blocks_of(50, 5), checkpoint=file)
    file.write_text(json.dumps({"done": 3}))
    with pytest.raises(ResultError, match="cannot be read as a checkpoint"):
        map_reduce(Listing(), blocks_of(50, 5), checkpoint=file)


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    file = tmp_path / "state.safetensors"
    checkpoint = Checkpoint(file, "listing")
    checkpoint.write(1, {"numbers": torch.arange(1)})

    def full(*args, **kwargs):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("neuronwise.engine.checkpoint.save_file", full)
    with pytest.raises(WriteError, match="No space left on device"):
        checkpoint.write(2, {"numbers": torch.arange(2)})
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]
    assert checkpoint.read()[0] == 1


def test_not_written_more_often_than_asked(tmp_path):
    checkpoint = Checkpoint(tmp_path / "state.safetensors", "listing", every=1e9)
    assert not checkpoint.due()
    assert Checkpoint(tmp_path / "state.safetensors", "listing", every=0.0).due()


def test_what_is_refused(monkeypatch):
    with pytest.raises(
        InvalidArgumentError, match=r"Unknown engine 'cluster'\. There are: local, processes, ray"
    ):
        map_reduce(Listing(), blocks_of(5), engine="cluster")
    with pytest.raises(InvalidArgumentError, match="workers must be at least 1"):
        map_reduce(Listing(), blocks_of(5), engine="processes", workers=0)
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'neuronwise\[ray\]'"):
        map_reduce(Listing(), blocks_of(5), engine="ray")
    assert set(ENGINES) == {"local", "processes", "ray"}


def test_endless_blocks_are_numbered():
    blocks = blocks_of(None, 7)
    assert [next(blocks) for _ in range(3)] == [(0, 0, 7), (1, 7, 14), (2, 14, 21)]


@pytest.mark.slow
def test_ray_merges_in_order():
    pytest.importorskip("ray")
    assert map_reduce(Listing(), blocks_of(50, 5), engine="ray", workers=2) == list(range(10))


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(ResultError, match="is a folder; a checkpoint is a file"):
        map_reduce(Listing(), blocks_of(5), checkpoint=tmp_path)
    assert tmp_path.is_dir()
