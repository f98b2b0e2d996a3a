"""What a search says of itself in sentences."""

from __future__ import annotations

from neuronwise.discover.candidate import Candidate
from neuronwise.errors import counted

__all__ = ["left_out_note", "remarks"]


def left_out_note(count: int) -> tuple[str, ...]:
    """Return the note of rows that are far from all others; none where there are none."""
    if not count:
        return ()
    rows = counted(count, "row")
    return (
        f"Left out of the search, as a value is far from all others: {rows}; outlying='keep' searches all.",
    )


def remarks(candidates: list[Candidate], held_out: int, rows: int, refitted: int) -> tuple[str, ...]:
    """Return what is to be said of any search.

    Args:
        candidates: What was found.
        held_out: Rows that were held out.
        rows: Rows that could be fitted to.
        refitted: Rows that the numbers were fitted to again; 0: they were not.
    """
    notes: tuple[str, ...] = ()
    if not candidates[0].terms:
        notes += (
            "Nothing was found beyond chance: the formula is a constant. A network is best left linear here.",
        )
    elif candidates[0].terms == ("x",):
        notes += ("The linear formula suffices: nothing else was found beyond chance.",)
    if not held_out:
        notes += (
            "No rows were held out: what the formula explains was measured on the rows that it was chosen by.",
        )
    elif refitted:
        out = rows - refitted
        but = (
            f" but the {out} held-out ones with inputs that were clipped or values far from all others"
            if out
            else ""
        )
        notes += (
            "Terms were chosen, and held-out figures measured, without the held-out rows; then the numbers were fitted "
            f"again to all rows{but}.",
        )
    else:
        notes += ("The numbers of the formula are those of the rows of the search.",)
    return notes
