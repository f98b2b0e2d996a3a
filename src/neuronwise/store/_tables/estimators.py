"""Tables of learners that were compared."""

from __future__ import annotations

import pyarrow as pa

from neuronwise.store._tables.columns import Column, Table

__all__ = ["TABLES"]

_LEARNER = Column("learner", pa.string(), "Name of the learner.")

_FOLD = Column("fold", pa.int32(), "Number of the test part, from 0.")

_METRIC = Column(
    "metric",
    pa.string(),
    "What is measured: nrmse and mae (in standard deviations of the target), r2; accuracy, log_loss (nats), auc.",
)


TABLES = (
    Table(
        "comparison",
        (
            _LEARNER,
            Column("family", pa.string(), "Where it comes from: `neurons`, `scikit-learn` or `boosting`."),
            _METRIC,
            Column("mean", pa.float64(), "Mean over the test parts."),
            Column("sd", pa.float64(), "Standard deviation over the test parts."),
            Column("low", pa.float64(), "Lower end of the 95 % interval of the mean."),
            Column("high", pa.float64(), "Upper end."),
            Column("rank", pa.int32(), "Place by that metric, the best is 1."),
            Column("parameters", pa.float64(), "Numbers that a network learns, mean over the test parts."),
            Column("seconds", pa.float64(), "Time for tuning and training, all test parts.", unit="s"),
        ),
        keys=("metric", "learner"),
        doc="A learner's score by one metric, over all test parts.",
    ),
    Table(
        "comparison_pairs",
        (
            _LEARNER,
            Column("reference", pa.string(), "The learner it is compared with."),
            _METRIC,
            Column("difference", pa.float64(), "Mean over test parts of its score less the reference's."),
            Column("low", pa.float64(), "Lower end of the 95 % interval (corrected resampled t-test)."),
            Column("high", pa.float64(), "Upper end."),
            Column("p", pa.float64(), "Two-sided p of no difference."),
            Column("gain", pa.float64(), "The difference, positive where it is better."),
            Column(
                "verdict",
                pa.string(),
                "What the interval says.",
                choices=("better", "no difference", "worse"),
            ),
        ),
        keys=("metric", "learner"),
        doc="A learner beside the reference on the same test parts.",
    ),
    Table(
        "comparison_folds",
        (_LEARNER, _FOLD, _METRIC, Column("value", pa.float64(), "The score.")),
        keys=("metric", "learner", "fold"),
        doc="A learner's score on one test part.",
    ),
    Table(
        "comparison_fits",
        (
            _LEARNER,
            _FOLD,
            Column("train_rows", pa.int64(), "Rows trained on."),
            Column("test_rows", pa.int64(), "Rows tested on."),
            Column("parameters", pa.float64(), "Numbers that a network learns."),
            Column("hidden", pa.string(), "Widths of its hidden layers."),
            Column("formula", pa.string(), "Formula of its neurons."),
            Column("settings", pa.string(), "The settings chosen, as JSON."),
            Column("seconds", pa.float64(), "Time for tuning and training.", unit="s"),
        ),
        keys=("learner", "fold"),
        doc="One learner, tuned and trained for one test part.",
    ),
    Table(
        "learning_curves",
        (
            _LEARNER,
            _FOLD,
            Column("epoch", pa.int32(), "Number of the epoch, from 1."),
            Column("train_loss", pa.float64(), "Loss on the training rows, mean over the epoch."),
            Column("validation_loss", pa.float64(), "Loss on the validation rows after the epoch."),
        ),
        keys=("learner", "fold", "epoch"),
        doc="How a network was trained.",
    ),
    Table(
        "out_of_fold",
        (
            _LEARNER,
            _FOLD,
            Column("row", pa.int64(), "Number of the row in the data, from 0."),
            Column("actual", pa.float64(), "The target; for classes the number of the class."),
            Column("predicted", pa.float64(), "What the learner predicted without having seen the row."),
        ),
        keys=("learner", "fold", "row"),
        doc="A prediction for a row of a test part; at most 1,000 rows of each part.",
    ),
)
