"""The job of comparing: it folds test parts into what each learner reached on them."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuronwise.discover import discover
from neuronwise.engine import Block
from neuronwise.estimators._learners import LEARNERS, Learner, Setting
from neuronwise.estimators._network import count_parameters

__all__ = ["METRICS", "RANKED_BY", "FoldJob", "Records", "Split"]

#: Metric -> whether more of it is better.
METRICS: Mapping[str, bool] = MappingProxyType(
    {"nrmse": False, "r2": True, "mae": False, "accuracy": True, "log_loss": False, "auc": True}
)
#: What learners are tuned and ranked by: for numbers, for classes.
RANKED_BY: Mapping[bool, str] = MappingProxyType({False: "nrmse", True: "accuracy"})

_SCORING = MappingProxyType({False: "neg_root_mean_squared_error", True: "accuracy"})
_TUNING_SHARE = 0.2
_KEPT_PREDICTIONS = 1000


@dataclass(frozen=True)
class Split:
    """Rows to train on and rows to test on.

    Args:
        fold: Its number.
        train: Rows to train on.
        test: Rows to test on.
        pool: How many rows those to train on were drawn from: the less of them is drawn, the less splits overlap.
    """

    fold: int
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    pool: int


@dataclass
class Records:
    """What has been measured, as rows of the tables of the same names."""

    folds: list[dict[str, Any]] = field(default_factory=list)
    fits: list[dict[str, Any]] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)
    predictions: list[dict[str, Any]] = field(default_factory=list)


class FoldJob:
    """Trains and scores every learner on each split; one split is one example of the engine's blocks."""

    def __init__(
        self,
        inputs: NDArray[np.float64],
        target: NDArray[np.float64],
        splits: Sequence[Split],
        learners: Sequence[Learner],
        setting: Setting,
        tune: int,
    ) -> None:
        self.inputs, self.target, self.splits = inputs, target, tuple(splits)
        self.names = [learner.name for learner in learners]
        self.setting, self.tune = setting, tune
        self._spread = float(np.std(target)) or 1.0

    def start(self) -> Records:
        """Return an empty record."""
        return Records()

    def run(self, state: Records, block: Block) -> bool:
        """Train and score all learners on some splits."""
        _, first, last = block
        for split in self.splits[first:last]:
            self._split(state, split)
        return first < len(self.splits)

    def merge(self, state: Records, other: Records) -> None:
        """Add what was measured on later splits."""
        for name in vars(state):
            getattr(state, name).extend(getattr(other, name))

    def dump(self, state: Records) -> dict[str, Tensor]:
        """Return the record as tensors."""
        return {"json": torch.frombuffer(bytearray(json.dumps(asdict(state)).encode()), dtype=torch.uint8)}

    def restore(self, tensors: Mapping[str, Tensor]) -> Records:
        """Return the record that was dumped."""
        return Records(**json.loads(bytes(tensors["json"].tolist())))

    def fingerprint(self) -> str:
        """Return what the figures depend on."""
        digest = hashlib.sha256(self.inputs.tobytes() + self.target.tobytes())
        for split in self.splits:
            digest.update(split.train.tobytes() + split.test.tobytes())
        setting = {**asdict(self.setting), "bases": str(self.setting.bases)}
        return json.dumps([digest.hexdigest(), setting, self.names, self.tune], sort_keys=True)

    def _split(self, state: Records, split: Split) -> None:
        formula = self._formula(split)
        for name in self.names:
            learner = LEARNERS[name]
            started = time.perf_counter()
            # One seed for all: learners of the same grid then try the same settings, and differ by nothing else.
            fitted, settings = self._tuned(learner, split, formula, seed=split.fold)
            seconds = time.perf_counter() - started
            where = {"learner": name, "fold": split.fold}
            predicted, scores = self._scores(fitted, split.test)
            state.folds += [{**where, "metric": metric, "value": value} for metric, value in scores.items()]
            module = getattr(fitted, "module_", None)
            state.fits.append(
                {
                    **where,
                    "train_rows": len(split.train),
                    "test_rows": len(split.test),
                    "parameters": None if module is None else sum(p.numel() for p in module.parameters()),
                    "hidden": " ".join(map(str, getattr(fitted, "hidden", ()))),
                    "formula": _neuron(fitted),
                    "settings": json.dumps(settings, sort_keys=True),
                    "seconds": seconds,
                }
            )
            history = getattr(fitted, "history_", None)
            if history is not None:
                columns = ["epoch", "train_loss", "validation_loss"]
                state.curves += [{**where, **row} for row in history[columns].to_dict("records")]
            state.predictions += self._kept(where, split, predicted)

    def _formula(self, split: Split) -> Any:
        """Return the formula that the search finds on the training part; learners of one split share it."""
        if not any(LEARNERS[name].searched for name in self.names):
            return None
        target = self.target[split.train]
        return discover(
            self.inputs[split.train],
            target.astype(np.int64) if self.setting.classes else target,
            task="classification" if self.setting.classes else "regression",
            bases=self.setting.bases,
            confidence="none",
            held_out=0.0,
            seed=self.setting.seed,
        ).neuron

    def _tuned(
        self, learner: Learner, split: Split, formula: Any, *, seed: int
    ) -> tuple[Any, Mapping[str, Any]]:
        """Return a learner fitted with the best of its settings, and these."""
        from sklearn.base import clone
        from sklearn.model_selection import PredefinedSplit, RandomizedSearchCV, train_test_split

        estimator = learner.make(self.setting)
        tried = clone(estimator)
        if learner.searched:
            # The guard trains thirty networks: a setting is judged by the task neurons alone, and the guard runs once.
            tried.set_params(formula=formula, guard=False)
        if learner.matched:
            tried.set_params(hidden=self._matched(tried))
        grid = learner.settings(self.setting)
        count = int(np.prod([len(values) for values in grid.values()]))
        target = self.target[split.train].astype(np.int64 if self.setting.classes else np.float64)
        rows = np.arange(len(target))
        _, kept = train_test_split(
            rows,
            test_size=_TUNING_SHARE,
            random_state=self.setting.seed + split.fold,
            stratify=target if self.setting.classes and np.bincount(target).min() > 1 else None,
        )
        part = np.full(len(rows), -1)
        part[kept] = 0
        search = RandomizedSearchCV(
            tried,
            dict(grid),
            n_iter=min(self.tune, count),
            scoring=_SCORING[self.setting.classes],
            cv=PredefinedSplit(part),
            random_state=seed,
            error_score="raise",
            refit=False,
        )
        with warnings.catch_warnings():
            # A learner that has not converged within its epochs is scored as it is, like all others.
            warnings.filterwarnings("ignore", category=UserWarning)
            search.fit(self.inputs[split.train], target)
            final = estimator if learner.guarded else tried
            final.set_params(**search.best_params_)
            return final.fit(self.inputs[split.train], target), search.best_params_

    def _matched(self, estimator: Any) -> tuple[int, ...]:
        """Return the widest hidden layers, all narrowed alike, with no more parameters than linear neurons have."""
        outputs = len(np.unique(self.target)) if self.setting.classes else 1
        sizes = {"inputs": self.inputs.shape[1], "outputs": outputs}
        budget = count_parameters("linear", hidden=self.setting.hidden, linear=True, **sizes)
        widest = self.setting.hidden[0]
        for width in range(widest, 0, -1):
            hidden = tuple(max(1, round(one * width / widest)) for one in self.setting.hidden)
            if count_parameters(estimator.formula, hidden=hidden, **sizes) <= budget:
                return hidden
        return (1,) * len(self.setting.hidden)

    def _scores(self, fitted: Any, test: NDArray[np.int64]) -> tuple[NDArray[Any], dict[str, float]]:
        from sklearn import metrics

        X, true = self.inputs[test], self.target[test]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning)
            predicted = np.asarray(fitted.predict(X)).ravel()
            if not self.setting.classes:
                error = true - predicted
                return predicted, {
                    "nrmse": float(np.sqrt(np.mean(error**2))) / self._spread,
                    "r2": float(metrics.r2_score(true, predicted)),
                    "mae": float(np.mean(np.abs(error))) / self._spread,
                }
            scores = {"accuracy": float(np.mean(predicted == true))}
            if hasattr(fitted, "predict_proba"):
                probabilities = np.asarray(fitted.predict_proba(X), dtype=np.float64)
                scores |= self._of_probabilities(true, probabilities, fitted.classes_)
        return predicted, scores

    def _of_probabilities(
        self, true: NDArray[np.float64], probabilities: NDArray[np.float64], classes: NDArray[Any]
    ) -> dict[str, float]:
        from sklearn import metrics

        every = np.unique(self.target)
        # Classes that a small training part lacks have probability 0.
        whole = np.zeros((len(true), len(every)))
        whole[:, np.searchsorted(every, classes)] = probabilities
        whole /= whole.sum(1, keepdims=True)
        scores = {"log_loss": float(metrics.log_loss(true, whole, labels=every))}
        if len(np.unique(true)) == len(every):
            given = whole[:, 1] if len(every) == 2 else whole
            scores["auc"] = float(metrics.roc_auc_score(true, given, multi_class="ovr"))
        return scores

    def _kept(self, where: Mapping[str, Any], split: Split, predicted: NDArray[Any]) -> list[dict[str, Any]]:
        """Return some predictions, the same rows for every learner."""
        rng = np.random.default_rng([self.setting.seed, split.fold])
        chosen = np.sort(rng.permutation(len(split.test))[:_KEPT_PREDICTIONS])
        return [
            {
                **where,
                "row": int(split.test[i]),
                "actual": float(self.target[split.test[i]]),
                "predicted": float(predicted[i]),
            }
            for i in chosen
        ]


def _neuron(fitted: Any) -> str:
    """Return the formula of a network's neurons without its numbers; empty for other learners."""
    if not hasattr(fitted, "kind_"):
        return ""
    return "linear" if fitted.kind_ is None else str(fitted.kind_)
