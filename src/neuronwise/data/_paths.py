"""Corpora of files and folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from neuronwise.data._datasets import from_dataset
from neuronwise.data._memory import from_arrays
from neuronwise.data._options import ACCEPTED, ROW_OPTIONS, TEXT_OPTIONS, Options, kind_of
from neuronwise.data.arrays import load_arrays
from neuronwise.data.corpus import Corpus
from neuronwise.data.images import ImageCorpus, image_files
from neuronwise.data.parsers import ConlluParser, JsonParser, LineParser
from neuronwise.data.records import FileRecords, RowRecords, blank_line
from neuronwise.data.samples import STORY_SEPARATOR, bundled
from neuronwise.data.text import TextCorpus
from neuronwise.errors import DataError, EmptyCorpusError, InvalidArgumentError, closest, require
from neuronwise.files import sha256_file

__all__ = ["from_path"]


def from_path(source: str | Path, options: Options) -> Corpus:
    path = Path(source)
    if source == "stories" and not path.exists():
        options.only("The bundled corpus 'stories'", *TEXT_OPTIONS)
        records = FileRecords(bundled("stories"), parser=LineParser(), separator=STORY_SEPARATOR)
        return TextCorpus(records, options.encoder("'stories'"), name=options.name or "stories")
    if not path.exists():
        raise DataError(f"There is no file or folder {str(source)!r}. {ACCEPTED}")
    name = options.name or path.name.removesuffix(".gz").rpartition(".")[0] or path.name
    if path.is_dir():
        return _from_folder(path, options, name)
    ending = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    for endings, packed, read in _READERS:
        if ending in endings and (packed or not path.name.endswith(".gz")):
            return read(path, options, name)
    raise DataError(f"Do not know what to do with the file {path}. {ACCEPTED}")


def _from_text_file(path: Path, options: Options, name: str) -> Corpus:
    options.only("A text file", *TEXT_OPTIONS, "separator", "on_error")
    encoder = options.encoder(str(path))
    if options.separator == "":
        raise InvalidArgumentError("separator must not be empty; None makes an example of every line.")
    records = FileRecords(
        path, parser=LineParser(), separator=options.separator or "\n", skip_bad=options.skip_bad
    )
    return TextCorpus(records, encoder, name=name)


def _from_json_lines(path: Path, options: Options, name: str) -> Corpus:
    options.only("A JSON-lines file", *ROW_OPTIONS)
    encoder = options.encoder(str(path))
    records = FileRecords(path, parser=JsonParser(options.rows()), skip_bad=options.skip_bad)
    return TextCorpus(records, encoder, name=name, kind=kind_of(records))


def _from_json(path: Path, options: Options, name: str) -> Corpus:
    options.only("A JSON file", *ROW_OPTIONS)
    encoder = options.encoder(str(path))
    try:
        rows = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise DataError(
            f"{path} is not valid JSON: {error}. For one object a line, name the file .jsonl."
        ) from error
    if not isinstance(rows, list):
        raise DataError(f"{path} must hold a list of objects or strings, not {type(rows).__name__}.")
    records = RowRecords(
        rows,
        parser=options.rows(),
        where=str(path),
        skip_bad=options.skip_bad,
        content_hash=sha256_file(path),
    )
    return TextCorpus(records, encoder, name=name, kind=kind_of(records))


def _from_conllu(path: Path, options: Options, name: str) -> Corpus:
    options.only("A CoNLL-U file", *TEXT_OPTIONS, "label_fields", "on_error")
    encoder = options.encoder(str(path))
    names = options.label_fields
    parser = ConlluParser(("upos", "xpos", "deprel"), optional=True) if names is None else ConlluParser(names)
    records = FileRecords(path, parser=parser, separator=blank_line(path), skip_bad=options.skip_bad)
    return TextCorpus(records, encoder, name=name, kind="words")


def _from_array_file(path: Path, options: Options, name: str) -> Corpus:
    options.only("A NumPy file", "label_fields", "labels")
    arrays = load_arrays(path)
    label_names = options.label_fields or ()
    for label in label_names:
        if label not in arrays:
            raise DataError(f"{path} has no array {label!r}. {closest(label, arrays)}")
    inputs = {field: array for field, array in arrays.items() if field not in label_names}
    if not inputs:
        raise EmptyCorpusError(f"{path} has no arrays for the model's input.")
    given = {label: arrays[label] for label in label_names}
    one = next(iter(inputs.values())) if len(inputs) == 1 else inputs
    return from_arrays(one, options, name, path=path, labels=given)


def _from_folder(path: Path, options: Options, name: str) -> Corpus:
    if any((path / marker).exists() for marker in ("dataset_info.json", "state.json", "dataset_dict.json")):
        datasets = require("datasets", "datasets", "Reading a datasets folder")
        return from_dataset(datasets.load_from_disk(str(path)), options, name, folder=path)
    if image_files(path):
        options.only("An image folder", "size", "mean", "std")
        return ImageCorpus(
            path,
            name=name,
            size=options.size,
            mean=options.mean,
            std=options.std,
            transform=options.transform,
        )
    raise DataError(f"The folder {path} has neither a saved dataset nor an image in it. {ACCEPTED}")


_Reader = Callable[[Path, Options, str], Corpus]

# File endings, whether the file may be compressed with gzip, and what reads it.
_READERS: tuple[tuple[tuple[str, ...], bool, _Reader], ...] = (
    (("txt",), True, _from_text_file),
    (("jsonl", "ndjson"), True, _from_json_lines),
    (("json",), False, _from_json),
    (("conllu",), True, _from_conllu),
    (("npy", "npz"), False, _from_array_file),
)
