"""A network of task neurons that predicts classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuronwise.estimators._base import TaskNeuronEstimator
from neuronwise.estimators._classes import Classifies
from neuronwise.estimators._inputs import Table, read_classes, used_classes

__all__ = ["TaskNeuronClassifier"]


class TaskNeuronClassifier(Classifies, TaskNeuronEstimator):
    """Classification by a network whose neurons suit the data.

    The network is trained on the cross-entropy, and the search goes by the deviance: labels never enter as numbers.
    What is said of inputs at :class:`TaskNeuronRegressor` holds here as well.

    Args:
        formula: Which neurons: ``"auto"`` searches a formula on the training part; ``"linear"``; a name of
            :data:`neuronwise.nn.KINDS` such as ``"quadratic"``; a text such as ``"x**2 + sin(x)"``; a
            :class:`neuronwise.formula.Formula`, a :class:`neuronwise.nn.Kind`, or several base functions.
        method: Search method, a name or one with settings; see :data:`neuronwise.discover.METHODS`.
        bases: Base functions of the search: a preset of :data:`neuronwise.formula.PRESETS`, a text
            ``"x, x**2, sin(x)"``, or several.
        hidden: Widths of the hidden layers. Without any, the output neurons are the task neurons.
        task_layers: ``"first"``: the first hidden layer has task neurons, later ones linear neurons. ``"all"``:
            every one.
        activation: What follows a hidden layer: ``"relu"``, ``"tanh"``, ``"gelu"``, ``"silu"``, ``"elu"``,
            ``"leaky_relu"``, ``"sigmoid"`` or ``"identity"``.
        guard: Compare task neurons with linear ones on held-out rows first, in five folds (the search included),
            and keep the linear network unless the task neurons are better beyond chance. A fit takes about
            six times as long with it.
        learning_rate: Of AdamW. Where the loss does not stay finite, training starts again at a quarter of it.
        weight_decay: Of AdamW, decoupled; biases have none.
        batch_size: Rows of a step; ``"auto"`` takes a power of two from 32 to 256, about a 32nd of the rows.
        max_epochs: Passes over the training part at most.
        patience: Passes without a better validation loss before training stops; the best weights are kept.
        validation_fraction: Share of the rows that decide when to stop, classes in proportion; with fewer than 20
            rows, or 0, there are none and all passes are made.
        scale: In which units the formula is. ``"auto"`` is the rule of :func:`neuronwise.discover.discover`: the search
            and task neurons get inputs as they are where every column of the training part lies in [-10, 10] with a
            standard deviation between 0.1 and 10, and else standardised ones. ``"standard"``: always these. Linear
            neurons get standardised inputs.
        clip: Standardised inputs are clipped at so many standard deviations; those that stay as they are at 1.5 times
            the largest absolute value of the training part. Predictions warn of values farther out than any seen.
        device: Where to train, as in torch.
        dtype: Of the weights, ``"float32"`` or ``"float64"``. Predictions on the CPU are computed in float64.
        random_state: Whole number, RandomState, Generator, or None for another seed every time. The same number
            gives the same network on the same machine; the global random state is not touched.
        verbose: Show a progress bar.

    Attributes:
        formula_: The formula of the neurons: the one found, with its numbers, or given; in inputs scaled by
            ``formula_scaler_``.
        discovery_: What the search found, or None where there was none.
        guard_: What was compared and decided, a :class:`Guard`; None without a guard.
        kind_: The kind of the neurons that were kept; None for linear ones.
        module_: The trained ``torch.nn.Sequential``, on scaled inputs; :meth:`to_torch` has the scaling, too.
        scale_: ``"none"`` where task neurons get inputs as they are, else ``"standard"``.
        formula_scaler_: How inputs are scaled for the search and for task neurons.
        input_scaler_: How inputs are scaled for the network that was kept: the same, or standardised for linear neurons
            (by mean and deviation of the training part, robust against outliers).
        classes_: The labels, sorted.
        history_: One row for each pass: epoch, train_loss, validation_loss, seconds, learning_rate.
        loss_curve_: The training losses alone.
        best_epoch_: The pass whose weights were kept.
        best_loss_: The validation loss then.
        n_iter_: Number of passes.
        n_features_in_: Number of inputs.
        feature_names_in_: Their names, where the fit saw a DataFrame.

    Example:
        >>> X = np.random.default_rng(0).normal(size=(400, 2))
        >>> inside = np.where((X**2).sum(1) < 1, "inside", "outside")
        >>> model = TaskNeuronClassifier("x**2 + x", hidden=(8,), max_epochs=60, guard=False)
        >>> model.fit(X[:300], inside[:300]).score(X[300:], inside[300:]) > 0.9
        True
    """

    def _table(self, X: Any, y: Any, sample_weight: ArrayLike | None) -> Table:
        inputs, weight = self._rows(X, y, sample_weight)
        labels, codes = read_classes(y)
        kept = weight > 0
        self.classes_, codes = used_classes(labels, codes, kept)
        used = weight[kept] / weight[kept].mean()
        return Table(inputs[kept], codes, used, bool(np.ptp(used) > 0), self._names())

    def _logits(self, X: Any) -> NDArray[np.float64]:
        return self._outputs(X)
