"""A checkpoint of a long pass: one safetensors file that is always whole."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from neuronwise.errors import ResultError
from neuronwise.files import atomic_file

__all__ = ["Checkpoint"]


class Checkpoint:
    """Where a pass has got to.

    Args:
        path: The file. Its folder is made when needed.
        fingerprint: What the pass is about; another pass's checkpoint is refused.
        every: Seconds between two writes.
    """

    def __init__(self, path: str | Path, fingerprint: str, *, every: float = 30.0) -> None:
        self.path = Path(path)
        self.fingerprint = fingerprint
        self.every = every
        self._written = time.monotonic()

    def read(self) -> tuple[int, dict[str, Tensor]] | None:
        """Return how many blocks are done and the state's tensors, or None if there is no checkpoint yet.

        Raises:
            ResultError: If the file is not a checkpoint, or one of another pass.
        """
        if not self.path.exists():
            return None
        if self.path.is_dir():
            raise ResultError(f"{self.path} is a folder; a checkpoint is a file. Choose another name.")
        try:
            with safe_open(self.path, framework="pt") as file:
                header = json.loads((file.metadata() or {}).get("neuronwise", "null"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        except (SafetensorError, OSError, ValueError) as error:
            raise ResultError(
                f"{self.path} cannot be read as a checkpoint: {error}. Delete it to start anew."
            ) from error
        if not isinstance(header, dict) or header.get("fingerprint") != self.fingerprint:
            raise ResultError(
                f"{self.path} is not a checkpoint of this pass: the model, the data, the sites or the settings differ. "
                "Choose another file, or delete this one to start anew."
            )
        return int(header["done"]), tensors

    def due(self) -> bool:
        """Whether it is time to write again."""
        return time.monotonic() - self._written >= self.every

    def write(self, done: int, tensors: Mapping[str, Tensor]) -> None:
        """Write the state after ``done`` blocks; the old file stays until the new one is whole."""
        header = json.dumps({"fingerprint": self.fingerprint, "done": done})
        with atomic_file(self.path) as temporary:
            _save(
                {name: t.contiguous().clone() for name, t in tensors.items()},
                temporary,
                {"neuronwise": header},
            )
        self._written = time.monotonic()

    def remove(self) -> None:
        """Remove the file: the pass is over."""
        self.path.unlink(missing_ok=True)


def _save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:  # a full disk, in words of its own
        raise OSError(str(error)) from error
