"""The documentation's settings; `sphinx-build -W --keep-going docs docs/_build/html` makes it, without a network.

With DOCS_ONLINE=1 links to the documentation of Python, NumPy and JAX are made, for which their inventories are read.
"""

import importlib.metadata
import logging
import os
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent)]  # conversion and hvae_jax from this tree

# Pictures of scripts that run here, not windows.
os.environ["MPLBACKEND"] = "agg"
logging.getLogger("absl").setLevel(logging.WARNING)  # Sphinx would show all that Orbax tells

project = "hvae_jax"
author = "the hvae_jax authors"
version = release = importlib.metadata.version("hvae_jax")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx_gallery.gen_gallery",
    "docstrings",
    "mathml",
    "repository",
]
exclude_patterns = ["_build", "_ext", "gallery/*.ipynb", "gallery/*.py"]

# A single backquote in a docstring is a link where it names something, and code where it does not.
default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [("py:obj", ".*"), ("py:(class|exc)", r"(?!hvae_jax\.).*")]

myst_enable_extensions = ["dollarmath", "colon_fence", "fieldlist"]
myst_heading_anchors = 3

maximum_signature_line_length = 100
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # shapes, units and ranges are in the descriptions; signatures are as in the source
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_use_rtype = False

_inventories = {
    "python": ("https://docs.python.org/3", None),
    "numpy": ("https://numpy.org/doc/stable", None),
    "jax": ("https://docs.jax.dev/en/latest", None),
}
intersphinx_mapping = _inventories if os.environ.get("DOCS_ONLINE") else {}

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "ignore_pattern": r"pictures\.py",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "reference_url": {"hvae_jax": None},
    "doc_module": ("hvae_jax",),
    "backreferences_dir": "gallery/backreferences",
    "image_scrapers": ("matplotlib",),
    "reset_modules": ("matplotlib",),
    "capture_repr": (),
    "remove_config_comments": True,
    "thumbnail_size": (320, 224),
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": True,
}

html_theme = "furo"
html_title = "hvae_jax"
html_static_path = ["_static"]
html_css_files = ["hvae_jax.css"]
html_theme_options = {"navigation_with_keys": True}
html_show_sourcelink = False
html_show_copyright = False
