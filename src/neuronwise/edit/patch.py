"""Patch: a change of a model's weights as an object that can be applied, undone, saved and composed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
from torch import Tensor, nn

from neuronwise.data import hash_model
from neuronwise.edit import _control, _patch_file
from neuronwise.edit._changes import Change, LowRank
from neuronwise.errors import InvalidArgumentError, PatchError, closest

__all__ = ["Patch", "applied_patches"]

# Where a model notes which patches are on it: an attribute that is there only as long as there are any.
_STACK = "_neuronwise_patches"


@dataclass(frozen=True, eq=False, repr=False)
class Patch:
    """An edit of a model, which the editing methods return. The model itself is unchanged until it is applied.

    ``with patch.applied(model): ...`` is the safe way; :meth:`apply` and :meth:`undo` do the same by hand. Undoing
    writes back a copy that was taken when the patch was applied, so the weights are the same to the last bit. Patches
    can be nested; they are undone in reverse order.

    Args:
        changes: What is done to which parameter, in this order.
        method: Name of the method that made it.
        base: SHA-256 of the model it was made for, from :func:`neuronwise.data.hash_model`.
        parameters: Settings of the method, ready for JSON.
        facts: What was edited, ready for JSON.
        remake: ``(model, seed)`` to the same method's patch for random neurons matched in layer and number; None where
            the method does not choose neurons. It is not saved.
        loaded: Whether it comes from a file, so that the whole model's hash is checked before it is applied.

    Raises:
        InvalidArgumentError: If ``parameters`` or ``facts`` hold what JSON cannot.

    Example:
        >>> import torch
        >>> from neuronwise.edit import set_slot
        >>> from neuronwise.sites import find_sites
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> patch = set_slot(model, find_sites(model)[0], 1, torch.zeros(2))
        >>> with patch.applied(model):
        ...     model[2].weight[:, 1].tolist()
        [0.0, 0.0]
    """

    changes: tuple[Change | LowRank, ...]
    method: str
    base: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    facts: tuple[Mapping[str, Any], ...] = ()
    remake: Callable[[nn.Module, int], Patch] | None = None
    loaded: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "changes", tuple(self.changes))
        object.__setattr__(self, "parameters", _plain("parameters", self.parameters))
        object.__setattr__(self, "facts", tuple(_plain("facts", fact) for fact in self.facts))

    @classmethod
    def of(
        cls,
        model: nn.Module,
        changes: Iterable[Change | LowRank],
        method: str,
        *,
        parameters: Mapping[str, Any],
        facts: Sequence[Mapping[str, Any]] = (),
        remake: Callable[[nn.Module, int], Patch] | None = None,
    ) -> Patch:
        """Return a patch for the model as it is now; its hash is taken."""
        return cls(tuple(changes), method, hash_model(model), parameters, tuple(facts), remake)

    def apply(self, model: nn.Module, *, shared: bool = False) -> None:
        """Write the changes into the model's weights. Nothing is written unless everything fits.

        Args:
            model: The model that the patch was made for.
            shared: Allow changes of a parameter that the model also uses under another name (tied weights), where the
                edit shows in both places.

        Raises:
            PatchError: If the model is another one, the patch is on it already, or a parameter is missing or shared.
        """
        stack = _stack(model)
        if any(record.patch == self for record in stack):
            raise PatchError(f"{self!r} is on this model already. Undo it before applying it again.")
        if self.loaded:
            self._check_base(model, stack)
        weights = self._weights(model, stack, shared)
        kept: list[Tensor] = []
        try:
            for change, weight in zip(self.changes, weights, strict=True):
                kept.append(change.kept(weight))
                change.write(weight)
        except BaseException:
            _write_back(self.changes[: len(kept)], weights, kept)
            raise
        model.__dict__.setdefault(_STACK, []).append(_Record(self, weights, kept))

    def undo(self, model: nn.Module) -> None:
        """Write back, bit for bit, what :meth:`apply` overwrote.

        Raises:
            PatchError: If the patch is not on the model, or another was applied after it.
        """
        stack = _stack(model)
        if not any(record.patch == self for record in stack):
            raise PatchError(f"{self!r} is not on this model, so there is nothing to undo.")
        if stack[-1].patch != self:
            raise PatchError(
                f"{stack[-1].patch!r} was applied after {self!r}. Patches are undone in reverse order: undo that one "
                "first."
            )
        _pop(model)

    @contextmanager
    def applied(self, model: nn.Module, *, shared: bool = False) -> Iterator[None]:
        """Apply the patch for the block, and undo it at its end, also after an exception.

        Patches that the block applied and did not undo are undone too.

        Args:
            model: The model that the patch was made for.
            shared: See :meth:`apply`.

        Raises:
            PatchError: As for :meth:`apply`, or if the patch was undone inside the block.
        """
        self.apply(model, shared=shared)
        depth = len(_stack(model))
        mine = _stack(model)[-1]
        try:
            yield
        finally:
            while len(_stack(model)) > depth:
                _pop(model)
            there = len(_stack(model)) == depth and _stack(model)[-1] is mine
            if there:
                _pop(model)
        if not there:
            raise PatchError(f"{self!r} was undone inside the block that had applied it.")

    def __or__(self, other: Patch) -> Patch:
        """Return one patch that makes this one's changes and then the other's."""
        if not isinstance(other, Patch):
            return NotImplemented
        parts = {"first": dict(self.parameters), "then": dict(other.parameters)}
        return Patch(
            self.changes + other.changes,
            f"{self.method} | {other.method}",
            self.base,
            parts,
            self.facts + other.facts,
            loaded=self.loaded,
        )

    def control(self, model: nn.Module, *, seed: int = 0) -> Patch:
        """Return a random control for this patch.

        Where the method changes chosen neurons, the same method on as many random neurons of the same layers; where it
        adds a product of factors, a random one of the same rank and norm.

        Args:
            model: The model, without the patch.
            seed: Same seed, same control.
        """
        if self.remake is not None:
            made = self.remake(model, seed)
        else:
            changes = [
                _control.random_change(change, _weight(model, change), seed) for change in self.changes
            ]
            made = Patch.of(model, changes, self.method, parameters=self.parameters, facts=self.facts)
        return replace(
            made, method=f"{self.method} (random)", parameters={**made.parameters, "control_seed": seed}
        )

    def save(self, path: str | Path) -> Path:
        """Write the patch to one safetensors file, whole or not at all, and return its path.

        Raises:
            WriteError: If the file cannot be written.
        """
        return _patch_file.write(self, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> Patch:
        """Read a patch that :meth:`save` wrote. It applies to the model it was made for and to no other.

        Raises:
            PatchError: If the file is not a patch, or one of a newer neuronwise.
        """
        return cls(**_patch_file.read(Path(path)), loaded=True)

    def to_frame(self) -> pd.DataFrame:
        """Return one row a change: parameter, kind, how many slices (or which rank), and its Frobenius norm."""
        rows = []
        for change in self.changes:
            low = isinstance(change, LowRank)
            size = change.left.shape[1] if isinstance(change, LowRank) else _count(change)
            rows.append((change.parameter, "low rank" if low else "values", size, change.norm()))
        return pd.DataFrame(rows, columns=["parameter", "kind", "size", "norm"])

    def __eq__(self, other: object) -> bool:
        """Return whether both do the same to the same model, bit for bit."""
        if not isinstance(other, Patch):
            return NotImplemented
        return (
            (self.method, self.base, dict(self.parameters), self.facts)
            == (other.method, other.base, dict(other.parameters), other.facts)
            and len(self.changes) == len(other.changes)
            and all(one.same_as(two) for one, two in zip(self.changes, other.changes, strict=True))
        )

    def __hash__(self) -> int:
        return hash((self.method, self.base, tuple(change.parameter for change in self.changes)))

    def __deepcopy__(self, memo: dict[int, Any]) -> Patch:
        # It does not change, so a copy of a patched model may note the same patch.
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        facts = tuple(dict(fact) for fact in self.facts)
        values = (
            self.changes,
            self.method,
            self.base,
            dict(self.parameters),
            facts,
            self.remake,
            self.loaded,
        )
        return Patch, values

    def __repr__(self) -> str:
        names = [change.parameter for change in self.changes]
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        return f"<Patch {self.method}: {', '.join(names[:2]) or 'nothing'}{more}>"

    def _check_base(self, model: nn.Module, stack: Sequence[_Record]) -> None:
        now = hash_model(model)
        first = stack[0].patch.base if stack else None
        if self.base not in (now, first):
            raise PatchError(
                f"{self!r} was made for the model with SHA-256 {self.base}, and this one has {now}. "
                "The model was not touched."
            )

    def _weights(self, model: nn.Module, stack: Sequence[_Record], shared: bool) -> list[Tensor]:
        """Return the parameter of each change; raise if one does not fit, before anything is written."""
        touched = {id(weight) for record in stack for weight in record.weights}
        weights = []
        for change in self.changes:
            weight = _weight(model, change)
            others = [
                name
                for name, parameter in model.named_parameters(remove_duplicate=False)
                if parameter is weight and name != change.parameter
            ]
            if others and not shared:
                raise PatchError(
                    f"{change.parameter} is the same tensor as {', '.join(others)}: the edit would change both. "
                    "If that is what you want, pass shared=True."
                )
            problem = change.misfit(weight, fresh=id(weight) not in touched)
            if problem:
                raise PatchError(
                    f"{self!r} does not fit {change.parameter}: {problem}. It was made for another model, or the "
                    "weights have changed since. The model was not touched."
                )
            touched.add(id(weight))
            weights.append(weight)
        return weights


@dataclass(frozen=True, eq=False)
class _Record:
    """A patch that is on a model, and what it overwrote."""

    patch: Patch
    weights: list[Tensor]
    kept: list[Tensor]


def applied_patches(model: nn.Module) -> tuple[Patch, ...]:
    """Return the patches that are on a model, the first applied first."""
    return tuple(record.patch for record in _stack(model))


def _stack(model: nn.Module) -> list[_Record]:
    found: list[_Record] = model.__dict__.get(_STACK, [])
    return found


def _pop(model: nn.Module) -> None:
    stack = _stack(model)
    record = stack.pop()
    if not stack:
        del model.__dict__[_STACK]
    _write_back(record.patch.changes, record.weights, record.kept)


def _write_back(
    changes: Sequence[Change | LowRank], weights: Sequence[Tensor], kept: Sequence[Tensor]
) -> None:
    for change, weight, values in reversed(list(zip(changes, weights, kept, strict=False))):
        change.restore(weight, values)


def _weight(model: nn.Module, change: Change | LowRank) -> Tensor:
    try:
        weight = model.get_parameter(change.parameter)
    except AttributeError as error:
        names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        raise PatchError(
            f"The model has no parameter {change.parameter!r}, so the patch is not for it. "
            f"{closest(change.parameter, names)}"
        ) from error
    if weight.is_meta:
        raise PatchError(
            f"{change.parameter} is on the meta device and has no numbers. Load the weights first."
        )
    return weight


def _count(change: Change) -> int:
    return change.old.shape[change.axis] if change.index is None else len(change.index)


def _plain(what: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        return MappingProxyType(json.loads(json.dumps(dict(values), allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"A patch's {what} must be plain JSON: {error}.") from error
