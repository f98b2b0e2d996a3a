import pytest

from neuronwise.errors import InvalidArgumentError
from neuronwise.sites import NeuronSet
from tests.report.pages import HOSTILE, Page, ablation


def test_page_sets_the_change_beside_random_ones(tmp_path):
    written = Page(ablation().report(tmp_path / "page.html"))
    assert "by +0.250 ± 0.010 (95 % interval 0.2304 to 0.2696)" in written.text
    assert "by +0.06000 on average (standard deviation 0.010 over 3 sets). 0 of 3 random sets" in written.text
    assert "random, seed 2" in written.text and "layers.1.mlp:input , 2 neurons 0, 2" in written.text
    assert all(reference.startswith("#") for reference in written.references)
    assert len(written.ids) == len(set(written.ids))


@pytest.mark.parametrize("controls", [0, 1])
def test_page_with_few_controls(tmp_path, controls):
    written = Page(ablation(controls=controls).report(tmp_path / "page.html"))
    assert ("There is no random control" in written.text) == (controls == 0)
    assert "standard deviation 0" not in written.text


def test_same_result_gives_the_same_bytes(tmp_path):
    first = ablation().report(tmp_path / "a.html").read_bytes()
    assert ablation().report(tmp_path / "b.html").read_bytes() == first


def test_text_of_others_is_escaped(tmp_path):
    action = {"name": "ablate", "parameters": {"how": HOSTILE, "neurons": {HOSTILE: [1]}}}
    written = Page(ablation(metric=HOSTILE, action=action).report(tmp_path / "page.html", title=HOSTILE))
    assert "<script>alert" not in written.source
    assert len(written.scripts) == 1


def test_neurons_cannot_be_chosen(tmp_path):
    with pytest.raises(InvalidArgumentError, match="that were changed"):
        ablation().report(tmp_path / "page.html", neurons=NeuronSet())


def test_plot_shows_every_set():
    ax = ablation().plot()
    assert [text.get_text() for text in ax.get_yticklabels()][::-1] == [
        "chosen", "random, seed 0", "random, seed 1", "random, seed 2",
    ]  # fmt: skip
    assert ax.get_xlabel() == "Change of next_token_loss"


def test_tick_labels_have_room_for_small_changes(tmp_path):
    """Labels such as −0.025 are wide; the page's figure has room for six."""
    result = ablation()
    frame = result.to_frame()
    small = frame.assign(change=frame["change"] * 0.7 - 0.03)
    ax = type(result)({"ablation": small}, result.manifest).plot()
    low, high = ax.get_xlim()
    assert 2 <= sum(low <= tick <= high for tick in ax.get_xticks()) <= 6


def test_a_page_without_controls_does_not_speak_of_them(tmp_path):
    assert "Shaded" in Page(ablation().report(tmp_path / "a.html")).text
    assert "Shaded" not in Page(ablation(controls=0).report(tmp_path / "b.html")).text
