"""What a reader sees in place of an identifier: in tables, figures and sentences the same words."""

from saqlib import reference_maps
from saqlib.clarity import SCORES

DATASETS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
TRAININGS = {"standard": "standard", "guided": "guided"}
CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        "T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot",
    ),
}  # fmt: skip
CONTROLS = {"reinit": "re-initialised network"} | reference_maps.CONTROLS
METHODS = {
    "gradient": "gradient of the logit",
    "log_probability": "gradient of the log-probability",
    "smoothgrad": "SmoothGrad",
    "occlusion": "occlusion",
}
COLUMNS = {
    "claim": "Claim",
    "dataset": "Dataset",
    "training": "Training",
    "precision": "Precision",
    "metric": "Score",
    "comparison": "Comparison",
    "verdict": "Verdict",
    "test_accuracy": "Test accuracy",
    "dead_rate": "Dead rate",
    "clarity": "Clarity as a whole",
}


def score_id(column: str) -> str:
    """The id of the score in a column of the runs: `preservation_ssim` is `ssim`, `dead_rate` is `dead`."""
    return {"dead_rate": "dead"}.get(column, column.removeprefix("preservation_"))


def name(column: str) -> str:
    """A column or score in words, such as `Gini index`."""
    if column in COLUMNS:
        return COLUMNS[column]
    if column.startswith("retained_"):
        return f"{name(column.removeprefix('retained_'))}, retained"
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
