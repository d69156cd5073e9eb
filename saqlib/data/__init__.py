"""The images: loaded, verified by content, and as a network takes them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"images": ["SPLITS", "DataError", "as_input", "fingerprint", "load", "verify"]}
)
