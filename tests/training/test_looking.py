"""Looks at a network while it trains: counts by hand, and a network that stays as it was."""

import pytest
import torch
from torch import nn

from saqlib.data.images import as_input, load
from saqlib.network.quantization import PACT
from saqlib.training import looking


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """The sample's validation images and labels."""
    return load("mnist", "validation", sample=True)


def test_accuracy_is_the_percentage_of_right_answers(digits, monkeypatch):
    """Counted in chunks, in evaluation mode, as one pass over all images would count; the mode is restored."""
    images, labels = digits
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(28 * 28, 10))
    net.eval()
    right = (net(as_input(images)).argmax(1) == labels).float().mean().item()
    net.train()
    monkeypatch.setattr(looking, "CHUNK", 7)
    assert looking.accuracy(net, images, labels) == pytest.approx(100 * right)
    assert net.training and net[1].training


def test_activation_shares_count_clipped_inputs_and_zero_outputs(digits):
    """By hand: pixels at or above alpha, and pixels that round to 0; no hook stays behind."""
    net = nn.Sequential(nn.Flatten(), PACT(2))
    net[1].set_alpha(torch.tensor(0.6))
    pixels = as_input(digits[0])
    shares = looking.activation_shares(net, digits[0])["1"]
    assert shares["alpha"] == pytest.approx(0.6)
    assert shares["clipped"] == pytest.approx((pixels >= 0.6).float().mean().item())
    assert shares["zero"] == pytest.approx((pixels <= 0.1).float().mean().item())
    assert 0.05 < shares["clipped"] < 0.5 < shares["zero"] < 0.95
    assert not net[1]._forward_hooks
    assert looking.activation_shares(nn.Sequential(nn.Flatten(), nn.ReLU()), digits[0]) == {}
