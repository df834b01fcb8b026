"""How Sphinx builds these pages: `sphinx-build -W -n docs OUTPUT`, or `tox -e docs`.

The pages are plain Markdown and can be read as they are. Sphinx adds the Python API, which it
reads from the docstrings of the installed package, a search and links between names.
"""

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_sphinx"))

project = "twinline"
author = "the twinline authors"
project_copyright = "the twinline authors, MIT licence"
version = release = metadata.version("twinline")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "docstrings",  # from _sphinx; before napoleon, which reads what it has prepared
    "sphinx.ext.napoleon",
    "names",  # from _sphinx
    "drawings",  # from _sphinx
]
exclude_patterns = ["_sphinx", "_build"]
nitpicky = True

# -- Markdown -----------------------------------------------------------------------------
myst_heading_anchors = 4
# On a Git host a fence of this kind is a drawing; here too: _sphinx/drawings.py.
myst_fence_as_directive = ["mermaid"]

# -- the Python API -----------------------------------------------------------------------
autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    "ignore-module-all": True,  # a name stands where it is defined, once
}
autoclass_content = "both"  # the arguments are told in the docstring of __init__
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
maximum_signature_line_length = 90
add_module_names = False  # the module is in the heading above
toc_object_entries_show_parents = "hide"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
default_role = "name"  # from _sphinx/names.py: a name if there is one, code else

# -- the pages ----------------------------------------------------------------------------
html_theme = "furo"
html_title = f"twinline {release}"
html_copy_source = False
html_show_sourcelink = False
