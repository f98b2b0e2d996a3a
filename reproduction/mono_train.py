"""What every run of the reproduction has in common: optimiser, schedule, and one audit of one seed."""

import math
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch
from mono_areas import Area
from mono_models import sites_of
from torch import Tensor, nn

from neuronwise.data import corpus
from neuronwise.observe import monosemanticity
from neuronwise.observe.statistics import Unit
from neuronwise.train import Method, Monosemanticity, audit

WARM = 0.05  # of the steps, in which the learning rate rises
CLIP = 1.0
START = 10  # steps before an inhibitor acts, or a share of the run if that is later
MEASURES = ("phi_above_9", "phi_top", "kurtosis")
WITH_LABELS = ("feature_phi", "false_killing_rate", "class_selectivity")
EXAMPLES = 128  # that neurons are measured on, and as many for the statistics
SAMPLES = 2048  # of a site, at most


def factor(step: int, steps: int) -> float:
    """Return the learning rate's factor: it rises, then falls along a cosine to a tenth."""
    warm = max(1, int(WARM * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.55 + 0.45 * math.cos(math.pi * (step - warm) / max(1, steps - warm))


def optimizer_of(area: Area) -> Any:
    return partial(torch.optim.AdamW, lr=area.rate, weight_decay=0.01, fused=True)


def schedule(optimizer: torch.optim.Optimizer, steps: int) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step, steps))


def loss_of(area: Area, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return area.loss(model(batch[0]), batch[1])


def jitter_of(area: Area, batch: tuple[Tensor, Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    assert area.augment is not None
    return area.augment(batch[0], generator), batch[1]


def accuracy(model: nn.Module, batches: Any) -> dict[str, float]:
    right = count = 0.0
    for inputs, targets in batches:
        known = targets >= 0
        right += float(((model(inputs).argmax(-1) == targets) & known).sum())
        count += float(known.sum())
    return {"accuracy": right / count}


def audited(
    area: Area,
    inhibitors: dict[str, Method],
    seed: int,
    *,
    part: str = "test",
    controls: bool = True,
    one_step: int = 0,
    classes: bool = False,
    begin: float = 0.0,
) -> dict[str, Any]:
    """Audit inhibitors with one seed, and return what was read of every model: ``{row: {figure: value}}``.

    They begin to act after a share ``begin`` of the run.
    """
    found = audit(
        area.model,
        area.train,
        inhibitors,
        held_out=getattr(area, part),
        sites=sites_of(area.model(seed)),
        seeds=[seed],
        steps=area.steps,
        batch_size=area.batch,
        optimizer=optimizer_of(area),
        schedule=schedule,
        clip_norm=CLIP,
        start=max(START, round(begin * area.steps)),
        augment=None if area.augment is None else partial(jitter_of, area),
        loss=partial(loss_of, area),
        metric=accuracy if area.told else None,
        measured_on=area.probe if classes else None,
        measures=MEASURES + (WITH_LABELS if classes else ()),
        rotation=part == "test",
        controls=controls,
        probes=1,
        one_step=one_step,
        timed=0,
        examples=EXAMPLES,
        sample=SAMPLES,
        progress=False,
    )
    runs = found.tables["audit_runs"]
    rows: dict[str, dict[str, float]] = {}
    for one in runs[runs["site"] == ""].to_dict("records"):
        name = one["inhibitor"] + (" random" if one["control"] else "")
        basis = "" if one["basis"] in ("", "neuron") else f"{one['basis']} "
        before = f"{one['kind']} " if one["kind"].startswith("one_step") else ""
        rows.setdefault(name, {})[f"{before}{basis}{one['name']}"] = round(one["end"], 8)
    return {"seed": seed, "methods": {k: repr(v) for k, v in inhibitors.items()}, "rows": rows}


def batches(area: Area, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches that an audit with this seed trains on, so that its runs can be compared with others."""
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = area.train
    step = 0
    while True:
        for some in torch.randperm(len(inputs), generator=generator).split(area.batch):
            step += 1
            batch = inputs[some], targets[some]
            own = torch.Generator().manual_seed(seed * 1_000_003 + step)
            yield batch if area.augment is None else jitter_of(area, batch, own)


def train(
    area: Area, method: Method | None, seed: int, unit: Unit = "feature"
) -> tuple[nn.Module, dict[str, float]]:
    """Train as an audit does, and return the model and what was seen online in the last tenth of the steps."""
    model = area.model(seed)
    mono = Monosemanticity(model, sites_of(model), method, unit=unit, seed=seed, distributed=False)
    optimizer = optimizer_of(area)(model.parameters())
    rate = schedule(optimizer, area.steps)
    last: list[dict[str, float]] = []
    model.train()
    with mono.attached():
        for step, batch in enumerate(islice(batches(area, seed), area.steps)):
            loss = loss_of(area, model, batch) + mono.loss()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            rate.step()
            mono.step()
            if step >= 0.9 * area.steps:
                last.append(mono.log())
    model.eval()
    names = [name for name in ("share", "top", "strength") if name in last[0]]
    return model, {name: sum(one[name] for one in last) / len(last) for name in names}


def drawn(inputs: Tensor, seed: int) -> Tensor:
    """Return the examples that an audit with this seed measures neurons on."""
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    return inputs[order[:EXAMPLES].sort().values]


def held_out(area: Area, model: nn.Module, seed: int) -> dict[str, float]:
    """Return measures and the loss of a trained model on the test part, as an audit with this seed takes them."""
    found = monosemanticity(
        model,
        corpus(drawn(area.test[0], seed), name="held out"),
        sites_of(model),
        reference=corpus(drawn(area.train[0], seed), name="reference"),
        measures=MEASURES,
        sample=SAMPLES,
        rotation=False,
        batch_size=area.batch,
        progress=False,
        seed=seed,
    )
    with torch.no_grad():
        parts = [
            (float(loss_of(area, model, batch)), len(batch[0]))
            for batch in zip(*(part.split(area.batch) for part in area.test), strict=True)
        ]
    loss = sum(value * rows for value, rows in parts) / sum(rows for _, rows in parts)
    frame = found.tables["site_measures"]
    live = frame.groupby("site")[["n_live", "n_near_dead", "n_dead"]].first()
    return {"loss": loss, "live": float(live["n_live"].sum() / live.to_numpy().sum())} | {
        str(name): float((part["median"] if name == "kurtosis" else part["mean"]).mean())
        for name, part in frame.groupby("measure")
    }
