"""Low-bit layers for networks of your own, and the network of the paper.

    from saqlib.network import PACT, QuantConv2d, QuantLinear, calibrate

    model = nn.Sequential(QuantConv2d(3, 8, 3, bits=4), PACT(4), nn.Flatten(), QuantLinear(8 * 30 * 30, 5, bits=4))
    calibrate(model, images)        # (B, 3, 32, 32): sets every clip; then train the model as any other

The layers are for any network; `build` makes that of the paper, for images of 28 x 28 pixels and one channel. A whole
example, with training, maps and scores, stands in `help(saqlib)`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "settings": ["Bits", "Precision", "Quantization", "Shape"],
        "lattice": ["pact", "quantize_weight"],
        "quantization": ["PACT", "QuantConv2d", "QuantLinear", "calibrate", "pact_layers", "set_quantizing"],
        "lenet": ["LeNet"],
        "initial": ["build"],
    },
)  # fmt: skip
