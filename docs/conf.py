"""Sphinx builds the pages of this folder: make docs. Nothing is fetched while it builds."""

from importlib.metadata import version as version_of

project = "gmsop"
version = release = version_of("gmsop")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "conftest.py", "notebooks/*.ipynb"]
html_theme = "furo"
html_title = "gmsop"
html_static_path: list[str] = []
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_preserve_defaults = True
nitpicky = False
