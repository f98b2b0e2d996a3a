"""Corpora of Hugging Face datasets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from neuronwise.data._options import ROW_OPTIONS, Options, kind_of
from neuronwise.data.corpus import Corpus
from neuronwise.data.parsers import RowParser
from neuronwise.data.records import RowRecords
from neuronwise.data.text import TextCorpus
from neuronwise.errors import DataError, InvalidArgumentError, closest
from neuronwise.files import sha256_file

__all__ = ["from_dataset"]


def from_dataset(dataset: Any, options: Options, name: str, *, folder: Path | None = None) -> Corpus:
    options.only("A dataset", *ROW_OPTIONS, "split")
    if isinstance(dataset, Mapping):
        if options.split is None or options.split not in dataset:
            raise DataError(
                f"The dataset {name!r} has the splits {', '.join(map(str, dataset))}. Pass split= with one of them."
            )
        dataset = dataset[options.split]
        folder = None if folder is None else folder / options.split
    elif options.split is not None:
        raise InvalidArgumentError(f"The dataset {name!r} has no splits; leave split= out.")
    encoder = options.encoder(f"The dataset {name!r}")
    rows = _DatasetRows(dataset, options.rows())
    records = RowRecords(
        rows,
        parser=options.rows(),
        where=f"The dataset {name!r}",
        skip_bad=options.skip_bad,
        content_hash=None if folder is None else _folder_hash(folder),
        known=rows.class_names,
    )
    return TextCorpus(records, encoder, name=name, kind=kind_of(records))


class _DatasetRows(Sequence[Any]):
    """The rows of a dataset, only the columns that are needed, with the names of the classes for their numbers."""

    def __init__(self, dataset: Any, parser: RowParser) -> None:
        columns = [parser.text_field, *parser.label_fields]
        for column in columns:
            if column not in dataset.column_names:
                option = "text_field" if column == parser.text_field else "label_fields"
                raise DataError(
                    f"The dataset has no column {column!r}. {closest(column, dataset.column_names)} "
                    f"Name another with {option}=."
                )
        self._dataset = dataset.select_columns(columns)
        features = {name: dataset.features[name] for name in parser.label_fields}
        # A label a word is a list of class labels.
        inner = {name: getattr(feature, "feature", feature) for name, feature in features.items()}
        self.class_names = {name: tuple(f.names) for name, f in inner.items() if getattr(f, "names", None)}

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, number: Any) -> Any:
        return self._named(self._dataset[number])

    def __iter__(self) -> Iterator[Any]:
        return map(self._named, self._dataset)

    def _named(self, row: dict[str, Any]) -> dict[str, Any]:
        for name, names in self.class_names.items():
            value = row[name]
            row[name] = [_class(names, v) for v in value] if isinstance(value, list) else _class(names, value)
        return row


def _class(names: tuple[str, ...], number: int | None) -> str | None:
    # Datasets write -1 for "no label".
    return None if number is None or number < 0 else names[number]


def _folder_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.arrow")):
        digest.update(f"{path.relative_to(folder).as_posix()} {sha256_file(path)}\n".encode())
    return digest.hexdigest()
