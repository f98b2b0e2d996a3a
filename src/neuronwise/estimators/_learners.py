"""The learners that are compared: how each is made, and between which settings each is tuned."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from neuronwise.errors import InvalidArgumentError, closest

__all__ = ["LEARNERS", "REFERENCE", "Learner", "Setting", "chosen"]

#: The learner that all others are compared with.
REFERENCE = "linear"


@dataclass(frozen=True, slots=True)
class Setting:
    """What all learners share.

    Args:
        classes: Whether classes are predicted.
        hidden: Widths of the hidden layers of the networks.
        max_epochs: Most epochs of a network.
        bases: Base functions that the search chooses from.
        seed: Seed.
        spare_rows: Whether every training part is large enough for scikit-learn's network to put a tenth of it aside,
            classes in proportion, and stop early by that.
    """

    classes: bool
    hidden: tuple[int, ...]
    max_epochs: int
    bases: Any
    seed: int
    spare_rows: bool = True


Maker = Callable[[Setting], Any]


@dataclass(frozen=True, slots=True)
class Learner:
    """One learner.

    Args:
        name: Its name in tables.
        family: ``"neurons"``, ``"scikit-learn"`` or ``"boosting"``.
        make: Makes the estimator.
        grid: Settings between which it is tuned; names as in ``set_params``.
        classes_grid: Those for classes, where they have other names.
        package: The package it needs, or "".
        matched: Whether its hidden layers are made narrower until it has no more parameters than the reference.
        searched: Whether its neurons have the formula that the search finds on the training part.
        guarded: Whether the guard decides between these and linear ones.
    """

    name: str
    family: str
    make: Maker
    grid: Mapping[str, Sequence[Any]]
    package: str = ""
    matched: bool = False
    searched: bool = False
    guarded: bool = False
    classes_grid: Mapping[str, Sequence[Any]] | None = None

    def settings(self, setting: Setting) -> Mapping[str, Sequence[Any]]:
        """Return the settings between which it is tuned."""
        return self.classes_grid if setting.classes and self.classes_grid is not None else self.grid

    @property
    def installed(self) -> bool:
        """Whether its package is there."""
        return not self.package or importlib.util.find_spec(self.package) is not None


_NET_GRID: Mapping[str, Sequence[Any]] = MappingProxyType(
    {"learning_rate": (1e-3, 3e-3, 1e-2), "weight_decay": (0.0, 1e-3, 1e-2, 1e-1)}
)


def _network(**fixed: Any) -> Maker:
    def make(setting: Setting) -> Any:
        from neuronwise.estimators.classifier import TaskNeuronClassifier
        from neuronwise.estimators.regressor import TaskNeuronRegressor

        kind = TaskNeuronClassifier if setting.classes else TaskNeuronRegressor
        return kind(
            **{
                "hidden": setting.hidden,
                "max_epochs": setting.max_epochs,
                "bases": setting.bases,
                "random_state": setting.seed,
                "guard": False,
                **fixed,
            }
        )

    return make


def _scaled(make: Callable[[Setting], Any]) -> Maker:
    """Return the maker of a pipeline that standardises the inputs first; its grid names start with ``learner__``."""

    def pipeline(setting: Setting) -> Any:
        from sklearn.pipeline import Pipeline
        from sklearn.preprocessing import StandardScaler

        return Pipeline([("scale", StandardScaler()), ("learner", make(setting))])

    return pipeline


def _linear_model(setting: Setting) -> Any:
    from sklearn.linear_model import LogisticRegression, Ridge

    return LogisticRegression(max_iter=2000) if setting.classes else Ridge()


def _mlp(setting: Setting) -> Any:
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    kind = MLPClassifier if setting.classes else MLPRegressor
    return kind(
        hidden_layer_sizes=setting.hidden,
        max_iter=setting.max_epochs,
        early_stopping=setting.spare_rows,
        n_iter_no_change=20,
        random_state=setting.seed,
    )


def _vector_machine(setting: Setting) -> Any:
    from sklearn.svm import SVC, SVR

    return SVC() if setting.classes else SVR()


def _forest(setting: Setting) -> Any:
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    kind = RandomForestClassifier if setting.classes else RandomForestRegressor
    return kind(n_estimators=200, random_state=setting.seed)


def _boosted_trees(setting: Setting) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    kind = HistGradientBoostingClassifier if setting.classes else HistGradientBoostingRegressor
    return kind(random_state=setting.seed)


def _xgboost(setting: Setting) -> Any:
    import xgboost

    kind = xgboost.XGBClassifier if setting.classes else xgboost.XGBRegressor
    return kind(random_state=setting.seed, n_jobs=1, verbosity=0)


def _lightgbm(setting: Setting) -> Any:
    import lightgbm

    kind = lightgbm.LGBMClassifier if setting.classes else lightgbm.LGBMRegressor
    return kind(random_state=setting.seed, n_jobs=1, verbose=-1)


def _catboost(setting: Setting) -> Any:
    import catboost

    kind = catboost.CatBoostClassifier if setting.classes else catboost.CatBoostRegressor
    return kind(random_state=setting.seed, thread_count=1, verbose=False, allow_writing_files=False)


_RATES = (0.03, 0.1, 0.2)
_SIZES = (100, 300)
_BOOSTING: Mapping[str, Sequence[Any]] = MappingProxyType(
    {"learning_rate": _RATES, "n_estimators": _SIZES, "max_depth": (3, 6)}
)

#: Name -> learner, in the order of the tables.
LEARNERS: Mapping[str, Learner] = MappingProxyType(
    {
        learner.name: learner
        for learner in (
            Learner("linear", "neurons", _network(formula="linear"), _NET_GRID),
            Learner("quadratic", "neurons", _network(formula="x + x**2"), _NET_GRID),
            Learner("quadratic_matched", "neurons", _network(formula="x + x**2"), _NET_GRID, matched=True),
            Learner("task", "neurons", _network(formula="auto"), _NET_GRID, searched=True),
            Learner(
                "task_matched", "neurons", _network(formula="auto"), _NET_GRID, matched=True, searched=True
            ),
            Learner(
                "guarded",
                "neurons",
                _network(formula="auto", guard=True),
                _NET_GRID,
                searched=True,
                guarded=True,
            ),
            Learner(
                "linear_model",
                "scikit-learn",
                _scaled(_linear_model),
                {"learner__alpha": (0.01, 0.1, 1.0, 10.0, 100.0)},
                classes_grid={"learner__C": (0.01, 0.1, 1.0, 10.0, 100.0)},
            ),
            Learner(
                "mlp",
                "scikit-learn",
                _scaled(_mlp),
                {
                    "learner__learning_rate_init": (1e-3, 3e-3, 1e-2),
                    "learner__alpha": (1e-4, 1e-3, 1e-2, 1e-1),
                },
            ),
            Learner(
                "svm",
                "scikit-learn",
                _scaled(_vector_machine),
                {"learner__C": (0.3, 1.0, 10.0, 100.0), "learner__gamma": ("scale", 0.03, 0.3)},
            ),
            Learner(
                "forest",
                "scikit-learn",
                _forest,
                {"max_features": (0.33, 0.66, 1.0), "min_samples_leaf": (1, 3, 10, 30)},
            ),
            Learner(
                "boosted_trees",
                "scikit-learn",
                _boosted_trees,
                {"learning_rate": _RATES, "max_iter": _SIZES, "max_leaf_nodes": (8, 31)},
            ),
            Learner("xgboost", "boosting", _xgboost, _BOOSTING, package="xgboost"),
            Learner(
                "lightgbm",
                "boosting",
                _lightgbm,
                {"learning_rate": _RATES, "n_estimators": _SIZES, "num_leaves": (8, 31)},
                package="lightgbm",
            ),
            Learner(
                "catboost",
                "boosting",
                _catboost,
                {"learning_rate": _RATES, "iterations": _SIZES, "depth": (3, 6)},
                package="catboost",
            ),
        )
    }
)


def chosen(names: Sequence[str] | None) -> list[Learner]:
    """Return the reference and the learners of some names; by default all whose package is installed.

    Raises:
        InvalidArgumentError: If one is unknown, given twice, or its package is not installed.
    """
    if names is None:
        return [learner for learner in LEARNERS.values() if learner.installed]
    if len(set(names)) < len(names):
        raise InvalidArgumentError(f"learners must differ from each other, not {', '.join(names)}.")
    for name in names:
        if name not in LEARNERS:
            raise InvalidArgumentError(f"There is no learner {name!r}. {closest(name, LEARNERS)}")
        if not LEARNERS[name].installed:
            package = LEARNERS[name].package
            raise InvalidArgumentError(
                f"The learner {name!r} needs the package {package!r}, which is not installed."
            )
    return [LEARNERS[REFERENCE], *(LEARNERS[name] for name in names if name != REFERENCE)]
