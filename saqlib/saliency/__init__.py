"""Saliency maps of any network, and what guided training hides with their help.

    from saqlib.saliency import input_gradient, mask_least_salient

    maps = input_gradient(model, images)                                    # (B, H, W), signed
    masked = mask_least_salient(images, maps, 0.5, torch.Generator())       # (B, C, H, W)

Of several channels a map shows the value that is largest in magnitude; a pixel is masked in all its channels.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "gradient": ["DeadNetworkError", "check_alive", "input_gradient"],
        "masking": ["mask_least_salient"],
        "methods": ["finite_differences", "integrated_gradients", "log_probability_gradient", "occlusion",
                    "smoothgrad"],
    },
)  # fmt: skip
