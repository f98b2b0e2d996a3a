"""Write docs/reference/schema.md from the schema of the store."""

from __future__ import annotations

from pathlib import Path

from neuronwise.store.schema import markdown

if __name__ == "__main__":
    (Path(__file__).parent / "reference" / "schema.md").write_text(markdown(), encoding="utf-8")
