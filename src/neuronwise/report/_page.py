"""Pages: templates to one file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from neuronwise.files import atomic_file
from neuronwise.report._words import count, number
from neuronwise.store import Manifest

__all__ = ["Card", "cards", "write"]


@dataclass(frozen=True, slots=True)
class Card:
    """A few facts under a heading.

    Args:
        title: The heading.
        facts: Pairs of a name and what to say.
    """

    title: str
    facts: Sequence[tuple[str, str]]


def cards(manifest: Manifest, *, positions: int | None = None) -> list[Card]:
    """Return what the manifest says about the model, the data and the run."""
    model, data = manifest.model, manifest.data
    parameters = manifest.action.get("parameters", {})
    facts = {
        "Model": [
            ("Name", _text(model.get("name"))),
            ("Class", _text(model.get("class")).rsplit(".", 1)[-1]),
            ("Parameters", _text(model.get("parameters"))),
            ("Number format", ", ".join(map(str, model.get("dtypes", ())))),
            ("Weights (SHA-256)", _text(model.get("sha256"))[:12]),
        ],
        "Data": [
            ("Corpus", _text(data.get("name"))),
            ("Kind", _text(data.get("kind"))),
            ("Examples", _text(data.get("examples"))),
            ("Positions", "" if positions is None else count(positions)),
            ("Tokenizer", _text(data.get("tokenizer"))),
            ("Fingerprint", _text(data.get("fingerprint"))[:12]),
        ],
        "Run": [
            ("Made", manifest.created.replace("T", " ").replace("+00:00", " UTC")),
            ("Seed", _text(manifest.seed)),
            ("Batch size", _text(parameters.get("batch_size"))),
            ("neuronwise", manifest.neuronwise),
            ("torch", manifest.torch),
            ("Python", manifest.python),
        ],
    }
    return [Card(title, [fact for fact in known if fact[1]]) for title, known in facts.items()]


def write(path: str | Path, template: str, values: Mapping[str, Any]) -> Path:
    """Render a template and write it as one whole file.

    Args:
        path: The file.
        template: Name of the template.
        values: What it shows. Text is escaped; only :class:`markupsafe.Markup` is taken as it is.

    Raises:
        WriteError: If the file cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("neuronwise.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {
        "ensure_ascii": False,
        "separators": (",", ":"),
        "allow_nan": False,
    }
    environment.filters.update(number=number, count=count)
    script = _source(environment, "page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = environment.get_template(template).render(
        values, script=script, style=_source(environment, "page.css"), script_hash=f"sha256-{digest}"
    )
    target = Path(path)
    with atomic_file(target) as temporary:
        # A lone half of a surrogate pair, which some tokens hold, has no UTF-8.
        temporary.write_bytes(text.encode("utf-8", errors="replace"))
    return target


def _source(environment: Environment, name: str) -> Markup:
    """Return a file of the package that is put into the page as it stands."""
    assert environment.loader is not None
    return Markup(environment.loader.get_source(environment, name)[0].strip())


def _text(value: object) -> str:
    if value is None:
        return ""
    return count(value) if isinstance(value, int) else str(value)
