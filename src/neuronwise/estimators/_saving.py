"""Fitted estimators on disk: a folder of JSON and safetensors, whole or not there, without code in it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from neuronwise.discover.scaling import Scaling
from neuronwise.errors import (
    IncompleteResultError,
    InvalidArgumentError,
    NotAResultError,
    TamperedResultError,
)
from neuronwise.files import atomic_folder, sha256_file

__all__ = ["Arrays", "Saving", "class_name", "scaling_from", "scaling_to"]

FORMAT = "neuronwise.estimator"
VERSION = 1
ABOUT = "estimator.json"
ARRAYS = "arrays.safetensors"
DISCOVERY = "discovery"

Arrays = Mapping[str, NDArray[Any]]


class Saving(BaseEstimator):  # type: ignore[misc] # scikit-learn has no types
    """An estimator that is saved: to a folder, and with it what every one has, inputs with scaling and its target."""

    discovery_: Any
    input_scaler_: Scaling

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the fitted estimator to a folder of JSON and safetensors, which has no code in it.

        Args:
            folder: The folder to make.
            overwrite: Replace a saved estimator that is there.

        Raises:
            WriteError: If it cannot be written, or is there already.
            InvalidArgumentError: If a parameter cannot be written as text.
        """
        check_is_fitted(self, "input_scaler_")
        return _write(self, Path(folder), overwrite=overwrite)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Return the estimator that :meth:`save` wrote.

        Raises:
            NotAResultError: If the folder is not one, or of another class.
            IncompleteResultError: If a file is missing.
            TamperedResultError: If a file is not what was written.
        """
        return _read(cls, Path(folder))

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return what the fit found: plain JSON, and arrays."""
        names = getattr(self, "feature_names_in_", None)
        state: dict[str, Any] = {
            "names": None if names is None else [str(name) for name in names],
            "clip": self.input_scaler_.clip,
        }
        if hasattr(self, "classes_"):
            state["classes"] = labels_to(self.classes_)
        else:
            state["flat"] = self._flat
        return state, scaling_to("inputs", self.input_scaler_)

    @classmethod
    def _restored(cls, parameters: dict[str, Any], state: dict[str, Any], arrays: Arrays) -> Self:
        """Return an estimator in that state."""
        found = cls(**parameters)
        found.input_scaler_ = scaling_from("inputs", arrays, state["clip"])
        found.n_features_in_ = len(found.input_scaler_.centre)
        if state["names"] is not None:
            found.feature_names_in_ = np.array(state["names"], dtype=object)
        if "classes" in state:
            found.classes_ = labels_from(state["classes"])
        else:
            found._flat = bool(state["flat"])
        return found


Estimator = TypeVar("Estimator", bound=Saving)


def _write(estimator: Saving, folder: Path, *, overwrite: bool) -> Path:
    from safetensors.numpy import save_file

    state, arrays = estimator._state()
    about: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "class": type(estimator).__name__,
        "parameters": {
            name: _encoded(name, value) for name, value in estimator.get_params(deep=False).items()
        },
        "state": state,
        "discovery": estimator.discovery_ is not None,
    }
    if overwrite and folder.is_dir() and any(folder.iterdir()) and not (folder / ABOUT).is_file():
        raise InvalidArgumentError(
            f"{folder} is not a saved estimator and is not overwritten. Choose another folder."
        )
    with atomic_folder(folder, overwrite=overwrite) as temporary:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary / ARRAYS)
        if estimator.discovery_ is not None:
            estimator.discovery_.save(temporary / DISCOVERY)
        about["files"] = {ARRAYS: sha256_file(temporary / ARRAYS)}
        (temporary / ABOUT).write_text(json.dumps(about, indent=1, allow_nan=True), encoding="utf-8")
    return folder


def _read(cls: type[Estimator], folder: Path) -> Estimator:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    about = _about(folder)
    if about["class"] != cls.__name__:
        raise NotAResultError(f"{folder} is a {about['class']}, not a {cls.__name__}.")
    path = folder / ARRAYS
    if not path.is_file():
        raise IncompleteResultError(f"{folder} is half-written: {ARRAYS} is not there. Copy it again.")
    if sha256_file(path) != about["files"].get(ARRAYS):
        raise TamperedResultError(
            f"{path} does not have the hash that {ABOUT} states. Copy the folder again."
        )
    try:
        arrays = load_file(path)
        parameters = {name: _decoded(value) for name, value in about["parameters"].items()}
        estimator = cls._restored(parameters, about["state"], arrays)
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise NotAResultError(
            f"{folder} is not a whole estimator: {type(error).__name__}: {error}."
        ) from error
    estimator.discovery_ = _discovery(folder) if about["discovery"] else None
    return estimator


