"""What classifiers make of the outputs of a network or formula: probabilities and labels."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from sklearn.base import ClassifierMixin

__all__ = ["Classifies"]


class Classifies(ClassifierMixin):  # type: ignore[misc] # scikit-learn has no types
    """A classifier that has a logit for each class."""

    classes_: NDArray[Any]

    @abstractmethod
    def _logits(self, X: Any) -> NDArray[np.float64]:
        """Return the logit of each class, (n, classes), in the order of ``classes_``."""

    def predict_log_proba(self, X: Any) -> NDArray[np.float64]:
        """Return log probabilities, (n, classes), in the order of ``classes_``.

        Args:
            X: Inputs, (n, d).
        """
        found: NDArray[np.float64] = log_softmax(self._logits(X), axis=1)
        return found

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return probabilities, (n, classes), in the order of ``classes_``.

        Args:
            X: Inputs, (n, d).
        """
        found: NDArray[np.float64] = softmax(self._logits(X), axis=1)
        return found

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable class of each row, (n,).

        Args:
            X: Inputs, (n, d).
        """
        logits = self._logits(X)
        labels: NDArray[Any] = self.classes_[logits.argmax(1)]
        return labels
