"""Tables of what edits did."""

from __future__ import annotations

import pyarrow as pa

from neuronwise.store._tables.columns import FACT, Column, Table, log_p

__all__ = ["TABLES"]

_METHOD = Column("method", pa.string(), "Name of the editing method; `none`: the model as it is.")

_CONTROL = Column(
    "control",
    pa.string(),
    "Whether it is the edit itself, a random one beside it, or none.",
    choices=("none", "edit", "random"),
)

_SEED = Column("seed", pa.int32(), "Seed of the random control; else missing.", nullable=True)


TABLES = (
    Table(
        "edit_summary",
        (
            _METHOD,
            _CONTROL,
            Column("metric", pa.string(), "What was measured, such as `reliability`, `sister` or `kl`."),
            Column(
                "measure",
                pa.string(),
                "Share of prompts judged by the most likely token, or by probability; or a figure of plain text.",
                choices=("argmax", "probability", "text"),
            ),
            Column("value", pa.float64(), "Mean over the facts of each fact's mean."),
            Column("low", pa.float64(), "Lower end of its 95 % interval over facts."),
            Column("high", pa.float64(), "Upper end."),
            Column("facts", pa.int32(), "Number of facts (or patches) behind it.", unit="facts"),
            Column("n", pa.int64(), "Number of prompts or tokens behind it, over all seeds."),
        ),
        keys=("method", "control", "metric", "measure"),
        doc="What editing methods did, beside no edit and random ones.",
    ),
    Table(
        "edit_prompts",
        (
            _METHOD,
            _CONTROL,
            _SEED,
            FACT,
            Column("relation", pa.string(), "Relation of the fact."),
            Column("probe", pa.string(), "`edit`, `held_out`, or the kind of the probe."),
            Column("number", pa.int32(), "Number of the prompt among those of its kind, from 0."),
            Column("prompt", pa.string(), "The prompt, with `[Y]` for its slot."),
            Column(
                "answer",
                pa.string(),
                "What is right after the edit; of an erased fact's own prompts, what was right before.",
            ),
            Column("other", pa.string(), "The answer it competes with; empty where there is none."),
            log_p("log_p_answer_before", "Log probability of `answer` in the model as it is."),
            log_p("log_p_answer", "The same under the edit."),
            log_p("log_p_other_before", "Log probability of `other` in the model as it is."),
            log_p("log_p_other", "The same under the edit."),
            Column("top_before", pa.string(), "The most likely token of the model as it is."),
            Column("top", pa.string(), "The same under the edit."),
            Column("success", pa.bool_(), "Whether the most likely token is as it should be."),
            Column("prefers", pa.float64(), "1 if the probabilities are as they should be, 0 if not."),
        ),
        keys=("method", "control", "seed", "fact", "probe", "number"),
        doc="What a model says to every prompt before and after an edit.",
    ),
    Table(
        "edit_text",
        (
            _METHOD,
            _CONTROL,
            _SEED,
            FACT,
            Column("tokens", pa.int64(), "Number of tokens predicted.", unit="tokens"),
            Column(
                "nll_before",
                pa.float64(),
                "Mean negative log likelihood of a token in the model as it is.",
                unit="nats",
            ),
            Column("nll", pa.float64(), "The same under the edit.", unit="nats"),
            Column(
                "kl",
                pa.float64(),
                "Mean divergence of the edited model from the model as it is.",
                unit="nats",
            ),
        ),
        keys=("method", "control", "seed", "fact"),
        doc="What an edit does to the prediction of plain text.",
    ),
    Table(
        "edit_problems",
        (
            Column("number", pa.int32(), "Running number, from 0."),
            FACT,
            _METHOD,
            _CONTROL,
            _SEED,
            Column("problem", pa.string(), "What went wrong."),
        ),
        keys=("number",),
        doc="Facts that could not be edited, and prompts that could not be asked.",
    ),
)
