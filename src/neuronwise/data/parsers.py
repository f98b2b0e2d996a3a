"""Rows, lines and sentences turned into text records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from neuronwise.errors import DataError, closest, require

__all__ = ["ConlluParser", "JsonParser", "LabelValue", "LineParser", "RowParser", "TextRecord"]

LabelValue = str | None | tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class TextRecord:
    """A text, or the words of one, with the class names of its label fields.

    Args:
        text: The text, or its words where it comes as words.
        labels: One class name for the text, or one a word, by field; None where there is none.
    """

    text: str | tuple[str, ...]
    labels: Mapping[str, LabelValue] = field(default_factory=dict)

    @property
    def blank(self) -> bool:
        """Whether there is nothing to read in it."""
        return not (
            self.text.strip() if isinstance(self.text, str) else any(word.strip() for word in self.text)
        )


class LineParser:
    """Take a line or piece of a file as it is."""

    def __call__(self, raw: str) -> TextRecord:
        """Return the record of one piece."""
        return TextRecord(raw)


@dataclass(frozen=True)
class RowParser:
    """Take the text and the labels out of a row: a mapping, or a plain string.

    Args:
        text_field: The key of the text: a string, or a list of words.
        label_fields: The keys of the labels: a class each, or a list of classes, one a word.
    """

    text_field: str = "text"
    label_fields: tuple[str, ...] = ()

    def __call__(self, raw: Any) -> TextRecord:
        """Return the record of one row.

        Raises:
            DataError: If a field is missing or of a wrong form.
        """
        row = {self.text_field: raw} if isinstance(raw, str) else raw
        if not isinstance(row, Mapping):
            raise DataError(
                f"expected an object with the field {self.text_field!r}, got {type(raw).__name__}."
            )
        for name in (self.text_field, *self.label_fields):
            if name not in row:
                advice = (
                    "Name the field of the text with text_field="
                    if name == self.text_field
                    else "Check label_fields="
                )
                raise DataError(f"no field {name!r}. {closest(name, map(str, row))} {advice}.")
        value = row[self.text_field]
        text: str | tuple[str, ...]
        if isinstance(value, str):
            text = value
        elif isinstance(value, list | tuple) and all(isinstance(word, str) for word in value):
            text = tuple(value)
        else:
            raise DataError(
                f"the field {self.text_field!r} must be a string or a list of words, not {_short(value)}."
            )
        return TextRecord(text, {name: _label(name, row[name], text) for name in self.label_fields})


@dataclass(frozen=True)
class JsonParser:
    """Read one line of a JSON-lines file: an object, or a plain string."""

    row: RowParser

    def __call__(self, raw: str) -> TextRecord:
        """Return the record of one line.

        Raises:
            DataError: If it is not JSON, or a field is missing or of a wrong form.
        """
        if not raw.strip():
            return TextRecord("")
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise DataError(f"not valid JSON ({error}).") from error
        return self.row(value)


@dataclass(frozen=True)
class ConlluParser:
    """Read one sentence of a CoNLL-U file; multi-word ranges and empty nodes are left out.

    Args:
        label_fields: Columns (``upos``, ``xpos``, ``deprel``, ``lemma``) or features (``Number``, ``Tense``, ...).
        optional: Whether a field without a value in the whole file is left out, rather than an error.
    """

    label_fields: tuple[str, ...]
    optional: bool = False

    def __call__(self, raw: str) -> TextRecord:
        """Return the record of one sentence.

        Raises:
            DataError: If it is not CoNLL-U.
        """
        conllu = require("conllu", "conllu", "Reading CoNLL-U")
        try:
            sentences = conllu.parse(raw)
        except (conllu.exceptions.ParseException, ValueError, IndexError) as error:
            raise DataError(f"not a CoNLL-U sentence ({error}).") from error
        words = [token for sentence in sentences for token in sentence if isinstance(token["id"], int)]
        return TextRecord(
            tuple(str(word["form"]) for word in words),
            {name: tuple(self._value(word, name) for word in words) for name in self.label_fields},
        )

    def _value(self, word: Mapping[str, Any], name: str) -> str | None:
        value = word[name] if name in word else (word.get("feats") or {}).get(name)
        return None if value is None else str(value)


def _label(name: str, value: Any, text: str | tuple[str, ...]) -> LabelValue:
    if not isinstance(value, list | tuple):
        return _class_name(name, value)
    if isinstance(text, str):
        raise DataError(f"the label field {name!r} is a list, but the text is not a list of words.")
    if len(value) != len(text):
        raise DataError(f"the label field {name!r} has {len(value)} entries for {len(text)} words.")
    return tuple(_class_name(name, entry) for entry in value)


def _class_name(name: str, value: Any) -> str | None:
    if value is None or isinstance(value, str | int):
        return None if value is None else str(value)
    raise DataError(
        f"the label field {name!r} must be a class (text or a whole number), not {_short(value)}."
    )


def _short(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:37] + '...'}"
