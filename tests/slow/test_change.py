"""The page *Change one thing*: each change, as printed there, is made in a scratch copy, and its command shows it."""

import hashlib
import io
import re
import shlex
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from PIL import Image

from saqlib.data import FILES, content
from study import dvc, paths, run, settings
from tests.helpers.workspaces import TINY, finish, start

PAGE = (paths.ROOT / "site" / "pages" / "change.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)$(.*?)(?=^## |\Z)", PAGE, flags=re.MULTILINE | re.DOTALL))
CAPITALS = ("TRAIN_IMAGES", "TRAIN_LABELS", "TEST_IMAGES", "TEST_LABELS")
KEY = "from study import cells, settings; s = settings.load(); c = s.cell('mnist', 'w2a2', 'guided');"
KEY += "print(cells.train_network.key(s.recipe(c), 0, 'cpu'))"


@pytest.fixture
def folder(tmp_path):
    """A scratch copy of what the study runs, without results but for the figure's numbers."""
    for name in ("saqlib", "study", "site/pages", "tests/sample"):
        shutil.copytree(paths.ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(paths.PARAMS, tmp_path)
    for name in ("build", "results/figures"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


def blocks(title: str, language: str = "") -> list[str]:
    """What stands between the fences of a section, of this language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", SECTIONS[title], flags=re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def apply(folder, *titles: str, **replaced: str) -> None:
    """Make the change of sections as a reader does, from the page."""
    for title in titles:
        (text,) = blocks(title, "diff")
        for old, new in replaced.items():
            assert old in text
            text = text.replace(old, new)
        subprocess.run(["git", "apply", "-C1", "-"], cwd=folder, input=text.encode(), check=True)


def commands(title: str, program: str) -> list[list[str]]:
    """The commands of a section that start this module or code, without `python`."""
    found = [shlex.split(line)[1:] for block in blocks(title) for line in re.split(r"\n(?=python)", block)]
    return [command for command in found if program in command]


def python(folder, *arguments: str) -> str:
    """What Python prints there, with the code of that folder; it has to succeed."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=dvc.environment(folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def looked(folder, title: str, *columns: int) -> pd.DataFrame:
    """What the command of a section prints, of these of its cells."""
    command = commands(title, "study.look")[0]
    cells = command[2:]
    printed = python(folder, *command[:2], *(cells[i] for i in columns))
    return pd.read_fwf(io.StringIO(printed), index_col=0)


def network(folder, cell: str, what: str) -> str:
    """What a network that was trained there has."""
    loaded = f"models.load({cell!r}, 0, paths.BUILD / 'smoke')"
    return python(folder, "-c", f"from study import models, paths; print({loaded}.{what})").strip()


def test_every_section_is_tried_here():
    """Each has one change and a command that shows it."""
    titles = {"A bit-width", "A network", "A dataset of the same shape", "A score", "A fill", "A saliency method",
              "A figure"}  # fmt: skip
    assert SECTIONS.keys() == titles and PAGE.count("```diff") == len(titles)
    assert all(commands(title, "study.look") or commands(title, "-c") for title in titles)


def test_a_bit_width(folder):
    """Networks of those bits are trained and scored; the key of no other network changes."""
    apply(folder, "A bit-width")
    assert python(folder, "-c", KEY) == python(paths.ROOT, "-c", KEY)
    found = looked(folder, "A bit-width", 1)["mnist-w3a3-standard"]
    assert found["accuracy (%)"] > 50 and found["map: pass_through"] > found["map: straight_through"] > 0
    assert network(folder, "mnist-w3a3-standard", "conv2.bits") == "3"


def test_a_network(folder):
    """A wider one is trained."""
    apply(folder, "A network")
    found = looked(folder, "A network", 0)["fashion_mnist-fp32-standard"]
    assert found["accuracy (%)"] > 30 and found["map: straight_through"] > 0
    assert network(folder, "fashion_mnist-fp32-standard", "conv2.out_channels") == "32"


def test_a_dataset_a_score_a_fill_and_a_method(folder):
    """Each is a row or the column of what is printed; FashionMNIST's sample stands in for KMNIST's files."""
    source = paths.SAMPLE / "fashion_mnist"
    hashes = [hashlib.sha256(content(source, name)).hexdigest() for name in FILES]
    apply(folder, "A dataset of the same shape", **dict(zip(CAPITALS, hashes, strict=True)))
    apply(folder, "A score", "A fill", "A saliency method")
    for place in (folder / "tests" / "sample", folder / "data"):
        shutil.copytree(source, place / "kmnist")
    assert "verified" in python(folder, "-c", "from study import download; download.fetch('kmnist', print)")
    found = looked(folder, "A dataset of the same shape", 1)["kmnist-w2a2-standard"]
    assert found["accuracy (%)"] > 30 and 0 < found["peak"] < 1
    assert -1 < found["relevance_gain_grey"] < 1 and -1 < found["map: gradient_times_input"] < 1


def test_a_figure(folder):
    """Drawn from what is committed beside it, in the new colour and not in the old one."""
    apply(folder, "A figure")
    shutil.copy(paths.RESULTS / "figures" / "which_map.csv", folder / "results" / "figures")
    python(folder, *commands("A figure", "-c")[0])
    colours = {colour for _, colour in Image.open(folder / "build" / "which_map.png").convert("RGB").getcolors(10**6)}
    assert (0xD5, 0x5E, 0x00) in colours and (0xE6, 0x9F, 0x00) not in colours


def test_a_part_of_the_grid(tmp_path):
    """By `dvc repro` alone, without any image: an ablation has datasets and precisions that the grid has not."""
    ablations = dict.fromkeys(settings.load().ablations) | {"max_range": {"trainings": ["standard"]}}
    scales = {"smoke": TINY["scales"]["smoke"] | {"seeds_ablated": 1}}
    folder = run.workspace(tmp_path / "w", "smoke", **TINY | {"ablations": ablations, "scales": scales})
    shutil.rmtree(folder / "data")
    finish(folder, start(folder, "dvc", "repro"))
    ran = pd.read_csv(folder / "results" / "ablations" / "max_range.csv")
    assert set(zip(ran.dataset, ran.precision, strict=True)) == {("mnist", "fp32"), ("mnist", "w4a4")}
