"""Planted memories: models that know facts by construction, with a tokenizer of whole words."""

import torch
from torch import nn

from neuronwise.data import Fact
from neuronwise.sites import Site, Sites

OBJECTS, SUBJECTS, RELATIONS = 10, 3, 2
WIDTH = SUBJECTS * RELATIONS
STRENGTH = 5.0


class Memory(nn.Module):
    """Key-value neurons: neuron (s, r) is 1 where subject and relation are, and writes the object's coordinate."""

    def __init__(self, blind=()):
        super().__init__()
        keys = torch.zeros(WIDTH, SUBJECTS + RELATIONS)
        values = torch.zeros(OBJECTS, WIDTH)
        for subject in range(SUBJECTS):
            for relation in range(RELATIONS):
                neuron = subject * RELATIONS + relation
                keys[neuron, [subject, SUBJECTS + relation]] = 1.0
                if neuron not in blind:
                    values[neuron_object(subject, relation), neuron] = STRENGTH
        self.up, self.down = nn.Linear(SUBJECTS + RELATIONS, WIDTH), nn.Linear(WIDTH, OBJECTS, bias=False)
        self.up.weight.data, self.up.bias.data, self.down.weight.data = keys, -torch.ones(WIDTH), values

    def forward(self, read):
        return self.down(torch.relu(self.up(read)))


class PlantedForCausalLM(nn.Module):
    """Copies of a memory in several layers; logits are the object coordinates."""

    def __init__(self, copies=1):
        super().__init__()
        self.layers = nn.ModuleList(Memory() for _ in range(copies))

    def forward(self, input_ids, attention_mask=None):
        one_hot = nn.functional.one_hot(input_ids, OBJECTS + SUBJECTS + RELATIONS + 2)[
            ..., OBJECTS:-2
        ].float()
        read = one_hot.to(self.layers[0].up.weight).cumsum(1).clamp(max=1)
        logits = torch.zeros(*input_ids.shape, OBJECTS, dtype=read.dtype)
        for layer in self.layers:
            logits = logits + layer(read)
        return logits


def neuron_object(subject, relation):
    return subject * RELATIONS + relation


def sites(copies=1):
    """The memories' neurons."""
    return Sites(
        Site(f"layers.{layer}.down", "input", width=WIDTH, layer=layer, stack="layers", kind="ffn")
        for layer in range(copies)
    )


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [f"o{n}" for n in range(OBJECTS)] + [f"s{n}" for n in range(SUBJECTS)]
    words += [f"r{n}" for n in range(RELATIONS)] + ["[PAD]", "[UNK]"]
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")


def facts():
    """Every fact that the memory holds, in two wordings."""
    return [
        Fact(
            [f"s{s} r{r} [Y]"],
            f"o{neuron_object(s, r)}",
            id=f"s{s}r{r}",
            relation=f"r{r}",
            subject=f"s{s}",
            held_out=[f"r{r} s{s} [Y]"],
        )
        for s in range(SUBJECTS)
        for r in range(RELATIONS)
    ]
