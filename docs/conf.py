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

# Types of other packages are named but not linked, as linking would need the network.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!neuronwise)[A-Za-z_]\w*(\.\w+)*"),
    (r"py:.*", r"neuronwise(\.\w+)*\._\w+(\.\w+)*"),
]


def shown_where_it_is_public(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Lead a reference to the file that defines a name to the room that shows it.

    An annotation names ``neuronwise.sites.site.Site`` or just ``Site``; the reference documents it as
    ``neuronwise.sites.Site``.
    """
    if node.get("refdomain") != "py":
        return None
    target = node.get("reftarget", "")
    last = target.rpartition(".")[2]
    domain = env.get_domain("py")
    found = [
        name for name in domain.objects if name.startswith("neuronwise.") and name.rpartition(".")[2] == last
    ]
    if target.startswith("neuronwise."):
        room = ".".join(target.split(".")[:2])
        found = [name for name in found if name == f"{room}.{last}"]
    elif "." in target:
        found = []
    if len(found) != 1:
        return None
    place = domain.objects[found[0]]
    return make_refnode(app.builder, node["refdoc"], place.docname, place.node_id, content)


def setup(app: Any) -> None:
    app.connect("missing-reference", shown_where_it_is_public)
