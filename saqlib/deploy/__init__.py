"""A trained network as files: packed codes, integer inference, ONNX graphs, a program in C, and what it costs.

The names below load on first use, so that `saqlib.deploy.explain` runs where PyTorch is not installed.
"""

import importlib
from typing import Any

_MODULES = {
    "layers": ("DeploymentError",),
    "integer": ("integer_network",),
    "onnx": ("pack", "unpack", "export_onnx", "export_explanation"),
    "c": ("export_c",),
    "costs": ("Cost", "cost", "by_layer"),
    "check": ("deploy", "deploy_untrained", "verify", "report"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
