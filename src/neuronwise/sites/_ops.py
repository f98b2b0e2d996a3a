"""What a step of a traced graph does to neurons: keep them, activate them, combine them, or something else."""

from __future__ import annotations

from enum import Enum

from torch import fx, nn

from neuronwise.sites._trace import Graph
from neuronwise.sites._weights import RNNS, conv_shape, dense_shape

__all__ = ["Op", "data_inputs", "first_input", "op_name", "op_of"]


class Op(Enum):
    """The kinds of steps that the search for neurons tells apart."""

    DENSE = "dense"
    CONV = "conv"
    RNN = "rnn"
    ACTIVATION = "activation"
    GLU = "glu"
    NORM = "norm"
    KEEP = "keep"
    POOL = "pool"
    FLATTEN = "flatten"
    ADD = "add"
    MUL = "mul"
    CUT = "cut"
    OTHER = "other"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Names of functions in torch, torch.nn.functional and operator, and of tensor methods, without underscores.
_NAMES: dict[Op, frozenset[str]] = {
    Op.ACTIVATION: _words(
        "abs celu clamp clamp_max clamp_min clip cos elu erf exp gelu hardshrink hardsigmoid hardswish hardtanh "
        "leaky_relu log1p log_sigmoid logsigmoid mish pow prelu relu relu6 rrelu selu sigmoid silu sin softplus "
        "softshrink softsign square tanh tanhshrink threshold"
    ),
    Op.GLU: frozenset(["glu"]),
    Op.NORM: _words("batch_norm group_norm instance_norm layer_norm rms_norm"),
    Op.KEEP: _words(
        "alpha_dropout bfloat16 clone contiguous dropout dropout1d dropout2d dropout3d feature_alpha_dropout float "
        "half neg to type type_as"
    ),
    Op.POOL: _words(
        "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d "
        "adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d interpolate max_pool1d max_pool2d max_pool3d mean pad "
        "upsample"
    ),
    Op.FLATTEN: _words("flatten reshape squeeze view"),
    Op.ADD: _words("add iadd sub isub rsub subtract"),
    Op.MUL: _words("mul imul multiply truediv itruediv div divide"),
    Op.CUT: _words("chunk getitem split tensor_split"),
}
_BY_NAME = {name: op for op, names in _NAMES.items() for name in names}


def op_name(node: fx.Node) -> str:
    """Return the name of the function or method that a node calls, without leading and trailing underscores."""
    target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return target.strip("_")


def op_of(node: object, graph: Graph) -> Op:
    """Return what kind of step a node is."""
    if not isinstance(node, fx.Node):
        return Op.OTHER
    module = graph.module(node)
    if module is not None:
        return _op_of_module(module)
    if node.op in ("call_function", "call_method"):
        return _BY_NAME.get(op_name(node), Op.OTHER)
    return Op.OTHER


def _op_of_module(module: nn.Module) -> Op:
    if dense_shape(module) is not None:
        return Op.DENSE
    if conv_shape(module) is not None:
        return Op.CONV
    if isinstance(module, RNNS):
        return Op.RNN
    if isinstance(module, nn.GLU):
        return Op.GLU
    if isinstance(module, nn.MultiheadAttention | nn.Softmax | nn.Softmin | nn.LogSoftmax | nn.Softmax2d):
        return Op.OTHER
    if isinstance(module, nn.Flatten):
        return Op.FLATTEN
    if isinstance(module, nn.Identity):
        return Op.KEEP
    # The file of torch that a module type is in says what family it is of.
    home = type(module).__module__.removeprefix("torch.nn.modules.")
    by_home = {"activation": Op.ACTIVATION, "dropout": Op.KEEP, "pooling": Op.POOL, "upsampling": Op.POOL}
    if home in by_home:
        return by_home[home]
    if home == "padding":
        return Op.POOL
    return Op.NORM if "norm" in type(module).__name__.lower() else Op.OTHER


def first_input(node: fx.Node) -> fx.Node | None:
    """Return the value that a step works on."""
    values = [*node.args, *node.kwargs.values()]
    return values[0] if values and isinstance(values[0], fx.Node) else None


def data_inputs(node: fx.Node) -> list[fx.Node]:
    """Return the inputs of a step that depend on the model's input: not parameters, buffers and numbers."""
    return [value for value in node.all_input_nodes if _is_data(value)]


def _is_data(node: fx.Node) -> bool:
    waiting, seen = [node], set()
    while waiting:
        here = waiting.pop()
        if here in seen:
            continue
        seen.add(here)
        if here.op in ("placeholder", "call_module"):
            return True
        waiting.extend(here.all_input_nodes)
    return False
