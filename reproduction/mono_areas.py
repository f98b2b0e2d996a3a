"""The tasks of the reproduction: what is trained, on what, for how long, and what is held out."""

import gzip
import io
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mono_flow import sequences
from mono_models import ConvGRU, Outputs, cnn, gpt, seeded, swin
from torch import Tensor, nn

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Area:
    """A task.

    Args:
        name: Its name.
        model: Returns a new model, by seed.
        train: Inputs and targets to train on.
        valid: Those by which strengths are chosen.
        test: Those that are held out from everything else.
        loss: The task's loss, of outputs and targets.
        steps: Steps of training.
        batch: Examples a step.
        rate: Largest learning rate.
        probe: Held-out inputs and the class of each example or position, for measures that need labels.
        classes: Number of classes, where the targets are classes of whole examples.
        told: Whether the share of right answers is told.
        augment: Changes a batch of inputs before training on it.
    """

    name: str
    model: Callable[[int], nn.Module]
    train: Pair
    valid: Pair
    test: Pair
    loss: Callable[[Tensor, Tensor], Tensor]
    steps: int
    batch: int
    rate: float
    probe: Pair | None = None
    classes: int | None = None
    told: bool = False
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None


def words_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=-1)


# ---- language: the words of WikiText-2 and the tags of UD English EWT ----

CONTEXT = 32


@cache
def wikitext(folder: Path, part: str) -> list[str]:
    with gzip.open(folder / "text_corpora" / f"wikitext2_{part}.txt.gz", "rt", encoding="utf8") as file:
        return file.read().replace("\n", " <eos> ").split()


@cache
def vocabulary(folder: Path, size: int) -> dict[str, int]:
    """Return the most common words of the text to train on; all others are ``<unk>``, number 0."""
    known = [word for word, _ in Counter(wikitext(folder, "valid")).most_common(size) if word != "<unk>"]
    return {"<unk>": 0} | {word: number for number, word in enumerate(known[: size - 1], 1)}


@cache
def treebank(folder: Path, part: str) -> tuple[list[str], list[str]]:
    """Return words and their universal tags."""
    words, tags = [], []
    with gzip.open(folder / "text_ud_ewt" / f"en_ewt_{part}.conllu.gz", "rt", encoding="utf8") as file:
        for line in file:
            columns = line.split("\t")
            if len(columns) > 4 and columns[0].isdigit():
                words.append(columns[1])
                tags.append(columns[3])
    return words, tags


def tagged(folder: Path, part: str, size: int) -> Pair:
    """Return sentences run together and cut to the context's length, and their tags."""
    numbers, names = vocabulary(folder, size), sorted(set(treebank(folder, "train")[1]))
    words, tags = treebank(folder, part)
    rows = len(words) // CONTEXT
    ids = [numbers.get(word, numbers.get(word.lower(), 0)) for word in words[: rows * CONTEXT]]
    codes = [names.index(tag) for tag in tags[: rows * CONTEXT]]
    return torch.tensor(ids).view(rows, CONTEXT), torch.tensor(codes).view(rows, CONTEXT)


def lexicon(folder: Path, size: int) -> Tensor:
    """Return the commonest tag of every word of the vocabulary, -1 for words that the treebank has not."""
    words, tags = treebank(folder, "train")
    names = sorted(set(tags))
    counts: dict[str, Counter[str]] = {}
    for word, tag in zip(words, tags, strict=True):
        counts.setdefault(word, Counter())[tag] += 1
    found = torch.full((size,), -1)
    for word, number in vocabulary(folder, size).items():
        if word in counts:
            found[number] = names.index(counts[word].most_common(1)[0][0])
    return found


def next_words(words: list[str], numbers: dict[str, int]) -> Pair:
    ids = torch.tensor([numbers.get(word, 0) for word in words])
    rows = (len(ids) - 1) // CONTEXT
    asked = torch.where(ids > 0, ids, -1)  # words that are not in the vocabulary are not asked for
    return ids[: rows * CONTEXT].view(rows, CONTEXT), asked[1 : rows * CONTEXT + 1].view(rows, CONTEXT)


def language(folder: Path, *, width: int = 64, steps: int = 200, size: int = 1000) -> Area:
    """Next word of WikiText-2. Its training part is not at hand: the validation part is trained on.

    Classes for measures: the commonest tag of each word in UD English EWT.
    """
    numbers = vocabulary(folder, size)
    text, held = wikitext(folder, "valid"), wikitext(folder, "test")
    cut = int(0.9 * len(text))
    test = first(next_words(held, numbers), 512)
    return Area(
        "language", lambda seed: seeded(partial(gpt, size, width, 2, CONTEXT), seed),
        next_words(text[:cut], numbers), first(next_words(text[cut:], numbers), 256),
        test, words_loss, steps, 16, 3e-3, probe=(test[0], lexicon(folder, size)[test[0]]),
    )  # fmt: skip


def tagging(folder: Path, *, width: int = 64, steps: int = 100) -> Area:
    """Universal tags of words, fine-tuned from a model of the next word of the same seed; the head alone is fresh."""
    before = language(folder, width=width)

    @cache
    def learnt(seed: int) -> dict[str, Tensor]:
        from mono_train import train

        return dict(train(before, None, seed)[0].model.transformer.state_dict())

    def model(seed: int) -> nn.Module:
        fresh = seeded(partial(gpt, size, width, 2, CONTEXT, tags=17), seed)
        fresh.model.transformer.load_state_dict(learnt(seed))
        return fresh

    size = 1000
    inputs, tags = tagged(folder, "train", size)
    test = tagged(folder, "dev", size)
    return Area(
        "tagging", model, (inputs[:-128], tags[:-128]), (inputs[-128:], tags[-128:]), first(test, 512),
        words_loss, steps, 16, 1e-3, probe=first(test, 512), told=True,
    )  # fmt: skip


