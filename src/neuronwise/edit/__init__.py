"""Editing: changes of the weights as patches that can be undone, and one evaluator for all of them."""

from neuronwise.edit._changes import Change, LowRank
from neuronwise.edit.covariance import key_covariance, key_covariances
from neuronwise.edit.evaluate import evaluate_edit
from neuronwise.edit.evaluation import EditEvaluation
from neuronwise.edit.fine import fine
from neuronwise.edit.memit import memit, memit_update
from neuronwise.edit.patch import Patch, applied_patches
from neuronwise.edit.rank_one import rank_one_update, rome
from neuronwise.edit.saving import save_model
from neuronwise.edit.value_slots import erase_slots, set_slot, update_slots

__all__ = [
    "Change",
    "EditEvaluation",
    "LowRank",
    "Patch",
    "applied_patches",
    "erase_slots",
    "evaluate_edit",
    "fine",
    "key_covariance",
    "key_covariances",
    "memit",
    "memit_update",
    "rank_one_update",
    "rome",
    "save_model",
    "set_slot",
    "update_slots",
]
