"""Train a small language model that knows listed facts, and nothing else.

Since everything it knows is listed, attributing facts to neurons, erasing and editing them can be checked in full. Some
patterns of each relation are held out of training, to see what carries over to other words. How widely the facts are
spread over the neurons depends on width, dropout and weight decay.

    python examples/train_fact_model.py --kind gpt --facts 200 --steps 300 --out fact-model

The folder then holds a Hugging Face model, its tokenizer (one word is one token) and ``facts.json``:

    loaded, known = nw.load_model("fact-model"), nw.data.facts("fact-model")
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from neuronwise.data import Facts, Prompts, encode, read_pararel, read_relations
from neuronwise.files import atomic_folder

SPECIAL = {
    "pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[BOS]", "eos_token": "[EOS]",
    "mask_token": "[MASK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
}  # fmt: skip
WORD = r"\w+|[^\w\s]"


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--kind", choices=("gpt", "bert"), default="gpt", help="causal or masked")
    add(
        "--source",
        default="facts-pararel",
        help="a folder of PARAREL, or the part that comes with neuronwise",
    )
    add("--relations", nargs="*", help="such as P36 P106; all that have facts by default")
    add("--facts", type=int, default=200, help="how many facts, spread over the relations")
    add("--held-out", type=int, default=1, help="patterns of each relation that are not trained")
    add("--layers", type=int, default=4)
    add("--width", type=int, default=128)
    add("--ffn", type=int, default=512, help="feed-forward neurons a layer")
    add("--heads", type=int, default=4)
    add("--steps", type=int, default=300)
    add("--batch", type=int, default=128)
    add("--rate", type=float, default=2e-3, help="the highest learning rate of the one-cycle schedule")
    add("--dropout", type=float, default=0.0)
    add("--weight-decay", type=float, default=0.01)
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=1, help="more give other roundings, and help only on idle cores")
    add("--out", type=Path, required=True, help="folder to write; replaced if it is there")
    return parser.parse_args(argv)


def choose(options: argparse.Namespace) -> Facts:
    """Draw facts evenly over the relations: answers of one word, and one answer for a subject."""
    everything = read_pararel(
        options.source,
        causal=options.kind == "gpt",
        held_out=options.held_out,
        relations_only=options.relations,
        seed=options.seed,
    )
    queues = []
    for relation, facts in everything.by_relation().items():
        first = {fact.subject: fact for fact in reversed(facts) if re.fullmatch(r"\w+", fact.answer)}
        queue = list(first.values())
        random.Random(f"{options.seed} {relation}").shuffle(queue)
        queues.append(queue)
    chosen = set()
    while len(chosen) < options.facts and any(queues):
        for queue in queues:
            if queue and len(chosen) < options.facts:
                chosen.add(queue.pop().id)
    return Facts((fact for fact in everything if fact.id in chosen), name=everything.name)


def make_tokenizer(facts: Facts, kind: str) -> PreTrainedTokenizerFast:
    """Make a tokenizer that has one token for each word of the facts."""
    texts = [text.replace("[Y]", fact.answer) for fact in facts for text in (*fact.prompts, *fact.held_out)]
    words = sorted({word for text in texts for word in re.findall(WORD, text)})
    vocabulary = {word: number for number, word in enumerate([*SPECIAL.values(), *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True)
    backend.decoder = decoders.WordPiece()
    frame = "[BOS] $A" if kind == "gpt" else "[CLS] $A [SEP]"
    named = [(name, vocabulary[name]) for name in ("[BOS]", "[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(single=frame, special_tokens=named)
    # Special tokens, the answer, and a few more for prompts of one's own.
    longest = max(len(re.findall(WORD, text)) for text in texts) + 6
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=longest, **SPECIAL)


def make_model(
    options: argparse.Namespace, tokenizer: PreTrainedTokenizerFast
) -> GPT2LMHeadModel | BertForMaskedLM:
    size, length, drop = len(tokenizer), tokenizer.model_max_length, options.dropout
    if options.kind == "gpt":
        config = GPT2Config(
            vocab_size=size, n_positions=length, n_embd=options.width, n_layer=options.layers,
            n_head=options.heads, n_inner=options.ffn, resid_pdrop=drop, embd_pdrop=drop, attn_pdrop=drop,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        return GPT2LMHeadModel(config)
    config = BertConfig(
        vocab_size=size, max_position_embeddings=length, hidden_size=options.width,
        num_hidden_layers=options.layers, num_attention_heads=options.heads, intermediate_size=options.ffn,
        hidden_dropout_prob=drop, attention_probs_dropout_prob=drop, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return BertForMaskedLM(config)


def answer_logits(model: torch.nn.Module, prompts: Prompts) -> torch.Tensor:
    """Return the logits (prompt, token) at each prompt's slot."""
    logits = model(**prompts.inputs).logits
    return logits[torch.arange(len(prompts)), prompts.positions[:, 0]]


