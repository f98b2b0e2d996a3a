"""Write the table in docs/reference/measures.md from the table of measures."""

from __future__ import annotations

from pathlib import Path

from neuronwise.observe.measures.table import markdown

HEAD = """# Measures of monosemanticity

`neuronwise.observe.monosemanticity(model, corpus)` takes all of these that the data allow. What they mean, and where
each goes wrong, is on the page [Which measure sees what](../explanation/measures.md). The table is made from
`neuronwise.observe.measures.MEASURES` by `python docs/_measures.py`.

"""

TAIL = """
*Neuron*: a number for every unit; a site has their mean and median over its live units. *Site*: one number for the live
units of a site together. *Scale free*: multiplying the whole site by a positive number changes nothing.

## Functions

```{eval-rst}
.. automodule:: neuronwise.observe.measures
   :members:
   :show-inheritance:
```
"""

if __name__ == "__main__":
    page = Path(__file__).parent / "reference" / "measures.md"
    page.write_text(HEAD + markdown() + TAIL, encoding="utf-8")
