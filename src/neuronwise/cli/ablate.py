"""``neuronwise ablate``: what switching neurons off does."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuronwise.cli.options import (
    BatchSize,
    CorpusName,
    Device,
    Dtype,
    Json,
    LabelFields,
    Limit,
    MaxLength,
    MaxTokens,
    ModelName,
    OutToo,
    Overwrite,
    Seed,
    Separator,
    TextField,
    Threads,
    open_corpus,
    open_model,
    refuse_used,
)
from neuronwise.cli.report import observed
from neuronwise.cli.running import running, torch_threads
from neuronwise.cli.screen import Screen
from neuronwise.errors import InvalidArgumentError

if TYPE_CHECKING:
    from torch import nn

    from neuronwise.observe import Ablation, Activity
    from neuronwise.sites import NeuronSet

__all__ = ["EXAMPLES", "How", "ablate"]

EXAMPLES = (
    "neuronwise ablate stories260k stories --neurons '0:113,143 3:75'",
    "neuronwise ablate stories260k stories --from activity --by kurtosis --top 20 --how mean",
    "neuronwise ablate stories260k texts.txt --neurons '2:*' --how scale --value 0.5 --controls 0 --out halved",
)

_CHOICE = "Which neurons"


class How(StrEnum):
    """What is done to the neurons."""

    zero = "zero"
    mean = "mean"
    scale = "scale"
    set = "set"
    add = "add"


def ablate(
    model: ModelName,
    corpus: CorpusName,
    neurons: Annotated[
        str | None,
        typer.Option(
            "--neurons",
            metavar="TEXT",
            rich_help_panel=_CHOICE,
            help="By hand: layer:numbers, as in '3:17,42 4:0-9 5:*', or site\\[numbers].",
        ),
    ] = None,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FOLDER",
            rich_help_panel=_CHOICE,
            help="Choose by a statistic of this observed result; also where --how mean takes the means from.",
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            metavar="COLUMN",
            rich_help_panel=_CHOICE,
            help="With --from: the statistic, such as kurtosis (the default), max, active or std.",
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            "--top",
            min=1,
            metavar="N",
            rich_help_panel=_CHOICE,
            help="With --from: this many, largest first. Default: 20.",
        ),
    ] = None,
    lowest: Annotated[
        bool,
        typer.Option("--lowest", rich_help_panel=_CHOICE, help="With --from: smallest first instead."),
    ] = False,
    how: Annotated[
        How,
        typer.Option(
            "--how",
            help="Make them zero, or their mean (with --from), multiply them (scale), set them, or add to them.",
        ),
    ] = How.zero,
    value: Annotated[
        float | None, typer.Option("--value", metavar="X", help="The number for scale, set and add.")
    ] = None,
    controls: Annotated[
        int,
        typer.Option(
            "--controls",
            min=0,
            metavar="N",
            help="Random sets, of as many neurons of the same sites, to compare with.",
        ),
    ] = 5,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            help="What is measured: next_token_loss, class_loss, kl or output_change. Default: what suits the model.",
        ),
    ] = None,
    out: OutToo = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    threads: Threads = None,
    batch_size: BatchSize = 16,
    max_tokens: MaxTokens = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    limit: Limit = None,
    max_length: MaxLength = None,
    separator: Separator = None,
    text_field: TextField = None,
    label_field: LabelFields = None,
    json_: Json = False,
) -> None:
    """Change some neurons and measure what that does, beside random neurons of the same number."""
    with running(json_) as screen:
        import neuronwise as nw

        if neurons is None and from_ is None:
            raise typer.BadParameter(
                "say which neurons: --neurons, or --from FOLDER.", param_hint="--neurons"
            )
        if neurons is not None and (by is not None or top is not None or lowest):
            raise typer.BadParameter(
                "the neurons are chosen by hand with --neurons, or by a statistic with --by, --top and --lowest; "
                "give one or the other.",
                param_hint="--neurons",
            )
        if out is not None:
            refuse_used(out, overwrite)
        activity = None if from_ is None else observed(nw.load(from_), from_)
        loaded = open_model(model, device=device, dtype=dtype)
        chosen = _choose(loaded.model, neurons, activity, by or "kurtosis", top or 20, lowest)
        data = open_corpus(
            corpus,
            loaded,
            limit=limit,
            dtype=dtype,
            max_length=max_length,
            separator=separator,
            text_field=text_field,
            label_fields=label_field,
        )
        with torch_threads(threads):
            effect = nw.ablate(
                loaded.model,
                data,
                chosen,
                how=how.value,
                value=_value(how, value, activity),
                metric=metric,
                controls=controls,
                batch_size=batch_size,
                max_tokens=max_tokens,
                model_name=loaded.name,
                seed=seed,
            )
        if out is not None:
            effect.save(out, overwrite=overwrite)
        _compare_with_source(screen, effect, activity, by_hand=neurons is not None)
        _show(screen, effect, chosen, out)


def _choose(
    model: nn.Module, neurons: str | None, activity: Activity | None, by: str, top: int, lowest: bool
) -> NeuronSet:
    import neuronwise as nw

    if neurons is not None:
        return nw.NeuronSet.parse(neurons, nw.find_sites(model) if activity is None else activity.sites)
    if activity is None:  # the caller has seen to it that one of the two is there
        raise InvalidArgumentError("Name neurons, or a result to choose them from.")
    return activity.neurons(by).top(top, largest=not lowest)


def _value(how: How, value: float | None, activity: Activity | None) -> Any:
    if how is not How.mean:
        if how is not How.zero and value is None:
            raise InvalidArgumentError(f"--how {how} needs a number: add --value X.")
        return value
    if value is not None:
        raise InvalidArgumentError("--how mean takes no --value: the means come from --from FOLDER.")
    if activity is None:
        raise InvalidArgumentError(
            "--how mean needs the neurons' means: add --from FOLDER, as observe wrote it."
        )
    return activity.means()


def _compare_with_source(
    screen: Screen, effect: Ablation, activity: Activity | None, *, by_hand: bool
) -> None:
    """Say what would make the comparison less than it seems."""
    if activity is None:
        return
    hashes = {str(result.manifest.model.get("sha256")) for result in (effect, activity)}
    if len(hashes) > 1:
        screen.warning("--from was observed on a model with other weights than this one.")
    data = [result.manifest.data for result in (effect, activity)]
    contents = {str(card.get("content_sha256", card.get("fingerprint"))) for card in data}
    if len(contents) == 1 and not by_hand:
        screen.note(
            "the neurons were chosen on the same corpus that the effect is measured on, or on a part of it."
        )


def _show(screen: Screen, effect: Ablation, chosen: NeuronSet, out: Path | None) -> None:
    frame = effect.to_frame()
    random = effect.random_changes
    screen.document(
        {
            "neurons": {site.name: chosen.indices(site) for site in chosen.sites},
            "change": effect.change,
            "change_se": effect.change_se,
            "random_mean": random.mean() if len(random) else None,
            "random_std": random.std(ddof=1) if len(random) > 1 else None,
            "ablation": frame,
            "folder": None if out is None else str(out),
        }
    )
    screen.table(frame)
    screen.line(str(effect) + ".")
    if out is not None:
        screen.line(f"Saved in {out}.")
