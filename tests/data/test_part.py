"""Parts of a corpus."""

import pytest
import torch

import neuronwise as nw
from neuronwise.errors import InvalidArgumentError


@pytest.fixture
def whole():
    tokenizer = nw.load_model("stories260k").tokenizer
    return nw.corpus(["One day.", "A dog ran.", "The end."], tokenizer=tokenizer)


def test_examples_keep_their_numbers(whole):
    part = whole.part(1, 9)
    assert len(part) == 2
    assert [example.index for example in part] == [1, 2]
    assert [example.index for example in part.examples(1, 5)] == [2]
    assert part.examples(2, 5) == []
    assert part.token_strings([5]) == whole.token_strings([5])


def test_a_part_has_its_own_fingerprint_whatever_it_was_called(whole):
    assert len({part.fingerprint for part in (whole, whole.part(1), whole.part(0, 2))}) == 3
    assert whole.part(1).fingerprint == whole.part(1, 3).fingerprint == whole.part(1, 99).fingerprint


def test_a_part_of_a_stream():
    part = nw.corpus({"x": torch.full((2,), float(i))} for i in range(10)).part(3, 6)
    assert part.length() is None
    assert [float(example.inputs["x"][0]) for example in part] == [3.0, 4.0, 5.0]


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (2, 2), (3, 1)])
def test_bounds_are_checked(whole, start, stop):
    with pytest.raises(InvalidArgumentError, match="0 <= start < stop"):
        whole.part(start, stop)
