"""The tables of a stored result: their columns, types, units and keys, under one version number.

Results of different people can be joined with SQL because every result folder keeps to these tables. A later
verb adds its tables to :data:`TABLES`; a change of what is already here raises :data:`SCHEMA_VERSION`. The
page ``docs/reference/schema.md`` is made from this module by ``docs/_schema.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import pyarrow as pa

from neuronwise.errors import InvalidArgumentError, closest

__all__ = ["MANIFEST_TABLES", "SCHEMA_VERSION", "TABLES", "Column", "Table", "markdown", "table_schema"]

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Args:
        name: Its name.
        type: Its type, in Arrow's words.
        doc: What it holds, in one sentence.
        unit: What a number counts or measures.
        nullable: Whether a value may be missing. Floating-point columns may always miss one: NaN in pandas is
            NULL in SQL, so that ``avg`` and ``ORDER BY`` do what one expects of an undefined statistic.
        choices: The words that a text column may hold, in the order in which rows are sorted.
    """

    name: str
    type: pa.DataType
    doc: str
    unit: str = ""
    nullable: bool = False
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the schema.

    Args:
        name: Its name; the file is ``<name>.parquet``.
        columns: Its columns, in order.
        keys: The columns that together name a row. Rows are sorted by them; no two rows have the same ones.
        doc: What one row is.
        open: Whether columns that are not listed are allowed; each must be numeric and is stored as float64.
        rows_per_group: Rows of one Parquet row group, the smallest piece that is read from disk.
    """

    name: str
    columns: tuple[Column, ...]
    keys: tuple[str, ...]
    doc: str
    open: bool = False
    rows_per_group: int = 1 << 14

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the listed columns, in order."""
        return tuple(column.name for column in self.columns)


def table_schema(name: str) -> Table:
    """Return the table of that name.

    Raises:
        InvalidArgumentError: If the schema has no such table.
    """
    if name not in TABLES:
        raise InvalidArgumentError(
            f"The schema (version {SCHEMA_VERSION}) has no table {name!r}. {closest(name, TABLES)}"
        )
    return TABLES[name]


_SITE = Column(
    "site", pa.string(), "Name of the site: path of the module, tensor, and call where there are several."
)
_NEURON = Column("neuron", pa.int32(), "Index of the neuron on the site's axis, from 0.")
_LAYER = Column(
    "layer",
    pa.int32(),
    "Number of the layer within its stack, from 0; missing where there is none.",
    nullable=True,
)
_SIDE = Column("side", pa.string(), "Strongest or weakest values of the neuron.", choices=("top", "bottom"))
_RANK = Column("rank", pa.int16(), "Place on that side, from 0, the most extreme first.")
_EXAMPLE = Column("example", pa.int64(), "Number of the example in the corpus, from 0.")
_TOKEN_ID = Column(
    "token_id",
    pa.int32(),
    "Number of the token in the vocabulary; missing where there is none.",
    nullable=True,
)
_TOKEN = Column("token", pa.string(), "The token as text.")


def _value(doc: str) -> Column:
    return Column("value", pa.float32(), doc, unit="activation")


def _tables(*tables: Table) -> Mapping[str, Table]:
    return MappingProxyType({table.name: table for table in tables})


_LEARNER = Column("learner", pa.string(), "Name of the learner.")
_FOLD = Column("fold", pa.int32(), "Number of the test part, from 0.")
_METRIC = Column(
    "metric",
    pa.string(),
    "What is measured: nrmse and mae (in standard deviations of the target), r2; accuracy, log_loss (nats), auc.",
)
_METHOD = Column("method", pa.string(), "Name of the editing method; `none`: the model as it is.")
_CONTROL = Column(
    "control",
    pa.string(),
    "Whether it is the edit itself, a random one beside it, or none.",
    choices=("none", "edit", "random"),
)
_SEED = Column("seed", pa.int32(), "Seed of the random control; else missing.", nullable=True)
_FACT = Column("fact", pa.string(), "Id of the fact; empty where it is about all facts.")


def _log_p(name: str, doc: str) -> Column:
    return Column(name, pa.float64(), doc, unit="nats")


