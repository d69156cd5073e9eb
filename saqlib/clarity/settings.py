"""The settings of scoring, and all that decides the scores of one cell but its networks."""

from dataclasses import dataclass

from saqlib.params import at_least


@dataclass(frozen=True)
class Clarity:
    """The section `clarity`: steps of removal; radius (in units of a pixel's range) and draws of the sensitivity."""

    steps: int
    sensitivity_radius: float
    sensitivity_draws: int

    def __post_init__(self):
        at_least("clarity", self, 1, "steps", "sensitivity_draws")
        at_least("clarity", self, 0, "sensitivity_radius")


@dataclass(frozen=True)
class Scoring:
    """How the maps of one cell are scored.

    reference: the precision to whose maps they are likened. images: how many test images, images_expensive: of those,
    for scores that cost many gradients. calibration_images: of the untrained twin. sample: the images are the sample's.
    """

    clarity: Clarity
    reference: str
    images: int
    images_expensive: int
    calibration_images: int
    sample: bool
