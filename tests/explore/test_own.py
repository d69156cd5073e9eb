"""Networks with bits of your own: those bits, trained once, beside one trained alike."""

import matplotlib.pyplot as plt
import pytest
import torch

from saqlib.data.images import load
from saqlib.explore import own
from saqlib.params import ParamsError
from saqlib.training.looking import accuracy


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """A few epochs are enough to see that something is trained."""
    monkeypatch.setattr(own, "EPOCHS", 3)
    monkeypatch.setattr(own, "WARM_UP", 1)
    own._trained.cache_clear()
    yield
    own._trained.cache_clear()
    plt.close("all")


def test_a_network_has_the_bits_that_it_was_asked_for_and_is_trained_once():
    """The edges keep 8-bit weights; another picture asks for the same network again."""
    threads = torch.get_num_threads()
    network = own.trained(own.table(3, 2), "mnist", "guided")
    assert [layer.weight for layer in network.precision.layers] == [8, 3, 2, 2, 8]
    assert [layer.activation for layer in network.precision.layers] == [3, 3, 2, 2, None]
    assert own.trained(own.table(3, 2), "mnist", "guided") is network
    assert own.trained(own.table(3, 2), "mnist", "standard") is not network
    assert torch.get_num_threads() == threads and not network.training


def test_full_precision_learns_too_and_the_figure_says_what_is_seen():
    """Percentages are those of the test images; each map has its class above and its scores below."""
    networks = {"full": own.trained({}, "mnist", "standard")}
    found = own.accuracies(networks, "mnist")
    assert found["full"] == accuracy(networks["full"], *load("mnist", "test", sample=True)) > 50
    figure = own.compare(networks, "mnist", 7)
    assert figure.axes[0].get_title() == "image: 7"
    assert figure.axes[1].get_title().startswith("full: ") and "focus 0." in figure.axes[1].get_xlabel()


def test_bits_that_cannot_be_are_refused():
    """In a sentence that names the layer."""
    with pytest.raises(ParamsError, match="conv1: bits must be a whole number from 2 to 8, not 1"):
        own.trained(own.table(1, 2), "mnist", "guided")
