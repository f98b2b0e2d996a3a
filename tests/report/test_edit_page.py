import numpy as np
import pandas as pd
import pytest

from neuronwise.edit import EditEvaluation
from neuronwise.errors import InvalidArgumentError
from neuronwise.report import edit as view
from neuronwise.sites import NeuronSet
from neuronwise.store import load_result
from tests.report.pages import HOSTILE, Page, manifest

METHODS = ("rome", "fine")
VALUES = {"none": 0.0, "edit": 0.75, "random": 0.125}
METRICS = ("reliability", "generality", "sister", "attribute")


def made(
    *, methods=METHODS, controls=2, facts=2, text=True, problems=0, hostile="", together=False, prompts=3
):
    kinds = [("none", "none"), *((m, c) for m in methods for c in ("edit", "random")[: 1 + bool(controls)])]
    rows, texts, asked = [], [], []
    for method, control in kinds:
        head = {"method": method, "control": control}
        for metric in METRICS:
            for measure in ("argmax", "probability"):
                figures = {"value": VALUES[control], "low": 0.0, "high": 0.875, "facts": facts, "n": 9}
                rows.append({**head, "metric": metric, "measure": measure, **figures})
        if text:
            # Of one fact there is no interval.
            for metric, value in (("nll", 2.5), ("perplexity", 12.1825), ("kl", 0.03125)):
                figures = {"value": value, "low": np.nan, "high": np.nan, "facts": facts, "n": 1234}
                rows.append({**head, "metric": metric, "measure": "text", **figures})
            texts.append(
                {**head, "seed": None, "fact": "f0", "tokens": 1234, "nll_before": 2.0, "nll": 2.5, "kl": 0.1}
            )
        for fact in range(facts):
            for number in range(prompts):
                asked.append(
                    {
                        **head,
                        "seed": 0 if control == "random" else None,
                        "fact": f"f{fact}{hostile}",
                        "relation": "r",
                        "probe": "edit" if number == 0 else "sister",
                        "number": number,
                        "prompt": f"Prompt {fact}.{number} of {control} is [Y]{hostile}",
                        "answer": "Sue",
                        "other": "" if number == 1 else "Lily",
                        "log_p_answer_before": np.log(0.25),
                        "log_p_answer": np.log(0.5),
                        "log_p_other_before": np.log(0.625),
                        "log_p_other": np.log(1e-9),
                        "top_before": " Lily",
                        "top": "\n",
                        "success": number == 0,
                        "prefers": 1.0,
                    }
                )  # fmt: skip
    wrong = [
        {
            "number": n,
            "fact": f"f{n}",
            "method": "rome",
            "control": "random",
            "seed": 7,
            "problem": f"broken {n}{hostile}",
        }
        for n in range(problems)
    ]
    tables = {
        "edit_summary": pd.DataFrame(rows),
        "edit_prompts": pd.DataFrame(asked).astype({"seed": "Int32"}),
        "edit_text": pd.DataFrame(
            texts, columns=["method", "control", "seed", "fact", "tokens", "nll_before", "nll", "kl"]
        ).astype({"seed": "Int32"}),
        "edit_problems": pd.DataFrame(
            wrong, columns=["number", "fact", "method", "control", "seed", "problem"]
        ).astype({"seed": "Int32"}),
    }
    parameters = {"methods": list(methods), "controls": controls, "together": together}
    parameters["corpus"] = {"name": "stories"} if text else None
    about = manifest(
        "edit",
        action={"name": "evaluate_edit", "parameters": parameters},
        model={"name": f"tiny{hostile}"},
        data={
            "name": "words",
            "facts": facts,
            "relations": {"r": facts},
            "skipped": 3,
            "fingerprint": "ab" * 32,
        },
    )
    return EditEvaluation(tables, about)


def test_page_sets_edits_beside_random_ones_and_no_edit(tmp_path):
    written = Page(made().report(tmp_path / "page.html"))
    assert "2 facts, 2 methods, each beside 2 random edits of the same size" in written.text
    for name in ("Reliability", "Generality", "Sister facts", "Attribute"):
        assert name in written.text
    assert "Neighbours 0" not in written.text and "Portability," not in written.text
    assert "rome edit 75 % [0 %, 88 %]" in written.text and "rome random 12 % [0 %, 88 %]" in written.text
    assert "– no edit 0 % [0 %, 88 %]" in written.text
    assert written.text.index("rome edit") < written.text.index("fine edit")  # as they were given
    assert written.tags.count("svg") == 4  # two measures of two methods
    assert all(reference.startswith("#") for reference in written.references)
    assert len(written.ids) == len(set(written.ids))


