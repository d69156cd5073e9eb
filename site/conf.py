"""Sphinx's settings for the reading copy. The pages come from study.site.build; nothing is run, nothing is fetched."""

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
html_favicon = "_static/icon.svg"
html_copy_source = html_show_sourcelink = html_show_sphinx = html_show_copyright = False
html_show_search_summary = False  # it fetches the pages found, which a browser refuses in a folder
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#a3172a", "color-brand-content": "#1f5f99"},
    "dark_css_variables": {"color-brand-primary": "#f4a582", "color-brand-content": "#92c5de"},
    "footer_icons": [],
}