# ---- images ----


def jpegs(path: Path) -> Pair:
    """Return images as bytes ``(n, 3, y, x)`` and their classes, in an order that mixes the classes."""
    from PIL import Image

    with np.load(path) as arrays:
        data, ends, y = arrays["jpeg"].tobytes(), arrays["offsets"], arrays["y"].astype("i8")
    images = [Image.open(io.BytesIO(data[a:b])).convert("RGB") for a, b in pairwise(ends)]
    order = np.random.default_rng(0).permutation(len(y))
    x = np.stack([np.asarray(image) for image in images])[order]
    return torch.from_numpy(x).movedim(3, 1), torch.from_numpy(y[order])


@cache
def cifar(folder: Path, part: str) -> Pair:
    x, y = jpegs(folder / "images_cifar10" / f"cifar10_{part}_jpeg.npz")
    return (x.float() / 255 - 0.47) / 0.25, y


def jittered(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return a batch of images mirrored by chance, and moved by up to two pixels together."""
    flip = torch.rand(len(x), generator=generator) < 0.5
    moves = torch.randint(-2, 3, (2,), generator=generator).tolist()
    return torch.where(flip[:, None, None, None], x.flip(3), x).roll(moves, (2, 3))


def images(folder: Path, *, kind: str = "cnn", width: int = 0, steps: int = 400, rows: int = 6000) -> Area:
    """CIFAR-10 (JPEG), with a convolutional network or a Swin transformer."""
    width = width or {"cnn": 16, "swin": 24}[kind]
    make = {"cnn": partial(cnn, 3, width, 10), "swin": partial(swin, width, 10)}[kind]
    (x, y), test = cifar(folder, "train10k"), cifar(folder, "test3k")
    return Area(
        f"image_{kind}", lambda seed: seeded(make, seed), (x[:rows], y[:rows]), (x[-1000:], y[-1000:]),
        test, nn.functional.cross_entropy, steps, 32, {"cnn": 6e-3, "swin": 2e-3}[kind],
        probe=test, classes=10, told=True, augment=jittered,
    )  # fmt: skip


def fashion(folder: Path, *, width: int = 8, steps: int = 150) -> Area:
    """Fashion-MNIST: 600 images are at hand, of which 350 are trained on."""
    with np.load(folder / "images_fashion" / "fashion600.npz") as arrays:
        x = torch.from_numpy(arrays["x"])[:, None].float() / 255
        y = torch.from_numpy(arrays["y"].astype("i8"))
    order = torch.randperm(600, generator=torch.Generator().manual_seed(0))
    parts = [(x[rows], y[rows]) for rows in order.split([350, 50, 200])]
    return Area(
        "image_fashion", lambda seed: seeded(partial(cnn, 1, width, 10), seed), *parts,
        nn.functional.cross_entropy, steps, 50, 4e-3, probe=parts[2], classes=10, told=True, augment=jittered,
    )  # fmt: skip


# ---- physics ----


@cache
def flows(rows: int, seed: int) -> Tensor:
    return sequences(rows, 6, seed)


def physics(folder: Path | None = None, *, width: int = 12, steps: int = 200, rows: int = 384) -> Area:
    """The next field of a flow that each sequence has of its own; the error of "nothing changes" is 1."""

    def pair(fields: Tensor) -> Pair:
        return fields[:, :-1], fields[:, 1:]

    train = flows(rows, 1)
    scale = (train[:, 1:] - train[:, :-1]).square().mean()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().mean() / scale

    return Area(
        "physics", lambda seed: seeded(partial(ConvGRU, width), seed), pair(train), pair(flows(48, 2)),
        pair(flows(128, 3)), loss, steps, 8, 2e-2,
    )  # fmt: skip


# ---- the models that come with the package ----


def stories(folder: Path, *, steps: int = 60) -> Area:
    """Fine-tunes the bundled Llama of 860 neurons on Shakespeare, which it has never read."""
    import neuronwise as nw

    loaded = nw.load_model("stories260k")
    with gzip.open(folder / "text_corpora" / "tiny_shakespeare.txt.gz", "rt", encoding="utf8") as file:
        text = file.read()[:400_000]
    ids = torch.tensor(loaded.tokenizer(text, add_special_tokens=False)["input_ids"])
    rows = (len(ids) - 1) // CONTEXT
    x, y = (part.view(rows, CONTEXT) for part in (ids[: rows * CONTEXT], ids[1 : rows * CONTEXT + 1]))
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(0))
    parts = [(x[some], y[some]) for some in order.split([rows - 384, 128, 256])]
    loaded.model.config.use_cache = False
    return Area(
        "stories",
        lambda seed: Outputs(deepcopy(loaded.model), "input_ids"),
        *parts,
        words_loss,
        steps,
        8,
        5e-4,
    )


@cache
def area_of(name: str, folder: Path, longer: float = 1.0, **options: Any) -> Area:
    """Return an area by its name, trained for ``longer`` times the usual steps; options are widths."""
    found = _area(name, folder, **options)
    return replace(found, steps=round(longer * found.steps))


def _area(name: str, folder: Path, **options: Any) -> Area:
    if name.startswith("image_") and name != "image_fashion":
        return images(folder, kind=name.removeprefix("image_"), **options)
    table: dict[str, Callable[..., Area]] = {
        "language": language, "tagging": tagging, "stories": stories, "image_fashion": fashion, "physics": physics,
    }  # fmt: skip
    return table[name](folder, **options)


def first(pair: Pair, rows: int) -> Pair:
    return pair[0][:rows], pair[1][:rows]
