"""Kinds of neurons as modules: layers of them, and conversion of trained models to them."""

from neuronwise.nn.blocks import Block
from neuronwise.nn.combine import Blocks, Combine, Sum, Term
from neuronwise.nn.conv import NeuronConv1d, NeuronConv2d
from neuronwise.nn.convert import convert
from neuronwise.nn.kind import KINDS, Kind, KindLike, kind, polynomial
from neuronwise.nn.layer import NeuronLayer
from neuronwise.nn.linear import NeuronLinear
from neuronwise.nn.size import count_operations, count_parameters, matched_width

__all__ = [
    "KINDS",
    "Block",
    "Blocks",
    "Combine",
    "Kind",
    "KindLike",
    "NeuronConv1d",
    "NeuronConv2d",
    "NeuronLayer",
    "NeuronLinear",
    "Sum",
    "Term",
    "convert",
    "count_operations",
    "count_parameters",
    "kind",
    "matched_width",
    "polynomial",
]
