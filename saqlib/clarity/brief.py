"""The scores of one network's own maps in brief, as means over the images: where no more is asked than that."""

from torch import Tensor, nn

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
    return {name: values.nanmean().item() for name, values in image_scores(subject).items()}


def image_scores(subject: Subject) -> dict[str, Tensor]:
    """The same scores of each image that the network is shown, float64 (B,), NaN for a dead map."""
    maps = subject.gradient_of(subject.network)
    found = subject.scores(maps)
    names = [*PRIMARY, *(f"{RELEVANCE_GAIN}_{fill}" for fill in FILLS), "amplitude"]
    return dict(zip(names, [*found.scores, *found.gains, amplitude(maps)], strict=True))
