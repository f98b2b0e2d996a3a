"""Arguments and options that several commands share, and what is made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from torch import Tensor, nn

    from neuronwise.data import Corpus, LoadedModel
    from neuronwise.data.text import Transform
    from neuronwise.sites import Sites

__all__ = [
    "BatchSize",
    "Checkpoint",
    "CorpusName",
    "Device",
    "Dtype",
    "Engine",
    "EngineName",
    "Folder",
    "Json",
    "LabelFields",
    "Limit",
    "MaxLength",
    "MaxTokens",
    "ModelName",
    "Out",
    "OutToo",
    "Overwrite",
    "Seed",
    "Separator",
    "SiteNames",
    "TextField",
    "Threads",
    "Weights",
    "Workers",
    "open_corpus",
    "open_model",
    "pick_sites",
    "refuse_used",
]

_CORPUS, _MODEL = "Corpus", "Model"

ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="The model: stories260k (comes with neuronwise), a transformers model folder, or a name on the Hugging "
        "Face hub.",
    ),
]
CorpusName = Annotated[
    str,
    typer.Argument(
        metavar="CORPUS",
        help="What the model is shown: stories (comes with neuronwise), or a file or folder: .txt, .jsonl, .json, "
        ".conllu, .npy, .npz, a saved Hugging Face dataset, images.",
    ),
]


class Weights(StrEnum):
    """Types of weights."""

    float64 = "float64"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Engine(StrEnum):
    """Where a pass runs."""

    local = "local"
    processes = "processes"
    ray = "ray"


Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        rich_help_panel=_MODEL,
        help="Where the model runs: cpu, cuda, cuda:1, mps.",
    ),
]
Dtype = Annotated[
    Weights | None,
    typer.Option(
        "--dtype",
        rich_help_panel=_MODEL,
        help="Type of the weights, and of arrays shown to the model. Default: the one they were saved in.",
    ),
]
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="A result folder, as observe writes it.")]
Json = Annotated[
    bool, typer.Option("--json", help="Write one JSON document to standard output, and nothing else there.")
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where the result is saved.")]
OutToo = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Save the result there too.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the folder if it is there already.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of all that is random.")]
SiteNames = Annotated[
    list[str] | None,
    typer.Option(
        "--sites",
        metavar="GLOB",
        help="Only these sites; as --where of neuronwise sites. Default: all that are found.",
    ),
]
EngineName = Annotated[
    Engine,
    typer.Option(
        "--engine", help="This process, worker processes (extra: processes), or a Ray cluster (extra: ray)."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, metavar="N", help="Workers of processes or ray. Default: one a core."),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        metavar="FILE",
        help="Save the state there now and then, and go on from it when it is there. Removed at the end.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads", min=1, metavar="N", help="Torch threads; with workers, of each. Default: all cores."
    ),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, metavar="N", help="Most examples a batch.")]
MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", min=1, metavar="N", help="Most tokens a batch, padding included."),
]
MaxLength = Annotated[
    int | None,
    typer.Option(
        "--max-length",
        min=1,
        metavar="N",
        rich_help_panel=_CORPUS,
        help="Cut texts after this many tokens. Default: the model's own limit.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", min=1, metavar="N", rich_help_panel=_CORPUS, help="Only the first N examples."),
]
Separator = Annotated[
    str | None,
    typer.Option(
        "--separator",
        metavar="TEXT",
        rich_help_panel=_CORPUS,
        help="In text files, what stands between two texts. Default: each line is a text.",
    ),
]
TextField = Annotated[
    str | None,
    typer.Option(
        "--text-field",
        metavar="NAME",
        rich_help_panel=_CORPUS,
        help="In JSON and datasets, the field of the text. Default: text.",
    ),
]
LabelFields = Annotated[
    list[str] | None,
    typer.Option(
        "--label-field",
        metavar="NAME",
        rich_help_panel=_CORPUS,
        help="A field of classes, to take means by; can be given several times. In CoNLL-U: upos, deprel, or a "
        "feature such as Number.",
    ),
]


def refuse_used(out: Path, overwrite: bool) -> None:
    """Refuse a folder that is in use before the long pass, not after it."""
    from neuronwise.errors import WriteError

    if not overwrite and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise WriteError(
            f"{out} exists already. Choose another folder with --out, or replace it with --overwrite."
        )


def open_model(source: str, *, device: str, dtype: Weights | None) -> LoadedModel:
    """Load the model that a command names."""
    import torch

    import neuronwise as nw

    return nw.load_model(source, device=device, dtype=None if dtype is None else getattr(torch, dtype.value))


def open_corpus(
    source: str | list[str],
    loaded: LoadedModel,
    *,
    limit: int | None,
    dtype: Weights | None = None,
    max_length: int | None = None,
    separator: str | None = None,
    text_field: str | None = None,
    label_fields: Sequence[str] | None = None,
) -> Corpus:
    """Make the corpus that a command names, or one of some texts, for a model.

    Models of an encoder and a decoder get the text on both sides. Arrays get the type that was asked for.
    """
    import neuronwise as nw

    corpus = nw.corpus(
        source,
        tokenizer=loaded.tokenizer,
        max_length=max_length,
        separator=separator,
        text_field=text_field,
        label_fields=label_fields or None,
        transform=_transform(source, loaded.model, dtype),
    )
    return corpus if limit is None else corpus.part(0, limit)


def pick_sites(model: nn.Module, where: Sequence[str] | None) -> Sites:
    """Return the sites that are found by themselves, or those of them that the globs pick.

    A glob that picks none of them names modules by hand.

    Raises:
        SiteNotFoundError: If there is nothing of that name.
    """
    import neuronwise as nw

    if not where:
        return nw.find_sites(model)
    try:
        found = nw.find_sites(model)
    except nw.errors.SiteNotFoundError:
        found = nw.Sites()
    picked: dict[str, nw.Site] = {}
    for glob in where:
        try:
            chosen = found.select(glob)
        except nw.errors.SiteNotFoundError:
            chosen = nw.find_sites(model, glob)
        picked |= {site.name: site for site in chosen}
    return nw.Sites(picked.values())


def _transform(source: str | list[str], model: nn.Module, dtype: Weights | None) -> Transform | None:
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return _both_sides
    arrays = isinstance(source, str) and source.endswith((".npy", ".npz"))
    return _Cast(dtype.value) if arrays and dtype is not None else None


@dataclass(frozen=True)
class _Cast:
    """Gives arrays of floating-point numbers the type of the weights; travels to worker processes."""

    dtype: str

    def __call__(self, inputs: Any) -> Any:
        import torch

        if isinstance(inputs, Mapping):
            return {name: self(tensor) for name, tensor in inputs.items()}
        return inputs.to(getattr(torch, self.dtype)) if inputs.is_floating_point() else inputs


def _both_sides(inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    return {**inputs, "decoder_input_ids": inputs["input_ids"]}
