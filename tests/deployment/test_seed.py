"""Tests of saqlib.deployment.seed: the files of a network are the network, and its row says what they cost."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from saqlib.deployment import seed as deployment
from saqlib.deployment.costs import cost
from saqlib.deployment.layers import DeploymentError
from saqlib.grid import Cell
from saqlib.network.initial import build
from tests.trained import network, sample


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """The files of the 2-bit network."""
    return deployment.deploy(network("w2a2"), Cell("mnist", "w2a2", "standard"), tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("precision", ["fp32", "mixed"])
def test_report_is_the_cells_row(precision, tmp_path):
    """A row has the cell's names, its costs and the sizes of the three files on disk."""
    cell = Cell("mnist", precision, "guided")
    row = deployment.report(network(precision), cell, tmp_path, sample("test")[0])
    assert list(row)[:3] == ["dataset", "precision", "training"] and row["precision"] == precision
    assert row.items() >= dataclasses.asdict(cost(network(precision))).items()
    for kind in ("qcdq", "packed", "explain"):
        assert row[f"{kind}_file_bytes"] == (tmp_path / f"mnist-{precision}-guided.{kind}.onnx").stat().st_size
    assert len(list(tmp_path.iterdir())) == 3


def test_the_untrained_network_is_that_of_seed_0(tmp_path):
    """The file of the control is the network before its first step, map included."""
    trained = network("fp32")
    path = deployment.deploy_untrained(trained.precision, trained.shape, tmp_path)
    assert path.name == "untrained.explain.onnx"
    before = build(trained.precision, shape=trained.shape, seed=0).eval()
    deployment.verify(before, {"explain": path}, sample("test")[0][:40])


@pytest.mark.parametrize("kind", ["qcdq", "packed", "explain"])
def test_verify_finds_the_file_that_is_another_network(kind, deployed, tmp_path):
    """A file whose logits differ is an error that names it and the level."""
    other = deployment.deploy(network("w4a4"), Cell("mnist", "w4a4", "standard"), tmp_path)
    with pytest.raises(DeploymentError, match=rf"w4a4-standard.{kind}.onnx at ORT_DISABLE_ALL .* a logit by"):
        deployment.verify(network("w2a2"), deployed | {kind: other[kind]}, sample("test")[0][:20])


def test_verify_finds_a_wrong_map(deployed, monkeypatch):
    """Equal logits with another map are an error that counts the images."""
    monkeypatch.setattr(deployment, "input_gradient", lambda model, images: torch.ones(len(images), 28, 28))
    with pytest.raises(DeploymentError, match="the map of 20 images"):
        deployment.verify(network("w2a2"), deployed, sample("test")[0][:20])


def test_verify_finds_wrong_integers(deployed, monkeypatch):
    """Integers that give other classes are an error."""
    always_zero = SimpleNamespace(classes=lambda images: np.zeros(len(images), int))
    monkeypatch.setattr(deployment, "integer_network", lambda _: always_zero)
    with pytest.raises(DeploymentError, match="integer inference differs"):
        deployment.verify(network("w2a2"), deployed, sample("test")[0][:20])


def test_a_class_counts_as_wrong_only_beyond_the_tolerance():
    """Two logits that the network itself hardly separates may swap; two that it separates may not."""
    expected = np.array([[0.0, 1.0], [1.00001, 1.0], [1.0, 0.0]])
    found = np.array([[1.0, 0.0], [1.0, 1.00001], [1.0, 0.0]])
    assert deployment._wrong_classes(found, expected).tolist() == [True, False, False]
