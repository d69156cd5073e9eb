"""All committed cells at all levels, explain without PyTorch, the real images' borders, and networks of one's own."""

import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from saqlib import data
from saqlib.deploy import check
from study import explore, models, paths
from study.settings import ParamsError
from tests.helpers.deployed import earlier

MODELS = paths.RESULTS / "models"
CELLS = sorted(path.stem for path in MODELS.glob("*.pt"))


@pytest.mark.parametrize("cell", CELLS)
def test_the_committed_files_are_the_network(cell, tmp_path):
    """To the byte those that it is written as, and equal to it on the sample at each level of ONNX Runtime."""
    dataset, _, _ = cell.split("-")
    written = check.deploy(models.load(cell), cell, tmp_path, data.DATASETS[dataset].classes)
    for path in written.values():
        assert (MODELS / path.name).read_bytes() in (path.read_bytes(), earlier(path))
    check.verify(models.load(cell), written, data.load(dataset, "test", paths.SAMPLE)[0])


@pytest.mark.parametrize("flags", [[], ["-OO"]])
def test_explain_needs_the_base_dependencies_alone(flags, tmp_path):
    """In a process that cannot import others it prints the class and draws; also without docstrings."""
    others = ["torch", "onnx", "pandas", "scipy", "matplotlib", "ruamel", "ruamel.yaml", "pydantic", "lazy_loader"]
    program = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({others})); "
        "runpy.run_module('saqlib.deploy.explain', run_name='__main__')"
    )
    command = [sys.executable, *flags, "-c", program, MODELS / "mnist-w2a2-guided.explain.onnx"]
    arguments = [paths.SAMPLE / "seven.png", "-o", tmp_path / "x.png"]
    done = subprocess.run([*command, *arguments], cwd=paths.ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("class: 7\n")
    with Image.open(tmp_path / "x.png") as drawn:
        assert drawn.height == 352 and drawn.width in (608, 904)


@pytest.mark.parametrize("dataset", data.DATASETS)
def test_no_real_image_has_a_bright_ground(dataset):
    """And each negative has: by that explain tells what is upside down."""
    try:
        images = np.concatenate([data.load(dataset, split)[0].numpy() for split in data.SPLITS]).astype(np.float32)
    except data.DataError as error:
        pytest.skip(f"needs the real images: {error}")
    inside = images[:, 1:-1, 1:-1].sum((1, 2))
    means = (images.sum((1, 2)) - inside) / (4 * 28 - 4)
    assert len(means) == 70_000 and (means < 255 / 2).all()  # so that each negative lies above


def test_networks_of_your_own(monkeypatch):
    """Those bits, 8 at the edges, trained once; the figure has class and scores of each; other bits are refused."""
    monkeypatch.setattr(explore, "EPOCHS", 2)
    monkeypatch.setattr(explore, "WARM_UP", 1)
    explore._trained.cache_clear()
    network, threads = explore.trained(explore.own_bits(3, 2), "mnist", "standard"), torch.get_num_threads()
    assert [layer.weight for layer in network.precision.layers] == [8, 3, 2, 2, 8]
    assert [layer.activation for layer in network.precision.layers] == [3, 3, 2, 2, None]
    assert explore.trained(explore.own_bits(3, 2), "mnist", "standard") is network and not network.training
    networks = {"full": explore.trained({}, "mnist", "standard"), "yours": network}
    assert torch.get_num_threads() == threads and explore.accuracies(networks, "mnist")["full"] > 40
    figure = explore.compare(networks, "mnist", 7)
    assert figure.axes[0].get_title() == "image: 7" and figure.axes[1].get_title().startswith("full: ")
    assert "focus 0." in figure.axes[2].get_xlabel()
    plt.close("all")
    with pytest.raises(ParamsError, match="yours.conv1"):
        explore.trained(explore.own_bits(1, 2), "mnist", "guided")
