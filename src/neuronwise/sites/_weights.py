"""What a module's type says about its shape: widths, and which axis of its weight counts neurons."""

from __future__ import annotations

from torch import Tensor, nn

from neuronwise.sites.site import TensorName, WeightSlice

__all__ = [
    "RNNS",
    "conv_shape",
    "dense_shape",
    "is_conv1d_transposed",
    "neuron_axis",
    "reads_through",
    "rnn_width",
    "writes_through",
]

_TRANSPOSED_CONVS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED_CONVS)
RNNS = (nn.RNNBase, nn.RNNCellBase)


def is_conv1d_transposed(module: nn.Module) -> bool:
    """Whether this is Hugging Face's ``Conv1D``: a linear layer whose weight is stored ``(in, out)``."""
    # By name, since transformers is optional and may not be imported here.
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf") and hasattr(module, "weight")


def dense_shape(module: nn.Module) -> tuple[int, int] | None:
    """Return ``(in, out)`` of a linear layer, or None for any other module.

    Layers that only look like one count too: Hugging Face's ``Conv1D``, subclasses, quantised and adapted layers.
    """
    if is_conv1d_transposed(module):
        weight = module.get_parameter("weight")
        return weight.shape[0], weight.shape[1]
    if isinstance(module, nn.Bilinear):
        return None
    width, out = getattr(module, "in_features", None), getattr(module, "out_features", None)
    return (width, out) if isinstance(width, int) and isinstance(out, int) else None


def conv_shape(module: nn.Module) -> tuple[int, int] | None:
    """Return ``(in, out)`` channels of a convolution, or None for any other module.

    Layers that only look like one count too, such as :class:`neuronwise.nn.NeuronConv2d`: both numbers of channels, a
    kernel, and a weight of their own.
    """
    inputs, outputs = getattr(module, "in_channels", None), getattr(module, "out_channels", None)
    if not (isinstance(inputs, int) and isinstance(outputs, int)):
        return None
    own = getattr(module, "kernel_size", None) is not None and "weight" in module._parameters
    return (inputs, outputs) if own or isinstance(module, _CONVS) else None


def _weight(path: str, module: nn.Module) -> tuple[str, Tensor] | None:
    """Return full name and tensor of a linear or convolution weight; adapters keep theirs in ``base_layer``."""
    for inner in ("", "base_layer."):
        try:
            return f"{path}.{inner}weight".removeprefix("."), module.get_parameter(f"{inner}weight")
        except AttributeError:
            continue
    return None


def reads_through(
    path: str, module: nn.Module, *, role: str = "in", part: int = 0, of: int = 1
) -> WeightSlice | None:
    """Return the slice of a layer's weight with one row per output feature, or None if it cannot be cut so.

    Args:
        path: Path of the layer in the model.
        module: A linear layer or a convolution.
        role: Role of the slice.
        part: Which of the equal parts of a fused projection, from 0.
        of: Into how many equal parts the outputs are cut.
    """
    found = _weight(path, module)
    if found is None:
        return None
    name, weight = found
    shape = conv_shape(module)
    if shape is not None:
        if isinstance(module, _TRANSPOSED_CONVS) and module.groups > 1:
            return None
        axis, out = (1 if isinstance(module, _TRANSPOSED_CONVS) else 0), shape[1]
    else:
        shape = dense_shape(module)
        if shape is None:
            return None
        axis, out = (1 if is_conv1d_transposed(module) else 0), shape[1]
    # A quantised layer packs its weight into another shape: then there is no such slice.
    if weight.ndim <= axis or weight.shape[axis] != out or out % of:
        return None
    size = out // of
    return WeightSlice(name, axis, part * size, (part + 1) * size, role)


def writes_through(path: str, module: nn.Module) -> WeightSlice | None:
    """Return the slice of a layer's weight with one row per input feature, or None if it cannot be cut so."""
    found = _weight(path, module)
    if found is None:
        return None
    name, weight = found
    shape = conv_shape(module)
    if shape is not None:
        if getattr(module, "groups", 1) != 1:
            return None
        axis, width = (0 if isinstance(module, _TRANSPOSED_CONVS) else 1), shape[0]
    else:
        shape = dense_shape(module)
        if shape is None:
            return None
        axis, width = (0 if is_conv1d_transposed(module) else 1), shape[0]
    if weight.ndim <= axis or weight.shape[axis] != width:
        return None
    return WeightSlice(name, axis, 0, width, "out")


def neuron_axis(module: nn.Module, tensor: TensorName) -> tuple[int, int] | None:
    """Return ``(width, axis)`` of a module's input or output as its type says, or None if it does not."""
    shape = dense_shape(module)
    if shape is not None:
        return shape[0 if tensor == "input" else 1], -1
    shape = conv_shape(module)
    if shape is not None:
        return shape[0 if tensor == "input" else 1], 1
    if isinstance(module, RNNS):
        return (module.input_size if tensor == "input" else rnn_width(module)), -1
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return (module.embedding_dim, -1) if tensor == "output" else None
    if isinstance(module, nn.MultiheadAttention):
        return module.embed_dim, -1
    if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        return module.linear1.in_features, -1
    return _norm_axis(module) or _sequence_axis(module, tensor)


def rnn_width(module: nn.RNNBase | nn.RNNCellBase) -> int:
    """Return how many numbers a recurrent layer gives out at each step."""
    if isinstance(module, nn.RNNCellBase):
        return module.hidden_size
    return (module.proj_size or module.hidden_size) * (2 if module.bidirectional else 1)


def _norm_axis(module: nn.Module) -> tuple[int, int] | None:
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return int(module.normalized_shape[-1]), -1
    if isinstance(module, nn.GroupNorm):
        return module.num_channels, 1
    features = getattr(module, "num_features", None)
    if isinstance(module, nn.modules.batchnorm._NormBase) and isinstance(features, int):
        return (features, 1) if features else None
    own = [parameter for name, parameter in module.named_parameters() if name == "weight"]
    if "norm" in type(module).__name__.lower() and len(own) == 1 and own[0].ndim == 1:
        return own[0].numel(), -1
    return None


def _sequence_axis(module: nn.Module, tensor: TensorName) -> tuple[int, int] | None:
    """The first layer of a Sequential knows its input, the last its output, looking through what keeps widths."""
    if not isinstance(module, nn.Sequential):
        return None
    for child in module if tensor == "input" else reversed(list(module)):
        found = neuron_axis(child, tensor)
        if found is not None:
            return found
        if not _keeps_width(child):
            return None
    return None


def _keeps_width(module: nn.Module) -> bool:
    activation = type(module).__module__ == "torch.nn.modules.activation" and not isinstance(module, nn.GLU)
    return activation or isinstance(module, nn.Identity | nn.modules.dropout._DropoutNd)