def train(model: torch.nn.Module, prompts: Prompts, options: argparse.Namespace) -> None:
    decay = options.weight_decay
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=options.rate, total_steps=options.steps)
    rows = torch.randperm(len(prompts))
    model.train()
    for step in range(1, options.steps + 1):
        if len(rows) < options.batch:
            rows = torch.cat([rows, torch.randperm(len(prompts))])
        batch, rows = prompts.select(rows[: options.batch]), rows[options.batch :]
        loss = F.cross_entropy(answer_logits(model, batch), batch.answers[:, 0])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % max(options.steps // 10, 1) == 0:
            print(f"step {step:5d}  loss {loss.item():.4f}", flush=True)
    model.eval()


@torch.no_grad()
def accuracy(model: torch.nn.Module, prompts: Prompts) -> float:
    """Return the share of prompts whose answer is the most probable token."""
    right = 0
    for start in range(0, len(prompts), 256):
        batch = prompts.select(slice(start, start + 256))
        right += int((answer_logits(model, batch).argmax(-1) == batch.answers[:, 0]).sum())
    return right / len(prompts)


def save(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    facts: Facts,
    options: argparse.Namespace,
    accuracies: dict[str, float],
) -> None:
    """Write the model folder, with the list of what the model knows."""
    relations = read_relations(options.source)
    listed = {}
    for name in facts.by_relation():
        used, held = relations[name].split(
            held_out=options.held_out, causal=options.kind == "gpt", seed=options.seed
        )
        listed[name] = {
            "label": relations[name].label, "train_patterns": used, "heldout_patterns": held,
        }  # fmt: skip
    whole = {
        "kind": options.kind,
        "seed": options.seed,
        "steps": options.steps,
        "dropout": options.dropout,
        "weight_decay": options.weight_decay,
        "facts": [
            {"relation": fact.relation, "sub": fact.subject, "obj": fact.answer, "uuid": fact.id}
            for fact in facts
        ],
        "relations": listed,
        **accuracies,
    }
    with atomic_folder(options.out, overwrite=True) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        text = json.dumps(whole, ensure_ascii=False, indent=1)
        (folder / "facts.json").write_text(text, encoding="utf-8")


def main(argv: list[str] | None = None) -> dict[str, float]:
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    facts = choose(options)
    tokenizer = make_tokenizer(facts, options.kind)
    model = make_model(options, tokenizer)
    size = sum(parameter.numel() for parameter in model.parameters())
    print(f"{len(facts)} facts of {len(facts.by_relation())} relations, {size:,} parameters")

    def prompts(field: str) -> Prompts | None:
        pairs = [(text, fact.answer) for fact in facts for text in getattr(fact, field)]
        return encode(tokenizer, model, *zip(*pairs, strict=True)) if pairs else None

    trained, held_out = prompts("prompts"), prompts("held_out")
    start = time.perf_counter()
    train(model, trained, options)
    print(f"trained for {time.perf_counter() - start:.1f} s")
    accuracies = {"acc_train_patterns": accuracy(model, trained)}
    if held_out is not None:
        accuracies["acc_heldout_patterns"] = accuracy(model, held_out)
    for name, value in accuracies.items():
        print(f"{name} {value:.4f}")
    save(model, tokenizer, facts, options, accuracies)
    print(f"written to {options.out}")
    return accuracies


if __name__ == "__main__":
    main()
