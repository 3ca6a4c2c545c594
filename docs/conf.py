"""How `make docs` builds the pages (Sphinx, MyST, Furo)."""

from __future__ import annotations

import sys
from pathlib import Path

from gslice import __version__

sys.path.insert(0, str(Path(__file__).parent))

project = "gslice"
copyright = "the gslice authors, Apache-2.0"
release = version = __version__

extensions = ["myst_parser", "sphinx_copybutton", "reference"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True

exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"gslice {release}"
html_theme_options = {"navigation_with_keys": True}
