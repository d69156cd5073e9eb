"""What the committed verdicts depend on, computed again with all resamples of the seeds."""

from saqlib.dependence import RESAMPLES
from study import paths
from tests.unit.test_recomputed import check_robustness


def test_what_the_committed_verdicts_depend_on_is_computed_again():
    """Every alternative of every verdict, to the case."""
    check_robustness(paths.RESULTS, RESAMPLES)
