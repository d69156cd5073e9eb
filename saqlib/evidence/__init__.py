"""Paired tests over seeds, intervals and corrections; and what the stages wrote, as frames and verdicts."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "statistics": ["holm", "page_trend", "paired_sign_flip", "t_interval"],
        "per_seed": ["Evidence"],
        "claims": ["evaluate"],
        "runs": ["collect"],
    },
)
