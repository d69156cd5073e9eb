"""What a reader sees in place of an identifier: in tables, figures and sentences the same words.

What a dataset is called stands in `saqlib.data.DATASETS`, what a score is called in `saqlib.scores.SCORES`. What has no
words of its own is shown by its identifier.
"""

import re

from saqlib.data import DATASETS
from saqlib.scores import FAITHFULNESS, GRADIENT, IMAGE, PASS_THROUGH, RELEVANCE_GAIN, SCORES, UNTRAINED

# What stands beside the networks' maps and knows nothing, in the order of tables.
CONTROLS = {
    UNTRAINED: "untrained network",
    "white_noise": "white noise",
    "one_hot": "one random pixel",
    "sobel": "edges of the image",
    IMAGE: "the image itself",
}
# Maps of a network whose words differ from their identifier.
MAPS = {
    GRADIENT: "straight-through",
    PASS_THROUGH: "passed through",
    "smoothgrad": "SmoothGrad",
    "smoothgrad_pass_through": "SmoothGrad, passed through",
    "log_probability": "gradient of the log-probability",
    "relu": "ReLU for the map",
    "weights_off": "weights not quantized",
    "fp32_twin": "map of full precision",
    "other_seed": "map of another seed",
}
PRECISIONS = {"fp32": "full precision", "w8a8": "8 bits", "w4a4": "4 bits", "mixed": "4/2 bits", "w2a2": "2 bits"}
# What is asked of the networks, by the column of results/runs.csv that answers.
QUESTIONS = {
    "test_accuracy": "accuracy",
    "gini": "focus",
    "morans_i": "coherence",
    "sensitivity_max": "stability",
    FAITHFULNESS: "faithfulness",
}
GAIN = f"{RELEVANCE_GAIN}_"  # how a column of the relevance gain begins; the fill follows
OTHER_IDS = {FAITHFULNESS: RELEVANCE_GAIN, "dead_rate": "dead"}  # columns whose score has another identifier


def dataset(identifier: str) -> str:
    """`MNIST` for `mnist`; an unknown dataset keeps its identifier."""
    return DATASETS[identifier].title if identifier in DATASETS else identifier


def map_name(identifier: str) -> str:
    """A map of a network or one that knows nothing, such as `SmoothGrad` or `white noise`."""
    return (CONTROLS | MAPS).get(identifier, plain(identifier))


def precision(identifier: str) -> str:
    """`2 bits` for `w2a2`; one that the paper does not have keeps its identifier."""
    return PRECISIONS.get(identifier, identifier)


def plain(identifier: str) -> str:
    """An identifier as words: `edges same` for `edges_same`."""
    return identifier.replace("_", " ")


def comparison(label: str) -> str:
    """A comparison with the maps in words: `w2a2: straight-through - passed through`."""
    return re.sub(r"\w+", lambda word: map_name(word[0]), label)


def in_words(comparison: str) -> str:
    """A comparison of precisions as figures show it: `4 bits − full precision` for `w4a4 - fp32`."""
    return re.sub(r"\w+", lambda word: precision(word[0]), comparison.replace(" - ", " − "))


def question(column: str) -> str:
    """What a column answers, for the head of a table or the side of a panel: `Focus` for `gini`."""
    return "Accuracy (%)" if column.endswith("accuracy") else QUESTIONS.get(column, column).capitalize()


def score_id(column: str) -> str:
    """The score in a column of the runs: `preservation_ssim` is `ssim`, the relevance gain under any fill one score."""
    if column.startswith(GAIN):
        return RELEVANCE_GAIN
    return OTHER_IDS.get(column, column.removeprefix("preservation_"))


def name(column: str) -> str:
    """A column or score in words, such as `Gini index`."""
    if column == FAITHFULNESS:
        return "Faithfulness"
    if column.startswith("retained_"):
        return f"{name(column.removeprefix('retained_'))}, retained"
    if column.startswith(GAIN):
        return f"Relevance gain, {column.removeprefix(GAIN)}"
    score = SCORES.get(score_id(column))
    return score.name if score else plain(column).capitalize()


def heading(column: str) -> str:
    """The words with the arrow that says which way is better, such as `Gini index ↑`."""
    if column == "test_accuracy":
        return "Test accuracy (%) ↑"
    score = SCORES.get(score_id(column))
    return f"{name(column)} {score.arrow}" if score else name(column)
