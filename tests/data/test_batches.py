"""Batches: every example once, padding masked and bounded."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronwise.data import Example, batches
from neuronwise.errors import DataError, InvalidArgumentError


def _text(index, length):
    ids = torch.arange(1, length + 1) + 100 * index
    return Example(
        index,
        {"input_ids": ids},
        length,
        tuple(map(str, ids.tolist())),
        {"pos": ids % 7, "kind": torch.tensor(index % 3)},
    )


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 12), max_size=25),
    st.integers(1, 6),
    st.none() | st.integers(1, 40),
)
def test_every_example_comes_once_and_only_real_positions_are_unmasked(lengths, batch_size, max_tokens):
    examples = [_text(n, length) for n, length in enumerate(lengths)]
    seen = []
    widths = []
    for batch in batches(examples, batch_size=batch_size, max_tokens=max_tokens, pad=9):
        rows, width = batch.inputs["input_ids"].shape
        widths.append(width)
        assert len(batch) == rows <= batch_size
        assert max_tokens is None or rows * width <= max_tokens or rows == 1
        assert (batch.mask is None) == (batch.lengths.min() == width)
        assert ("attention_mask" in batch.inputs) == (batch.mask is not None)
        mask = torch.ones(rows, width, dtype=torch.bool) if batch.mask is None else batch.mask
        for row, index in enumerate(batch.indices.tolist()):
            seen.append(index)
            length = lengths[index]
            assert batch.lengths[row] == length == mask[row].sum()
            assert torch.equal(batch.inputs["input_ids"][row, :length], examples[index].inputs["input_ids"])
            assert (batch.inputs["input_ids"][row, length:] == 9).all()
            assert (batch.labels["pos"][row, length:] == -1).all()
            assert torch.equal(batch.labels["pos"][row, :length], examples[index].labels["pos"])
            assert batch.labels["kind"][row] == index % 3
            assert batch.tokens[row] == examples[index].tokens
        assert torch.equal(batch.token_ids, batch.inputs["input_ids"])
    # Sorted by length, and within a length in the order given.
    assert seen == sorted(range(len(lengths)), key=lambda n: lengths[n])
    assert widths == sorted(widths)


def test_tensors_of_ids_are_padded_and_arrays_are_stacked():
    ids = [Example(0, torch.tensor([1, 2, 3]), 3), Example(1, torch.tensor([4]), 1)]
    (batch,) = batches(ids)
    assert batch.inputs.tolist() == [[4, 0, 0], [1, 2, 3]]
    assert batch.mask.tolist() == [[True, False, False], [True, True, True]]
    assert batch.token_ids is batch.inputs or torch.equal(batch.token_ids, batch.inputs)
    (batch,) = batches([Example(n, torch.full((2, 3), float(n))) for n in range(4)])
    assert batch.inputs.shape == (4, 2, 3)
    assert batch.mask is None and batch.token_ids is None and batch.tokens is None


def test_other_named_inputs_are_padded_too():
    first = Example(0, {"input_ids": torch.tensor([5, 6]), "labels": torch.tensor([5, 6])}, 2)
    second = Example(1, {"input_ids": torch.tensor([7]), "labels": torch.tensor([7])}, 1)
    both = [
        replace(e, inputs={**e.inputs, "decoder_input_ids": e.inputs["input_ids"]}) for e in (first, second)
    ]
    (batch,) = batches(both, pad=3)
    assert batch.inputs["decoder_input_ids"].tolist() == [[7, 3], [5, 6]]
    assert batch.inputs["input_ids"].tolist() == [[7, 3], [5, 6]]
    assert batch.inputs["labels"].tolist() == [[7, -100], [5, 6]]


def test_only_what_counts_positions_in_every_example_is_padded():
    """A picture of three channels beside texts of three tokens and of five."""
    pictures = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    boxes = [torch.ones(3, 4, dtype=torch.int64), torch.ones(5, 4, dtype=torch.int64)]
    examples = [
        Example(
            n, {"input_ids": torch.arange(1, 1 + size), "pixel_values": pictures[n], "bbox": boxes[n]}, size
        )
        for n, size in enumerate((3, 5))
    ]
    (batch,) = batches(examples)
    assert batch.inputs["input_ids"].tolist() == [[1, 2, 3, 0, 0], [1, 2, 3, 4, 5]]
    assert torch.equal(batch.inputs["pixel_values"], pictures)
    assert batch.inputs["bbox"].shape == (2, 5, 4)
    assert batch.inputs["bbox"][0, 3:].eq(0).all()


def test_a_given_attention_mask_counts():
    row = {"input_ids": torch.tensor([5, 6, 7]), "attention_mask": torch.tensor([0, 1, 1])}
    (batch,) = batches([Example(0, row, 3)])
    assert batch.mask.tolist() == [[False, True, True]]
    (batch,) = batches([Example(0, {**row, "attention_mask": torch.ones(3)}, 3)])
    assert batch.mask is None


def test_to_moves_everything_and_casts_only_floats():
    example = Example(0, {"x": torch.zeros(2), "n": torch.tensor(3)}, labels={"y": torch.tensor(1)})
    (batch,) = batches([example])
    moved = batch.to("meta", dtype=torch.float16)
    assert moved.inputs["x"].dtype == torch.float16 and moved.inputs["n"].dtype == torch.int64
    assert moved.inputs["x"].is_meta and moved.indices.is_meta and moved.labels["y"].is_meta
    assert not batch.inputs["x"].is_meta


def test_nothing_gives_nothing():
    assert list(batches([])) == []


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(InvalidArgumentError, match="at least 1"):
        batches([], batch_size=0)
    with pytest.raises(DataError, match="different shapes"):
        list(batches([Example(0, torch.zeros(2, 2)), Example(1, torch.zeros(2, 3))]))
    with pytest.raises(DataError, match="different inputs"):
        list(batches([Example(0, {"a": torch.zeros(2)}), Example(1, {"b": torch.zeros(2)})]))
    with pytest.raises(DataError, match="one form"):
        list(batches([Example(0, {"a": torch.zeros(2)}), Example(1, torch.zeros(2))]))
    with pytest.raises(DataError, match="one form"):
        list(batches([Example(0, torch.zeros(2)), Example(1, {"a": torch.zeros(2)})]))
    with pytest.raises(DataError, match="different labels"):
        list(batches([Example(0, torch.zeros(2), labels={"a": torch.tensor(0)}), Example(1, torch.zeros(2))]))
