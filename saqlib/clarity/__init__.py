"""The scores of saliency maps: concentrated, coherent, on the object, and used by the network?

    from saqlib.clarity import gini, symmetric_relevance_gain

    gini(maps)                                                                # (B,) float64; maps (B, H, W)
    symmetric_relevance_gain(model, images, targets, maps, steps=14)          # (B,) float64 in [-1, 1]
    symmetric_relevance_gain(model, images, targets, maps, 14, fill="blur")   # zero | mean | noise | blur | images

Signed maps are accepted everywhere. A map that says nothing (`dead`: all zero, or not finite) scores NaN.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "maps": ["dead"],
        "scores": ["amplitude", "auroc", "clarity_scores", "entropy", "foreground_mass", "gini", "map_scores",
                   "morans_i"],
        "removal": ["removal_curves", "symmetric_relevance_gain"],
        "sensitivity": ["sensitivity_max"],
        "preservation": ["preservation_scores"],
        "controls": ["control_maps"],
    },
)  # fmt: skip
