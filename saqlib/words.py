"""What a reader sees in place of an identifier: in tables, figures and sentences the same words.

"Clear" is no score: each one alone can be won by a map that nobody would call clear. Gini likes a speckled map and a
single pixel, Moran's I any smooth blob, foreground mass the bare silhouette, and the relevance gain does not see noise.
What each score is stands here; how it is computed, in saqlib.clarity; which question one answers, in params.yaml.
"""

from dataclasses import dataclass
from math import inf
from typing import Literal

from saqlib.names import FAITHFULNESS, GAINS, GRADIENT, RELEVANCE_GAIN, UNTRAINED

DATASETS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        "T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Score:
    """What a reader must know to read a score; tables and figures take their words from here."""

    id: str
    name: str
    symbol: str
    direction: Literal["higher", "lower"]  # which is better, or for preservation: more alike
    low: float
    high: float
    chance: float | None  # what a map scores that knows nothing, where that is one number
    question: str

    @property
    def arrow(self) -> str:
        """The direction as an arrow."""
        return "↑" if self.direction == "higher" else "↓"


_SCORES = [
    Score("gini", "Gini index", "G", "higher", 0, 1, None, "Do few pixels carry the map?"),
    Score("morans_i", "Moran's I", "I", "higher", -1.04, 1.04, -1 / 783,
          "Do salient pixels stand together, not as speckle?"),
    Score("foreground_mass", "Foreground mass", "R", "higher", -inf, 1, 0,
          "Does the map lie on the object, beyond chance?"),
    Score("relevance_gain_zero", "Relevance gain, zero", "S", "higher", -1, 1, 0,
          "Does the network use the pixels that the map marks?"),
    Score("entropy", "Normalised entropy", "H", "lower", 0, 1, None,
          "Is the map spread over many pixels?"),
    Score("auroc", "Foreground AUROC", "A", "higher", 0, 1, 0.5,
          "Do pixels of the object outrank the background?"),
    Score("deletion", "Deletion area", "D", "lower", 0, 1, None,
          "How long does the prediction live without the most salient pixels?"),
    Score("insertion", "Insertion area", "N", "higher", 0, 1, None,
          "How soon do the most salient pixels make the prediction?"),
    Score("sensitivity_max", "Maximal sensitivity", "M", "lower", 0, inf, None,
          "How much does the map change under invisible noise?"),
    Score("dead", "Dead rate", "Z", "lower", 0, 1, None, "Is there no map at all?"),
    Score("spearman", "Spearman correlation", "ρ", "higher", -1, 1, 0,
          "Do both maps rank the pixels alike?"),
    Score("top_overlap", "Top-10 % overlap", "O", "higher", 0, 1, None,
          "Do both maps mark the same pixels?"),
    Score("cosine", "Cosine of signed maps", "C", "higher", -1, 1, 0,
          "Do both gradients point the same way?"),
    Score("ssim", "Structural similarity", "SSIM", "higher", -1, 1, None,
          "Do both maps look alike?"),
]  # fmt: skip

SCORES = {score.id: score for score in _SCORES}
# What stands beside the networks' maps and knows nothing, in the order of tables.
CONTROLS = {
    UNTRAINED: "untrained network",
    "white_noise": "white noise",
    "one_hot": "one random pixel",
    "sobel": "edges of the image",
    "intensity": "the image itself",
}
# Methods that make a map, the one that everything rests on first.
METHODS = {
    GRADIENT: "gradient of the logit",
    "log_probability": "gradient of the log-probability",
    "smoothgrad": "SmoothGrad",
    "occlusion": "occlusion",
    "integrated_gradients": "integrated gradients",
}
_COLUMNS = {
    "claim": "Claim",
    "dataset": "Dataset",
    "training": "Training",
    "precision": "Precision",
    "metric": "Score",
    "question": "Question",
    "comparison": "Comparison",
    "verdict": "Verdict",
    "test_accuracy": "Test accuracy",
    "dead_rate": "Dead rate",
    "amplitude": "Amplitude",
    FAITHFULNESS: "Faithfulness",
}


def score_id(column: str) -> str:
    """The id of the score in a column of the runs: `preservation_ssim` is `ssim`, `dead_rate` is `dead`."""
    if column in (*GAINS, FAITHFULNESS):  # one score, under one fill or another
        return "relevance_gain_zero"
    return {"dead_rate": "dead"}.get(column, column.removeprefix("preservation_"))


def name(column: str) -> str:
    """A column or score in words, such as `Gini index`."""
    if column in _COLUMNS:
        return _COLUMNS[column]
    if column.startswith("retained_"):
        return f"{name(column.removeprefix('retained_'))}, retained"
    if column in GAINS:
        return f"Relevance gain, {column.removeprefix(RELEVANCE_GAIN + '_')}"
    score = SCORES.get(score_id(column))
    return score.name if score else column.replace("_", " ").capitalize()


def heading(column: str) -> str:
    """The words with the arrow that says which way is better, such as `Gini index ↑`."""
    if column == "test_accuracy":
        return "Test accuracy (%) ↑"
    score = SCORES.get(score_id(column))
    return f"{name(column)} {score.arrow}" if score else name(column)


def dataset(identifier: str) -> str:
    """`MNIST` for `mnist`; an unknown dataset keeps its identifier."""
    return DATASETS.get(identifier, identifier)
