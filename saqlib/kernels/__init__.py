"""The network's costly operators in C, for a CPU. Never required: the operators of PyTorch are the reference.

`library` builds and loads `lenet.c`, `operators` calls it from PyTorch, gradients included.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"library": ["why_not"]})
