"""The options of a corpus, whatever it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from neuronwise.data.parsers import RowParser
from neuronwise.data.records import Records
from neuronwise.data.text import TextEncoder, Transform
from neuronwise.errors import DataError, InvalidArgumentError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ACCEPTED", "ROW_OPTIONS", "TEXT_OPTIONS", "Options", "kind_of"]

ACCEPTED = (
    "Accepted are: files .txt, .jsonl, .conllu (each also .gz), .json, .npy, .npz; a folder saved by Hugging Face "
    "datasets; a folder of images; the name 'stories'; arrays or tensors (example, ...); lists or other iterables of "
    "texts, of rows with a text, or of tensors."
)

# Options of texts, and of rows with texts in them.
TEXT_OPTIONS = ("max_length", "long", "stride", "add_special_tokens")
ROW_OPTIONS = (*TEXT_OPTIONS, "text_field", "label_fields", "on_error")


@dataclass(frozen=True)
class Options:
    """The options of :func:`corpus`, under their names there."""

    tokenizer: PreTrainedTokenizerBase | None = None
    text_field: str | None = None
    label_fields: tuple[str, ...] | None = None
    labels: Any = None
    max_length: int | None = None
    long: Literal["truncate", "split"] = "truncate"
    stride: int = 0
    add_special_tokens: bool = True
    separator: str | None = None
    split: str | None = None
    size: int | tuple[int, int] | None = None
    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    transform: Transform | None = None
    on_error: Literal["raise", "skip"] = "raise"
    name: str | None = None

    def only(self, what: str, *taken: str) -> None:
        """Refuse options that this kind of source would ignore."""
        always = {"tokenizer", "transform", "name", *taken}
        given = [f.name for f in fields(self) if f.name not in always and getattr(self, f.name) != f.default]
        if given:
            raise InvalidArgumentError(
                f"{what} takes no {', '.join(given)}. Its options are: {', '.join(sorted(always))}."
            )

    def encoder(self, what: str) -> TextEncoder:
        """Return what makes tokens of texts, or say that a tokenizer is needed."""
        if self.tokenizer is None or not hasattr(self.tokenizer, "convert_ids_to_tokens"):
            got = "none was given" if self.tokenizer is None else f"got {type(self.tokenizer).__name__}"
            raise DataError(
                f"{what} is text, which needs the model's tokenizer (a transformers one); {got}. Pass tokenizer=, such "
                "as load_model(...).tokenizer; token ids that exist already can be given as a list of tensors."
            )
        return TextEncoder(
            self.tokenizer,
            max_length=self.max_length,
            long=self.long,
            stride=self.stride,
            add_special_tokens=self.add_special_tokens,
            transform=self.transform,
        )

    def rows(self) -> RowParser:
        """Return what takes texts and labels out of rows."""
        return RowParser(self.text_field or "text", self.label_fields or ())

    @property
    def skip_bad(self) -> bool:
        """Whether bad records are left out."""
        return self.on_error == "skip"


def kind_of(records: Records) -> str:
    return "text" if isinstance(records.read(0, 1)[0].text, str) else "words"
