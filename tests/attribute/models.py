"""Tiny models to attribute to: of every kind, with random weights, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neuronwise.attribute import Answers, Problem, Target
from neuronwise.hooks import frozen_parameters, untouched
from neuronwise.sites import Site, Sites, WeightSlice, find_sites

VOCABULARY = 23
FAMILIES = ("bert", "gpt2", "llama", "neox", "t5", "albert", "blocks")


@dataclass(frozen=True)
class Case:
    """A language model with a batch of three prompts of several lengths, answers, and its sites."""

    name: str
    model: nn.Module
    inputs: dict[str, Tensor]
    answers: Answers
    sites: Sites


class Block(nn.Module):
    """A user's own block: mixing over earlier positions, and a feed-forward layer."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.act, self.down = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.arange(1, x.shape[1] + 1, dtype=x.dtype).reshape(1, -1, 1)
        x = x + x.cumsum(1) / steps
        return x + self.down(self.act(self.up(self.norm(x))))


class Blocks(nn.Module):
    """A user's own causal language model."""

    def __init__(self, layers: int = 3, width: int = 8, hidden: int = 14) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.layers = nn.ModuleList(Block(width, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def _build(name: str) -> nn.Module:
    import transformers as tf

    small = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": VOCABULARY}
    if name == "bert":
        return tf.BertForMaskedLM(tf.BertConfig(**small, intermediate_size=14, max_position_embeddings=16))
    if name == "gpt2":
        return tf.GPT2LMHeadModel(
            tf.GPT2Config(
                n_embd=8,
                n_layer=3,
                n_head=2,
                vocab_size=VOCABULARY,
                n_inner=14,
                n_positions=16,
                bos_token_id=0,
                eos_token_id=0,
            )
        )
    if name == "llama":
        return tf.LlamaForCausalLM(
            tf.LlamaConfig(**small, intermediate_size=14, num_key_value_heads=1, max_position_embeddings=16)
        )
    if name == "neox":
        return tf.GPTNeoXForCausalLM(
            tf.GPTNeoXConfig(**small, intermediate_size=14, max_position_embeddings=16)
        )
    if name == "t5":
        return tf.T5ForConditionalGeneration(
            tf.T5Config(
                d_model=8,
                d_kv=4,
                d_ff=14,
                num_layers=2,
                num_heads=2,
                vocab_size=VOCABULARY,
                decoder_start_token_id=0,
                feed_forward_proj="gated-gelu",
            )
        )
    if name == "albert":
        return tf.AlbertForMaskedLM(
            tf.AlbertConfig(**small, embedding_size=6, intermediate_size=14, max_position_embeddings=16)
        )
    return Blocks()


def build(name: str, *, dtype: torch.dtype = torch.float64, spread: float = 3.0) -> nn.Module:
    """Build a model of a family in evaluation mode; weights are scaled up so that it bends."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        model = _build(name).to(dtype).eval()
    _whole(model, dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 and name not in ("t5", "blocks"):
                parameter.mul_(spread)
    return model


def _whole(model: nn.Module, dtype: torch.dtype) -> None:
    """Exchange norms that compute in float32 whatever the weights are for torch's own."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__ in ("LlamaRMSNorm", "T5LayerNorm"):
                setattr(parent, name, nn.RMSNorm(child.weight.shape, eps=child.variance_epsilon, dtype=dtype))


def case(name: str, *, dtype: torch.dtype = torch.float64) -> Case:
    """Build a model with three right-padded prompts (whole ones where the model knows no mask)."""
    model = build(name, dtype=dtype)
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(1, VOCABULARY, (3, 9), generator=generator)
    inputs: dict[str, Any] = {"input_ids": ids}
    lengths = torch.tensor([9, 9, 9] if name == "blocks" else [9, 7, 8])
    if name != "blocks":
        inputs["attention_mask"] = (torch.arange(9) < lengths.unsqueeze(1)).long()
    positions = lengths - 1
    if name in ("bert", "albert"):
        positions = torch.tensor([3, 5, 2])
    if name == "t5":
        inputs["decoder_input_ids"] = torch.randint(1, VOCABULARY, (3, 4), generator=generator)
        positions = torch.tensor([3, 3, 3])
    return Case(name, model, inputs, Answers(torch.tensor([4, 17, 9]), positions), sites_of(name, model))


def sites_of(name: str, model: nn.Module) -> Sites:
    if name != "blocks":
        return find_sites(model)
    return Sites(
        Site(
            f"layers.{i}.down",
            "input",
            width=14,
            layer=i,
            stack="layers",
            kind="ffn",
            writes=WeightSlice(f"layers.{i}.down.weight", 1, 0, 14, "out"),
        )
        for i in range(len(model.layers))
    )


class Logistic(nn.Module):
    """Two neurons that are copied from the input, and P = sigmoid(-1 + 2 w1 + w2) as two logits."""

    def __init__(self) -> None:
        super().__init__()
        self.copy = nn.Identity()
        self.out = nn.Linear(2, 1)
        with torch.no_grad():
            self.out.weight.copy_(torch.tensor([[2.0, 1.0]]))
            self.out.bias.fill_(-1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.copy(x))[:, 0].sigmoid()


LOGISTIC = Site("copy", "output", width=2)


class Memory(nn.Module):
    """A key-value memory: facts (subject, relation) to object as ReLU neurons that write onto the logits.

    Args:
        objects: The object of every fact, ``(subject, relation)``.
        copies: In how many layers the whole memory is written.
    """

    gamma = 5.0

    def __init__(self, objects: Tensor, *, copies: int = 1, vocabulary: int = 10) -> None:
        super().__init__()
        subjects, relations = objects.shape
        self.subjects = subjects
        self.keys = nn.ModuleList(
            nn.Linear(subjects + relations, subjects * relations) for _ in range(copies)
        )
        self.values = nn.ModuleList(nn.Linear(subjects * relations, vocabulary) for _ in range(copies))
        self.vocabulary = vocabulary
        with torch.no_grad():
            for keys, values in zip(self.keys, self.values, strict=True):
                keys.weight.zero_(), keys.bias.fill_(-1.0), values.weight.zero_(), values.bias.zero_()
                for s in range(subjects):
                    for r in range(relations):
                        keys.weight[s * relations + r, [s, subjects + r]] = 1.0
                        values.weight[objects[s, r], s * relations + r] = self.gamma

    def forward(self, x: Tensor) -> Tensor:
        stream = x.new_zeros(len(x), self.vocabulary)
        for keys, values in zip(self.keys, self.values, strict=True):
            stream = stream + values(torch.relu(keys(x)))
        return stream.unsqueeze(1)

    def query(self, subject: int, relation: int) -> Tensor:
        width = self.keys[0].in_features
        x = torch.zeros(1, width, dtype=torch.float64)
        x[0, [subject, self.subjects + relation]] = 1.0
        return x

    def sites(self) -> Sites:
        width = self.keys[0].out_features
        return Sites(Site(f"values.{i}", "input", width=width, layer=i) for i in range(len(self.values)))


def memory(*, copies: int = 1) -> Memory:
    """Three subjects, four relations, objects all over the ten tokens."""
    objects = torch.tensor([[0, 3, 5, 9], [1, 3, 6, 2], [4, 7, 5, 8]])
    return Memory(objects, copies=copies).double().eval()


def solved(model: nn.Module, inputs: Any, target: Target, sites: Sites, **options: Any) -> Problem:
    """Return a problem whose model stays frozen only while it is looked at; for tests of the engine."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.eval()
    return Problem(model, inputs, target, sites, **options)


LN3 = math.log(3)

__all__ = [
    "FAMILIES",
    "LN3",
    "LOGISTIC",
    "VOCABULARY",
    "Blocks",
    "Case",
    "Logistic",
    "Memory",
    "build",
    "case",
    "frozen_parameters",
    "memory",
    "sites_of",
    "solved",
    "untouched",
]
