"""The strongest examples of every neuron: against sorting everything."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronwise.errors import InvalidArgumentError
from neuronwise.observe import TopExamples
from tests.observe.streams import activations, feed


def brute(stream, k, sign):
    """Sort every example's peak: {neuron: [(value, example, position), ...]}."""
    found = {}
    for neuron in range(stream[0].shape[-1]):
        entries, example = [], 0
        for batch in stream:
            for sequence in batch[..., neuron].numpy():
                position = int(np.argmax(sign * sequence))
                entries.append((float(sequence[position]), example, position))
                example += 1
        found[neuron] = sorted(entries, key=lambda e: (-sign * e[0], e[1]))[:k]
    return found


def as_lists(table, side):
    own = table[table["side"] == side].sort_values(["neuron", "rank"])
    return {
        neuron: list(zip(rows["value"], rows["example"], rows["position"], strict=True))
        for neuron, rows in own.groupby("neuron")
    }


def test_both_sides_against_sorting(stream):
    table = feed(TopExamples(4), stream).result()["examples"]
    assert as_lists(table, "top") == brute(stream, 4, 1)
    assert as_lists(table, "bottom") == brute(stream, 4, -1)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_ties_and_splits_change_nothing(data):
    """Activations from a handful of values, so that ties are everywhere."""
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=6))
    numbers = st.sampled_from([-1.0, 0.0, 0.0, 2.0])
    stream = [
        torch.tensor(data.draw(st.lists(numbers, min_size=n * 3 * 2, max_size=n * 3 * 2))).reshape(n, 3, 2)
        for n in sizes
    ]
    cut = data.draw(st.integers(0, len(stream)))
    whole = feed(TopExamples(3), stream)
    left, right = feed(TopExamples(3), stream, 0, cut), feed(TopExamples(3), stream, cut)
    left.merge(right)
    assert as_lists(whole.result()["examples"], "top") == brute(stream, 3, 1)
    for name, table in whole.result().items():
        assert table.equals(left.result()[name])


def test_order_of_examples_does_not_matter():
    x = torch.randint(0, 3, (9, 4, 5), generator=torch.Generator().manual_seed(0)).float()
    forward, backward = TopExamples(3), TopExamples(3)
    for i in range(9):
        forward.update(activations(x[i : i + 1], first=i))
        backward.update(activations(x[8 - i : 9 - i], first=8 - i))
    assert forward.result()["examples"].equals(backward.result()["examples"])


def test_context_is_the_window_around_the_peak():
    values = torch.zeros(1, 6, 1)
    values[0, :, 0] = torch.tensor([0.0, 1.0, 9.0, 4.0, 0.5, 0.25])
    reducer = TopExamples(1, bottom=False, context=3)
    reducer.update(activations(values))
    context = reducer.result()["contexts"]
    assert context["offset"].tolist() == [-2, -1, 0, 1, 2, 3]
    assert context["token_id"].tolist() == [0, 1, 2, 3, 4, 5]
    assert context["value"].tolist() == [0.0, 1.0, 9.0, 4.0, 0.5, 0.25]


def test_padding_is_neither_peak_nor_context():
    values = torch.tensor([[9.0, 1.0, 2.0, 9.0]]).reshape(1, 4, 1)
    mask = torch.tensor([[False, True, True, False]])
    reducer = TopExamples(1, context=5)
    reducer.update(activations(values, mask=mask))
    examples, contexts = reducer.result()["examples"], reducer.result()["contexts"]
    assert examples["position"].tolist() == [2, 1]
    assert sorted(contexts[contexts["side"] == "top"]["token_id"]) == [1, 2]


def test_not_finite_peaks_do_not_count():
    values = torch.tensor([[[1.0], [torch.inf]], [[torch.nan], [torch.nan]], [[0.5], [0.25]]])
    reducer = TopExamples(5, bottom=False)
    reducer.update(activations(values))
    examples = reducer.result()["examples"]
    assert examples["value"].tolist() == [1.0, 0.5]
    assert examples["example"].tolist() == [0, 2]


def test_without_tokens_there_is_no_context():
    reducer = TopExamples(2)
    reducer.update(
        activations(torch.randn(3, 1, 4, generator=torch.Generator().manual_seed(0)), tokens=False)
    )
    assert set(reducer.result()) == {"examples"}


def test_bad_settings_are_refused():
    with pytest.raises(InvalidArgumentError, match="k must be at least 1"):
        TopExamples(0)
