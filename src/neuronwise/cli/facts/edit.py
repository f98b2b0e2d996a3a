"""``neuronwise facts edit``, ``erase`` and ``evaluate``: change what a model knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuronwise.cli.facts.options import (
    Each,
    FactsName,
    Relations,
    located_in,
    open_facts,
    pick_fact,
    show_problems,
    warn_of_other_model,
)
from neuronwise.cli.facts.outcome import finish
from neuronwise.cli.options import (
    Device,
    Dtype,
    Json,
    ModelName,
    Out,
    Overwrite,
    Seed,
    Threads,
    open_model,
    refuse_used,
)
from neuronwise.cli.running import running, torch_threads

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neuronwise.cli.screen import Screen
    from neuronwise.data import Facts, LoadedModel

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
    typer.Option(
        "--layer",
        min=0,
        metavar="N",
        help="Layer for rome (the first) and memit. Can be given several times.",
    ),
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
    str | None,
    typer.Option(
        "--fact",
        metavar="ID",
        help="Id of the fact. Default: the first one, with --from the first with neurons.",
    ),
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
        from neuronwise.data import Facts

        _refuse(patch, model_out, overwrite)
        if method == "erase_slots":
            raise typer.BadParameter(
                "it gives no new answer; to take a fact away: neuronwise facts erase.", param_hint="--method"
            )
        located = None if from_ is None else located_in(from_)
        loaded = open_model(model, device=device, dtype=dtype)
        known = open_facts(facts, loaded.model, relations=None, each=None, seed=0)
        sets = None if located is None else located.sets(k=k, refined=k is None)
        if fact is None and new is None:
            possible = Facts([one for one in known if one.new_answer is not None], name=known.name)
        else:
            possible = known
        if not possible:
            raise typer.BadParameter(f"no fact of {facts} has a new answer.", param_hint="--new")
        chosen = pick_fact(possible, fact, sets)
        if new is not None:
            chosen = replace(chosen, new_answer=new)
        if chosen.new_answer is None:
            raise typer.BadParameter(
                f"the fact {chosen.id!r} has no new answer in the file.", param_hint="--new"
            )
        ways = knowledge.editors(
            loaded.model,
            loaded.tokenizer,
            [method],
            located=sets,
            layers=layer,
            corpus=_corpus(corpus, loaded),
            settings={method: _settings(set_)},
        )
        made = ways[method](chosen)
        if located is not None:
            warn_of_other_model(screen, located, made.base)
        finish(screen, loaded, made, [chosen], known, patch, model_out, overwrite)


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
        int | None,
        typer.Option("--neurons", min=1, metavar="N", help="With --relation: how many neurons. Default: 20."),
    ] = None,
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
        from dataclasses import replace

        from neuronwise.edit import erase_slots
        from neuronwise.errors import FactError
        from neuronwise.knowledge.editors import neurons_of

        _refuse(patch, model_out, overwrite)
        if fact is not None and relation is not None:
            raise typer.BadParameter("give --fact or --relation, not both.", param_hint="--relation")
        if relation is None and neurons is not None:
            raise typer.BadParameter(
                "it goes with --relation; for one fact it is --k.", param_hint="--neurons"
            )
        if relation is not None and k is not None:
            raise typer.BadParameter(
                "it goes with one fact; for a relation it is --neurons.", param_hint="--k"
            )
        located = located_in(from_)
        loaded = open_model(model, device=device, dtype=dtype)
        known = open_facts(facts, loaded.model, relations=None, each=None, seed=0)
        if relation is None:
            sets = located.sets(k=k, refined=k is None)
            chosen = [pick_fact(known, fact, sets)]
            found = sets[chosen[0].id]
        else:
            chosen = list(open_facts(facts, loaded.model, relations=[relation], each=None, seed=0))
            found = located.commonest(relation, neurons or 20)
            if not len(found):
                raise FactError(f"No fact of the relation {relation!r} has neurons in --from.")
        chosen = [replace(one, new_answer=None) for one in chosen]
        made = erase_slots(loaded.model, neurons_of(loaded.model, found), fact=chosen)
        warn_of_other_model(screen, located, made.base)
        finish(screen, loaded, made, chosen, known, patch, model_out, overwrite)


def evaluate(
    model: ModelName,
    facts: FactsName,
    out: Out,
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
        from neuronwise.errors import FactError

        refuse_used(out, overwrite)
        located = None if from_ is None else located_in(from_)
        loaded = open_model(model, device=device, dtype=dtype)
        known = open_facts(facts, loaded.model, relations=relation, each=each, seed=seed)
        text = _corpus(corpus, loaded)
        ways = knowledge.editors(
            loaded.model,
            loaded.tokenizer,
            method,
            located=located,
            k=k,
            layers=layer,
            corpus=text,
            settings=_by_method(set_),
        )
        found = evaluate_edit(
            loaded.model,
            loaded.tokenizer,
            _aims(screen, known, list(ways)),
            ways,
            corpus=text,
            controls=controls,
            pool=open_facts(pool or facts, loaded.model, relations=None, each=None, seed=seed),
            model_name=loaded.name,
            seed=seed,
        )
        problems = [_problem(row) for row in found.problems.to_dict("records")]
        if not (found.tables["edit_prompts"]["control"] == "edit").any():
            raise FactError(f"None of the {len(known)} facts could be edited: {'; '.join(problems[:3])}")
        if located is not None:
            warn_of_other_model(screen, located, found.manifest.model.get("sha256"))
        found.save(out, overwrite=overwrite)
        screen.document(
            {
                "folder": str(out),
                "edit_summary": found.to_frame(),
                "problems": problems,
                "skipped_lines": known.skipped,
            }
        )
        show_problems(screen, known, problems, what="problems")
        screen.table(found.side_by_side().reset_index().round(3))
        screen.line(f"Saved in {out}. Look at it: neuronwise report {out}")


def _aims(screen: Screen, known: Facts, methods: list[str]) -> Facts:
    """Return the facts as they are to be judged: if they are only erased, without their new answers."""
    from dataclasses import replace

    from neuronwise.data import Facts

    if "erase_slots" not in methods or all(one.new_answer is None for one in known):
        return known
    if methods == ["erase_slots"]:
        bare = [replace(one, new_answer=None) for one in known]
        return Facts(bare, name=known.name, problems=known.problems)
    screen.warning(
        "erase_slots gives no new answer, but is judged by the new answers here, as the other methods are. Evaluate "
        "it alone to see whether the old ones are gone."
    )
    return known


def _problem(row: Mapping[Any, Any]) -> str:
    """Return one problem in a line: the fact, what was done to it, what went wrong."""
    done = "" if row["method"] == "none" else f"{row['method']}, "
    return f"{row['fact']}: {done}{row['problem']}"


def _refuse(patch: Path | None, model_out: Path | None, overwrite: bool) -> None:
    """Refuse places that are in use before the work, not after it."""
    from neuronwise.errors import WriteError

    if patch is not None and (patch.is_dir() or (patch.exists() and not overwrite)):
        way = "is a folder" if patch.is_dir() else "exists already; add --overwrite to replace it"
        raise WriteError(f"--patch {patch} {way}.")
    if model_out is not None:
        used = model_out.exists() and (not model_out.is_dir() or any(model_out.iterdir()))
        if used and not overwrite:
            raise WriteError(f"--model-out {model_out} exists already; add --overwrite to replace it.")


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
