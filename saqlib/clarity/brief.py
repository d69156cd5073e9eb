"""The scores of one network's own maps in brief, as means over the images: for an ablation, which asks no more."""

from torch import nn

from saqlib.clarity.images import scored_images
from saqlib.clarity.scores import amplitude
from saqlib.clarity.settings import Scoring
from saqlib.clarity.subject import Subject
from saqlib.names import FILLS, PRIMARY, RELEVANCE_GAIN


def brief_scores(network: nn.Module, dataset: str, scoring: Scoring, split: str = "test") -> dict[str, float]:
    """What the gradient of the predicted class scores.

    Args:
        network: images (B, 1, 28, 28) to logits, in evaluation mode.
        dataset: whose images are shown.
        scoring: how many images, and in how many steps pixels leave.
        split: test | validation.

    Returns:
        Means over the images that have a score, NaN where none has: the primary scores, `relevance_gain_<fill>` of each
        fill, and `amplitude`.
    """
    subject = Subject.predicting(network, scored_images(dataset, scoring, split), scoring.clarity.steps)
    maps = subject.gradient_of(network)
    found = subject.scores(maps)
    names = [*PRIMARY, *(f"{RELEVANCE_GAIN}_{fill}" for fill in FILLS), "amplitude"]
    means = [*found.scores.nanmean(1), *found.gains.nanmean(1), amplitude(maps).nanmean()]
    return {name: mean.item() for name, mean in zip(names, means, strict=True)}
