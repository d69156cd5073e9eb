"""What a reader sees in place of an identifier: in tables, figures and sentences the same words.

What a dataset is called stands in `saqlib.data.DATASETS`, what a score is called in `saqlib.scores.SCORES`. What has no
words of its own is shown by its identifier.
"""

from saqlib.data import DATASETS
from saqlib.scores import FAITHFULNESS, GRADIENT, RELEVANCE_GAIN, SCORES, UNTRAINED

# What stands beside the networks' maps and knows nothing, in the order of tables.
CONTROLS = {
    UNTRAINED: "untrained network",
    "white_noise": "white noise",
    "one_hot": "one random pixel",
    "sobel": "edges of the image",
    "intensity": "the image itself",
}
# Methods that make a map whose words differ from their identifier.
METHODS = {
    GRADIENT: "gradient of the logit",
    "log_probability": "gradient of the log-probability",
    "smoothgrad": "SmoothGrad",
}
# What is asked of the networks, by the column of results/runs.csv that answers.
QUESTIONS = {
    "test_accuracy": "accuracy",
    "gini": "focus",
    "morans_i": "coherence",
    FAITHFULNESS: "faithfulness",
}
GAIN = f"{RELEVANCE_GAIN}_"  # how a column of the relevance gain begins; the fill follows
OTHER_IDS = {FAITHFULNESS: RELEVANCE_GAIN, "dead_rate": "dead"}  # columns whose score has another identifier


def dataset(identifier: str) -> str:
    """`MNIST` for `mnist`; an unknown dataset keeps its identifier."""
    return DATASETS[identifier].title if identifier in DATASETS else identifier


def method(identifier: str) -> str:
    """A method that makes maps, such as `SmoothGrad`."""
    return METHODS.get(identifier, plain(identifier))


def control(identifier: str) -> str:
    """A map that knows nothing, such as `white noise`."""
    return CONTROLS.get(identifier, plain(identifier))


def plain(identifier: str) -> str:
    """An identifier as words: `edges same` for `edges_same`."""
    return identifier.replace("_", " ")


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
