"""Figures, tables, sentences, the paper and the README: what a reader sees of the evidence."""
