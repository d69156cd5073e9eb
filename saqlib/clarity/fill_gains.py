"""What decides whether a fill qualifies: on validation images, a network's own map beside the bare image."""

from saqlib.clarity.images import scored_images
from saqlib.clarity.settings import Scoring
from saqlib.clarity.subject import Subject
from saqlib.names import GRADIENT
from saqlib.network.lenet import LeNet

ITSELF = "intensity"  # the control that is the image


def fill_gains(dataset: str, scoring: Scoring, network: LeNet) -> dict[str, list[float]]:
    """The relevance gain of the network's map and of the image itself: means over the images, one for each fill."""
    scored = scored_images(dataset, scoring, "validation")
    subject = Subject.predicting(network, scored, scoring.clarity.steps)
    maps = {GRADIENT: subject.gradient_of(network), ITSELF: subject.images.squeeze(1)}
    return {name: subject.scores(each).gains.nanmean(1).tolist() for name, each in maps.items()}
