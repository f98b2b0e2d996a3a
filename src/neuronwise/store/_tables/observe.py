"""Tables of what is seen of neurons: sites, statistics, examples, ablation, measures of monosemanticity."""

from __future__ import annotations

import pyarrow as pa

from neuronwise.store._tables.columns import LAYER, NEURON, SITE, TOKEN, Column, Table

__all__ = ["TABLES"]

_SIDE = Column("side", pa.string(), "Strongest or weakest values of the neuron.", choices=("top", "bottom"))

_RANK = Column("rank", pa.int16(), "Place on that side, from 0, the most extreme first.")

_EXAMPLE = Column("example", pa.int64(), "Number of the example in the corpus, from 0.")

_TOKEN_ID = Column(
    "token_id",
    pa.int32(),
    "Number of the token in the vocabulary; missing where there is none.",
    nullable=True,
)


def _value(doc: str) -> Column:
    return Column("value", pa.float32(), doc, unit="activation")


TABLES = (
    Table(
        "sites",
        (
            SITE,
            Column("path", pa.string(), "Path of the module in the model."),
            Column("tensor", pa.string(), "Which tensor of the module.", choices=("input", "output")),
            Column(
                "call",
                pa.int32(),
                "Which call of a module that runs several times; missing: every call.",
                nullable=True,
            ),
            Column(
                "stack",
                pa.string(),
                "Path of the list of layers that the module belongs to; empty where there is none.",
            ),
            LAYER,
            Column("kind", pa.string(), "ffn, hidden, conv, rnn, or module (named by hand)."),
            Column("width", pa.int32(), "Number of neurons.", unit="neurons"),
            Column("axis", pa.int32(), "The tensor's axis that counts neurons."),
        ),
        keys=("site",),
        doc="One row for each site: an address of neurons in the model.",
    ),
    Table(
        "neurons",
        (
            SITE,
            LAYER,
            NEURON,
            Column("n", pa.int64(), "Number of finite values that the statistics stand on.", unit="values"),
            Column(
                "nonfinite",
                pa.int64(),
                "Number of NaN and infinite values, left out of the statistics.",
                unit="values",
            ),
        ),
        keys=("site", "neuron"),
        doc=(
            "One row for each neuron; one further column for each statistic, such as `mean`, "
            "and `mean_se` for its standard error."
        ),
        open=True,
    ),
    Table(
        "examples",
        (
            SITE,
            NEURON,
            _SIDE,
            _RANK,
            _value("Value of the neuron there."),
            _EXAMPLE,
            Column(
                "position",
                pa.int32(),
                "Position within the example (token, or place in the picture), from 0.",
            ),
        ),
        keys=("site", "neuron", "side", "rank"),
        doc="The places in the corpus where a neuron was strongest and weakest.",
    ),
    Table(
        "contexts",
        (
            SITE,
            NEURON,
            _SIDE,
            _RANK,
            Column(
                "offset",
                pa.int16(),
                "Tokens from the place named in `examples`; negative is before it.",
                unit="tokens",
            ),
            _TOKEN_ID,
            TOKEN,
            _value("Value of the same neuron at this token."),
        ),
        keys=("site", "neuron", "side", "rank", "offset"),
        doc="The tokens around each row of `examples`.",
    ),
    Table(
        "histogram",
        (
            SITE,
            NEURON,
            Column("left", pa.float64(), "Lower edge of the bin, included.", unit="activation"),
            Column("right", pa.float64(), "Upper edge of the bin.", unit="activation"),
            Column("count", pa.int64(), "Number of values in the bin.", unit="values"),
        ),
        keys=("site", "neuron", "left"),
        doc="How often a neuron had which value.",
    ),
    Table(
        "coactivation",
        (
            SITE,
            NEURON,
            Column("other", pa.int32(), "Index of another neuron of the same site."),
            Column("correlation", pa.float32(), "Pearson correlation of the two neurons over the corpus."),
            Column("correlation_se", pa.float32(), "Its standard error."),
        ),
        keys=("site", "neuron", "other"),
        doc="Which neurons of a site go together: all pairs, or the strongest ones of a wide site.",
    ),
    Table(
        "class_means",
        (
            SITE,
            NEURON,
            Column("field", pa.string(), "Name of the label field of the corpus, such as `upos`."),
            Column("label", pa.string(), "Name of the class."),
            Column("n", pa.int64(), "Number of values of that class.", unit="values"),
            Column("mean", pa.float64(), "Mean of the neuron over that class.", unit="activation"),
            Column("mean_se", pa.float64(), "Its standard error.", unit="activation"),
        ),
        keys=("site", "neuron", "field", "label"),
        doc="Means of a neuron over the values of each class.",
    ),
    Table(
        "promoted",
        (
            SITE,
            LAYER,
            NEURON,
            Column(
                "side",
                pa.string(),
                "Whether the neuron writes for or against the token.",
                choices=("promotes", "demotes"),
            ),
            _RANK,
            Column("token_id", pa.int32(), "Number of the token in the vocabulary."),
            TOKEN,
            Column(
                "logit", pa.float32(), "What one unit of the neuron adds to the token's logit.", unit="logit"
            ),
        ),
        keys=("site", "neuron", "side", "rank"),
        doc="The tokens that a neuron's value vector promotes and demotes through the unembedding.",
    ),
    Table(
        "images",
        (_EXAMPLE, Column("png", pa.binary(), "The picture as the bytes of a PNG file.")),
        keys=("example",),
        doc="Pictures of the examples that `examples` names, where the corpus has pictures.",
        rows_per_group=64,
    ),
    Table(
        "ablation",
        (
            Column(
                "neurons",
                pa.string(),
                "Which set was changed: the chosen one or a random one of its size.",
                choices=("chosen", "random"),
            ),
            Column("seed", pa.int32(), "Seed of the random set; missing for the chosen one.", nullable=True),
            Column("n_neurons", pa.int64(), "Size of the set.", unit="neurons"),
            Column("metric", pa.string(), "What was measured, such as `loss`."),
            Column("baseline", pa.float64(), "The metric of the untouched model."),
            Column("intervened", pa.float64(), "The metric with the set changed."),
            Column("change", pa.float64(), "`intervened` less `baseline`."),
            Column("change_se", pa.float64(), "Its standard error, over the examples of the corpus."),
        ),
        keys=("metric", "neurons", "seed"),
        doc="What switching neurons off does, beside random sets of the same size.",
    ),
    Table(
        "unit_measures",
        (
            SITE,
            LAYER,
            Column("measure", pa.string(), "Name of the measure of monosemanticity."),
            Column("position", pa.int32(), "Position of the unit where each has its own statistics; else 0."),
            NEURON,
            Column("value", pa.float64(), "Its value; missing where it is not defined."),
            Column("live", pa.bool_(), "Whether the unit is neither dead nor nearly so."),
        ),
        keys=("site", "measure", "position", "neuron"),
        doc="Measures of monosemanticity of every unit.",
    ),
    Table(
        "site_measures",
        (
            SITE,
            LAYER,
            Column("measure", pa.string(), "Name of the measure of monosemanticity."),
            Column(
                "basis",
                pa.string(),
                "The neurons, a random rotation of them, or their principal components.",
                choices=("neuron", "rotated", "pca"),
            ),
            Column("mean", pa.float64(), "Mean over the live units; of a measure of the site, its value."),
            Column(
                "median", pa.float64(), "Median over the live units; of a measure of the site, its value."
            ),
            Column("low", pa.float64(), "What 5 % of the live units are below."),
            Column("high", pa.float64(), "What 5 % of the live units are above."),
            Column("n_live", pa.int64(), "Live units.", unit="units"),
            Column("n_near_dead", pa.int64(), "Units left out as nearly dead.", unit="units"),
            Column("n_dead", pa.int64(), "Units left out as dead.", unit="units"),
            Column("n", pa.int64(), "Samples measured.", unit="samples"),
            Column(
                "n_reference", pa.int64(), "Samples behind the statistics of the neurons.", unit="samples"
            ),
        ),
        keys=("site", "measure", "basis"),
        doc="Measures of monosemanticity of every site, over its live units.",
    ),
)
