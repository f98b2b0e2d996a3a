"""Check: does capturing and intervening work on this model, batch, dtype and device?"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from neuronwise.errors import HookError
from neuronwise.hooks._tap import Tap
from neuronwise.hooks.capture import capture
from neuronwise.hooks.check_report import CheckReport, CheckRow
from neuronwise.hooks.intervene import intervene
from neuronwise.hooks.model import batch_mismatch, call_model, refuse_uncatchable, tensors_in, untouched
from neuronwise.sites import Site, Sites, find_sites

__all__ = ["check"]

Row = tuple[bool, str]


def check(model: nn.Module, batch: Any, sites: Site | Iterable[Site] | None = None) -> CheckReport:
    """Check that capture and intervene do on this model what they say, and nothing else.

    The model runs as it is, in training or evaluation mode, and is left as it was. What is checked:

    - ``outputs unchanged``: the output with every site captured equals the plain output bit for bit.
    - ``sites reached``: every site fires, those with a call number often enough.
    - ``gradients flow``: the gradient of the output to every site is there and finite.
    - ``interventions act``: values set at the sites are what the model goes on with, and the plain output is
      back afterwards.
    - ``agrees with float64``: a float64 copy on the CPU, both in evaluation mode, gives the same output within
      ``8 * eps * sqrt(n)``: eps is that of the coarsest dtype of weights, output and autocast, n the number
      of modules that have weights of their own, as rounding errors of n steps add up like a random walk.
    - ``model untouched``: weights, buffers, gradients, flags, hooks and random state are the same as before.

    Cost: about four forward passes, one backward pass and one float64 forward pass; memory for the float64
    copy.

    Args:
        model: Any module.
        batch: As for :func:`call_model`: keyword arguments, positional arguments or the only argument.
        sites: What to check; None means what :func:`neuronwise.find_sites` finds.

    Returns:
        One row per check. ``print`` it, or make it an error with :meth:`CheckReport.raise_if_failed`.

    Raises:
        CompiledModelError: If hooks on the model would be skipped.
        BatchMismatchError: If the batch has another device or dtype than the model.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> report = check(model, torch.ones(4, 2), Site("2", "input", width=3))
        >>> report.passed, len(report.rows)
        (True, 6)
    """
    refuse_uncatchable(model)
    batch_mismatch(model, batch)
    chosen = find_sites(model) if sites is None else Sites.of(sites)
    before = _state(model)
    plain = _floats(_run(model, batch))
    checks: dict[str, Callable[[], Row]] = {
        "outputs unchanged": lambda: _outputs_unchanged(model, batch, chosen, plain),
        "sites reached": lambda: _sites_reached(model, batch, chosen),
        "gradients flow": lambda: _gradients_flow(model, batch, chosen),
        "interventions act": lambda: _interventions_act(model, batch, chosen, plain),
        "agrees with float64": lambda: _agrees_with_float64(model, batch),
        "model untouched": lambda: _untouched(model, before),
    }
    rows = []
    for name, perform in checks.items():
        try:
            passed, detail = perform()
        except (HookError, LookupError, RuntimeError, TypeError, ValueError) as error:
            passed, detail = False, f"{type(error).__name__}: {error}"
        rows.append(CheckRow(name, passed, detail))
    return CheckReport(tuple(rows))


def _run(model: nn.Module, batch: Any, *, eval_mode: bool = False) -> Any:
    """Run the model from the present random state, which is the same afterwards."""
    with untouched(model, eval_mode=eval_mode), torch.no_grad():
        return call_model(model, batch)


def _floats(output: Any) -> list[Tensor]:
    return [tensor.detach() for _, tensor in tensors_in(output) if tensor.is_floating_point()]


def _equal(first: list[Tensor], second: list[Tensor]) -> bool:
    """Whether two outputs have the same bits."""
    return len(first) == len(second) and all(
        a.shape == b.shape and a.dtype == b.dtype and torch.equal(_as_bytes(a), _as_bytes(b))
        for a, b in zip(first, second, strict=True)
    )


def _as_bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _outputs_unchanged(model: nn.Module, batch: Any, sites: Sites, plain: list[Tensor]) -> Row:
    with capture(model, sites):
        watched = _floats(_run(model, batch))
    if _equal(plain, watched):
        return True, f"bit-equal in {len(plain)} output tensor(s) with {len(sites)} sites captured"
    if not _equal(plain, _floats(_run(model, batch))):
        return False, "two plain runs differ already: the model is not deterministic"
    worst = max((_relative(a, b) for a, b in zip(watched, plain, strict=False)), default=math.nan)
    return False, (
        f"outputs differ by {worst:.1e} (relative). Hooks switch fused fast paths off "
        "(nn.TransformerEncoderLayer), which then round differently."
    )


def _sites_reached(model: nn.Module, batch: Any, sites: Sites) -> Row:
    with Tap(model, sites, touch=lambda site, tensor, call: None) as tap:
        _run(model, batch)
        missed = tap.missed()
        several = {f"{site.path} ({tap.calls(site)} times)": None for site in sites if tap.calls(site) > 1}
    if missed:
        return False, str(tap.not_reached(missed))
    detail = f"{len(sites)} of {len(sites)}"
    return True, detail + (f"; run several times: {_listed(list(several))}" if several else ", once each")


def _gradients_flow(model: nn.Module, batch: Any, sites: Sites) -> Row:
    kept: dict[Site, Tensor] = {}

    def touch(site: Site, tensor: Tensor, call: int | None) -> Tensor | None:
        if not tensor.is_floating_point():
            return None
        if not tensor.requires_grad:
            tensor = tensor.detach().requires_grad_()
        kept.setdefault(site, tensor)
        # The model goes on with a copy, so that an in-place operation leaves the tensor asked about alone.
        return tensor.clone()

    tap = Tap(model, sites, touch=touch, recompute=True)
    with untouched(model, eval_mode=False), torch.enable_grad(), tap:
        result = call_model(model, batch)
        output = [t for _, t in tensors_in(result) if t.is_floating_point() and t.requires_grad]
        if not output:
            return True, "skipped: no output has a gradient (whole numbers, or a model without gradients)"
        total = torch.stack([tensor.sum(dtype=torch.float32).cpu() for tensor in output]).sum()
        gradients = torch.autograd.grad(total, list(kept.values()), allow_unused=True)
    found = dict(zip(kept, gradients, strict=True))
    missing = [site.name for site in sites if found.get(site) is None]
    infinite = [s.name for s, g in found.items() if g is not None and not g.isfinite().all()]
    if missing:
        return False, f"the output has no gradient to {_listed(missing)}"
    if infinite:
        return False, f"the gradient is not finite at {_listed(infinite)}"
    return True, f"finite at {len(found)} of {len(sites)} sites"


def _interventions_act(model: nn.Module, batch: Any, sites: Sites, plain: list[Tensor]) -> Row:
    # One half is exact in every floating-point dtype.
    with (
        intervene(model, sites, "set", 0.5),
        capture(model, sites, reduce=lambda site, tensor: bool((tensor == 0.5).all())) as seen,
    ):
        changed = _floats(_run(model, batch))
    wrong = [site.name for site in sites if not all(seen.calls(site))]
    if wrong:
        return False, f"the values set are not there at {_listed(wrong)}"
    if not _equal(plain, _floats(_run(model, batch))):
        return False, "the plain output did not come back after the intervention"
    if plain and _equal(plain, changed):
        return False, "the values were set, but the output does not depend on them"
    return True, f"values set at {len(sites)} sites; the plain output is back afterwards"


def _agrees_with_float64(model: nn.Module, batch: Any) -> Row:
    outputs = _floats(_run(model, batch, eval_mode=True))
    if not outputs:
        return True, "skipped: no floating-point output"
    try:
        exact_model = copy.deepcopy(model).to(device="cpu", dtype=torch.float64)
        with torch.autocast("cpu", enabled=False):
            exact = _floats(_run(exact_model, _as_float64(batch), eval_mode=True))
    except (RuntimeError, TypeError, NotImplementedError, ValueError) as error:
        return True, f"skipped: no float64 copy of the model can run here ({error})"
    measured = max((_relative(a, b) for a, b in zip(outputs, exact, strict=False)), default=math.nan)
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()} | {t.dtype for t in outputs}
    kind = outputs[0].device.type
    if torch.is_autocast_enabled(kind):
        dtypes.add(torch.get_autocast_dtype(kind))
    coarsest = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
    steps = sum(1 for module in model.modules() if any(True for _ in module.parameters(recurse=False)))
    bound = 8 * torch.finfo(coarsest).eps * math.sqrt(max(steps, 1))
    name = str(coarsest).removeprefix("torch.")
    detail = (
        f"relative error {measured:.1e}, allowed {bound:.1e} ({name}, {steps} modules with weights, {kind})"
    )
    return measured <= bound, detail


def _relative(value: Tensor, exact: Tensor) -> float:
    """Return ``|value - exact| / |exact|`` (2-norms); NaN where anything is not finite."""
    a, b = value.detach().cpu().double(), exact.detach().cpu().double()
    if a.shape != b.shape:
        return math.nan
    distance, size = float(torch.linalg.vector_norm(a - b)), float(torch.linalg.vector_norm(b))
    return distance / size if size else (0.0 if distance == 0 else math.inf)


def _as_float64(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu().double() if value.is_floating_point() else value.detach().cpu()
    if isinstance(value, nn.utils.rnn.PackedSequence):
        return value.cpu().double()
    if hasattr(value, "items"):
        return {key: _as_float64(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_as_float64(item) for item in value]
    return value


def _untouched(model: nn.Module, before: dict[str, str]) -> Row:
    after = _state(model)
    changed = [name for name, value in before.items() if after[name] != value]
    if changed:
        return False, f"changed: {', '.join(changed)}"
    return True, f"the same as before: {', '.join(before)}"


def _state(model: nn.Module) -> dict[str, str]:
    """Return a hash of each thing that must not change."""
    parameters, modules = dict(model.named_parameters()), dict(model.named_modules())
    parts: dict[str, Iterable[Any]] = {
        "weights": parameters.items(),
        "buffers": model.named_buffers(),
        "gradients": ((name, p.grad, p.requires_grad) for name, p in parameters.items()),
        "modes": ((name, module.training) for name, module in modules.items()),
        "hooks": (
            (name, *map(id, (*m._forward_pre_hooks.values(), *m._forward_hooks.values())))
            for name, m in modules.items()
        ),
        "random state": [("cpu", torch.get_rng_state())],
    }
    return {name: _digest(items) for name, items in parts.items()}


def _digest(items: Iterable[tuple[Any, ...]]) -> str:
    digest = hashlib.sha256()
    for item in items:
        for part in item:
            for piece in _bytes(part):
                digest.update(piece)
    return digest.hexdigest()


def _bytes(part: Any) -> Iterator[bytes]:
    if not isinstance(part, Tensor):
        yield repr(part).encode()
        return
    yield repr((part.dtype, tuple(part.shape), str(part.device), part.layout)).encode()
    # Only dense tensors have bytes to look at; others are known by their version, which in-place changes
    # raise.
    if part.layout == torch.strided and not part.is_meta and not part.is_quantized:
        yield _as_bytes(part).cpu().numpy().tobytes()
    else:
        yield repr(part._version).encode()


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f", ... ({len(names)} in all)" if len(names) > 5 else "")
