"""The page *Change one thing*: each change, as it stands there, is made in a scratch copy, and does what it says."""

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

from saqlib import paths
from saqlib.data.images import content
from saqlib.datasets import FILES
from saqlib.pipeline import run

PAGE = (paths.ROOT / "site" / "pages" / "change.md").read_text(encoding="utf-8")
DIFFS = dict(re.findall(r"^## (.+?)$.*?^```diff\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL))
ROOMS = ("data", "grid", "kernels", "network", "params", "saliency", "stored", "training")  # what training depends on
CAPITALS = ("TRAIN_IMAGES", "TRAIN_LABELS", "TEST_IMAGES", "TEST_LABELS")


def changed(folder: Path, title: str, **replaced: str) -> Path:
    """A copy of what git holds here, but for results/, with the change of one section made; at scale smoke."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=paths.ROOT, capture_output=True, check=True).stdout
    for name in listed.decode().split("\0"):
        if name and not name.startswith("results/") and (paths.ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(paths.ROOT / name, folder / name)
    text = DIFFS[title]
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    subprocess.run(["git", "apply", "-C1", "-"], cwd=folder, input=text.encode(), check=True)
    params = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(params.replace("scale: full ", "scale: smoke ", 1))
    return folder


def python(folder: Path, *arguments: str) -> str:
    """What Python prints there, with the saqlib of that folder; it has to succeed."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=run.environment(folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_section_is_tried_here():
    """And every change of the page is the only one of its section."""
    titles = {"A bit-width", "A dataset of the same shape", "A score", "A fill", "A saliency method", "A figure"}
    assert DIFFS.keys() == titles and PAGE.count("```diff") == len(titles)


def test_a_bit_width_has_cells_of_its_own(tmp_path):
    """Its networks have those bits; what was there before keeps its place in the store."""
    script = (
        "from saqlib.pipeline import study; from saqlib.training.seed import key; s = study.load();"
        "print(*[bits.weight for bits in s.precisions['{0}'].layers], len(s.grid.cells),"
        " key(s.recipe(s.cell('mnist', '{0}', 'guided')), 'cpu'))"
    )
    folder = changed(tmp_path, "A bit-width")
    assert python(folder, "-c", script.format("w3a3")).split()[:6] == ["8", "3", "3", "3", "8", "20"]
    old, new = (python(each, "-c", script.format("w2a2")).split()[-1] for each in (paths.ROOT, folder))
    assert len(old) == 16 and python(folder, "-c", script.format("w3a3")).split()[-1] != new


def test_a_dataset_is_verified_trained_and_named(tmp_path):
    """FashionMNIST's sample under its name stands in for KMNIST's files, which torchvision would fetch."""
    source = paths.SAMPLE / "fashion_mnist"
    hashes = [hashlib.sha256(content(source, name)).hexdigest() for name in FILES]
    folder = changed(tmp_path, "A dataset of the same shape", **dict(zip(CAPITALS, hashes, strict=True)))
    shutil.copytree(source, folder / "tests" / "sample" / "kmnist")
    shutil.copytree(source, folder / "data" / "kmnist")
    fetched = (
        "import saqlib.download as d; print(d.fetch('kmnist', print));"
        "print([source.name for source in d.SOURCES if 'kmnist' in source.datasets])"
    )
    said = python(folder, "-c", fetched)
    assert "verified" in said and "torchvision" in said
    python(folder, "-m", "dvc", "repro", "source@02_train", *(f"code@{room}" for room in ROOMS))
    python(folder, "-m", "dvc", "repro", "--single-item", "train@kmnist-w2a2-guided")
    look = (
        "from saqlib import stored, words; network = stored.load_model('kmnist-w2a2-guided', 0);"
        "print(type(network).__name__, words.dataset('kmnist'))"
    )
    assert python(folder, "-c", look).split() == ["LeNet", "KMNIST"]


def test_a_score_is_among_the_scores(tmp_path):
    """With the value of its definition, and with words; and what is scored on a network holds it for every image."""
    folder = changed(tmp_path, "A score")
    scored = (
        "from saqlib.clarity.seed import score_seed; from saqlib.network.initial import build;"
        "from saqlib.pipeline import study;"
        "from saqlib.names import further_scores; net = build('w2a2', seed=0).eval();"
        "scores = score_seed('mnist', study.load(scale='smoke').scoring, 0, net, {});"
        "print('peak' in further_scores(scores), scores.peak.dims)"
    )
    assert python(folder, "-c", scored) == "True ('image',)\n"
    script = (
        "import torch; from saqlib import clarity, words; maps = torch.tensor([[[1., -3.], [0., 0.]]]);"
        "print(clarity.map_scores(maps[:, None], maps)['peak'].item(), words.heading('peak'))"
    )
    assert python(folder, "-c", script) == "0.75 Peak ↑\n"


def test_a_fill_takes_the_place_of_pixels(tmp_path):
    """By its name."""
    script = (
        "import torch; from saqlib.clarity.fills import fill_images;"
        "print(fill_images('grey', torch.zeros(2, 1, 2, 2)).unique().item())"
    )
    assert python(changed(tmp_path, "A fill"), "-c", script) == "0.5\n"


def test_a_method_makes_maps_that_can_be_scored(tmp_path):
    """Of a linear network, whose gradient is its weights."""
    script = (
        "import torch; from torch import nn; from saqlib.saliency.methods import gradient_times_input as method;"
        "from saqlib.clarity import clarity_scores; model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2));"
        "x, y = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 0]); maps = method(model, x, y);"
        "print(torch.allclose(maps, x[:, 0] * model[1].weight[y].view(3, 2, 2)));"
        "print('gini' in clarity_scores(model, x, y, maps, steps=4))"
    )
    assert python(changed(tmp_path, "A saliency method"), "-c", script) == "True\nTrue\n"


def test_a_colour_changes_and_trains_nothing(tmp_path):
    """The stages that train do not depend on it."""
    folder = changed(tmp_path, "A figure")
    assert python(folder, "-c", "from saqlib.report import style; print(style.colour('mixed'))") == "#009E73\n"
    text = "from saqlib import codebase; print('report.style' in codebase.needed(['training.seed', 'clarity.seed']))"
    assert python(folder, "-c", text) == "False\n"
