"""What no network is trained on: labels that do not fit, weights that overflow; it would learn all the same."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from saqlib.errors import NotFiniteError
from saqlib.network.initial import build
from saqlib.pipeline import study
from saqlib.training import looking, loop, steps
from saqlib.training.records import Images

STUDY = study.load(scale="smoke")
STEPS = {
    "standard": steps.standard_step,
    "guided": lambda *given: steps.guided_step(*given, generator=torch.Generator().manual_seed(0)),
}
BAD_LABELS = {
    "too few": torch.tensor([0, 1, 2]),
    "one": torch.tensor([1]),
    "a column": torch.tensor([[0], [1], [2], [3]]),
    "shares": torch.eye(10)[:4],
    "float": torch.tensor([0.0, 1.0, 2.0, 3.0]),
    "int32": torch.tensor([0, 1, 2, 3]).int(),
}


@pytest.fixture(params=STEPS)
def step(request):
    """A step of training: network, optimizer, images, labels."""
    return STEPS[request.param]


def batch(count: int = 4) -> torch.Tensor:
    """Images as the network takes them."""
    return torch.rand(count, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def refuses(step, network, images, labels, *, error=ValueError) -> str:
    """The line with which a step refuses; no weight has moved."""
    optimizer = steps.make_optimizer(network, STUDY.optimizer, STUDY.quantization)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(error) as raised:
        step(network, optimizer, images, labels)
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())
    return str(raised.value)


@pytest.mark.parametrize("labels", BAD_LABELS.values(), ids=BAD_LABELS)
def test_labels_that_do_not_fit_are_refused(step, labels):
    """Cross-entropy takes shares, and broadcasting takes more."""
    assert "torch.int64 (4,)" in refuses(step, build("fp32", seed=0).train(), batch(), labels)


@pytest.mark.parametrize("label", [-100, -1, 10])
def test_a_label_that_is_no_class_is_an_error(step, label):
    """Also -100, which PyTorch leaves out without a word."""
    labels = torch.tensor([0, 1, label, 3])
    refuses(step, build("fp32", seed=0).train(), batch(), labels, error=(IndexError, RuntimeError))


@pytest.mark.parametrize("weight", [-1.0, float("nan")])
def test_a_divergence_counts_for_something(weight):
    """Less than nothing would drive predictions apart."""
    network = build("fp32", seed=0).train()
    optimizer = steps.make_optimizer(network, STUDY.optimizer)
    with pytest.raises(ValueError, match="weight must be at least 0"):
        steps.guided_step(network, optimizer, batch(), torch.arange(4), generator=torch.Generator(), weight=weight)


@pytest.mark.parametrize("precision", ["fp32", "w2a2"])
def test_a_map_of_nan_masks_nothing(precision):
    """A network that has overflowed: the guided step stops before it masks by it."""
    network = build(precision, seed=0).train()
    with torch.no_grad():
        network.dense3.weight[0] = float("nan")
    with pytest.raises(NotFiniteError):
        optimizer = steps.make_optimizer(network, STUDY.optimizer, STUDY.quantization)
        STEPS["guided"](network, optimizer, batch(), torch.zeros(4, dtype=torch.int64))


def test_under_autocast_a_quantized_network_has_the_same_gradients(step):
    """In float16 those below 6e-8 would be 0, and those of bfloat16 have three digits."""
    found = []
    for dtype in (None, torch.float16, torch.bfloat16):
        network = build("w2a2", seed=0).double().train()  # so that the operators are the same, whose rounding decides
        optimizer = steps.make_optimizer(network, STUDY.optimizer, STUDY.quantization)
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            step(network, optimizer, batch().double(), torch.arange(4))
        found.append(torch.cat([each.grad.flatten() for each in network.parameters() if each.grad is not None]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("labels", BAD_LABELS.values(), ids=BAD_LABELS)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_splits_have_a_label_for_each_image(split, labels):
    """Or no training begins."""
    pair = batch(4), torch.arange(4)
    given = dict(zip(["train", "train_labels", "validation", "validation_labels"], pair * 2, strict=True))
    with pytest.raises(ValueError, match="targets must be"):
        Images(**given | {f"{split}_labels": labels})
    with pytest.raises(ValueError, match="no images"):
        Images(**given | {split: batch(0), f"{split}_labels": labels[:0]})


def test_accuracy_of_none_or_of_nan_is_no_number():
    """Neither 0 nor 100: no images, labels that do not fit, logits that are not finite."""
    network = build("fp32", seed=0)
    images = (255 * batch()).byte()[:, 0]
    with pytest.raises(ValueError, match="no images"):
        looking.accuracy(network, images[:0], torch.arange(0))
    for labels in BAD_LABELS.values():
        with pytest.raises(ValueError, match="targets must be"):
            looking.accuracy(network, images, labels)
    with torch.no_grad():
        network.dense3.bias[3] = float("nan")
    with pytest.raises(NotFiniteError):
        looking.accuracy(network, images, torch.arange(4))


class Exploding(nn.Module):
    """One weight, which the last step of an epoch throws to infinity: no loss of that epoch has seen it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images):
        return images.flatten(1)[:, :10] * self.weight


def test_a_weight_that_the_last_step_spoilt_is_seen():
    """Training of one batch an epoch: its loss is finite, and what it leaves is not."""
    pictures = (255 * batch(20)).byte()[:, 0]
    images = Images(pictures, torch.arange(20) % 10, pictures, torch.arange(20) % 10)
    network = Exploding()
    network.weight.register_hook(lambda grad: torch.full_like(grad, float("nan")))
    with pytest.raises(loop.DivergedError, match="seed 5: a weight is not finite in epoch 1"):
        loop.train(network, images, seed=5, epochs=2, optimizer=replace(STUDY.optimizer, batch_size=64))


def test_seeds_and_warm_up_fit_the_networks():
    """A seed for each network, and quantized steps behind the warm-up."""
    pictures = (255 * batch(8)).byte()[:, 0]
    images = Images(pictures, torch.arange(8), pictures, torch.arange(8))
    with pytest.raises(ValueError, match="one seed for each network"):
        loop.train_together([build("fp32", seed=0)], images, seeds=[0, 1], epochs=1, optimizer=STUDY.optimizer)
    options = {"optimizer": STUDY.optimizer, "quantization": STUDY.quantization}
    with pytest.raises(ValueError, match="warmup_epochs must be less than epochs"):
        loop.train(build("w2a2", seed=0), images, seed=0, epochs=1, warmup_epochs=1, **options)
