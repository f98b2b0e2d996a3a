"""The page of an audit, on figures made up."""

import numpy as np
import pandas as pd
import pytest

from neuronwise.errors import InvalidArgumentError
from neuronwise.report import audit as view
from neuronwise.train import Audit
from neuronwise.train._audit_figures import figures_of
from neuronwise.train._audit_words import verdicts_of
from tests.report.pages import HOSTILE, Page, manifest

SITES = pd.DataFrame(
    {
        "site": ["a:output"], "path": ["a"], "tensor": ["output"], "stack": [""], "kind": ["hidden"], "width": [4],
        "axis": [-1], "layer": pd.array([None], dtype="Int32"), "call": pd.array([None], dtype="Int32"),
    }
)  # fmt: skip


def made(*, seeds=4, name="tail", bases=("neuron", "rotated"), extra=True, blown=False):
    """``tail`` halves the share above 9, its control does nothing; ``up`` doubles it and has no control."""
    rng = np.random.default_rng(0)
    factors = {("none", False): 1.0, (name, False): 0.5, (name, True): 1.0, ("up", False): 2.0}
    runs, curves = [], []
    for (inhibitor, control), factor in factors.items():
        for seed in range(seeds):
            label = {"inhibitor": inhibitor, "control": control, "seed": seed}
            bad = blown and inhibitor == "up"
            noise = 1 + 0.01 * rng.normal()
            rows = [("measure", "phi_above_9", basis, 0.01 * factor * noise) for basis in bases]
            rows += [
                ("units", "live", "", 1.0),
                ("task", "loss", "", 0.3 * noise),
                ("task", "accuracy", "", 0.9 * noise),
            ]
            if extra:
                rows += [("one_step_start", "falls", "", 0.4), ("one_step_end", "falls", "", 0.5)]
                rows += [("cost", "cpu", "", 1.5), ("cost", "wall", "", 1.4)]
            if extra and inhibitor == "none":
                rows += [(f"one_step_{stage}", "sign_condition", "", 0.8) for stage in ("start", "end")]
            for kind, figure, basis, value in rows:
                end = np.nan if bad and kind in ("measure", "task") else value
                place = {"kind": kind, "name": figure, "basis": basis, "site": ""}
                runs.append({**label, **place, "start": 0.02, "end": end})
                for step, read in ((0, 0.02), (50, end)):
                    if basis != "rotated" and kind in ("measure", "task"):
                        curves.append({**label, "step": step, "kind": kind, "name": figure, "value": read})
    runs = pd.DataFrame(runs)
    figures = figures_of(runs)
    told = {"by": "phi_above_9", "metric": "accuracy", "less_is_better": ["loss"]}
    verdicts = verdicts_of(figures, {name: "lower", "up": "lower"}, seeds=seeds, **told)
    parameters = {
        **told, "seeds": list(range(seeds)), "steps": 50, "batch_size": 64, "optimizer": "Adam(lr=0.001)",
        "unit": "feature", "start": 10, "one_step_rate": 0.01, "inhibitors": {name: "", "up": ""},
        "without_control": {"up": "it chooses at random itself"},
    }  # fmt: skip
    about = manifest(
        "audit",
        action={"name": "audit", "parameters": parameters},
        data={
            "name": "given",
            "kind": "array",
            "examples": 90,
            "train": 60,
            "held_out": 30,
            "fingerprint": "ab" * 32,
        },
    )
    tables = {
        "sites": SITES,
        "audit_runs": runs,
        "audit_curves": pd.DataFrame(curves),
        "audit_figures": figures,
    }
    return Audit({**tables, "verdicts": verdicts}, about)


def test_the_page_shows_verdicts_curves_and_figures(tmp_path):
    page = Page(view.page(made(), tmp_path / "audit.html"))
    text = page.text
    assert "tail lowers the held-out share of phi above 9 by 50 %" in text
    assert "up raises the held-out share of phi above 9" in text and "though it is meant to lower it" in text
    for heading in ("The verdicts", "While training", "Whole runs", "The task", "One step", "The price"):
        assert heading in text
    assert "holds for 80 % of the highest entries before training" in text
    assert "has no random control: it chooses at random itself" in text
    assert "in other bases" in text and "random rotation" in text
    assert page.tags.count("svg") == 1 + 2 * 3  # the forest, and a panel for each inhibitor and figure
    assert len(page.ids) == len(set(page.ids))


@pytest.mark.parametrize(
    "changes",
    [{"seeds": 1}, {"bases": ("neuron",), "extra": False}, {"blown": True}, {"name": HOSTILE}],
    ids=["one seed", "nothing extra", "diverged", "hostile name"],
)
def test_the_page_holds_where_little_is_known(changes, tmp_path):
    page = Page(view.page(made(**changes), tmp_path / "audit.html"))
    text = page.text
    assert "The verdicts" in text
    assert ("One step" in text) == changes.get("extra", True)
    assert ("random rotation" in text) == ("bases" not in changes)
    if changes.get("blown"):
        assert "diverged" in text
    if changes.get("seeds") == 1:
        assert "too few seeds" in text


def test_the_figure_draws_relative_changes():
    ax = view.plot(made())
    assert [label.get_text() for label in ax.get_yticklabels()] == ["tail", "up"]
    assert "phi above 9" in ax.get_xlabel()
    with pytest.raises(InvalidArgumentError, match="no measure"):
        view.plot(made(), measure="phi")
    with pytest.raises(InvalidArgumentError, match="neurons"):
        view.page(made(), "nowhere.html", neurons="some")
