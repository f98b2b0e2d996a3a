"""Formulas: a function of one sample's inputs as text, to read, compute, differentiate, simplify and print."""

from neuronwise.formula.bases import LIBRARY, PRESETS, Base, bases, usable
from neuronwise.formula.formula import Formula
from neuronwise.formula.functions import FUNCTIONS, Function, with_functions
from neuronwise.formula.interval import Interval
from neuronwise.formula.nodes import (
    Add,
    Call,
    Constant,
    Div,
    Dot,
    Input,
    Inputs,
    Mul,
    Neg,
    Node,
    Number,
    Parameter,
    Pow,
    Reduce,
    Size,
    add,
    div,
    mul,
    neg,
    walk,
)
from neuronwise.formula.terms import Term

__all__ = [
    "FUNCTIONS",
    "LIBRARY",
    "PRESETS",
    "Add",
    "Base",
    "Call",
    "Constant",
    "Div",
    "Dot",
    "Formula",
    "Function",
    "Input",
    "Inputs",
    "Interval",
    "Mul",
    "Neg",
    "Node",
    "Number",
    "Parameter",
    "Pow",
    "Reduce",
    "Size",
    "Term",
    "add",
    "bases",
    "div",
    "mul",
    "neg",
    "usable",
    "walk",
    "with_functions",
]
