"""What the estimators of task neurons share: parameters, search, guard, training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted
from torch import nn

from neuronwise.errors import InvalidArgumentError, closest
from neuronwise.estimators import _picture
from neuronwise.estimators._fitting import Fitted, Plan, Prepared, fit_networks, outputs, prepare, split_rows
from neuronwise.estimators._guard import Guard, judge
from neuronwise.estimators._inputs import Table, input_names, read_inputs, read_weight, scaled_inputs
from neuronwise.estimators._network import ACTIVATIONS, build
from neuronwise.estimators._neuron import Neuron, check_formula, given, search
from neuronwise.estimators._saving import Arrays, Saving, scaling_from, scaling_to
from neuronwise.estimators._seeds import seed_of
from neuronwise.estimators._train import Recipe
from neuronwise.estimators._whole import Whole
from neuronwise.formula import Formula
from neuronwise.nn import Kind

__all__ = ["TaskNeuronEstimator"]


class TaskNeuronEstimator(Saving):
    """Base of :class:`TaskNeuronRegressor` and :class:`TaskNeuronClassifier`."""

    def __init__(
        self,
        formula: Any = "auto",
        *,
        method: Any = "group",
        bases: Any = "default",
        hidden: Sequence[int] = (32, 16),
        task_layers: str = "first",
        activation: str = "relu",
        guard: bool = True,
        learning_rate: float = 5e-3,
        weight_decay: float = 1e-2,
        batch_size: int | str = "auto",
        max_epochs: int = 200,
        patience: int = 20,
        validation_fraction: float = 0.15,
        scale: str = "auto",
        clip: float = 5.0,
        device: str = "cpu",
        dtype: str = "float32",
        random_state: Any = 0,
        verbose: bool = False,
    ) -> None:
        self.formula = formula
        self.method = method
        self.bases = bases
        self.hidden = hidden
        self.task_layers = task_layers
        self.activation = activation
        self.guard = guard
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.scale = scale
        self.clip = clip
        self.device = device
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:
        """Search the neuron (unless it is given), compare it with the linear one, and train the network.

        Args:
            X: Inputs, (n, d): an array or a DataFrame of numbers.
            y: Target, one value a row; for regression also (n, outputs).
            sample_weight: How much each row counts, (n,). A row of weight 0 is as good as absent.

        Raises:
            TableError: If a value is missing or infinite, a column is not made of numbers, or nothing can be learnt
                from the target.
            InvalidArgumentError: If a parameter is out of its range, or training does not stay finite.
            FormulaError: If the formula cannot be parsed.
        """
        self._check_parameters()
        table = self._table(X, y, sample_weight)
        seed = seed_of(self.random_state)
        plan = self._plan(table)
        split_seed, network_seed, search_seed = (
            int(n) for n in np.random.SeedSequence(seed).generate_state(3)
        )
        split = split_rows(table.target, np.arange(len(table.X)), self.validation_fraction, split_seed)
        prepared = prepare(table, split, plan.scale, plan.clip)

        neuron = self._choose(table, prepared, search_seed, record=True)
        self.guard_: Guard | None = self._judge(table, neuron, plan, seed)
        self.formula_ = neuron.formula
        self.discovery_ = neuron.discovery
        if self.guard_ is not None and self.guard_.kept == "linear":
            neuron = Neuron.linear(neuron.discovery)
        (fitted,) = fit_networks(table, [prepared], [neuron], plan, [network_seed])
        self._store(fitted, plan)
        self._ranges = _picture.ranges(prepared.inputs.apply(table.X[split.fit]))
        return self

    def _choose(self, table: Table, prepared: Prepared, seed: int, *, record: bool) -> Neuron:
        """Return the neuron for the training part of a split."""
        if not (isinstance(self.formula, str) and self.formula == "auto"):
            return given(self.formula)
        rows = prepared.searched
        target = table.target[rows]
        return search(
            prepared.inputs.apply(table.X[rows]),
            target if prepared.targets is None else prepared.targets.apply(target),
            table.weight[rows] if table.weighted else None,
            method=self.method,
            bases=self.bases,
            names=table.names,
            seed=seed,
            record=record,
        ).neuron()

    def _judge(self, table: Table, neuron: Neuron, plan: Plan, seed: int) -> Guard | None:
        if not self.guard:
            return None
        if neuron.is_linear:
            searched = neuron.discovery is not None
            return Guard(
                "linear",
                "the search found no term beyond the linear neuron."
                if searched
                else "no other neuron was to be judged.",
            )
        return judge(
            table,
            lambda rows, prepared: self._choose(rows, prepared, seed, record=False),
            plan,
            fraction=self.validation_fraction,
            seed=seed,
        )

    def _store(self, fitted: Fitted, plan: Plan) -> None:
        self.module_ = fitted.module
        self.n_outputs_ = plan.outputs
        self.kind_ = fitted.neuron.kind
        self.scale_ = "none" if fitted.prepared.raw else "standard"
        self.formula_scaler_ = fitted.prepared.inputs
        self.input_scaler_ = fitted.inputs
        self.target_scaler_ = fitted.prepared.targets
        self.history_ = fitted.course.frame()
        self.best_epoch_ = fitted.course.best_epoch
        self.best_loss_ = fitted.course.best_loss
        self.n_iter_ = len(self.history_)

    @property
    def loss_curve_(self) -> list[float]:
        """Training loss of every epoch, as scikit-learn's networks have it."""
        check_is_fitted(self, "history_")
        curve: list[float] = self.history_["train_loss"].tolist()
        return curve

    def _outputs(self, X: Any) -> NDArray[np.float64]:
        check_is_fitted(self, "module_")
        return outputs(self.module_, scaled_inputs(self, X))

    def to_torch(self) -> nn.Module:
        """Return the whole estimator as one torch module: raw inputs (n, d) to predictions.

        It scales the inputs, runs :attr:`module_` (a copy of it) and brings the outputs back into the target's units; a
        classifier's gives logits.
        """
        check_is_fitted(self, "module_")
        return Whole(self.module_, self.input_scaler_, self.target_scaler_)

    def plot(self, ax: Any = None) -> Any:
        """Draw the learning curves and, where the formula is a sum of base functions, its terms; return the axes.

        Args:
            ax: Matplotlib axes for the learning curves alone; None makes a figure with both.
        """
        check_is_fitted(self, "module_")
        return _picture.draw(self, ax)

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        state, arrays = super()._state()
        state |= {
            "formula": None if self.formula_ is None else self.formula_.to_dict(),
            "kind": None if self.kind_ is None else self.kind_.to_dict(),
            "guard": None if self.guard_ is None else self.guard_.to_dict(),
            "history": self.history_.to_dict(orient="list"),
            "best_epoch": self.best_epoch_,
            "best_loss": self.best_loss_,
            "outputs": self.n_outputs_,
            "scale": self.scale_,
            "formula_clip": self.formula_scaler_.clip,
        }
        arrays |= {
            f"module.{name}": tensor.cpu().numpy() for name, tensor in self.module_.state_dict().items()
        }
        arrays |= scaling_to("formula", self.formula_scaler_)
        if self.target_scaler_ is not None:
            arrays |= scaling_to("targets", self.target_scaler_)
        arrays["formula.ranges"] = self._ranges
        return state, arrays

    @classmethod
    def _restored(cls, parameters: dict[str, Any], state: dict[str, Any], arrays: Arrays) -> Self:
        found = super()._restored(parameters, state, arrays)
        found._check_parameters()
        found.formula_ = None if state["formula"] is None else Formula.from_dict(state["formula"])
        found.kind_ = None if state["kind"] is None else Kind.from_dict(state["kind"])
        found.guard_ = None if state["guard"] is None else Guard.from_dict(state["guard"])
        found.history_ = pd.DataFrame(state["history"])
        found.n_iter_ = len(found.history_)
        found.best_epoch_, found.best_loss_ = int(state["best_epoch"]), float(state["best_loss"])
        found.n_outputs_ = int(state["outputs"])
        found.scale_, found._ranges = str(state["scale"]), arrays["formula.ranges"]
        found.formula_scaler_ = scaling_from("formula", arrays, state["formula_clip"])
        found.target_scaler_ = scaling_from("targets", arrays, None) if "targets.centre" in arrays else None
        found.module_ = build(
            found.kind_,
            inputs=found.n_features_in_,
            hidden=tuple(found.hidden),
            outputs=found.n_outputs_,
            activation=found.activation,
            task_layers="first" if found.task_layers == "first" else "all",
            seed=0,
            dtype=_dtype(found.dtype),
            raw=found.scale_ == "none",
        )
        weights = {
            name.removeprefix("module."): each for name, each in arrays.items() if name.startswith("module.")
        }
        found.module_.load_state_dict({name: torch.from_numpy(each.copy()) for name, each in weights.items()})
        found.module_.eval()
        return found

    @abstractmethod
    def _table(self, X: Any, y: Any, sample_weight: ArrayLike | None) -> Table:
        """Return the checked rows with a weight above 0."""

    def _rows(
        self, X: Any, y: Any, sample_weight: ArrayLike | None
    ) -> tuple[NDArray[np.float64], NDArray[Any]]:
        """Return checked inputs and weights of all rows."""
        inputs = read_inputs(self, X, y, reset=True)
        return inputs, read_weight(sample_weight, inputs)

    def _names(self) -> tuple[str, ...]:
        return input_names(self)

    def _plan(self, table: Table) -> Plan:
        size = self.batch_size
        if isinstance(size, str):
            size = int(np.clip(2 ** round(np.log2(max(len(table.X), 1) / 32)), 32, 256))
        recipe = Recipe(
            learning_rate=float(self.learning_rate),
            weight_decay=float(self.weight_decay),
            batch_size=int(size),
            max_epochs=int(self.max_epochs),
            patience=int(self.patience),
            device=torch.device(self.device),
            progress=bool(self.verbose),
        )
        return Plan(
            hidden=tuple(int(width) for width in self.hidden),
            task_layers="first" if self.task_layers == "first" else "all",
            activation=self.activation,
            outputs=len(self.classes_) if table.classes else table.target.shape[1],
            scale=self.scale,
            clip=float(self.clip),
            dtype=_dtype(self.dtype),
            recipe=recipe,
        )

    def _check_parameters(self) -> None:
        check_formula(self.formula)
        for name, choices in (
            ("activation", tuple(ACTIVATIONS)),
            ("task_layers", ("first", "all")),
            ("scale", ("auto", "standard")),
            ("dtype", ("float32", "float64")),
        ):
            value = getattr(self, name)
            if value not in choices:
                raise InvalidArgumentError(f"{name} cannot be {value!r}. {closest(str(value), choices)}")
        if isinstance(self.hidden, str | int) or not all(_whole(width, 1) for width in self.hidden):
            raise InvalidArgumentError(
                f"hidden must be widths of layers such as (32, 16), not {self.hidden!r}."
            )
        for name in ("max_epochs", "patience"):
            if not _whole(getattr(self, name), 1):
                raise InvalidArgumentError(
                    f"{name} must be a whole number from 1, not {getattr(self, name)!r}."
                )
        if not (self.batch_size == "auto" or _whole(self.batch_size, 1)):
            raise InvalidArgumentError(
                f"batch_size must be 'auto' or a whole number from 1, not {self.batch_size!r}."
            )
        for name, low, high in (
            ("learning_rate", 0.0, np.inf),
            ("weight_decay", -1e-300, np.inf),
            ("validation_fraction", -1e-300, 1.0),
            ("clip", 1.0, np.inf),
        ):
            value = getattr(self, name)
            if not isinstance(value, Real) or not low < float(value) < high:
                raise InvalidArgumentError(
                    f"{name} must be a number above {max(low, 0):g} and below {high:g}, not {value!r}."
                )
        try:
            torch.device(self.device)
        except (RuntimeError, TypeError) as error:
            raise InvalidArgumentError(f"device cannot be {self.device!r}: {error}.") from error


def _whole(value: Any, lowest: int) -> bool:
    return isinstance(value, Integral) and value is not True and int(value) >= lowest


def _dtype(name: str) -> torch.dtype:
    return torch.float64 if name == "float64" else torch.float32
