"""What somebody else may rely on: names, and layers, steps, maps and scores for a network of their own."""

import importlib
import inspect
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import saqlib
from saqlib.clarity import (
    auroc,
    clarity_scores,
    control_maps,
    dead,
    entropy,
    foreground_mass,
    gini,
    map_scores,
    morans_i,
    preservation_scores,
    removal_curves,
    sensitivity_max,
    symmetric_relevance_gain,
)
from saqlib.deployment import DeploymentError, by_layer, cost, export_explanation, export_onnx, integer_network
from saqlib.network import (
    PACT,
    QuantConv2d,
    Quantization,
    QuantLinear,
    build,
    calibrate,
    pact_layers,
    quantize_weight,
    set_quantizing,
)
from saqlib.saliency import (
    check_alive,
    input_gradient,
    integrated_gradients,
    log_probability_gradient,
    mask_least_salient,
    occlusion,
    smoothgrad,
)
from saqlib.training import Images, Optimizer, accuracy, guided_step, make_optimizer, standard_step, train
from saqlib.training.stacked import Stacked

FACES = ("data", "network", "saliency", "training", "clarity", "evidence", "deployment")

# The names and first arguments that other things rely on (design, section 6).
CONTRACT = {
    "data.load": ["dataset", "split"],
    "data.as_input": ["images"],
    "network.pact": ["x", "alpha", "bits"],
    "network.PACT": ["bits"],
    "network.QuantConv2d": ["args"],
    "network.QuantLinear": ["args"],
    "network.calibrate": ["model", "images"],
    "network.quantize_weight": ["weight", "bits"],
    "network.build": ["precision"],
    "saliency.input_gradient": ["model", "images", "targets"],
    "saliency.mask_least_salient": ["images", "saliency", "fraction", "generator"],
    "training.standard_step": ["model", "optimizer", "images", "labels"],
    "training.guided_step": ["model", "optimizer", "images", "labels"],
    "clarity.gini": ["maps"],
    "clarity.morans_i": ["maps"],
    "clarity.foreground_mass": ["maps", "foreground"],
    "clarity.symmetric_relevance_gain": ["model", "images", "targets", "maps", "steps", "fill"],
    "evidence.paired_sign_flip": ["a", "b"],
    "evidence.holm": ["p"],
    "evidence.page_trend": ["table"],
    "evidence.t_interval": ["x"],
    "deployment.pack": ["codes", "bits"],
    "deployment.unpack": ["data", "bits", "shape"],
    "deployment.export_onnx": ["model", "path", "packed"],
    "deployment.cost": ["model"],
    "stored.load_model": ["cell", "seed"],
}
KEYWORDS = {"network.build": "seed", "training.guided_step": "generator"}  # arguments that are given by name alone


# ------------------------------------------------------------------------------------------------------ names


def public(face: str) -> dict[str, object]:
    """The names that a face promises, with what they stand for."""
    module = importlib.import_module(f"saqlib.{face}")
    return {name: getattr(module, name) for name in module.__all__}


@pytest.mark.parametrize("face", FACES)
def test_every_name_of_a_face_is_there_and_says_what_it_is(face):
    """It resolves, `dir` lists it, and a function or class has a docstring of its own."""
    module = importlib.import_module(f"saqlib.{face}")
    assert module.__doc__ and len(module.__all__) == len(set(module.__all__)) > 0
    assert set(module.__all__) <= set(dir(module))
    for name, value in public(face).items():
        if callable(value):
            assert value.__module__.startswith(f"saqlib.{face}."), f"{name} lives elsewhere"
            assert value.__name__ == name
            generated = inspect.isclass(value) and value.__doc__ and value.__doc__.startswith(f"{name}(")
            assert value.__doc__ and not generated, f"saqlib.{face}.{name} has no docstring"
        else:
            assert isinstance(value, tuple) and name.isupper()


