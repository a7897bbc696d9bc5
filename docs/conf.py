"""Sphinx configuration: `make docs` builds with warnings as errors."""

import sphinx_autosummary_accessors

import xnowcast

project = "xnowcast"
author = "The xnowcast developers"
copyright = "2026, The xnowcast developers"
version = release = xnowcast.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_autosummary_accessors",
]
templates_path = [sphinx_autosummary_accessors.templates_path]
exclude_patterns = ["_build"]
# The first is what autosummary writes its pages in.
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}

autosummary_generate = True
autodoc_typehints = "none"  # the docstrings say it in words
napoleon_google_docstring = False
napoleon_use_rtype = False
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the tests run the notebooks

html_theme = "furo"
html_title = "xnowcast"
default_role = "any"
suppress_warnings = ["ref.any"]  # single backquotes also mark arguments and options
