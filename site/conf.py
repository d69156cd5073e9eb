"""Sphinx's settings for the reading copy. The pages come from study.site.build; nothing is run, nothing is fetched."""

import base64
import hashlib
import re
from pathlib import Path

import furo

project = "Saliency-assisted quantization"
html_title = project
extensions = ["myst_nb"]

nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "gfm"
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
nb_ipywidgets_js = {}  # the default is an address in the network

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["search.js"]
html_favicon = "_static/icon.svg"
html_use_index = html_copy_source = html_show_sourcelink = html_show_sphinx = html_show_copyright = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#a3172a", "color-brand-content": "#1f5f99"},
    "dark_css_variables": {"color-brand-primary": "#f4a582", "color-brand-content": "#92c5de"},
    "footer_icons": [],
}

# A page loads what lies beside it and nothing foreign, and runs no script of its text but the theme's.
THEME = Path(furo.__file__).with_name("theme").joinpath("furo", "base.html").read_text(encoding="utf-8")
SCRIPT = re.search(r"<script>(.*?)</script>", THEME, re.DOTALL)[1]
HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
OWN = "'self' file:"  # where a page is opened as a file, 'self' is nothing
POLICY = (
    f"default-src {OWN}; img-src {OWN} blob: data:; style-src {OWN} 'unsafe-inline'; "
    f"script-src {OWN} blob: 'wasm-unsafe-eval' 'sha256-{HASH}'; object-src 'none'; base-uri 'none'"
)


def setup(app):
    """The policy in the head of every page."""

    def add(app, page, template, context, doctree):
        policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        context["metatags"] = policy + context.get("metatags", "")

    app.connect("html-page-context", add)
