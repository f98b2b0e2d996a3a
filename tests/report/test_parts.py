import numpy as np
import pandas as pd
import pytest

from neuronwise.report._pictures import Pictures
from neuronwise.report._section import _filled
from neuronwise.report._words import number, short_labels, site_labels, statistic_name, token_text, with_error
from neuronwise.sites import Site
from tests.report.pages import activity


def test_tokens_are_made_visible():
    assert token_text(" cat") == " cat"
    assert token_text("") == "∅"
    assert token_text("  ") == "··"
    assert token_text("a\n\tb\x00") == "a↵⇥b␀"


def test_numbers():
    assert [number(v) for v in (0.0, 1.2, -0.5, 187.0, 12345.6, float("nan"), float("-inf"))] == [
        "0", "1.200", "−0.5000", "187.0", "12346", "–", "−∞",
    ]  # fmt: skip
    assert number(1e-9) == "1.000e−09"


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.65367, 0.2249, "0.65 ± 0.22"),
        (-1234.5, 56.7, "−1234 ± 57"),
        (1.0, float("nan"), "1.000"),
        (1.0, 0.0, "1.000"),
        (1.5e-9, 2e-11, "1.500e−09 ± 2.0e−11"),
    ],
)
def test_values_are_written_to_the_second_digit_of_their_error(value, error, text):
    assert with_error(value, error) == text


def test_statistics_have_names():
    assert statistic_name("q05") == "5\u00a0% quantile"
    assert statistic_name("std", short=True) == "Std. dev."
    assert statistic_name("of_my_own") == "of_my_own"


def test_sites_are_told_apart():
    layered = [
        Site("a.0", "input", width=2, layer=0, stack="a"),
        Site("a.1", "input", width=2, layer=1, stack="a"),
    ]
    two = [layered[0], Site("b.0", "input", width=2, layer=0, stack="b")]
    none = [Site("conv", "output", width=2), Site("a_long_name.head", "output", width=2)]
    assert site_labels(layered) == ["Layer 0", "Layer 1"] and short_labels(layered) == ["0", "1"]
    assert site_labels(two) == ["a, layer 0", "b, layer 0"]
    assert site_labels(none) == ["conv:output", "a_long_name.head:output"]
    assert short_labels(none) == ["conv:output", "…e.head:output"]


def test_histogram_has_its_empty_bins_back():
    counts, edges = _filled(
        pd.DataFrame({"left": [-1.0, 0.0, 2.0], "right": [0.0, 1.0, 3.0], "count": [4, 5, 6]})
    )
    assert np.array_equal(counts, [4, 5, 0, 6]) and np.array_equal(edges, [-1, 0, 1, 2, 3])


@pytest.mark.parametrize(
    ("position", "positions", "size", "spot"),
    [
        (0, 10 * 16, (64, 64), (12.5, 12.5)),
        (6, 10 * 16, (64, 64), (62.5, 37.5)),
        (9, 10 * 32, (64, 32), (18.75, 37.5)),
        (0, 10, (64, 64), None),  # one value an image
        (3, 10 * 17, (64, 64), None),  # a class token beside the patches
        (3, 10 * 16 + 1, (64, 64), None),  # maps of different sizes
    ],
)
def test_peak_is_marked_where_the_map_has_the_form_of_the_image(position, positions, size, spot):
    assert Pictures(activity(width=2), [])._spot(position, positions, *size) == spot
