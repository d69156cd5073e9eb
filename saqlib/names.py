"""Identifiers that scoring, evidence and words share; what a reader sees in their place stands in `words`."""

from typing import Any

PRIMARY = ("gini", "morans_i", "foreground_mass", "relevance_gain_zero")
FILLS = ("zero", "mean", "noise", "blur")  # what stands in the place of a removed pixel
PRESERVATION = ("spearman", "top_overlap", "cosine", "ssim")

RELEVANCE_GAIN = "relevance_gain"
GAINS = tuple(f"{RELEVANCE_GAIN}_{fill}" for fill in FILLS)  # the columns, one for each fill
FAITHFULNESS = "faithfulness"  # the relevance gain, mean of the fills that qualify
ANSWERS = ("gini", "morans_i", FAITHFULNESS)  # the columns that answer what is asked of a map: the others describe

GRADIENT = "gradient"  # the method of saliency that everything rests on
OTHER_METHODS = ("log_probability", "smoothgrad", "occlusion", "integrated_gradients")
UNTRAINED = "untrained"  # the control that is a network
SEED_TO_SEED = "seed_to_seed"  # the likeness of two reference networks, which any likeness is to be read against


def further_scores(scores: Any) -> list[str]:
    """The arrays of a cell's scores (xarray) that are one number an image: all of `map_scores` but PRIMARY."""
    arrays = {name for name, array in scores.data_vars.items() if set(array.dims) <= {"seed", "image"}}
    return sorted(arrays - {"label", "predicted", "probability"})
