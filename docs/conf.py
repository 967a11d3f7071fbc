"""Settings of the documentation, which ``tools/build.py`` builds (``make docs``)."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "tools"))

project = "pyrodvae"
author = "The pyrodvae authors"
copyright = author
version = release = version_of("pyrodvae")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # the script that draws formulas is the site's own: no network is needed
    "docstrings",
    "pictures",
    "streams",
]
exclude_patterns = ["conf.py", "tools", "_extra", "listen.md", "tutorials/list.md", "reference/api/list.md"]
templates_path = ["_templates"]

# --- pages: MyST, with $formulas$ and a target for every heading
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # cards and API pages begin below the first level

# --- tutorials: percent scripts, executed
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "off" if os.environ.get("PYRODVAE_DOCS_NOTEBOOKS") == "off" else "force"
nb_execution_show_tb = True  # an error is a warning, so fatal, but only when all tutorials have run
nb_execution_in_temp = True
nb_execution_timeout = 1800
nb_merge_streams = True
nb_output_stderr = "remove"  # progress bars

# --- the reference: every public name, from its docstring
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "ignore-module-all": True, "show-inheritance": True}
python_use_unqualified_type_names = True
viewcode_follow_imported_members = False

# --- looks
html_theme = "furo"
html_title = f"pyrodvae {version}"
html_static_path = ["_static"]
html_extra_path = ["_extra"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_sourcelink = False
pygments_style, pygments_dark_style = "friendly", "github-dark"
copybutton_exclude = ".linenos, .gp, .go"