@pytest.mark.parametrize("name", CONTRACT)
def test_the_names_of_the_contract_are_there_with_their_arguments(name):
    """In this order, and those given by name alone under theirs; where there are more, they have defaults."""
    module, _, attribute = name.rpartition(".")
    parameters = inspect.signature(getattr(importlib.import_module(f"saqlib.{module}"), attribute)).parameters
    assert list(parameters)[: len(CONTRACT[name])] == CONTRACT[name]
    if name in KEYWORDS:
        assert parameters[KEYWORDS[name]].kind is inspect.Parameter.KEYWORD_ONLY
    for extra in [p for p in list(parameters)[len(CONTRACT[name]) :] if p != KEYWORDS.get(name)]:
        given = parameters[extra]
        needed = given.default is given.empty and given.kind is not given.VAR_KEYWORD
        assert not needed or (attribute.startswith("Quant") and extra == "bits"), f"{extra} must have a default"


def test_faces_are_lazy():
    """Importing all faces imports none of the heavy libraries: only using a name does."""
    code = (
        f"import sys\nfor face in {FACES}: __import__('saqlib.' + face)\n"
        "print([name for name in ('torch', 'captum', 'onnx', 'pandas', 'xarray') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_an_unknown_name_of_a_face_is_an_attribute_error():
    """As of any module, so that `hasattr` and `from ... import` behave."""
    for face in FACES:
        with pytest.raises(AttributeError, match="nonsense"):
            importlib.import_module(f"saqlib.{face}").nonsense  # noqa: B018


# --------------------------------------------------------------------------------------------------- examples


def example(docstring: str) -> str:
    """The indented block of a docstring."""
    lines = [line for line in docstring.splitlines() if line.startswith("    ") or not line]
    return textwrap.dedent("\n".join(lines)).strip()


def test_the_example_of_the_library_runs(capsys):
    """The whole of it as it stands, without a file: the network learns, and its maps have scores."""
    torch.manual_seed(0)
    names = {}
    exec(example(saqlib.__doc__), names)  # noqa: S102
    printed = [float(number) for number in re.findall(r": (-?[\d.]+)$", capsys.readouterr().out, re.M)]
    assert len(printed) == 2 and 0 < printed[0] < 1 and -1 < printed[1] < 1
    assert names["maps"].shape == (64, 20, 24)
    assert accuracy(names["model"], (255 * names["images"]).byte(), names["labels"]) > 40  # of five classes


@pytest.mark.parametrize("face", ["network", "saliency", "training", "clarity"])
def test_the_example_of_a_face_runs(face):
    """With a network and images of somebody's own under the names that it uses."""
    model, images, labels = ColourNet(5), torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    with torch.no_grad():
        model(images)  # its last layer takes as many numbers as there are
    optimizer = torch.optim.Adam(model.parameters())
    maps = torch.rand(4, 32, 32)
    names = dict(torch=torch, nn=nn, model=model, images=images, labels=labels, targets=labels, maps=maps)
    code = example(importlib.import_module(f"saqlib.{face}").__doc__)
    assert "import" in code
    exec(code, names | {"optimizer": optimizer})  # noqa: S102


# ------------------------------------------------------------------------------------ a network of somebody's own


class ColourNet(nn.Module):
    """Any channels and sides: two convolutions around a sum, batch norm, dropout; precisions differ by layer."""

    def __init__(self, classes: int, channels: int = 3, features: int = 128):
        super().__init__()
        self.first = QuantConv2d(channels, 8, 3, padding=1, stride=2, bits=8)
        self.norm, self.act1 = nn.BatchNorm2d(8), PACT(4)
        self.second, self.act2 = QuantConv2d(8, 8, 3, padding=1, groups=2, bias=False, bits=3), PACT(2)
        self.pool, self.drop = nn.AdaptiveAvgPool2d(4), nn.Dropout(0.1)
        self.last = QuantLinear(features, classes, bits=4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.act1(self.norm(self.first(images)))
        x = self.act2(self.second(x)) + x
        return self.last(self.drop(self.pool(x).flatten(1)))


def grey_network() -> nn.Sequential:
    """One channel, 32 x 32 pixels, ten classes; the last layer in full precision."""
    return nn.Sequential(
        QuantConv2d(1, 6, 5, bits=4), nn.MaxPool2d(2), PACT(4), QuantConv2d(6, 8, 5, bits=2), nn.MaxPool2d(2), PACT(2),
        nn.Flatten(), nn.Linear(8 * 5 * 5, 10),
    )  # fmt: skip


class Case:
    """A new network with its images, uint8 and float, and labels; the fixture adds what training made of it."""

    def __init__(self, model: nn.Module, classes: int, channels: int, height: int, width: int):
        self.model, self.classes = model, classes
        self.pictures, self.labels = bright_squares(60, classes, channels, height, width)
        self.images = self.pictures.float() / 255
        self.pixels, self.channels, self.sides = height * width, channels, (height, width)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        clips = Quantization(edges="same", alpha_learning_rate=0.01, alpha_penalty=1e-4, calibration_images=60)
        return make_optimizer(model, Optimizer(batch_size=60, learning_rate=0.01), clips)


def bright_squares(count: int, classes: int, channels: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Noise around a bright square in one channel whose row says the class; half of the pixels are black."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, height, width)
    pictures = torch.randint(0, 60, shape, generator=generator)
    pictures *= torch.randint(0, 2, (count, 1, height, width), generator=generator)
    labels = torch.arange(count) % classes
    band = height // classes
    for i, label in enumerate(labels.tolist()):
        column = int(torch.randint(0, width - 6, (), generator=generator))
        pictures[i, i % channels, label * band : (label + 1) * band, column : column + 6] = 255
    return pictures.byte(), labels


def make(kind: str) -> Case:
    torch.manual_seed(0)
    if kind == "colour":
        return Case(ColourNet(5), classes=5, channels=3, height=20, width=24)
    return Case(grey_network(), classes=10, channels=1, height=32, width=32)


@pytest.fixture(scope="module", params=["colour", "grey"])
def case(request) -> Case:
    """Calibrated and trained by guided steps; `model` is in evaluation mode, `maps` are of the predicted classes."""
    own = make(request.param)
    calibrate(own.model, own.images)
    optimizer, generator = own.optimizer(own.model), torch.Generator().manual_seed(0)
    own.losses = [
        guided_step(own.model, optimizer, own.images, own.labels, generator=generator).item() for _ in range(40)
    ]
    own.model.eval()
    with torch.no_grad():
        own.predicted = own.model(own.images).argmax(1)
    own.maps = input_gradient(own.model, own.images)
    return own


@pytest.mark.parametrize("kind", ["colour", "grey"])
def test_calibration_sets_the_clips_of_any_network(kind):
    """Each to the best of its own input, so that several levels of every activation are used."""
    own = make(kind)
    clips = [layer.alpha.item() for layer in pact_layers(own.model).values()]
    assert clips == [1, 1]
    calibrate(own.model, own.images)
    for layer in pact_layers(own.model).values():
        assert layer.alpha != 1 and layer.floor == layer.alpha * layer.floor.new_tensor(1e-3)
        codes = []
        handle = layer.register_forward_hook(lambda layer, _, out, codes=codes: codes.append(out / layer.scale))
        own.model(own.images)
        handle.remove()
        torch.testing.assert_close(codes[0], codes[0].round(), rtol=0, atol=1e-4)
        assert len(codes[0].round().unique()) == 2**layer.bits


@pytest.mark.parametrize("kind", ["colour", "grey"])
@pytest.mark.parametrize("step", ["standard", "guided"])
@pytest.mark.parametrize("plain", [False, True])
def test_steps_train_any_network(kind, step, plain):
    """Standard or guided, with our optimiser or a plain one: the loss falls and every parameter learns."""
    own = make(kind)
    calibrate(own.model, own.images)
    before = {name: value.detach().clone() for name, value in own.model.named_parameters()}
    optimizer = torch.optim.Adam(own.model.parameters(), lr=0.01) if plain else own.optimizer(own.model)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(25):
        if step == "standard":
            loss = standard_step(own.model, optimizer, own.images, own.labels)
        else:
            loss = guided_step(own.model, optimizer, own.images, own.labels, generator=generator)
        assert loss.shape == () and not loss.requires_grad
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    for name, value in own.model.named_parameters():
        assert not torch.equal(value, before[name]), name
    assert all(layer.alpha > 0 for layer in pact_layers(own.model).values())


@pytest.mark.parametrize("kind", ["colour", "grey"])
def test_a_guided_step_is_the_gradient_of_its_two_terms(kind):
    """Written out with the public functions alone: cross-entropy + KL(f(x) || f(x~)), map and mask as they are."""
    own, twin = make(kind), make(kind)
    model, other = own.model.double(), twin.model.double()
    images = own.images.double()
    for net in (model, other):
        calibrate(net, images)
        if kind == "colour":
            net.drop.p = 0.0
            net.norm.eval()  # the public map is of evaluation mode
    guided_step(
        model, torch.optim.SGD(model.parameters(), lr=0.0), images, own.labels,
        generator=torch.Generator().manual_seed(3),
    )  # fmt: skip
    maps = input_gradient(other, images, own.labels)
    masked = mask_least_salient(images, maps, 0.5, torch.Generator().manual_seed(3))
    clean, hidden = other(images).log_softmax(1), other(masked).log_softmax(1)
    divergence = (clean.exp() * (clean - hidden)).sum(1)
    (divergence.mean() - clean[torch.arange(len(images)), own.labels].mean()).backward()
    for (name, value), expected in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(value.grad, expected.grad, rtol=1e-6, atol=1e-9, msg=name)


def test_a_whole_training_takes_any_network():
    """`train` with uint8 images of three channels: warm-up, calibration, quantized to the end, accuracy on the way."""
    own = make("colour")
    images = Images(own.pictures, own.labels, own.pictures[:20], own.labels[:20])
    clips = Quantization(edges="same", alpha_learning_rate=0.01, alpha_penalty=1e-4, calibration_images=30)
    history = train(
        own.model, images, seed=0, epochs=12, warmup_epochs=2, optimizer=Optimizer(15, 0.02), quantization=clips
    )
    assert [entry["epoch"] for entry in history.epochs] == list(range(1, 13))
    assert history.epochs[-1]["validation_accuracy"] == accuracy(own.model, own.pictures[:20], own.labels[:20]) > 60
    assert history.epochs[-1]["layers"].keys() == pact_layers(own.model).keys()
    assert not own.model.training


def test_a_network_with_clips_needs_their_settings():
    """One line says what is missing; a network without PACT layers needs nothing."""
    settings = Optimizer(batch_size=8, learning_rate=0.01)
    with pytest.raises(ValueError, match="^the network has PACT layers; give the settings of their clips"):
        make_optimizer(nn.Sequential(PACT(4), nn.Linear(2, 2)), settings)
    assert len(make_optimizer(nn.Linear(2, 2), settings).param_groups) == 1


def test_the_warm_up_is_switched_by_hand(case):
    """set_quantizing makes any network compute in full precision, and back."""
    quantized = case.model(case.images)
    set_quantizing(case.model, False)
    full = case.model(case.images)
    set_quantizing(case.model, True)
    assert not torch.allclose(full, quantized)
    assert torch.equal(case.model(case.images), quantized)


def test_weights_are_on_their_lattice_after_training(case):
    """What any network computes with are codes * scale of quantize_weight."""
    for layer in case.model.modules():
        if isinstance(layer, (QuantConv2d, QuantLinear)):
            codes, scale = quantize_weight(layer.weight, layer.bits)
            assert torch.equal(layer.codes(), codes) and torch.equal(layer.weight_scale, scale)


# -------------------------------------------------------------------------------------------------------- maps


def test_training_with_guidance_worked(case):
    """The loss fell and the training images are classified, so that the maps below are of a network that sees."""
    assert case.losses[-1] < 0.5 * case.losses[0]
    assert (case.predicted == case.labels).float().mean() > 0.6


def test_the_map_is_the_strongest_channel_of_autograd_s_gradient(case):
    """Of the predicted class's logit, one value a pixel: (B, H, W), signed."""
    watched = case.images.clone().requires_grad_()
    case.model(watched).amax(1).sum().backward()
    assert case.maps.shape == (60, *case.sides)
    for values, found in zip(watched.grad.flatten(2).numpy(), case.maps.flatten(1).numpy(), strict=True):
        expected = values[np.abs(values).argmax(0), np.arange(case.pixels)]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    check_alive(case.model, case.images)
    assert not dead(case.maps).any()


@pytest.mark.parametrize("fraction", [0.0, 0.013, 0.5, 1.0])
def test_a_masked_pixel_is_masked_in_all_its_channels(case, fraction):
    """Exactly int(fraction * H * W) pixels, the least salient ones, and no other value."""
    masked = mask_least_salient(case.images, case.maps, fraction, torch.Generator().manual_seed(0))
    changed = (masked != case.images).flatten(2)  # noise hits a value of before with probability 2^-24
    assert torch.equal(changed.all(1), changed.any(1))
    assert (changed.all(1).sum(1) == int(fraction * case.pixels)).all()
    hidden, strength = changed.all(1), case.maps.flatten(1).abs()
    for row, values in zip(hidden, strength, strict=True):
        if row.any() and not row.all():
            assert values[row].max() <= values[~row].min()


def test_other_methods_explain_any_network(case):
    """SmoothGrad, integrated gradients, occlusion, the log-probability's gradient: finite maps, none of them dead.

    SmoothGrad with hardly any noise is nearly the map: rounding to a lattice makes even that a step.
    """
    generator = torch.Generator().manual_seed(0)
    mean = case.images.mean(0, keepdim=True)
    found = {
        "integrated_gradients": integrated_gradients(case.model, case.images, case.predicted, mean),
        "smoothgrad": smoothgrad(case.model, case.images, case.predicted, generator=generator, samples=4),
        "occlusion": occlusion(case.model, case.images, case.predicted),
        "log_probability": log_probability_gradient(case.model, case.images, case.predicted),
    }
    for name, maps in found.items():
        assert maps.shape == case.maps.shape and maps.isfinite().all() and not maps.requires_grad, name
        assert not dead(maps).any(), name
    near = smoothgrad(case.model, case.images, case.predicted, generator=generator, samples=2, deviation=1e-7)
    assert preservation_scores(near, case.maps)["cosine"].median() > 0.99


# ------------------------------------------------------------------------------------------------------ scores


RANGES = {  # of each score by id
    "gini": (0, 1),
    "morans_i": (-1.1, 1.1),
    "foreground_mass": (-2, 1),
    "entropy": (0, 1),
    "auroc": (0, 1),
    "dead": (0, 0),
    "relevance_gain_zero": (-1, 1),
    "deletion": (0, 1),
    "insertion": (0, 1),
}


def test_every_clarity_score_is_there_for_any_network(case):
    """One float64 an image, in its range, and the same as the function of its name."""
    together = clarity_scores(case.model, case.images, case.predicted, case.maps, steps=8)
    assert list(together) == list(RANGES)
    for name, values in together.items():
        low, high = RANGES[name]
        assert values.shape == (60,) and values.dtype == torch.float64, name
        assert ((values >= low) & (values <= high)).all(), name
    foreground = (case.images > 0).any(1)
    alone = {
        "gini": gini(case.maps),
        "morans_i": morans_i(case.maps),
        "foreground_mass": foreground_mass(case.maps, foreground),
        "entropy": entropy(case.maps),
        "auroc": auroc(case.maps, foreground),
        "dead": dead(case.maps).double(),
        "symmetric_relevance_gain": symmetric_relevance_gain(
            case.model, case.images, case.predicted, case.maps, steps=8
        ),
    }
    assert all(torch.equal(together[name], values) for name, values in alone.items())
    assert all(torch.equal(together[name], values) for name, values in map_scores(case.images, case.maps).items())


def test_the_foreground_is_every_pixel_with_a_channel_above_0():
    """A map on one pixel that only the last channel shows lies wholly on the object."""
    images, maps = torch.zeros(1, 3, 20, 24), torch.zeros(1, 20, 24)
    images[0, 2, 4, 5] = 0.5
    maps[0, 4, 5] = -3
    scores = map_scores(images, maps)
    assert (scores["foreground_mass"].item(), scores["auroc"].item()) == (1, 1)
    assert scores["gini"].item() == pytest.approx(1 - 1 / 480)


def test_a_removed_pixel_leaves_in_all_its_channels(case):
    """Each point of both curves by brute force, one image and one count at a time."""
    steps = 5
    some, classes, maps = case.images[:4], case.predicted[:4], case.maps[:4]
    curves = removal_curves(case.model, some, classes, maps, steps)
    strength = maps.flatten(1).abs()
    orders = {"least": strength.argsort(stable=True), "most": (-strength).argsort(stable=True)}
    for name, order in orders.items():
        found = getattr(curves, name)
        assert found.shape == (4, steps + 1)
        for i, target in enumerate(classes.tolist()):
            for k in range(steps + 1):
                rest = some[i].clone().flatten(1)
                rest[:, order[i, : round(k * case.pixels / steps)]] = 0
                with torch.no_grad():
                    chance = case.model(rest.view_as(some[i])[None]).double().softmax(1)[0, target]
                assert found[i, k].item() == pytest.approx(chance.item(), abs=1e-5), (name, i, k)


def test_the_network_uses_what_its_map_marks(case):
    """Its relevance gain is above that of noise, and a map of one value gains exactly nothing."""

    def gain(maps: Tensor) -> Tensor:
        return symmetric_relevance_gain(case.model, case.images, case.predicted, maps, steps=8)

    noise = control_maps(case.images, torch.Generator().manual_seed(0))["white_noise"]
    assert gain(case.maps).mean() > gain(noise).mean() + 0.1
    assert (gain(torch.ones_like(case.maps)) == 0).all()


def test_sensitivity_of_any_network(case):
    """At least 0 and finite; a network whose gradient never changes has 0."""
    some, classes = case.images[:6], case.predicted[:6]
    found = sensitivity_max(case.model, some, classes, generator=torch.Generator().manual_seed(0), draws=3)
    assert found.shape == (6,) and found.dtype == torch.float64 and (found >= 0).all() and found.isfinite().all()
    line = nn.Sequential(nn.Flatten(), nn.Linear(some[0].numel(), case.classes))
    still = sensitivity_max(line, some, classes, generator=torch.Generator().manual_seed(0), draws=3)
    torch.testing.assert_close(still, torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-6)


def test_likeness_of_any_maps(case):
    """A map is wholly like itself, and less like noise."""
    noise = control_maps(case.images, torch.Generator().manual_seed(0))["white_noise"]
    same, other = preservation_scores(case.maps, case.maps), preservation_scores(case.maps, noise)
    for name, values in same.items():
        torch.testing.assert_close(values, torch.ones(60, dtype=torch.float64), rtol=0, atol=1e-9, msg=name)
        assert other[name].mean() < 0.6, name


def test_controls_of_any_images(case):
    """Maps of the images' height and width; the image itself is the mean of its channels."""
    controls = control_maps(case.images, torch.Generator().manual_seed(0))
    assert list(controls) == ["white_noise", "one_hot", "sobel", "intensity"]
    for name, maps in controls.items():
        scores = clarity_scores(case.model, case.images, case.predicted, maps, steps=4)
        assert maps.shape == case.maps.shape and not scores["dead"].any(), name
    expected = case.images.double().mean(1).float()
    torch.testing.assert_close(controls["intensity"], expected)
    if case.channels == 1:
        assert torch.equal(controls["intensity"], case.images[:, 0])


# -------------------------------------------------------------------------------- what is for 28 x 28 pixels alone


def test_the_network_of_the_study_refuses_other_images():
    """One line says what it takes and what came: also where a step or a map runs it."""
    network = build("w2a2", seed=0)
    images, labels = torch.rand(2, 3, 20, 24), torch.tensor([0, 1])
    optimizer = torch.optim.Adam(network.parameters())
    attempts = [
        lambda: network(images),
        lambda: input_gradient(network, images),
        lambda: standard_step(network, optimizer, images, labels),
        lambda: guided_step(network, optimizer, images, labels, generator=torch.Generator()),
        lambda: symmetric_relevance_gain(network, images, labels, images[:, 0], steps=4),
    ]
    for attempt in attempts:
        with pytest.raises(ValueError, match=r"^this network takes images \(B, 1, 28, 28\), not \(\d+, 3, 20, 24\)$"):
            attempt()


def test_only_the_network_of_the_study_is_deployed(case, tmp_path):
    """Export, cost and integer inference say so in one line, name what they were given, and write nothing."""
    kind = type(case.model).__name__
    attempts = [
        lambda: export_onnx(case.model, tmp_path / "model.onnx", packed=True),
        lambda: export_explanation(case.model, tmp_path / "model.onnx", packed=True),
        lambda: cost(case.model),
        lambda: by_layer(case.model),
        lambda: integer_network(case.model),
    ]
    for attempt in attempts:
        with pytest.raises(DeploymentError) as error:
            attempt()
        assert str(error.value) == f"only a network of saqlib.network.build can be deployed, not a {kind}"
    assert not list(tmp_path.iterdir())


def test_only_networks_of_the_study_train_as_one(case):
    """Several networks of somebody's own as one batched network: one line says that they train one by one."""
    with pytest.raises(ValueError, match="^only networks of saqlib.network.build train as one"):
        Stacked([case.model, case.model])
