"""``neuronwise sites``: where the neurons of a model are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from neuronwise.cli.options import Device, Dtype, Json, ModelName, open_model, pick_sites
from neuronwise.cli.running import running

if TYPE_CHECKING:
    import pandas as pd

    from neuronwise.sites import Sites

__all__ = ["EXAMPLES", "sites"]

EXAMPLES = (
    "neuronwise sites stories260k",
    "neuronwise sites openai-community/gpt2 --where 'transformer.h.1*'",
    "neuronwise sites ./my-model --where '*.self_attn.o_proj' --json",
)


def sites(
    model: ModelName,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="GLOB",
            help="Only sites whose name or path matches, such as 'model.layers.3.*'. If none does, modules of that "
            "name are taken by hand: a path, a glob, or a full name such as 'model.norm:output'. Can be given several "
            "times.",
        ),
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    json_: Json = False,
) -> None:
    """List the sites of a model: its groups of neurons, and the weights around them."""
    with running(json_) as screen:
        loaded = open_model(model, device=device, dtype=dtype)
        found = pick_sites(loaded.model, where)
        screen.document({"model": loaded.name, "neurons": found.width, "sites": _frame(found)})
        screen.table(_frame(found, short=True))
        screen.line(f"{found.width:,} neurons in {len(found)} sites of {loaded.name}.")


def _frame(found: Sites, *, short: bool = False) -> pd.DataFrame:
    """Return the table of sites; in the short one, weights are named from where they part from the site's path."""
    frame = found.to_frame()[["site", "layer", "kind", "width"]]
    if short:
        reads = [_short(site.path, [piece.parameter for piece in site.reads]) for site in found]
        writes = [_short(site.path, [site.writes.parameter] if site.writes else []) for site in found]
    else:
        reads = [", ".join(f"{piece.role}: {piece.parameter}" for piece in site.reads) for site in found]
        writes = [site.writes.parameter if site.writes else "" for site in found]
    return frame.assign(reads=reads, writes=writes)


def _short(path: str, names: list[str]) -> str:
    """Return names of weights without the modules that they share with a path, each once."""
    shortened = []
    for name in names:
        parts = name.removesuffix(".weight").split(".")
        shared = 0
        for mine, theirs in zip(parts[:-1], path.split("."), strict=False):
            if mine != theirs:
                break
            shared += 1
        shortened.append(".".join(parts[shared:]))
    return ", ".join(dict.fromkeys(shortened))
