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
from neuronwise.hooks.model import batch_mismatch, call_model, refuse_uncatchable, untouched

__all__ = [
    "INTERVENTIONS",
    "Add",
    "Capture",
    "CheckReport",
    "CheckRow",
    "Intervention",
    "Mean",
    "Patch",
    "Scale",
    "Set",
    "Spot",
    "Zero",
    "batch_mismatch",
    "call_model",
    "capture",
    "check",
    "intervene",
    "refuse_uncatchable",
    "untouched",
]