def test_page_has_plain_text_only_where_it_was_measured(tmp_path):
    with_text = Page(made().report(tmp_path / "a.html")).text
    assert "rome edit 2.500 12.18 0.03125 2 1,234" in with_text and "Plain text stories" in with_text
    without = Page(made(text=False).report(tmp_path / "b.html")).text
    assert "Nats a token" not in without and "Plain text none" in without


def test_page_shows_prompts_before_and_after_and_says_what_is_cut(tmp_path):
    written = Page(made().report(tmp_path / "page.html")).text
    assert "Prompt 0.0 of edit is [Y] f0 own prompt Lily ↵ yes Sue 0.25 → 0.50 Lily 0.62 → 1.0e−09" in written
    assert "Prompt 0.1 of edit is [Y] f0 sister Lily ↵ no Sue 0.25 → 0.50 Prompt" in written  # no competitor
    assert "of random is" not in written and "All 6 prompts" in written
    many = Page(made(facts=30, methods=("rome",)).report(tmp_path / "many.html"))
    assert "The first 40 of 90 prompts about 30 facts" in many.text
    assert many.text.count("of edit is [Y]") == 40


def test_problems_are_counted_and_the_first_are_shown(tmp_path):
    none = Page(made().report(tmp_path / "none.html")).text
    assert "Problems: 0 Every fact could be edited" in none
    many = Page(made(problems=60).report(tmp_path / "many.html")).text
    assert "Problems: 60" in many and "And 10 more" in many
    assert "f49 , rome, random, seed 7 broken 49" in many and "broken 50" not in many


def test_page_without_controls_of_one_fact(tmp_path):
    result = made(controls=0, facts=1, methods=("rome",), together=True)
    written = Page(result.report(tmp_path / "page.html")).text
    assert "1 fact, 1 method, each beside no control, all facts in one edit" in written
    assert "rome random" not in written


def test_saved_and_loaded_gives_the_same_bytes_and_text_is_escaped(tmp_path):
    result = made(hostile=HOSTILE, problems=1)
    first = result.report(tmp_path / "a.html")
    result.save(tmp_path / "saved")
    assert load_result(tmp_path / "saved").report(tmp_path / "b.html").read_bytes() == first.read_bytes()
    written = Page(first)
    assert "<script>alert" not in written.source and len(written.scripts) == 1
    assert written.text.count("</script><script>alert('x')</script>") > 5


def heights(ax, name):
    bars = next(one for one in ax.containers if one.get_label() == name)
    return [bar.get_height() for bar in bars]


def test_plot_has_one_group_a_metric_and_intervals():
    ax = made().plot()
    assert [label.get_text() for label in ax.get_xticklabels()] == [
        "Reliability",
        "Generality",
        "Sister facts",
        "Attribute",
    ]
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["no edit", "rome", "rome, random", "fine", "fine, random"]
    assert heights(ax, "fine") == [0.75] * 4 and heights(ax, "fine, random") == [0.125] * 4
    places = sorted(bar.get_x() for bar in ax.patches)
    assert len(places) == 20 and np.diff(places).min() > 0.1  # side by side, not on each other
    segments = [part.get_segments()[0] for part in ax.collections]
    assert all(segment[:, 1].tolist() == [0.0, 0.875] for segment in segments) and len(segments) == 5


def test_plot_of_one_method_and_measure():
    ax = view.plot(made(), measure="probability", method="fine")
    assert ax.get_ylabel() == "By probability"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["no edit", "fine", "random"]
    own = view.plot(made(), ax)
    assert own is ax


def test_wrong_arguments(tmp_path):
    with pytest.raises(InvalidArgumentError, match="about facts; leave neurons= out"):
        made().report(tmp_path / "page.html", neurons=NeuronSet())
    with pytest.raises(InvalidArgumentError, match="no measure 'p'"):
        view.plot(made(), measure="p")
    with pytest.raises(InvalidArgumentError, match="'memit' was not evaluated"):
        view.plot(made(), method="memit")


def test_an_evaluation_without_any_figure_still_has_a_page(tmp_path):
    result = made(problems=2, text=False)
    cut = {name: result.tables[name].iloc[:0] for name in ("edit_summary", "edit_prompts")}
    nothing = EditEvaluation({**result.tables, **cut}, result.manifest)
    assert "Problems: 2" in Page(nothing.report(tmp_path / "page.html")).text
    assert not nothing.plot().patches
