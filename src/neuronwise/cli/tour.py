"""What the chapters of the demo share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from neuronwise.cli.screen import Screen
from neuronwise.errors import WriteError

if TYPE_CHECKING:
    from neuronwise.data import Corpus, LoadedModel
    from neuronwise.observe import Ablation, Activity

__all__ = ["ABLATION", "ACTIVITY", "AUDIT", "FORMULA", "KNOWLEDGE", "MAP", "Tour"]

ACTIVITY = "activity"
ABLATION = "ablation"
KNOWLEDGE = "knowledge"
MAP = "map"
FORMULA = "formula"
AUDIT = "audit"


@dataclass
class Tour:
    """The state of a demo. Each chapter fills in what later ones need.

    Args:
        screen: Where to write.
        out: The folder for what is kept.
        quick: Use few stories.
    """

    screen: Screen
    out: Path
    quick: bool = False
    loaded: LoadedModel = field(init=False)
    stories: Corpus = field(init=False)
    activity: Activity = field(init=False)
    effect: Ablation = field(init=False)
    failed: list[str] = field(default_factory=list)

    @property
    def controls(self) -> int:
        """How many random sets an effect is compared with."""
        return 2 if self.quick else 5

    def refuse_foreign(self) -> None:
        """Refuse to replace folders that are not results.

        Raises:
            WriteError: If there is such a folder where results would go.
        """
        for name in (ACTIVITY, ABLATION, KNOWLEDGE, MAP, FORMULA, AUDIT):
            folder = self.out / name
            if folder.exists() and not (folder / "manifest.json").is_file():
                raise WriteError(
                    f"{folder} is there and is not a result, so the demo leaves it alone. Choose another --out."
                )
