"""Sphinx configuration."""

from zsad import __version__

project = "zsad"
author = "The zsad maintainers"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "synthetic_table.md"]  # the table is part of benchmark.md
html_theme = "furo"
html_title = "zsad"
autodoc_typehints = "description"
autodoc_member_order = "bysource"
autoclass_content = "class"
nitpicky = False
suppress_warnings = ["ref.python"]
