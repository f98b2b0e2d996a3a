"""Corpora of image files, and small pictures of arrays."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from neuronwise.data.corpus import Corpus, Example
from neuronwise.data.text import Transform, name_of
from neuronwise.errors import DataError, EmptyCorpusError, InvalidArgumentError, require
from neuronwise.files import sha256_file

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ImageCorpus", "image_files", "picture_of"]

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

# The longer side of a picture in a report, in pixels.
_THUMBNAIL = 96


class ImageCorpus(Corpus):
    """The image files of a folder; the folder that a file lies in, below the corpus folder, is its class.

    An example is the RGB image as float32 ``(3, h, w)`` in 0 to 1, or what ``transform`` makes of it.

    Args:
        folder: The folder.
        name: A short name for reports.
        size: Crop and resize every image to ``(height, width)``, or to a square.
        mean: Subtracted from each channel (one number or three), after scaling to 0 to 1.
        std: Each channel is divided by this (one number or three).
        transform: Called with the opened RGB image (Pillow) in place of all that; returns the model's input.

    Raises:
        EmptyCorpusError: If there is no image in the folder.
        InvalidArgumentError: If ``transform`` comes with another option, or a size or deviation is not positive.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        size: int | tuple[int, int] | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        transform: Transform | None = None,
    ) -> None:
        if transform is not None and not (size is None and mean is None and std is None):
            raise InvalidArgumentError("Give either transform= or size=, mean= and std=, not both.")
        self.name = name
        self.kind = "image"
        self._folder = folder
        self._files = tuple(path.relative_to(folder).as_posix() for path in image_files(folder))
        if not self._files:
            raise EmptyCorpusError(f"{folder} has no image in it (of {', '.join(_SUFFIXES)}).")
        self._size = (size, size) if isinstance(size, int) else size
        self._mean = _per_channel("mean", 0.0 if mean is None else mean)
        self._std = _per_channel("std", 1.0 if std is None else std)
        if (self._size is not None and min(self._size) < 1) or min(self._std) <= 0:
            raise InvalidArgumentError(f"size and std must be positive, not {size} and {std}.")
        self._transform = transform
        parents = [Path(file).parent.as_posix() for file in self._files]
        classes = tuple(sorted(set(parents) - {"."}))
        self.labels = {"class": classes} if classes else {}
        self._classes = [classes.index(parent) if parent != "." else -1 for parent in parents]

    def length(self) -> int:
        """Return the number of images."""
        return len(self._files)

    def examples(self, start: int, stop: int) -> list[Example]:
        """Return the examples ``start`` to ``stop - 1``; fewer, or none, at the end.

        Raises:
            DataError: If an image cannot be read.
        """
        return [self._example(number) for number in range(len(self._files))[max(start, 0) : max(stop, 0)]]

    def image(self, index: int) -> bytes | None:
        """Return the image as a small PNG."""
        return _png(self._open(index))

    def identity(self) -> dict[str, Any]:
        """Return the hash of the images and how they are prepared."""
        return self._identity

    @cached_property
    def _identity(self) -> dict[str, Any]:
        content = hashlib.sha256()
        for file in self._files:
            content.update(f"{file} {sha256_file(self._folder / file)}\n".encode())
        return {
            "content_sha256": content.hexdigest(),
            "size": None if self._size is None else list(self._size),
            "mean": list(self._mean),
            "std": list(self._std),
            "transform": name_of(self._transform),
        }

    def _example(self, number: int) -> Example:
        image = self._open(number)
        labels = {"class": torch.tensor(self._classes[number])} if self.labels else {}
        if self._transform is not None:
            return Example(number, self._transform(image), labels=labels)
        if self._size is not None:
            ops = require("PIL.ImageOps", "images", "Reading images")
            image = ops.fit(image, self._size[::-1])
        pixels = torch.from_numpy(np.array(image)).movedim(2, 0).to(torch.float32).div_(255)
        mean, std = torch.tensor(self._mean)[:, None, None], torch.tensor(self._std)[:, None, None]
        return Example(number, pixels.sub_(mean).div_(std), labels=labels)

    def _open(self, number: int) -> Image:
        pil = require("PIL.Image", "images", "Reading images")
        path = self._folder / self._files[number]
        try:
            with pil.open(path) as image:
                rgb: Image = image.convert("RGB")
        except (OSError, SyntaxError, ValueError, pil.DecompressionBombError) as error:
            raise DataError(f"Cannot read the image {path}: {error}. Mend or remove it.") from error
        return rgb


def image_files(folder: Path) -> list[Path]:
    """Return the image files in a folder and the folders below it, in order of their paths."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())


def picture_of(tensor: Tensor) -> bytes | None:
    """Return a small PNG of a tensor ``(h, w)`` or ``(channel, h, w)`` with 1 or 3 channels; None for any other form.

    Whole numbers of 8 bits are shown as they are, floats in 0 to 1 as they are, other values stretched to that.
    """
    if tensor.ndim == 3 and tensor.shape[0] in (1, 3):
        pixels = tensor.movedim(0, 2).squeeze(2) if tensor.shape[0] == 1 else tensor.movedim(0, 2)
    elif tensor.ndim == 2:
        pixels = tensor
    else:
        return None
    if min(pixels.shape[:2]) < 2:
        return None
    if pixels.dtype != torch.uint8:
        values = torch.nan_to_num(pixels.to(torch.float32), posinf=0, neginf=0)
        low, high = values.min(), values.max()
        if low < 0 or high > 1:
            values = (values - low) / (high - low).clamp_min(1e-12)
        pixels = (values * 255).round().to(torch.uint8)
    pil = require("PIL.Image", "images", "Drawing pictures of arrays")
    return _png(pil.fromarray(pixels.cpu().numpy()))


def _png(image: Image) -> bytes:
    small = image.copy()
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _per_channel(name: str, value: float | Sequence[float]) -> tuple[float, float, float]:
    numbers = [float(value)] * 3 if isinstance(value, int | float) else [float(v) for v in value]
    if len(numbers) != 3:
        raise InvalidArgumentError(
            f"{name} must be one number or three (red, green, blue), not {len(numbers)}."
        )
    return numbers[0], numbers[1], numbers[2]