_CHANGED = Column(
    "neurons",
    pa.string(),
    "The chosen neurons, or random ones: as many of the same sites.",
    choices=("chosen", "random"),
)
_RANDOM_SEED = Column(
    "seed", pa.int32(), "Seed of the random set; missing for the chosen one.", nullable=True
)
_FACTOR = Column("factor", pa.float64(), "What the activations, less their reference, were multiplied by.")
_PROBE = Column(
    "probe",
    pa.string(),
    "Kind of the prompts: the fact's own, held out, of other subjects with the same answer, of a sister fact, of a "
    "fact of another relation, or unrelated.",
    choices=("own", "held_out", "neighbour", "sister", "other", "unrelated"),
)

_FORMULA_RANK = Column("rank", pa.int32(), "Place of the formula, the best is 0.")
_OUTPUT = Column("output", pa.int32(), "Number of the output, from 0.")
_TERM = Column("term", pa.int32(), "Number of the term in the formula, from 0.")


TABLES: Mapping[str, Table] = _tables(
    Table(
        "sites",
        (
            _SITE,
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
            _LAYER,
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
            _SITE,
            _LAYER,
            _NEURON,
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
            _SITE,
            _NEURON,
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
            _SITE,
            _NEURON,
            _SIDE,
            _RANK,
            Column(
                "offset",
                pa.int16(),
                "Tokens from the place named in `examples`; negative is before it.",
                unit="tokens",
            ),
            _TOKEN_ID,
            _TOKEN,
            _value("Value of the same neuron at this token."),
        ),
        keys=("site", "neuron", "side", "rank", "offset"),
        doc="The tokens around each row of `examples`.",
    ),
    Table(
        "histogram",
        (
            _SITE,
            _NEURON,
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
            _SITE,
            _NEURON,
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
            _SITE,
            _NEURON,
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
            _SITE,
            _LAYER,
            _NEURON,
            Column(
                "side",
                pa.string(),
                "Whether the neuron writes for or against the token.",
                choices=("promotes", "demotes"),
            ),
            _RANK,
            Column("token_id", pa.int32(), "Number of the token in the vocabulary."),
            _TOKEN,
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
        "facts",
        (
            _FACT,
            Column("relation", pa.string(), "Name of its relation; empty where it has none."),
            Column("subject", pa.string(), "What the fact is about."),
            Column("answer", pa.string(), "What belongs in the slot of its prompts."),
            Column("prompts", pa.int32(), "Number of prompts.", unit="prompts"),
            Column("p", pa.float64(), "Probability of the answer, mean over the prompts."),
            Column("log_p", pa.float64(), "Its logarithm, mean over the prompts.", unit="nat"),
            Column("right", pa.float64(), "Share of the prompts whose most probable answer is right."),
            Column("jaccard", pa.float64(), "Mean Jaccard index of the coarse sets of two of its prompts."),
            Column(
                "r1_squared",
                pa.float64(),
                "R1^2 of its prompts' scores: 1 if they are parallel, 0 orthogonal.",
            ),
            Column("gap", pa.float64(), "Largest completeness gap of its prompts."),
            Column("share", pa.float64(), "Share of the prompts that a neuron needed."),
            Column("neurons", pa.int32(), "Number of its neurons, side `most`.", unit="neurons"),
        ),
        keys=("fact",),
        doc="The facts whose neurons were located.",
    ),
    Table(
        "fact_neurons",
        (
            _FACT,
            Column(
                "side",
                pa.string(),
                "Whether the neuron contributes to the answer or works against it.",
                choices=("most", "least"),
            ),
            _SITE,
            _LAYER,
            _NEURON,
            Column("rank", pa.int32(), "Place on that side, from 0, the strongest (or first to go) first."),
            Column("score", pa.float64(), "Its score, mean over the prompts."),
            Column(
                "prompts", pa.int32(), "Number of prompts in which it is above the threshold.", unit="prompts"
            ),
            Column(
                "refined",
                pa.bool_(),
                "Whether these are enough: whether it is a knowledge neuron of the fact.",
            ),
        ),
        keys=("fact", "side", "site", "neuron"),
        doc="The neurons of each fact: those above the threshold in some prompt, and the strongest.",
    ),
    Table(
        "relations",
        (
            Column("relation", pa.string(), "Name of the relation; empty for all facts together."),
            Column("facts", pa.int32(), "Number of its facts.", unit="facts"),
            Column(
                "share", pa.float64(), "Share of the prompts that a neuron needed; missing for all together."
            ),
            Column("rounds", pa.int32(), "How often the share was moved to reach the wanted size."),
            Column("neurons", pa.float64(), "Neurons a fact, mean.", unit="neurons"),
            Column(
                "shared_within",
                pa.float64(),
                "Neurons that two facts of a relation share, mean.",
                unit="neurons",
            ),
            Column(
                "jaccard_within", pa.float64(), "Jaccard index of the sets of two facts of a relation, mean."
            ),
            Column(
                "shared_across",
                pa.float64(),
                "Neurons that a fact shares with one of another relation, mean.",
                unit="neurons",
            ),
        ),
        keys=("relation",),
        doc="How many neurons the facts of a relation have, and share.",
    ),
    Table(
        "hubs",
        (
            _SITE,
            _LAYER,
            _NEURON,
            Column("kind", pa.string(), "`hub`: of facts of several relations; `relation`: mostly of one."),
            Column("relation", pa.string(), "The relation that has it most often."),
            Column("facts", pa.int32(), "Number of facts that have it.", unit="facts"),
            Column("share", pa.float64(), "Share of all facts that have it."),
            Column("share_of_relation", pa.float64(), "Share of the facts of that relation that have it."),
            Column("relations", pa.int32(), "Number of relations with a fact that has it.", unit="relations"),
        ),
        keys=("site", "neuron"),
        doc="Neurons that are not of one fact: more than a tenth of a relation's facts have them.",
    ),
    Table(
        "fact_problems",
        (_FACT, Column("reason", pa.string(), "Why it could not be looked at.")),
        keys=("fact",),
        doc="Facts that were left out.",
    ),
    Table(
        "targets",
        (
            Column("example", pa.int64(), "Number of the example in the batch, from 0."),
            Column("value", pa.float64(), "The number of the model's output that neurons get credit for."),
        ),
        keys=("example",),
        doc="The target of an attribution, for each example.",
    ),
    Table(
        "completeness",
        (
            Column(
                "path", pa.string(), "The site whose scores have one sum, or `all sites` for the joint path."
            ),
            Column("example", pa.int64(), "Number of the example in the batch, from 0."),
            Column("reference", pa.float64(), "The target with these neurons at their reference."),
            Column("gap", pa.float64(), "Sum of the scores less what the target loses at the reference."),
            Column("nodes", pa.int32(), "Nodes of the integral; 0 where there is none."),
            Column("converged", pa.bool_(), "Whether the gap is within the tolerance."),
        ),
        keys=("path", "example"),
        doc="How well the scores of an attribution add up.",
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
            _FACT,
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
            _log_p("log_p_answer_before", "Log probability of `answer` in the model as it is."),
            _log_p("log_p_answer", "The same under the edit."),
            _log_p("log_p_other_before", "Log probability of `other` in the model as it is."),
            _log_p("log_p_other", "The same under the edit."),
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
            _FACT,
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
            _FACT,
            _METHOD,
            _CONTROL,
            _SEED,
            Column("problem", pa.string(), "What went wrong."),
        ),
        keys=("number",),
        doc="Facts that could not be edited, and prompts that could not be asked.",
    ),
    Table(
        "effects",
        (
            _FACT,
            Column("relation", pa.string(), "Relation of the fact."),
            _CHANGED,
            _RANDOM_SEED,
            _FACTOR,
            _PROBE,
            Column("n_neurons", pa.int64(), "Size of the set.", unit="neurons"),
            Column("n_prompts", pa.int64(), "Number of prompts of this kind.", unit="prompts"),
            Column("p_before", pa.float64(), "Mean probability of the answer in the model as it is."),
            Column("p_after", pa.float64(), "The same with the neurons changed."),
            _log_p("log_p_before", "Mean log probability of the answer in the model as it is."),
            _log_p("log_p_after", "The same with the neurons changed."),
            Column("right_before", pa.float64(), "Share of prompts whose answer is the most likely one."),
            Column("right_after", pa.float64(), "The same with the neurons changed."),
            Column("ratio_mean", pa.float64(), "Mean over prompts of P after / P before."),
            Column("ratio_median", pa.float64(), "Median over prompts of P after / P before."),
        ),
        keys=("fact", "factor", "probe", "neurons", "seed"),
        doc="What changing a fact's neurons does to one kind of prompt.",
    ),
    Table(
        "effect_summary",
        (
            _FACTOR,
            _PROBE,
            Column(
                "measure",
                pa.string(),
                "Which average over facts.",
                choices=("ratio_of_means", "mean_of_ratios", "median_ratio", "delta_log_p", "delta_right"),
            ),
            Column(
                "neurons",
                pa.string(),
                "The chosen neurons, random ones (the mean of a fact's sets), or what lies between them.",
                choices=("chosen", "random", "difference"),
            ),
            Column("value", pa.float64(), "The average over facts."),
            Column("low", pa.float64(), "Lower end of its 95 % interval over facts."),
            Column("high", pa.float64(), "Upper end."),
            Column("facts", pa.int64(), "Number of facts behind it.", unit="facts"),
            Column(
                "seed_sd",
                pa.float64(),
                "Standard deviation of the average over the seeds of the random sets.",
            ),
        ),
        keys=("factor", "probe", "measure", "neurons"),
        doc="What changing facts' neurons does on average, beside random neurons.",
    ),
    Table(
        "effect_problems",
        (
            Column("number", pa.int32(), "Running number, from 0."),
            _FACT,
            Column("probe", pa.string(), "Kind of the prompt; empty where it is about the whole fact."),
            Column("prompt", pa.string(), "The prompt; empty where it is about the whole fact."),
            Column("problem", pa.string(), "What went wrong."),
        ),
        keys=("number",),
        doc="Facts and prompts that could not be measured.",
    ),
    Table(
        "redundant_neurons",
        (
            Column("rank", pa.int32(), "Place by the score on the joint path, from 0."),
            _SITE,
            _LAYER,
            _NEURON,
            Column(
                "score",
                pa.float64(),
                "Integrated gradients on the joint path over all layers, mean over prompts.",
            ),
            Column(
                "drop",
                pa.float64(),
                "Fall of the mean probability of the answer when this neuron alone is suppressed.",
            ),
            Column(
                "covered", pa.bool_(), "Whether the fall is much less than the score: others stand in for it."
            ),
        ),
        keys=("rank",),
        doc="The strongest neurons of a fact on the joint path, and what each alone is missed by.",
    ),
    Table(
        "redundant_pairs",
        (
            _SITE,
            _NEURON,
            Column("other_site", pa.string(), "Site of the other neuron."),
            Column("other", pa.int32(), "Index of the other neuron."),
            Column("drop", pa.float64(), "Fall of the mean probability without the first."),
            Column("drop_other", pa.float64(), "Fall without the other."),
            Column("drop_both", pa.float64(), "Fall without both."),
            Column("synergy", pa.float64(), "`drop_both` less `drop` and `drop_other`."),
            Column("covers", pa.bool_(), "Whether either alone keeps the fact and both together lose it."),
        ),
        keys=("site", "neuron", "other_site", "other"),
        doc="Pairs of a fact's strongest neurons: what is lost without one, the other, and both.",
    ),
    Table(
        "unit_measures",
        (
            _SITE,
            _LAYER,
            Column("measure", pa.string(), "Name of the measure of monosemanticity."),
            Column("position", pa.int32(), "Position of the unit where each has its own statistics; else 0."),
            _NEURON,
            Column("value", pa.float64(), "Its value; missing where it is not defined."),
            Column("live", pa.bool_(), "Whether the unit is neither dead nor nearly so."),
        ),
        keys=("site", "measure", "position", "neuron"),
        doc="Measures of monosemanticity of every unit.",
    ),
    Table(
        "site_measures",
        (
            _SITE,
            _LAYER,
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
    Table(
        "map_nodes",
        (
            _SITE,
            _LAYER,
            _NEURON,
            Column("score", pa.float64(), "Attribution of the answer to the neuron, mean over prompts."),
            Column(
                "activation", pa.float64(), "What it is at the slot, mean over prompts.", unit="activation"
            ),
            Column(
                "start",
                pa.float64(),
                "What it is with all lower neurons at their reference.",
                unit="activation",
            ),
            Column("explained", pa.float64(), "Sum of the edges that come in.", unit="activation"),
            Column(
                "gap",
                pa.float64(),
                "Largest completeness gap of the attribution of its activation.",
                unit="activation",
            ),
        ),
        keys=("site", "neuron"),
        doc="The neurons of a knowledge map.",
    ),
    Table(
        "map_edges",
        (
            _SITE,
            _NEURON,
            Column("to_site", pa.string(), "Site of the neuron further up."),
            Column("to_neuron", pa.int32(), "Index of the neuron further up."),
            Column(
                "score",
                pa.float64(),
                "What the lower neuron contributes to it, mean over prompts.",
                unit="activation",
            ),
            Column("score_sd", pa.float64(), "Standard deviation over prompts.", unit="activation"),
        ),
        keys=("site", "neuron", "to_site", "to_neuron"),
        doc="What the neurons of a knowledge map contribute to those of higher layers.",
    ),
    Table(
        "map_positions",
        (
            Column("prompt", pa.int32(), "Number of the prompt, from 0."),
            _SITE,
            _LAYER,
            Column("position", pa.int32(), "Position of the token, from 0."),
            _TOKEN,
            Column("positive", pa.float64(), "Sum of the neurons' positive scores there."),
            Column("negative", pa.float64(), "Sum of their negative scores."),
        ),
        keys=("prompt", "site", "position"),
        doc="Where in a prompt, and in which layer, the neurons work for and against the answer.",
    ),
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
    Table(
        "formulas",
        (
            _FORMULA_RANK,
            Column(
                "formula",
                pa.string(),
                "The formula; with its numbers where there is one output, else its form.",
            ),
            Column("terms", pa.string(), "Its terms without weights, simplest first, with `; ` between."),
            Column("criterion", pa.float64(), "What the search went by; lower is better."),
            Column("delta", pa.float64(), "Its criterion less the lowest one."),
            Column("within_margin", pa.bool_(), "Whether the search cannot tell it from the best."),
            Column("complexity", pa.int32(), "Parts of the formula, functions counting more than x."),
            Column(
                "explained", pa.float64(), "Share of the variance or deviance explained, rows of the search."
            ),
            Column(
                "held_out", pa.float64(), "The same on the held-out rows, as fitted on those of the search."
            ),
        ),
        keys=("rank",),
        doc="The formulas that a search has found, best first.",
    ),
    Table(
        "formula_outputs",
        (
            _FORMULA_RANK,
            _OUTPUT,
            Column("label", pa.string(), "Class or name of the output; empty where there is one."),
            Column("predictor", pa.string(), "Its predictor with the weights as names."),
            Column("data", pa.string(), "The predictor as JSON, without loss, for `Formula.from_dict`."),
        ),
        keys=("rank", "output"),
        doc="The predictor of each output, in scaled inputs: a value, a logit, or a log count.",
    ),
    Table(
        "formula_terms",
        (
            _FORMULA_RANK,
            _OUTPUT,
            _TERM,
            Column("kind", pa.string(), "`constant`, `elementwise`, `product` or `scalar`."),
            Column("expression", pa.string(), "The term."),
            Column("base", pa.string(), "Its base function; empty where it is more than one."),
            Column("coefficient", pa.float64(), "The number in front; missing where each input has its own."),
            Column(
                "share", pa.float64(), "Its covariance with the predictor, over the predictor's variance."
            ),
            Column("frequency", pa.float64(), "How often it is found on halves of the rows; see `bases`."),
        ),
        keys=("rank", "output", "term"),
        doc="The terms of a formula.",
    ),
    Table(
        "term_weights",
        (
            _FORMULA_RANK,
            _OUTPUT,
            _TERM,
            Column("input", pa.string(), "Name of the input."),
            Column("weight", pa.float64(), "Weight of the input in the term."),
        ),
        keys=("rank", "output", "term", "input"),
        doc="The weights of terms that have one for each input.",
    ),
    Table(
        "bases",
        (
            Column("base", pa.string(), "The base function, or another term that was found."),
            Column("selected", pa.bool_(), "Whether it is in the best formula."),
            Column(
                "frequency", pa.float64(), "Share of halves of the rows on which it is in the best formula."
            ),
            Column("low", pa.float64(), "Lower end of the 95 % interval of the frequency."),
            Column("high", pa.float64(), "Upper end."),
            Column("statistic", pa.float64(), "By how much it beats its decoys, in units of the noise."),
            Column(
                "q", pa.float64(), "Smallest false discovery rate at which it is selected against decoys."
            ),
            Column(
                "discovered",
                pa.bool_(),
                "Whether it is selected against decoys at the rate set.",
                nullable=True,
            ),
            Column(
                "represented_by",
                pa.string(),
                "The base function that stands for it there; empty: not tested.",
            ),
            Column("dropped", pa.string(), "Why it was left out; empty where it was not."),
        ),
        keys=("base",),
        doc="How sure one can be of each base function.",
    ),
    Table(
        "discovery_figures",
        (
            Column("name", pa.string(), "Name of the figure."),
            Column("value", pa.float64(), "The figure."),
            Column("low", pa.float64(), "Lower end of its 95 % interval; missing where it has none."),
            Column("high", pa.float64(), "Upper end."),
        ),
        keys=("name",),
        doc="Figures of a search: rows, time, how well the formula predicts held-out rows.",
    ),
)


# What a query sees of the manifests: one row for each result.
MANIFEST_TABLES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "model": ("result", "model_name", "model_class", "model_sha256", "n_parameters"),
        "provenance": (
            "result",
            "kind",
            "action",
            "parameters",
            "seed",
            "model_name",
            "model_sha256",
            "data_name",
            "data",
            "created",
            "neuronwise",
            "torch",
            "python",
            "schema_version",
        ),
    }
)


