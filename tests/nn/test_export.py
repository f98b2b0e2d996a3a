"""Export to ONNX: another runtime computes the same, for batches of any size."""

import io

import pytest
import torch
from torch import nn

from neuronwise.nn import NeuronConv2d, NeuronLinear

# What the exporter itself warns about.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (
            lambda: nn.Sequential(
                NeuronLinear(6, 5, kind="quadratic"), NeuronLinear(5, 2, kind="x + tanh(x) + x**3")
            ),
            (6,),
        ),
        (
            lambda: nn.Sequential(NeuronConv2d(2, 4, 3, padding=1, groups=2, kind="x + sqrt(abs(x))")),
            (2, 5, 5),
        ),
        (lambda: nn.Sequential(NeuronLinear(3, 2, kind="sin(<w1, x> + b1)*max(x) + <w2, x>")), (3,)),
    ],
)
def test_onnxruntime_computes_the_same(model, shape):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    made = model()
    made(torch.randn(30, *shape))
    made.eval()
    sizes = ({0: torch.export.Dim("rows")},)
    program = torch.onnx.export(
        made, (torch.randn(4, *shape),), dynamo=True, dynamic_shapes=sizes, verbose=False
    )
    file = io.BytesIO()
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue())
    x = torch.randn(7, *shape)
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert torch.allclose(torch.from_numpy(found), made(x), atol=1e-5)
