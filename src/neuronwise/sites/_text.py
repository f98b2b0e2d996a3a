"""Neurons written as text: ``3:17,42`` and ``mlp.down:input[0-9]``."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from neuronwise.errors import InvalidArgumentError
from neuronwise.sites.collection import Sites
from neuronwise.sites.site import Site

__all__ = ["parse_indices", "parse_word"]

_BY_LAYER = re.compile(r"(\d+):([\d,*-]+)")
_BY_NAME = re.compile(r"(.*:(?:input|output)(?:#\d+)?)(?:\[([\d,*-]+)\])?")


def parse_word(word: str, sites: Sites) -> tuple[Site, str]:
    if match := _BY_LAYER.fullmatch(word):
        found = sites.layer(int(match[1]))
        if len(found) > 1:
            raise InvalidArgumentError(
                f"Layer {match[1]} of {word!r} has {len(found)} sites: {', '.join(found.names[:5])}. "
                f"Name one of them: '{found.names[0]}[{match[2]}]'."
            )
        return found[0], match[2]
    if match := _BY_NAME.fullmatch(word):
        return sites[match[1]], match[2] or "*"
    raise InvalidArgumentError(
        f"Cannot read {word!r} as neurons. Write layer:indices, as in '3:17,42' or '5:*', "
        "or site[indices], as in 'mlp.down:input[17,42]'."
    )


def parse_indices(word: str, listed: str) -> Any:
    if listed == "*":
        return "*"
    pieces = []
    for piece in listed.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", piece)
        if match is None:
            raise InvalidArgumentError(
                f"Cannot read {piece!r} in {word!r}: write a number, a range 3-7, or * for all."
            )
        first = int(match[1])
        pieces.append(np.arange(first, int(match[2] or first) + 1))
    return np.concatenate(pieces)
