"""A trained network as files: packed codes, integer inference, ONNX graphs, and what it costs."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "packing": ["pack", "unpack"],
        "onnx": ["export_explanation", "export_onnx"],
        "integer": ["integer_network"],
        "costs": ["Cost", "by_layer", "cost"],
        "layers": ["DeploymentError"],
        "seed": ["deploy", "verify"],
    },
)
