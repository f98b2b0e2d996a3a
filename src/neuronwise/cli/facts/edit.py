"""``neuronwise facts edit``, ``erase`` and ``evaluate``: change what a model knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuronwise.cli.facts.options import Each, FactsName, Relations, located_in, open_facts, show_problems
from neuronwise.cli.observe import refuse_used
from neuronwise.cli.options import Device, Dtype, Json, ModelName, Overwrite, Seed, Threads, open_model
from neuronwise.cli.running import running, torch_threads

if TYPE_CHECKING:
    from neuronwise.cli.screen import Screen
    from neuronwise.data import Fact, Facts, LoadedModel
    from neuronwise.edit import Patch

__all__ = ["EDIT_EXAMPLES", "ERASE_EXAMPLES", "EVALUATE_EXAMPLES", "edit", "erase", "evaluate"]

EDIT_EXAMPLES = (
    "neuronwise facts edit fact-gpt facts-edits --fact ID --method fine --from neurons --patch one.safetensors",
    "neuronwise facts edit ./my-gpt edits.jsonl --fact ID --method rome --layer 17 --corpus texts.txt --model-out new",
)
ERASE_EXAMPLES = (
    "neuronwise facts erase fact-gpt fact-gpt --fact ID --from neurons --patch gone.safetensors",
    "neuronwise facts erase fact-bert fact-bert --relation P36 --neurons 20 --from neurons --model-out edited",
)
EVALUATE_EXAMPLES = (
    "neuronwise facts evaluate fact-gpt facts-edits --each 2 --method update_slots --method fine --from neurons "
    "--out edits",
)

From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="FOLDER",
        help="Located neurons, for update_slots, erase_slots and fine; see facts locate.",
    ),
]
K = Annotated[
    int | None,
    typer.Option(
        "--k", min=1, metavar="N", help="The first N of them instead of those that a fact's prompts share."
    ),
]
Layer = Annotated[
    list[int] | None,
    typer.Option("--layer", min=0, metavar="N", help="Layer for rome and memit. Can be given several times."),
]
CorpusOption = Annotated[
    str | None,
    typer.Option(
        "--corpus", metavar="CORPUS", help="Text: for rome and memit, and what evaluate measures on."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="An argument of the method, as JSON: --set steps=40."),
]
PatchOut = Annotated[
    Path | None,
    typer.Option("--patch", metavar="FILE", help="Save the edit as a patch, a small .safetensors file."),
]
ModelOut = Annotated[
    Path | None,
    typer.Option("--model-out", metavar="FOLDER", help="Save the edited model as a model folder."),
]
FactId = Annotated[
    str | None, typer.Option("--fact", metavar="ID", help="Id of the fact. Default: the first one.")
]


def edit(
    model: ModelName,
    facts: FactsName,
    fact: FactId = None,
    method: Annotated[
        str, typer.Option("--method", metavar="NAME", help="update_slots, fine, rome or memit.")
    ] = "rome",
    new: Annotated[
        str | None,
        typer.Option("--new", metavar="TEXT", help="The new answer. Default: the file's new_answer."),
    ] = None,
    from_: From = None,
    k: K = None,
    layer: Layer = None,
    corpus: CorpusOption = None,
    set_: Settings = None,
    patch: PatchOut = None,
    model_out: ModelOut = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    device: Device = "cpu",
    dtype: Dtype = None,
    json_: Json = False,
) -> None:
    """Give one fact a new answer; show what the model says before and after, and save a patch or a model."""
    with running(json_) as screen, torch_threads(threads):
        from dataclasses import replace

        from neuronwise import knowledge

        _refuse(patch, model_out, overwrite)
        loaded = open_model(model, device=device, dtype=dtype)
        known = open_facts(facts, loaded.model, relations=None, each=None, seed=0)
        chosen = known[0] if fact is None else known[fact]
        if new is not None:
            chosen = replace(chosen, new_answer=new)
        ways = knowledge.editors(
            loaded.model,
            loaded.tokenizer,
            [method],
            located=None if from_ is None else located_in(from_),
            k=k,
            layers=layer,
            corpus=_corpus(corpus, loaded),
            settings={method: _settings(set_)},
        )
        _finish(screen, loaded, ways[method](chosen), chosen, known, patch, model_out, overwrite)


def erase(
    model: ModelName,
    facts: FactsName,
    from_: Annotated[
        Path,
        typer.Option(
            "--from", metavar="FOLDER", help="Located neurons, as neuronwise facts locate wrote them."
        ),
    ],
    fact: FactId = None,
    relation: Annotated[
        str | None,
        typer.Option(
            "--relation", metavar="NAME", help="Erase a whole relation: the neurons most of its facts have."
        ),
    ] = None,
    neurons: Annotated[
        int, typer.Option("--neurons", min=1, metavar="N", help="With --relation: how many neurons.")
    ] = 20,
    k: K = None,
    patch: PatchOut = None,
    model_out: ModelOut = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    device: Device = "cpu",
    dtype: Dtype = None,
    json_: Json = False,
) -> None:
    """Empty the value slots of a fact's neurons, or of those that most facts of a relation have."""
    with running(json_) as screen, torch_threads(threads):
        import neuronwise as nw
        from neuronwise import knowledge
        from neuronwise.edit import erase_slots

        _refuse(patch, model_out, overwrite)
        if fact is not None and relation is not None:
            raise typer.BadParameter("give --fact or --relation, not both.", param_hint="--relation")
        located = located_in(from_)
        loaded = open_model(model, device=device, dtype=dtype)
        known = open_facts(
            facts, loaded.model, relations=None if relation is None else [relation], each=None, seed=0
        )
        chosen = known[0] if fact is None else known[fact]
        if relation is None:
            made = knowledge.editors(loaded.model, loaded.tokenizer, ["erase_slots"], located=located, k=k)[
                "erase_slots"
            ](chosen)
        else:
            common = located.commonest(relation, neurons)
            own = {site.name: site for site in nw.find_sites(loaded.model)}
            made = erase_slots(
                loaded.model, nw.NeuronSet.of({own[site.name]: common.indices(site) for site in common.sites})
            )
        _finish(screen, loaded, made, chosen, known, patch, model_out, overwrite)


