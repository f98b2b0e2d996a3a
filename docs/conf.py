"""Sphinx settings: `make docs` builds with warnings as errors and without the network."""

from typing import Any

from sphinx.util.nodes import make_refnode

import neuronwise

project = "neuronwise"
author = "The neuronwise developers"
copyright = "The neuronwise developers, MIT licence"
version = release = neuronwise.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"neuronwise {release}"

autodoc_member_order = "groupwise"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# Types of other packages are named but not linked, as linking would need the network; nor are names that a room
# does not show.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!neuronwise)[A-Za-z_]\w*(\.\w+)*"),
    (r"py:.*", r"neuronwise\.\w+\.\w+\.\w+"),
    (r"py:.*", r"neuronwise(\.\w+)*\._\w+(\.\w+)*"),
    (r"py:class", r".*\[.*"),
    (r"py:obj", r"typing\.Literal.*"),
]


def shown_where_it_is_public(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Lead a reference to a name to the room that shows it.

    An annotation says ``neuronwise.sites.site.Site`` or just ``Site``, and a docstring ``neuronwise.find_sites``; the
    reference documents them as ``neuronwise.sites.Site`` and ``neuronwise.sites.find_sites``.
    """
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    domain = env.get_domain("py")
    package, _, rest = target.rpartition("neuronwise.")
    words = rest.split(".")
    if rest in neuronwise._NAMES and not package:
        names = ["neuronwise." + ".".join(neuronwise._NAMES[rest])]
    elif target.startswith("neuronwise."):
        names = [f"neuronwise.{words[0]}.{words[-1]}"]
        if node["reftype"] == "mod":
            names = [f"neuronwise.{words[0]}"]
    else:
        names = [
            name for name in domain.objects if name.startswith("neuronwise.") and name.endswith(f".{target}")
        ]
    found = [domain.objects[name] for name in names if name in domain.objects]
    if len(found) != 1:
        return None
    return make_refnode(app.builder, node["refdoc"], found[0].docname, found[0].node_id, content)


def returns_are_prose(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keep napoleon from taking the words before a colon for a type: types stand in the signatures only."""
    for number, line in enumerate(lines):
        text = line.lstrip()
        starts = number == 0 and what in ("property", "attribute", "data")
        if text and (starts or (number and lines[number - 1].strip() == "Returns:")):
            lines[number] = f"{line[: len(line) - len(text)]}: {text}"


def setup(app: Any) -> None:
    app.connect("missing-reference", shown_where_it_is_public)
    app.connect("autodoc-process-docstring", returns_are_prose, priority=400)
