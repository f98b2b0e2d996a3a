"""``neuronwise monosemanticity``: measure it, and audit what inhibits or encourages it while a model trains."""

from neuronwise.cli.monosemanticity.audit import EXAMPLES as AUDIT_EXAMPLES
from neuronwise.cli.monosemanticity.audit import audit
from neuronwise.cli.monosemanticity.measure import EXAMPLES as MEASURE_EXAMPLES
from neuronwise.cli.monosemanticity.measure import measure

__all__ = ["COMMANDS"]

#: Name, function and examples of every command.
COMMANDS = (
    ("measure", measure, MEASURE_EXAMPLES),
    ("audit", audit, AUDIT_EXAMPLES),
)