def markdown() -> str:
    """Return the reference page of the schema."""
    lines = [
        "# The tables of a result",
        "",
        f"Schema version {SCHEMA_VERSION}. This page is made from `neuronwise.store.schema` by "
        "`python docs/_schema.py`.",
        "",
        "A result folder holds one Parquet file for each table it has, `arrays.safetensors` where it has "
        "arrays, and `manifest.json`: what was run, on what, with what seed, and the size and SHA-256 of every "
        "file. Rows are sorted by the keys, and no two rows have the same keys. A floating-point value that is "
        "not defined is NULL.",
        "",
        '`neuronwise query FOLDER "SELECT ..."` shows each table under its name. Beside them are two tables that '
        "come from the manifests, one row for each folder: `model` "
        f"({', '.join(f'`{name}`' for name in MANIFEST_TABLES['model'])}) and `provenance` "
        f"({', '.join(f'`{name}`' for name in MANIFEST_TABLES['provenance'])}; `parameters` and `data` are JSON). "
        "With several folders, every table has the further column `result`, the name of the folder.",
    ]
    for table in TABLES.values():
        lines += [
            "",
            f"## {table.name}",
            "",
            table.doc,
            "",
            f"Keys: {', '.join(f'`{key}`' for key in table.keys)}.",
        ]
        if table.open:
            lines += ["", "Further columns are allowed; each is `double`."]
        lines += ["", "| column | type | unit | what it holds |", "|---|---|---|---|"]
        for column in table.columns:
            words = f" One of: {', '.join(column.choices)}." if column.choices else ""
            kind = f"{column.type}{', may be missing' if column.nullable else ''}"
            lines.append(f"| `{column.name}` | {kind} | {column.unit} | {column.doc}{words} |")
    return "\n".join(lines) + "\n"
