"""Figures and one-file pages of results: one module for each kind of result, with ``plot`` and ``page``."""

from neuronwise.report.ablation import page as ablation_page
from neuronwise.report.ablation import plot as plot_ablation
from neuronwise.report.activity import page as activity_page
from neuronwise.report.activity import plot as plot_activity

__all__ = ["ablation_page", "activity_page", "plot_ablation", "plot_activity"]
