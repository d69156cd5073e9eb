"""This paper: its settings (params.yaml), the results that are already computed, its notebooks, tables and pages."""
