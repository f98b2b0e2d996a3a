"""``neuronwise check``: whether watching and changing the neurons of a model works."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from neuronwise.cli.options import Device, Dtype, Json, ModelName, open_corpus, open_model, pick_sites
from neuronwise.cli.running import running
from neuronwise.errors import DataError

if TYPE_CHECKING:
    from neuronwise.data import Batch, LoadedModel

__all__ = ["EXAMPLES", "check"]

EXAMPLES = (
    "neuronwise check stories260k",
    "neuronwise check stories260k --dtype bfloat16",
    "neuronwise check ./my-model --text 'Some text that it knows.' --where 'model.layers.0.*'",
)

_TEXT = "Once upon a time there was a little dog. It loved to play in the park."


def check(
    model: ModelName,
    text: Annotated[str, typer.Option("--text", metavar="TEXT", help="What the model is shown.")] = _TEXT,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="GLOB", help="Only these sites; as --where of neuronwise sites."),
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    json_: Json = False,
) -> None:
    """Check that capture and intervention tell the truth on a model; ends with 1 if a check fails."""
    with running(json_) as screen:
        import neuronwise as nw

        loaded = open_model(model, device=device, dtype=dtype)
        found = nw.check(
            loaded.model, _batch(loaded, text).to(device).inputs, pick_sites(loaded.model, where)
        )
        frame = found.to_frame()
        screen.document({"model": loaded.name, "passed": found.passed, "checks": frame})
        screen.table(frame.assign(passed=frame["passed"].map({True: "ok", False: "FAILED"})))
        screen.line("All checks passed." if found.passed else "Checks failed.")
        if not found.passed:
            raise typer.Exit(1)


def _batch(loaded: LoadedModel, text: str) -> Batch:
    from neuronwise.data import batches

    if loaded.tokenizer is None:
        raise DataError(
            f"{loaded.name} has no tokenizer, so this command has nothing to show it. In Python, any batch will do: "
            "neuronwise.check(model, batch)."
        )
    corpus = open_corpus([text], loaded, limit=None)
    return next(batches(corpus.examples(0, 1), pad=corpus.pad))
