"""Tables of the neurons of facts, and of what changing them does."""

from __future__ import annotations

import pyarrow as pa

from neuronwise.store._tables.columns import FACT, LAYER, NEURON, SITE, TOKEN, Column, Table, log_p

__all__ = ["TABLES"]

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


TABLES = (
    Table(
        "facts",
        (
            FACT,
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
            FACT,
            Column(
                "side",
                pa.string(),
                "Whether the neuron contributes to the answer or works against it.",
                choices=("most", "least"),
            ),
            SITE,
            LAYER,
            NEURON,
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
            SITE,
            LAYER,
            NEURON,
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
        (FACT, Column("reason", pa.string(), "Why it could not be looked at.")),
        keys=("fact",),
        doc="Facts that were left out.",
    ),
    Table(
        "effects",
        (
            FACT,
            Column("relation", pa.string(), "Relation of the fact."),
            _CHANGED,
            _RANDOM_SEED,
            _FACTOR,
            _PROBE,
            Column("n_neurons", pa.int64(), "Size of the set.", unit="neurons"),
            Column("n_prompts", pa.int64(), "Number of prompts of this kind.", unit="prompts"),
            Column("p_before", pa.float64(), "Mean probability of the answer in the model as it is."),
            Column("p_after", pa.float64(), "The same with the neurons changed."),
            log_p("log_p_before", "Mean log probability of the answer in the model as it is."),
            log_p("log_p_after", "The same with the neurons changed."),
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
            FACT,
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
            SITE,
            LAYER,
            NEURON,
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
            SITE,
            NEURON,
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
        "map_nodes",
        (
            SITE,
            LAYER,
            NEURON,
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
            SITE,
            NEURON,
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
            SITE,
            LAYER,
            Column("position", pa.int32(), "Position of the token, from 0."),
            TOKEN,
            Column("positive", pa.float64(), "Sum of the neurons' positive scores there."),
            Column("negative", pa.float64(), "Sum of their negative scores."),
        ),
        keys=("prompt", "site", "position"),
        doc="Where in a prompt, and in which layer, the neurons work for and against the answer.",
    ),
)