def class_name(folder: Path) -> str:
    """Return the name of the class of a saved estimator.

    Raises:
        NotAResultError: If the folder is not one.
    """
    return str(_about(folder)["class"])


def _about(folder: Path) -> dict[str, Any]:
    path = folder / ABOUT
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotAResultError(f"{folder} is not a saved estimator: cannot read {ABOUT} ({error}).") from error
    wanted = {"class": str, "parameters": dict, "state": dict, "files": dict, "discovery": bool}
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise NotAResultError(f"{folder} is not a saved estimator of neuronwise.")
    if not isinstance(about.get("version"), int) or about["version"] > VERSION:
        raise NotAResultError(
            f"{folder} was written in version {about.get('version')!r} of the format, and this neuronwise reads up to "
            f"{VERSION}. Install a newer one."
        )
    for name, kind in wanted.items():
        if not isinstance(about.get(name), kind):
            raise NotAResultError(f"{path} is not whole: {name!r} is missing or of another type.")
    return about


def _discovery(folder: Path) -> Any:
    from neuronwise.store import load_result

    return load_result(folder / DISCOVERY)


def scaling_to(name: str, scaling: Scaling) -> dict[str, NDArray[Any]]:
    """Return the arrays of a scaling, whose names begin with a name of its own."""
    arrays = {f"{name}.centre": scaling.centre, f"{name}.scale": scaling.scale}
    return arrays if scaling.reach is None else arrays | {f"{name}.reach": scaling.reach}


def scaling_from(name: str, arrays: Arrays, clip: float | None) -> Scaling:
    """Return the scaling of that name."""
    return Scaling(arrays[f"{name}.centre"], arrays[f"{name}.scale"], clip, arrays.get(f"{name}.reach"))


def labels_to(labels: NDArray[Any]) -> dict[str, Any]:
    """Return class labels as plain JSON.

    Raises:
        InvalidArgumentError: If they are neither numbers, truth values nor texts.
    """
    values = labels.tolist()
    if not all(isinstance(value, bool | int | float | str) for value in values):
        raise InvalidArgumentError(
            f"Class labels of type {type(values[0]).__name__} cannot be written as text; use joblib, or labels that "
            "are numbers or texts."
        )
    return {"dtype": labels.dtype.str, "values": values}


def labels_from(saved: Mapping[str, Any]) -> NDArray[Any]:
    """Return what :func:`labels_to` wrote down."""
    return np.array(saved["values"], dtype=np.dtype(saved["dtype"]))


def _encoded(name: str, value: Any) -> Any:
    """Return a parameter as JSON: plain values as they are, anything else as a dictionary with one marked key."""
    from neuronwise.formula import Base, Formula
    from neuronwise.nn import Kind

    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, tuple | list):
        key = "tuple" if isinstance(value, tuple) else "list"
        return {key: [_encoded(name, each) for each in value]}
    if isinstance(value, Formula):
        return {"formula": value.to_dict()}
    if isinstance(value, Base):
        return {"base": value.text}
    if isinstance(value, Kind):
        return {"kind": value.to_dict()}
    if _is_method(value):
        settings = {
            each.name: _encoded(name, getattr(value, each.name)) for each in dataclasses.fields(value)
        }
        return {"method": value.name, "settings": settings}
    raise InvalidArgumentError(
        f"The parameter {name}={value!r} cannot be written as text. Pickle the estimator with joblib, or choose "
        f"another {name}."
    )


def _is_method(value: Any) -> bool:
    """Return whether a value is a search method that the table can make anew."""
    from neuronwise.discover import METHODS

    maker: Any = METHODS.get(getattr(value, "name", ""))
    return maker is type(value)


def _decoded(value: Any) -> Any:
    from neuronwise.discover import METHODS
    from neuronwise.formula import Base, Formula
    from neuronwise.nn import Kind

    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(_decoded(each) for each in value["tuple"])
    if "list" in value:
        return [_decoded(each) for each in value["list"]]
    if "formula" in value:
        return Formula.from_dict(value["formula"])
    if "base" in value:
        return Base(value["base"])
    if "kind" in value:
        return Kind.from_dict(value["kind"])
    maker: Any = METHODS[value["method"]]
    return maker(**{name: _decoded(each) for name, each in value["settings"].items()})
