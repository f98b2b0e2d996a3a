"""Result folders: written whole or not at all, and checked against their manifest when read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from neuronwise.errors import IncompleteResultError, NotAResultError, TamperedResultError, WriteError
from neuronwise.files import atomic_folder, sha256_file
from neuronwise.store.manifest import FileEntry, Manifest
from neuronwise.store.parquet import write_table

__all__ = ["ARRAYS_FILE", "MANIFEST_FILE", "read_array", "read_array_names", "read_manifest", "write_folder"]

ARRAYS_FILE = "arrays.safetensors"
MANIFEST_FILE = "manifest.json"


def write_folder(
    folder: str | Path,
    tables: Mapping[str, pd.DataFrame],
    *,
    arrays: Mapping[str, npt.NDArray[Any]],
    manifest: Manifest,
    overwrite: bool = False,
) -> Path:
    """Write a result folder: all of it, or nothing.

    Args:
        folder: The folder to make.
        tables: The tables of the schema, by name.
        arrays: Further arrays, by name; no file is written if there are none.
        manifest: What was run; the files are filled in here.
        overwrite: Replace an earlier result in that place. A folder that is not a result is never replaced.

    Raises:
        WriteError: If it cannot be written, or is there already.
    """
    target = Path(folder)
    if overwrite and target.exists():
        _refuse_other_folders(target)
    with atomic_folder(target, overwrite=overwrite) as temporary:
        files: dict[str, FileEntry] = {}
        # One table at a time: those of a result on disk are read as they are needed.
        for name, frame in tables.items():
            path = temporary / f"{name}.parquet"
            write_table(path, name, frame)
            files[path.name] = _entry(path, len(frame))
        if arrays:
            path = temporary / ARRAYS_FILE
            _write_arrays(path, arrays)
            files[path.name] = _entry(path, len(arrays))
        # The manifest comes last, when all it speaks of is on disk: a folder with a manifest is a whole one.
        path = temporary / MANIFEST_FILE
        path.write_text(manifest.with_files(files).to_json(), encoding="utf-8")
        _sync(path)
        _sync(temporary)
    return target


def read_manifest(folder: str | Path, *, verify: bool = True) -> Manifest:
    """Return the manifest of a result folder after checking the folder against it.

    Files that the manifest does not name are ignored: nothing reads them.

    Args:
        folder: The folder.
        verify: Check the hash of every file. Without it, that each is there and has its size.

    Raises:
        NotAResultError: If there is no manifest, or not one that can be read.
        IncompleteResultError: If a file is missing.
        TamperedResultError: If a file is not what was written.
    """
    path = Path(folder) / MANIFEST_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise NotAResultError(_not_a_result(Path(folder))) from error
    except UnicodeDecodeError as error:
        raise NotAResultError(f"{path} is not JSON: {error}.") from error
    manifest = Manifest.from_json(text, where=str(path))
    for name, entry in manifest.files.items():
        check_file(Path(folder) / name, entry, verify=verify)
    return manifest


def check_file(path: Path, entry: FileEntry, *, verify: bool) -> None:
    """Raise unless a file is what the manifest says: always its size, its hash with ``verify``."""
    if not path.is_file():
        raise IncompleteResultError(
            f"{path.parent} is half-written: its manifest names {path.name}, which is not there. "
            "Copy the folder again, or run again what made it."
        )
    size = path.stat().st_size
    if size != entry.bytes:
        raise TamperedResultError(_tampered(path, f"has {size} bytes, not {entry.bytes}"))
    if verify and sha256_file(path) != entry.sha256:
        raise TamperedResultError(_tampered(path, "does not have the hash that the manifest states"))


def read_array_names(path: Path) -> list[str]:
    """Return the names of the arrays in a safetensors file, without reading them."""
    with _open_arrays(path) as arrays:
        return sorted(arrays.keys())


def read_array(path: Path, name: str) -> npt.NDArray[Any]:
    """Return one array of a safetensors file."""
    with _open_arrays(path) as arrays:
        array: npt.NDArray[Any] = arrays.get_tensor(name)
    return array


def _open_arrays(path: Path) -> Any:
    try:
        return safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise TamperedResultError(_tampered(path, f"is not a safetensors file: {error}")) from error


def _write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    try:
        # safetensors writes the memory as it lies, so an array must lie in order.
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def _entry(path: Path, rows: int) -> FileEntry:
    _sync(path)
    return FileEntry(sha256=sha256_file(path), bytes=path.stat().st_size, rows=rows)


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk, which is also when a full disk shows."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _refuse_other_folders(target: Path) -> None:
    """Raise rather than replace a folder that no neuronwise wrote."""
    is_result = (target / MANIFEST_FILE).is_file()
    if not target.is_dir() or (not is_result and any(target.iterdir())):
        raise WriteError(f"{target} is not a result, so it is not overwritten. Choose another folder.")


def _not_a_result(folder: Path) -> str:
    if not folder.exists():
        return f"There is no folder {folder}."
    if not folder.is_dir():
        return f"{folder} is a file, not the folder of a result."
    return f"{folder} is not a result of neuronwise, or a half-written one: it has no {MANIFEST_FILE}."


def _tampered(path: Path, problem: str) -> str:
    return (
        f"{path} was changed after it was written: it {problem}. "
        "Copy the folder again, or run again what made it."
    )
