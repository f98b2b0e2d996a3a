"""Fixtures that several rooms use."""

import pytest
import torch

from tests.observe.streams import mixed


@pytest.fixture
def stream():
    """Batches of uneven sizes of neurons with very different means, spreads and shapes."""
    return mixed(torch.Generator().manual_seed(0))
