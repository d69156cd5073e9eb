"""What the tests of evidence share."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def quick_garbage_collection() -> Iterator[None]:
    """Set the libraries' objects aside: the Holm correction of statsmodels collects garbage at every call."""
    gc.freeze()
    yield
    gc.unfreeze()
