"""Settings of Sphinx; `python -m docs.site` copies this file beside the assembled sources."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3] if Path(__file__).parent.name == "source" else Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ["LIT_FA_ROOT"] = str(ROOT)  # notebooks that read records

project, author = "lit-fa", "the lit-fa developers"
copyright = f"2026, {author}"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "docs.site.rendering"]
html_theme, html_title, html_static_path = "furo", "lit-fa", ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = os.environ.get("LIT_FA_DOCS_EXECUTE", "off")
nb_execution_timeout, nb_execution_raise_on_error, nb_merge_streams = 120, True, True
autodoc_typehints, autodoc_member_order = "none", "bysource"
default_role = "code"
napoleon_google_docstring, napoleon_numpy_docstring, napoleon_use_ivar = True, False, True
autodoc_inherit_docstrings = False
napoleon_custom_sections = [("Class attributes", "params_style")]
add_module_names = False
suppress_warnings = ["myst.header"]
if nb_execution_mode == "off":
    suppress_warnings.append("myst-nb.lexer")  # the kernel says which language a cell has
