"""Batches that grow on the way, and positions that stay behind."""

import pytest
import torch
from torch import nn

from neuronwise.errors import CompiledModelError, InvalidArgumentError
from neuronwise.hooks import grow, keep_positions, replicated


class Layers(nn.Module):
    """Blocks that take the hidden state, a mask (one row an example), and angles that count positions."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Scaled() for _ in range(3))
        self.head = nn.Linear(4, 2)

    def forward(self, x, mask):
        angles = torch.arange(x.shape[1], dtype=x.dtype).unsqueeze(1).expand(-1, 4)
        for block in self.blocks:
            x = block(x, mask=mask, angles=angles, again=(x, None))
        return self.head(x)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.seen = []

    def forward(self, x, *, mask, angles, again):
        assert len(again[0]) == len(x) and angles.shape == (x.shape[1], 4)
        self.seen.append(len(x))
        return x + self.linear(x) * mask.unsqueeze(-1) + angles


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Layers().double()


X = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])


def test_rows_that_join_are_copies_of_their_examples(model):
    plain = model(X, MASK)
    entries = {"blocks.1": torch.tensor([1, 0]), "blocks.2": torch.tensor([1])}
    with grow(model, entries, start=torch.tensor([0, 1])) as growth:
        model.blocks[0].seen.clear(), model.blocks[1].seen.clear(), model.blocks[2].seen.clear()
        for _ in range(2):  # it starts anew with every pass
            output = model(X, MASK)
            assert growth.examples.tolist() == [0, 1, 1, 0, 1]
    assert [block.seen for block in model.blocks] == [[2, 2], [4, 4], [5, 5]]
    assert torch.allclose(output, plain[[0, 1, 1, 0, 1]], rtol=0, atol=1e-15)
    assert torch.equal(model(X, MASK), plain)


def test_a_mask_of_one_row_and_blocks_where_none_joins(model):
    plain = model(X, MASK[:1])
    none = torch.tensor([], dtype=torch.long)
    entries = {"blocks.0": none, "blocks.1": torch.tensor([0]), "blocks.2": none}
    with grow(model, entries, start=torch.tensor([0, 1])):
        output = model(X, MASK[:1])
    assert torch.allclose(output, plain[[0, 1, 0]], rtol=0, atol=1e-15)


def test_a_batch_that_starts_with_variants(model):
    start = torch.tensor([0, 1, 1])
    with grow(model, {"blocks.2": torch.tensor([0])}, start=start) as growth:
        output = model(X[start], MASK[start])
    assert growth.examples.tolist() == [0, 1, 1, 0]
    assert torch.allclose(output, model(X, MASK)[growth.examples], rtol=0, atol=1e-15)


def test_hooks_come_off_also_after_an_exception(model):
    with (
        pytest.raises(ZeroDivisionError),
        grow(model, {"blocks.1": torch.tensor([0])}, start=torch.arange(2)),
    ):
        raise ZeroDivisionError
    with (
        pytest.raises(ZeroDivisionError),
        keep_positions(model.head, lambda: torch.zeros(2, 1, dtype=torch.long)),
    ):
        raise ZeroDivisionError
    assert not any(module._forward_pre_hooks for module in model.modules())
    with pytest.raises(CompiledModelError), grow(nn.DataParallel(model), {}, start=torch.arange(2)):
        pass
    far = torch.tensor([[5], [0]])
    with (
        keep_positions(model.head, lambda: far),
        pytest.raises(InvalidArgumentError, match="there are 5 positions"),
    ):
        model(X, MASK)


def test_positions_that_stay(model):
    wanted = torch.tensor([[4, 0], [2, 2]])
    plain = model(X, MASK)
    with keep_positions(model.head, lambda: wanted):
        output = model(X, MASK)
    assert output.shape == (2, 2, 2)
    for row in range(2):
        assert torch.allclose(output[row], plain[row, wanted[row]], rtol=0, atol=1e-15)


def test_replicated_rows_of_one_share_their_memory():
    one = torch.ones(1, 3)
    assert replicated(one, torch.tensor([0, 0, 0])).data_ptr() == one.data_ptr()
    assert replicated(X, torch.tensor([1, 0]))[0].equal(X[1])
