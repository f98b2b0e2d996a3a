"""``neuronwise facts``: the neurons of facts, and edits."""

from neuronwise.cli.facts.edit import EDIT_EXAMPLES, ERASE_EXAMPLES, EVALUATE_EXAMPLES, edit, erase, evaluate
from neuronwise.cli.facts.effect import AMPLIFY_EXAMPLES, SUPPRESS_EXAMPLES, amplify, suppress
from neuronwise.cli.facts.locate import EXAMPLES as LOCATE_EXAMPLES
from neuronwise.cli.facts.locate import locate
from neuronwise.cli.facts.map import EXAMPLES as MAP_EXAMPLES
from neuronwise.cli.facts.map import map_

__all__ = ["COMMANDS"]

#: Name, function and examples of every command.
COMMANDS = (
    ("locate", locate, LOCATE_EXAMPLES),
    ("map", map_, MAP_EXAMPLES),
    ("suppress", suppress, SUPPRESS_EXAMPLES),
    ("amplify", amplify, AMPLIFY_EXAMPLES),
    ("edit", edit, EDIT_EXAMPLES),
    ("erase", erase, ERASE_EXAMPLES),
    ("evaluate", evaluate, EVALUATE_EXAMPLES),
)
