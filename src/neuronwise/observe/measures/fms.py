"""The Feature Monosemanticity Score: one feature that suffices, that nothing else replaces, and that needs no help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuronwise.errors import InvalidArgumentError
from neuronwise.observe.measures._arrays import classes_of
from neuronwise.observe.measures.detection import f_statistic, split

__all__ = ["FeatureScore", "fms", "fms_score"]


class FeatureScore(NamedTuple):
    """The score of one class.

    Args:
        label: The class.
        neuron: The unit that tells it best.
        accuracy: Balanced accuracy with that unit alone.
        without: The same with the best of the other units.
        more: The same with the best 1, 2, ... units together.
        score: :func:`fms_score` of these.
    """

    label: int
    neuron: int
    accuracy: float
    without: float
    more: tuple[float, ...]
    score: float


def fms_score(accuracy: float, without: float, more: Sequence[float]) -> float:
    r"""Return :math:`acc_0\,(local + global)/2`, 0 to 1.

    ``local`` = :math:`\mathrm{clip}(2(acc_0 - acc_{without}))`, ``global`` =
    :math:`\mathrm{clip}(1 - \overline{acc_k - acc_0})`.

    Args:
        accuracy: With the one best feature, :math:`acc_0`.
        without: Without it.
        more: With more features.

    Example:
        >>> round(fms_score(0.8, 0.78, (0.8, 0.9, 1.0)), 3)
        0.376

    Source: arXiv 2506.19382.
    """
    local = float(np.clip(2 * (accuracy - without), 0.0, 1.0))
    overall = float(np.clip(1 - (np.mean(more) - accuracy), 0.0, 1.0))
    return accuracy * (local + overall) / 2


def fms(
    activations: Any, labels: Any, *, more: int = 5, candidates: int = 64, test: float = 0.3, seed: int = 0
) -> tuple[FeatureScore, ...]:
    """Return the Feature Monosemanticity Score of every class, by class-balanced decision trees.

    Accuracies are balanced (1/2 is chance) and of samples that the trees were not fitted on. The best unit is the one a
    tree of depth 1 splits by; *without* it, another tree of depth 1 takes the best of the rest; with *more*, trees of
    depth k may use the k units of the highest F-statistic. Needs labels. Blind to what else the best unit stands for,
    and capped by how well the site knows the class at all. Two copies of a perfect unit score 1/2.

    Args:
        activations: ``(n, unit)``.
        labels: Class of every sample, below 0 for none.
        more: How many units the largest tree may use.
        candidates: Trees look at so many units, those of the highest F-statistic for the class.
        test: Share of the samples that accuracies are measured on.
        seed: Seed of the split, and of the trees where splits are equally good.

    Raises:
        InvalidArgumentError: If there are fewer than two units, or a class cannot be split.

    Source: arXiv 2506.19382 (the score); which trees it is computed with follows the description above.
    """
    tensor, codes, names = classes_of(activations, labels)
    if tensor.shape[1] < 2:
        raise InvalidArgumentError("The score compares a unit with the others: there must be two at least.")
    train, rest = split(codes, test, seed)
    ranking = f_statistic(tensor[train], codes[train]).nan_to_num(nan=-1.0)
    scores = []
    for number, name in enumerate(names.tolist()):
        chosen = ranking[number].topk(min(candidates, tensor.shape[1])).indices
        values = tensor[:, chosen].detach().double().cpu().numpy()
        trees = _Trees(values, (codes == number).cpu().numpy(), train, rest, seed)
        every = np.arange(values.shape[1])
        accuracy, best = trees.fit(every, 1)
        without, _ = trees.fit(np.delete(every, best), 1)
        helped = tuple(trees.fit(every[:k], k)[0] for k in range(1, min(more, len(every)) + 1))
        score = fms_score(accuracy, without, helped)
        scores.append(FeatureScore(int(name), int(chosen[best]), accuracy, without, helped, score))
    return tuple(scores)


class _Trees:
    """Class-balanced trees for one class."""

    def __init__(
        self,
        values: NDArray[np.float64],
        wanted: NDArray[np.bool_],
        train: NDArray[Any],
        rest: NDArray[Any],
        seed: int,
    ) -> None:
        self.values, self.wanted, self.train, self.rest, self.seed = values, wanted, train, rest, seed

    def fit(self, units: NDArray[Any], depth: int) -> tuple[float, int]:
        """Return the balanced accuracy of a tree on some units, and the unit of its first split."""
        from sklearn.metrics import balanced_accuracy_score
        from sklearn.tree import DecisionTreeClassifier

        tree = DecisionTreeClassifier(max_depth=depth, class_weight="balanced", random_state=self.seed)
        tree.fit(self.values[np.ix_(self.train, units)], self.wanted[self.train])
        guess = tree.predict(self.values[np.ix_(self.rest, units)])
        first = max(int(tree.tree_.feature[0]), 0)  # -2 where nothing could be split
        return float(balanced_accuracy_score(self.wanted[self.rest], guess)), int(units[first])
