"""The tables of every verb, one file a verb."""

__all__: list[str] = []
