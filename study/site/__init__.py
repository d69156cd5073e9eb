"""The reading copy: committed results as pages, and the committed networks in the reader's browser.

`python -m study.site.build` writes build/site/. Nothing is trained, executed or fetched for it.
"""
