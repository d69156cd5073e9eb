"""The study as a whole: its settings, its notebooks as stages, and the commands that run them."""
