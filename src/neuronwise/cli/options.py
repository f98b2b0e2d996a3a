"""Arguments and options that several commands share, and what is made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from torch import Tensor, nn

    from neuronwise.data import Corpus, LoadedModel
    from neuronwise.sites import Sites

__all__ = [
    "BatchSize",
    "CorpusName",
    "Folder",
    "Json",
    "LabelFields",
    "Limit",
    "MaxLength",
    "MaxTokens",
    "ModelName",
    "Overwrite",
    "Seed",
    "Separator",
    "TextField",
    "Threads",
    "open_corpus",
    "pick_sites",
]

_CORPUS = "Corpus"

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
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="A result folder, as observe writes it.")]
Json = Annotated[
    bool, typer.Option("--json", help="Write one JSON document to standard output, and nothing else there.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the folder if it is there already.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of all that is random.")]
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


def open_corpus(
    source: str | list[str],
    loaded: LoadedModel,
    *,
    limit: int | None,
    max_length: int | None = None,
    separator: str | None = None,
    text_field: str | None = None,
    label_fields: Sequence[str] | None = None,
) -> Corpus:
    """Make the corpus that a command names, or one of some texts, for a model.

    Models of an encoder and a decoder get the text on both sides.
    """
    import neuronwise as nw

    corpus = nw.corpus(
        source,
        tokenizer=loaded.tokenizer,
        max_length=max_length,
        separator=separator,
        text_field=text_field,
        label_fields=label_fields or None,
        transform=_both_sides if _has_two_sides(loaded.model) else None,
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


def _has_two_sides(model: nn.Module) -> bool:
    config = getattr(model, "config", None)
    return bool(getattr(config, "is_encoder_decoder", False))


def _both_sides(inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    return {**inputs, "decoder_input_ids": inputs["input_ids"]}
