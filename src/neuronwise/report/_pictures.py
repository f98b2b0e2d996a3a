"""The images of examples, as parts of a page."""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass

from neuronwise.observe import Activity

__all__ = ["Picture", "Pictures"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class Picture:
    """An image in a page.

    Args:
        source: The image as a data URI.
        width: Its width in pixels.
        height: Its height in pixels.
        spot: Where on it the neuron was strongest, in percent from the left and from the top; None if unknown.
    """

    source: str
    width: int
    height: int
    spot: tuple[float, float] | None


class Pictures:
    """The images of an activity's examples, read when asked for.

    Args:
        result: The activity.
        wanted: Numbers of the examples that will be asked for.
    """

    def __init__(self, result: Activity, wanted: list[int]) -> None:
        self._png: dict[int, bytes] = {}
        if "images" in result.tables and wanted:
            rows = result.rows("images", example=wanted)
            self._png = dict(zip(map(int, rows["example"]), rows["png"], strict=True))
        examples = result.manifest.data.get("examples")
        self._examples = examples if isinstance(examples, int) else 0

    def get(self, example: int, position: int, positions: int) -> Picture | None:
        """Return the image of an example, if there is one.

        Args:
            example: Number of the example.
            position: Where the neuron was strongest, counted along the rows of its map.
            positions: Values that the neuron had over the whole corpus.
        """
        png = self._png.get(example, b"")
        if not png.startswith(_SIGNATURE) or len(png) < 24:
            return None
        width, height = struct.unpack(">II", png[16:24])
        source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        return Picture(source, width, height, self._spot(position, positions, width, height))

    def _spot(self, position: int, positions: int, width: int, height: int) -> tuple[float, float] | None:
        """Return the place of a position, where every example has one map of the shape of its image."""
        if not self._examples or positions % self._examples:
            return None
        size = positions // self._examples
        columns = round((size * width / max(height, 1)) ** 0.5)
        if size < 4 or not columns or size % columns or position >= size:
            return None
        rows = size // columns
        # Half a cell is what rounding in strides can make; more means that the map is not that of the image.
        if abs(rows - columns * height / width) > 0.5:
            return None
        return 100 * (position % columns + 0.5) / columns, 100 * (position // columns + 0.5) / rows
