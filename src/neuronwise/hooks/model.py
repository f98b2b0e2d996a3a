"""Calling a model as a guest: with any batch, without a trace, and not where hooks would be skipped."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.rnn import PackedSequence

from neuronwise.errors import BatchMismatchError, CompiledModelError
from neuronwise.sites import require_module

__all__ = [
    "batch_mismatch",
    "call_model",
    "device_of",
    "frozen_parameters",
    "refuse_uncatchable",
    "sequence_first",
    "tensors_in",
    "untouched",
]


def call_model(model: nn.Module, batch: Any) -> Any:
    """Run the model on a batch and return its output.

    Args:
        model: Any module.
        batch: A mapping is passed as keyword arguments, a tuple or list as positional ones, anything else (a
            tensor, a ``PackedSequence``) as the only argument.

    Example:
        >>> call_model(nn.Identity(), torch.ones(2))
        tensor([1., 1.])
    """
    if isinstance(batch, Mapping):
        return model(**batch)
    if isinstance(batch, tuple | list) and not isinstance(batch, PackedSequence):
        return model(*batch)
    return model(batch)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter, where its batches go; the CPU if it has none.

    Parameters on the meta device are passed over: where they are offloaded, hooks of their own bring them in.
    """
    devices = (parameter.device for parameter in model.parameters())
    return next((device for device in devices if device.type != "meta"), torch.device("cpu"))


def sequence_first(module: nn.Module) -> bool:
    """Return whether a module's tensors are ``(position, batch, neuron)``: an RNN without ``batch_first``."""
    return isinstance(module, nn.RNNBase) and not module.batch_first


def refuse_uncatchable(model: nn.Module) -> None:
    """Raise an error if hooks that are set now would be skipped silently.

    Raises:
        InvalidArgumentError: If it is no module at all.
        CompiledModelError: If a module in the model is compiled, scripted, traced, or replicated over several
            devices by ``nn.DataParallel``.
    """
    require_module(model)
    # Only torch.compile imports this package, and that takes seconds; without it nothing can be compiled.
    dynamo = sys.modules.get("torch._dynamo")
    compiled_type = getattr(dynamo, "OptimizedModule", ())
    for name, module in model.named_modules():
        where = f"The module {name!r}" if name else "The model"
        if isinstance(module, compiled_type):
            raise CompiledModelError(
                f"{where} was wrapped by torch.compile, which skips hooks that are set after compiling. Use "
                "the plain model that was compiled (compiled._orig_mod; the weights are the same)."
            )
        if getattr(module, "_compiled_call_impl", None) is not None or hasattr(
            module.forward, "_torchdynamo_orig_callable"
        ):
            raise CompiledModelError(
                f"{where} was compiled in place (module.compile() or module.forward = torch.compile(...)), "
                "which skips hooks that are set after compiling. Use a copy of the model that was not "
                "compiled."
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise CompiledModelError(
                f"{where} is a TorchScript module, which runs without Python hooks. Use the Python model."
            )
        if isinstance(module, nn.DataParallel):
            raise CompiledModelError(
                f"{where} is an nn.DataParallel, which runs copies of the model that hooks do not belong to. "
                "Use the model inside it (.module)."
            )


@contextmanager
def frozen_parameters(model: nn.Module) -> Iterator[None]:
    """Compute no gradients of parameters inside a ``with`` block; the flags are put back, also after an exception."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def untouched(model: nn.Module, *, eval_mode: bool = True) -> Iterator[None]:
    """Leave no trace: training flags, buffers and torch's random state are put back at the end of the block.

    Gradient mode is left as it is; the random states of Python and NumPy are not looked at.

    Args:
        model: The model that will run inside the block.
        eval_mode: Switch to evaluation mode for the block. Without it, every module stays in its mode.
    """
    flags = {module: module.training for module in model.modules()}
    with ExitStack() as stack:
        _fork_random(stack, model)
        stack.enter_context(_buffers_kept(model))
        try:
            if eval_mode:
                model.eval()
            yield
        finally:
            for module, training in flags.items():
                module.training = training


def _fork_random(stack: ExitStack, model: nn.Module) -> None:
    used: dict[str, set[int]] = {"cuda": set(), "xpu": set()}
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type in used:
            used[tensor.device.type].add(tensor.device.index or 0)
    stack.enter_context(torch.random.fork_rng(devices=sorted(used.pop("cuda"))))
    for kind, devices in used.items():
        if devices:
            stack.enter_context(torch.random.fork_rng(devices=sorted(devices), device_type=kind))


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    kept = [
        (module, name, buffer, None if buffer is None or is_lazy(buffer) else buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, values in kept:
                module._buffers[name] = buffer
                if buffer is not None and values is not None and not torch.equal(buffer, values):
                    buffer.copy_(values)


def tensors_in(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in nested mappings, tuples, lists and data classes, with the path to each."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, PackedSequence):
        yield name, value.data
    elif isinstance(value, Mapping | tuple | list):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from tensors_in(item, f"{name}[{key!r}]")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from tensors_in(getattr(value, field.name), f"{name}.{field.name}")


def batch_mismatch(model: nn.Module, batch: Any) -> None:
    """Raise an error if the model could not work on the batch because of its device or dtype.

    Whole numbers (token ids) fit any model; so does any dtype under autocast. Tensors whose name ends in
    "mask" may have any dtype.

    Raises:
        BatchMismatchError: If a tensor is on a device that holds nothing of the model, or no floating-point
            tensor of the batch has a dtype that the model's weights have.
    """
    weights = [*model.parameters(), *model.buffers()]
    devices = {weight.device for weight in weights}
    tensors = list(tensors_in(batch))
    # Weights on the meta device are brought in by hooks of their own (offloading), and so are the inputs.
    if devices and not any(device.type == "meta" for device in devices):
        for name, tensor in tensors:
            if tensor.device not in devices:
                have = ", ".join(sorted(map(str, devices)))
                raise BatchMismatchError(
                    f"The batch{name} is on {tensor.device}, the model on {have}. Move one to the other: "
                    f"batch.to({str(next(iter(devices)))!r}) or model.to({str(tensor.device)!r})."
                )
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    floats = [(n, t) for n, t in tensors if t.is_floating_point() and not n.endswith("mask']")]
    kinds = {device.type for device in devices if torch.amp.is_autocast_available(device.type)}
    autocast = any(torch.is_autocast_enabled(kind) for kind in kinds)
    if dtypes and floats and not autocast and not any(t.dtype in dtypes for _, t in floats):
        name, tensor = floats[0]
        have = ", ".join(sorted(map(str, dtypes)))
        raise BatchMismatchError(
            f"The batch{name} is {tensor.dtype}, the model's weights are {have}. Convert one to the other: "
            f"batch.to({sorted(map(str, dtypes))[0]}) or model.to({tensor.dtype}), or run under "
            "torch.autocast."
        )
