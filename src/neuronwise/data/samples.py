"""Files that come with the package."""

from __future__ import annotations

from pathlib import Path

from neuronwise.errors import DataError, closest

__all__ = ["STORY_SEPARATOR", "bundled", "is_bundled"]

# The line between two of the bundled stories.
STORY_SEPARATOR = "<|story|>"

_PLACES = (
    ("fact-bert", "fact-bert"),
    ("fact-gpt", "fact-gpt"),
    ("facts-edits", "facts-edits"),
    ("facts-pararel", "facts-pararel"),
    ("stories", "stories.txt.gz"),
    ("stories260k", "stories260k"),
)


def bundled(name: str) -> Path:
    """Return where a bundled corpus, model or list of facts lies.

    Args:
        name: ``"stories260k"``, the folder of a language model of 260,032 parameters; ``"stories"``, 300 stories that
            it wrote; ``"fact-gpt"`` or ``"fact-bert"``, the folders of two models that know 999 facts;
            ``"facts-pararel"``, 400 of those facts with the patterns of 26 relations; ``"facts-edits"``, requests to
            change some of them.

    Raises:
        DataError: If nothing of that name is bundled.

    Example:
        >>> bundled("stories").name
        'stories.txt.gz'
    """
    places = dict(_PLACES)
    if name not in places:
        raise DataError(f"Nothing named {name!r} comes with neuronwise. {closest(name, places)}")
    return Path(__file__).parent / "bundled" / places[name]


def is_bundled(name: object) -> bool:
    """Return whether something of that name comes with the package."""
    return name in dict(_PLACES)
