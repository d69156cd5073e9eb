"""Networks that train side by side agree with those that train one by one."""

import pytest
import torch
import torch.nn.functional as F

from saqlib.lenet import build
from saqlib.training import train_together
from tests.helpers.trainings import GUIDED, OPTIMIZER, QUANTIZATION, digits, trained, watch

SEEDS = (0, 1, 5)


@pytest.mark.parametrize("guided", [None, GUIDED], ids=["standard", "guided"])
@pytest.mark.parametrize("name", ["fp32", "w2a2"])
def test_networks_side_by_side_train_as_one_by_one(name, guided):
    """Two epochs with warm-up, switch and calibration: equal to float32's rounding, which a 2-bit network amplifies."""
    images, networks, calls = digits(200), [build(name, seed=seed) for seed in SEEDS], []
    options = {"epochs": 2, "optimizer": OPTIMIZER, "guided": guided, "warmup_epochs": 1, "watch": watch(images, 4)}
    options["quantization"] = QUANTIZATION if name == "w2a2" else None
    histories = train_together(
        networks, images, seeds=SEEDS, on_progress=lambda seed, history: calls.append((seed, history)), **options
    )
    for seed, network, history in zip(SEEDS, networks, histories, strict=True):
        single, other = trained(name, images, seed=seed, **options)
        (warm, same_warm), (last, same_last) = ([each.epochs[i]["loss"] for each in (history, other)] for i in (0, 1))
        assert warm == pytest.approx(same_warm, rel=1e-5)
        assert last == pytest.approx(same_last, rel=1e-4 if name == "fp32" else 0.05)
        for maps, same in zip(history.maps[:2], other.maps, strict=False):  # those of the warm-up, of the first network
            assert F.cosine_similarity(maps.flatten(1), same.flatten(1)).min() > 0.999
        if name == "fp32":
            for key, value in single.state_dict().items():
                torch.testing.assert_close(network.state_dict()[key], value, rtol=1e-3, atol=1e-3, msg=key)
        assert not network.training and history in [last for where, last in calls if where == seed]
    assert histories[0].steps == [0, 2, 4, 6, 8] and histories[1].steps == []
