"""Capture and intervene: the only room that registers a hook."""

from neuronwise.hooks.capture import Capture, capture
from neuronwise.hooks.check import check
from neuronwise.hooks.check_report import CheckReport, CheckRow
from neuronwise.hooks.intervene import intervene
from neuronwise.hooks.interventions import (
    INTERVENTIONS,
    Add,
    Intervention,
    Mean,
    Patch,
    Scale,
    Set,
    Spot,
    Zero,
)
from neuronwise.hooks.model import (
    batch_mismatch,
    call_model,
    device_of,
    frozen_parameters,
    refuse_uncatchable,
    sequence_first,
    untouched,
)
from neuronwise.hooks.replace import replace_outputs
from neuronwise.hooks.rows import Growth, grow, keep_positions, replicated
from neuronwise.hooks.transform import Transform, transform

__all__ = [
    "INTERVENTIONS",
    "Add",
    "Capture",
    "CheckReport",
    "CheckRow",
    "Growth",
    "Intervention",
    "Mean",
    "Patch",
    "Scale",
    "Set",
    "Spot",
    "Transform",
    "Zero",
    "batch_mismatch",
    "call_model",
    "capture",
    "check",
    "device_of",
    "frozen_parameters",
    "grow",
    "intervene",
    "keep_positions",
    "refuse_uncatchable",
    "replace_outputs",
    "replicated",
    "sequence_first",
    "transform",
    "untouched",
]
