import pytest

from neuronwise.errors import InvalidArgumentError, SiteNotFoundError
from neuronwise.sites import NeuronSet, Site, Sites

FIRST = Site("enc.0.fc", "input", width=4, layer=0, stack="enc", kind="ffn")
SECOND = Site("enc.1.fc", "input", width=6, layer=1, stack="enc", kind="ffn")
THIRD = Site("dec.0.fc", "input", width=3, layer=0, stack="dec", kind="ffn", call=1)
ALL = Sites([FIRST, SECOND, THIRD])


def test_it_is_a_sequence_by_position_name_and_slice():
    assert ALL[0] is FIRST and ALL[-1] is THIRD
    assert ALL["dec.0.fc:input#1"] is THIRD
    assert ALL[:2] == Sites([FIRST, SECOND])
    assert list(ALL) == [FIRST, SECOND, THIRD] and len(ALL) == 3 and ALL.width == 13
    assert FIRST in ALL and "enc.1.fc:input" in ALL and "nowhere" not in ALL
    assert hash(ALL) == hash(Sites(list(ALL)))


def test_an_unknown_name_lists_the_closest():
    with pytest.raises(SiteNotFoundError, match=r"enc\.1\.fc:input"):
        ALL["enc.1.fx:input"]


def test_of_takes_one_several_and_a_collection():
    assert Sites.of(FIRST) == Sites([FIRST])
    assert Sites.of([FIRST, SECOND]) == ALL[:2]
    assert Sites.of(ALL) is ALL


@pytest.mark.parametrize("wrong", [[FIRST, FIRST], ["enc.0.fc:input"]])
def test_double_and_nameless_sites_are_refused(wrong):
    with pytest.raises(InvalidArgumentError):
        Sites(wrong)


def test_layer_and_select():
    assert ALL.layer(0) == Sites([FIRST, THIRD])
    assert ALL.layer(0, "dec") == Sites([THIRD])
    assert ALL.select("enc.*") == ALL[:2]
    assert ALL.select("*.0.fc") == Sites([FIRST, THIRD])
    assert ALL.select(lambda site: site.width > 4) == Sites([SECOND])
    with pytest.raises(SiteNotFoundError, match="0 of 'dec', 0 of 'enc', 1 of 'enc'"):
        ALL.layer(2)
    with pytest.raises(SiteNotFoundError):
        ALL.select("nothing*")
    with pytest.raises(SiteNotFoundError):
        ALL.select(lambda site: False)


def test_the_table_has_one_row_a_site():
    frame = ALL.to_frame()
    names = ["site", "path", "tensor", "call", "stack", "layer", "kind", "width", "axis"]
    assert frame.columns.tolist() == names
    assert frame["site"].tolist() == list(ALL.names)
    assert frame["call"].isna().tolist() == [True, True, False]
    assert frame["width"].sum() == 13
    assert Sites().to_frame().empty


def test_all_neurons_and_how_it_shows_itself():
    assert ALL.neurons() == NeuronSet.of(ALL) and len(ALL.neurons()) == 13
    assert "3 sites, 13 neurons" in repr(ALL) and "enc.0.fc:input" in repr(ALL)
    assert "<table" in ALL._repr_html_()
    assert repr(Sites()) == "<Sites: none>"