def evaluate(
    model: ModelName,
    facts: FactsName,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where the result is saved.")],
    method: Annotated[
        list[str],
        typer.Option(
            "--method",
            metavar="NAME",
            help="update_slots, erase_slots, fine, rome, memit. Can be given several times.",
        ),
    ],
    from_: From = None,
    k: K = None,
    layer: Layer = None,
    corpus: CorpusOption = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="METHOD.NAME=VALUE", help="An argument of a method: --set rome.steps=40."
        ),
    ] = None,
    controls: Annotated[
        int, typer.Option("--controls", min=0, metavar="N", help="Random edits to compare with.")
    ] = 3,
    pool: Annotated[
        str | None,
        typer.Option(
            "--pool", metavar="FACTS", help="Where other facts to look at come from. Default: the same file."
        ),
    ] = None,
    relation: Relations = None,
    each: Each = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Dtype = None,
    json_: Json = False,
) -> None:
    """Edit every fact with every method, each beside no edit and random ones, and measure what has changed."""
    with running(json_) as screen, torch_threads(threads):
        from neuronwise import knowledge
        from neuronwise.edit import evaluate_edit

        refuse_used(out, overwrite)
        loaded = open_model(model, device=device, dtype=dtype)
        known = open_facts(facts, loaded.model, relations=relation, each=each, seed=seed)
        text = _corpus(corpus, loaded)
        ways = knowledge.editors(
            loaded.model,
            loaded.tokenizer,
            method,
            located=None if from_ is None else located_in(from_),
            k=k,
            layers=layer,
            corpus=text,
            settings=_by_method(set_),
        )
        found = evaluate_edit(
            loaded.model,
            loaded.tokenizer,
            known,
            ways,
            corpus=text,
            controls=controls,
            pool=open_facts(pool or facts, loaded.model, relations=None, each=None, seed=seed),
            model_name=loaded.name,
            seed=seed,
        )
        found.save(out, overwrite=overwrite)
        problems = [f"{row.fact}: {row.problem}" for row in found.problems.itertuples()]
        screen.document(
            {
                "folder": str(out),
                "edit_summary": found.to_frame(),
                "problems": problems,
                "skipped_lines": known.skipped,
            }
        )
        show_problems(screen, known, problems)
        screen.table(found.side_by_side().reset_index().round(3))
        screen.line(f"Saved in {out}.")


