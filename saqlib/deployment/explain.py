"""Class and saliency map of one picture, from an ONNX file alone: what a device without PyTorch runs.

    python -m saqlib.deployment.explain MODEL.explain.onnx IMAGE.png

It needs onnxruntime (1.28 or later for networks of 2 bits), numpy and pillow. The files are those of
`saqlib.deployment.export_explanation`.
"""

import argparse
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from saqlib import files
from saqlib.errors import last_line

OLDEST = "1.28"  # ONNX Runtime that knows weights of 2 bits
SIDE = 28
GREY_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")  # of these, pillow's conversion to 8 bits loses nothing
ZOOM = 10
MARGIN, CAPTION = 16, 40  # pixels around the panels, and above them for words
INK = (40, 40, 40)
AGAINST, NEUTRAL, FOR = (33, 102, 172), (247, 247, 247), (178, 24, 43)


class ExplainError(ValueError):
    """A model or image that cannot be used; the message says which file, why, and what to do."""


@dataclass(frozen=True)
class Explanation:
    """The predicted class and its name, the softmax probability of it, and the map, float32 (28, 28), signed."""

    label: int
    name: str
    confidence: float
    map: np.ndarray


def open_model(path: Path) -> onnxruntime.InferenceSession:
    """The ONNX file, ready to run; ExplainError if it is missing, not one of ours, or has no map."""
    if not path.is_file():
        raise ExplainError(f"{path} does not exist")
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has its own exceptions, without a common base
        version = onnxruntime.__version__
        older = tuple(map(int, version.split(".")[:2])) < tuple(map(int, OLDEST.split(".")))
        advice = f"; networks of 2 bits need {OLDEST} or later: pip install 'onnxruntime>={OLDEST}'" if older else ""
        raise ExplainError(f"{path} cannot be loaded by ONNX Runtime {version}{advice}: {last_line(error)}") from None
    kind = session.get_modelmeta().custom_metadata_map.get("kind")
    if kind == "prediction":
        raise ExplainError(
            f"{path} holds the prediction alone, without a map; take the cell's file that ends in .explain.onnx"
        )
    if kind != "explanation":
        raise ExplainError(f"{path} was not written by saqlib; its metadata do not say that it explains")
    return session


def read_image(path: Path) -> np.ndarray:
    """The grey values of a picture, uint8 (28, 28); ExplainError if it is missing, of another size or not grey."""
    try:
        with Image.open(path) as file:
            image = file.copy()
    except FileNotFoundError:
        raise ExplainError(f"{path} does not exist") from None
    except (UnidentifiedImageError, OSError) as error:
        raise ExplainError(f"{path} is not a picture that can be read: {last_line(error)}") from None
    if image.size != (SIDE, SIDE):
        width, height = image.size
        raise ExplainError(f"{path} is {width} x {height} pixels; the network takes {SIDE} x {SIDE}. Scale it first")
    if image.mode not in GREY_MODES:
        raise ExplainError(f"{path} has pixels of type {image.mode}; save it as 8-bit grey")
    pixels = np.asarray(image.convert("RGBA"))
    if (pixels[..., :3] != pixels[..., :1]).any() or (pixels[..., 3] < 255).any():
        raise ExplainError(f"{path} has colours or transparent pixels; save it as 8-bit grey")
    return pixels[..., 0].copy()


def explain(session: onnxruntime.InferenceSession, image: np.ndarray) -> Explanation:
    """Class and map of one picture, uint8 (28, 28).

    Raises ExplainError if the network is dead: its logits are the same for the picture, its negative and a blank one,
    and the straight-through map would look plausible all the same.
    """
    probes = np.stack([image, 255 - image, np.zeros_like(image)])
    logits, maps = session.run(["logits", "map"], {"images": probes[:, None].astype(np.float32) / 255})
    if (logits == logits[0]).all():
        raise ExplainError("the network is dead: its logits do not depend on the picture, so its map means nothing")
    label = int(logits[0].argmax())
    likelihoods = np.exp(logits[0] - logits[0].max())
    names = json.loads(session.get_modelmeta().custom_metadata_map.get("classes", "null"))
    return Explanation(
        label=label,
        name=names[label] if names else str(label),
        confidence=float(likelihoods[label] / likelihoods.sum()),
        map=maps[0],
    )


def draw(image: np.ndarray, explanation: Explanation) -> Image.Image:
    """Picture and map side by side: red where a brighter pixel speaks for the class, blue where it speaks against."""
    panel = SIDE * ZOOM
    sheet = Image.new("RGB", (2 * panel + 3 * MARGIN, panel + CAPTION + MARGIN), "white")
    heading = f"{explanation.name}, {explanation.confidence:.1%}"
    panels = ((image, heading), (_coloured(explanation.map), f"for (red) and against (blue) {explanation.name}"))
    for i, (pixels, words) in enumerate(panels):
        left = MARGIN + i * (panel + MARGIN)
        sheet.paste(Image.fromarray(pixels).resize((panel, panel), Image.Resampling.NEAREST), (left, CAPTION))
        ImageDraw.Draw(sheet).text((left, MARGIN // 2 + 2), words, fill=INK, font=ImageFont.load_default(15))
    return sheet


def _coloured(saliency: np.ndarray) -> np.ndarray:
    """Blue, white and red for negative, zero and positive values, full colour at the largest magnitude."""
    largest = np.abs(saliency).max()
    strength = (saliency / largest if largest > 0 else saliency)[..., None]
    end = np.where(strength > 0, FOR, AGAINST)
    return np.rint(np.array(NEUTRAL) + (end - NEUTRAL) * np.abs(strength)).astype(np.uint8)


def main(arguments: list[str] | None = None) -> int:
    """The command: print class and confidence, write the picture. Returns 0, or 1 after an error told on stderr."""
    parser = argparse.ArgumentParser(prog="python -m saqlib.deployment.explain", description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a file that ends in .explain.onnx, of results/models")
    parser.add_argument("image", type=Path, help="a grey PNG of 28 x 28 pixels, bright on dark")
    parser.add_argument("-o", "--output", type=Path, help="the picture to write (default: IMAGE.map.png)")
    options = parser.parse_args(arguments)
    try:
        image = read_image(options.image)
        explanation = explain(open_model(options.model), image)
    except ExplainError as error:
        print(error, file=sys.stderr)
        return 1
    content = io.BytesIO()
    draw(image, explanation).save(content, "PNG")
    output = files.write(options.output or options.image.with_suffix(".map.png"), content.getvalue())
    print(f"class: {explanation.name}\nconfidence: {explanation.confidence:.1%}\npicture: {output}")
    if not explanation.map.any():
        print("The map is zero everywhere (a dead map): no pixel speaks for or against the class.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
