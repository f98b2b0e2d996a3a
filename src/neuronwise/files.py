"""Files that are either whole or not there: atomic writes, content hashes, and which files are tables."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neuronwise.errors import DataError, WriteError, closest

__all__ = ["BUNDLED_TABLES", "PARQUET", "atomic_file", "atomic_folder", "sha256_file", "table_file"]

#: Real tables that come with scikit-learn, each with the column ``target``.
BUNDLED_TABLES = ("breast_cancer", "diabetes", "digits", "iris", "wine")
#: How the name of a Parquet file ends.
PARQUET = (".parquet", ".pq")
_SEPARATED = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz")


def table_file(path: str | Path) -> Path | None:
    """Return the file of a table, or None for one of :data:`BUNDLED_TABLES`; the file is not opened.

    This is here so that a mistyped name is found out before pandas and torch have been imported.

    Args:
        path: The file; or one of :data:`BUNDLED_TABLES`, where there is no file of that name.

    Raises:
        DataError: If there is no such file, or its name is not that of a table.
    """
    file = Path(path)
    if str(path) in BUNDLED_TABLES and not file.exists():
        return None
    if not file.is_file():
        what = "is a folder, not a file" if file.is_dir() else "does not exist"
        beside = [one.name for one in file.parent.iterdir()] if file.parent.is_dir() else []
        tables = [one for one in beside if one.lower().endswith((*_SEPARATED, *PARQUET))]
        near = closest(file.name, [*tables, *BUNDLED_TABLES], limit=3)
        raise DataError(
            f"{file} {what}. {near} A table is a CSV or a Parquet file, or one of {', '.join(BUNDLED_TABLES)}."
        )
    if not file.name.lower().endswith((*_SEPARATED, *PARQUET)):
        raise DataError(f"{file.name}: unknown kind of table. Known: {', '.join((*_SEPARATED, *PARQUET))}.")
    return file


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place only if the block succeeds.

    Raises:
        WriteError: If the file cannot be written; the old file, if any, is untouched.
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".partial")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        # mkstemp makes files for the owner alone; a result is meant to be shared.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    except OSError as error:
        raise _cannot_write(target, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that takes its place only if the block succeeds.

    Args:
        path: The folder to make.
        overwrite: Replace a folder that is there already. Without it, a folder with anything in it is an error.

    Raises:
        WriteError: If the folder exists and ``overwrite`` is not set, or cannot be written.
    """
    target = Path(path)
    if target.exists() and not overwrite and (not target.is_dir() or any(target.iterdir())):
        raise WriteError(
            f"{target} exists already. Choose another folder, or pass overwrite=True to replace it."
        )
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".partial"))
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if target.exists():
            old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".old"))
            target.replace(old / "old")
            try:
                temporary.replace(target)
            except OSError:
                (old / "old").replace(target)
                old.rmdir()
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.replace(target)
    except OSError as error:
        if isinstance(error, WriteError):
            raise
        raise _cannot_write(target, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def sha256_file(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _cannot_write(target: Path, error: OSError) -> WriteError:
    reason = error.strerror or str(error)
    return WriteError(
        f"Cannot write {target}: {reason}. Nothing was left behind; free some space or choose another place."
    )