def _refuse(patch: Path | None, model_out: Path | None, overwrite: bool) -> None:
    if patch is not None and patch.exists() and not overwrite:
        raise typer.BadParameter(
            f"{patch} is there already; add --overwrite to replace it.", param_hint="--patch"
        )
    if model_out is not None and model_out.exists() and not overwrite:
        raise typer.BadParameter(f"{model_out} is there already; add --overwrite.", param_hint="--model-out")


def _corpus(name: str | None, loaded: LoadedModel) -> Any:
    import neuronwise as nw

    return None if name is None else nw.corpus(name, tokenizer=loaded.tokenizer)


def _settings(given: list[str] | None) -> dict[str, Any]:
    """Read ``name=value`` pairs; a value that is not JSON is text."""
    settings = {}
    for pair in given or ():
        name, sign, value = pair.partition("=")
        if not sign or not name.isidentifier():
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE.", param_hint="--set")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
    return settings


def _by_method(given: list[str] | None) -> dict[str, dict[str, Any]]:
    settings: dict[str, dict[str, Any]] = {}
    for pair in given or ():
        method, dot, rest = pair.partition(".")
        if not dot or "=" in method:
            raise typer.BadParameter(f"{pair!r} is not METHOD.NAME=VALUE.", param_hint="--set")
        settings.setdefault(method, {}).update(_settings([rest]))
    return settings


def _finish(
    screen: Screen,
    loaded: LoadedModel,
    made: Patch,
    fact: Fact,
    known: Facts,
    patch: Path | None,
    model_out: Path | None,
    overwrite: bool,
) -> None:
    """Show what a patch does to a fact and to some others, and save it."""
    import pandas as pd

    from neuronwise.edit import save_model

    others = [other for other in known if other.relation == fact.relation and other.answer != fact.answer][:3]
    texts = [
        *((prompt, fact) for prompt in (*fact.prompts, *fact.held_out)),
        *((other.prompts[0], other) for other in others),
    ]
    before = _predictions(loaded, texts)
    with made.applied(loaded.model):
        after = _predictions(loaded, texts)
    rows = [
        {"prompt": prompt, "right before": one.answer, "says before": was[0], "p before": was[1], "says after": now[0],
         "p after": now[1]}
        for (prompt, one), was, now in zip(texts, before, after, strict=True)
    ]  # fmt: skip
    if patch is not None:
        made.save(patch)
    if model_out is not None:
        save_model(loaded.model, model_out, tokenizer=loaded.tokenizer, patch=made, overwrite=overwrite)
    screen.document(
        {
            "fact": fact.to_dict(),
            "changes": made.to_frame(),
            "prompts": rows,
            "patch": None if patch is None else str(patch),
            "model": None if model_out is None else str(model_out),
        }
    )
    screen.line(f"{fact.subject or fact.id}: {fact.answer} -> {fact.new_answer or '(erased)'}")
    screen.table(pd.DataFrame(rows).round(3))
    for what, where in (("Patch", patch), ("Edited model", model_out)):
        if where is not None:
            screen.line(f"{what} saved in {where}.")


def _predictions(loaded: LoadedModel, texts: list[tuple[str, Fact]]) -> list[tuple[str, float]]:
    """Return the most probable token in each prompt's slot, and its probability."""
    import torch

    from neuronwise.data import encode

    tokenizer: Any = loaded.tokenizer
    answers = [fact.answer for _, fact in texts]
    prompts = encode(tokenizer, loaded.model, [prompt for prompt, _ in texts], answers, multi_token=True)
    with torch.no_grad():
        logits = loaded.model(**prompts.to(next(loaded.model.parameters()).device).inputs).logits
    at = logits[torch.arange(len(texts)), prompts.positions[:, 0]].float().softmax(-1)
    best = at.max(-1)
    words = [str(tokenizer.decode([token])).strip() for token in best.indices.tolist()]
    return list(zip(words, best.values.tolist(), strict=True))
