"""Class and saliency map of one picture, from an ONNX file alone: what a device without PyTorch runs.

    python -m saqlib.deployment.explain MODEL.explain.onnx IMAGE.png

It needs onnxruntime, numpy and pillow; files with 2-bit weights need onnxruntime 1.28 or later. The files are those of
`saqlib.deployment.export_explanation`; which pictures are taken says `saqlib.deployment.picture`.
"""

import argparse
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageFont

from saqlib import files
from saqlib.deployment.picture import SIDE, PictureError, read_image
from saqlib.errors import last_line, printable, told

OLDEST = "1.28"  # ONNX Runtime that knows weights of 2 bits
CLASSES = 10
INPUTS = {"images": ("tensor(float)", [1, SIDE, SIDE])}  # behind the number of images
OUTPUTS = {"logits": ("tensor(float)", [CLASSES]), "map": ("tensor(float)", [SIDE, SIDE])}
SILENT = 4  # of ONNX Runtime's log: its errors come back as exceptions
LONGEST_NAME = 40  # letters of a class
ZOOM = 10
MARGIN, CAPTION = 16, 40  # pixels around the panels, and above them for words
INK = (40, 40, 40)
AGAINST, NEUTRAL, FOR = (33, 102, 172), (247, 247, 247), (178, 24, 43)


class ExplainError(ValueError):
    """A model, a picture or an output that cannot be used; the message says which file, why, and what to do."""


@dataclass(frozen=True)
class Explanation:
    """The predicted class and its name, the softmax probability of it, and the map, float32 (28, 28), signed."""

    label: int
    name: str
    confidence: float
    map: np.ndarray


def open_model(path: Path) -> onnxruntime.InferenceSession:
    """The ONNX file, ready to run; ExplainError if it is missing, not one of ours, or has no map."""
    name = printable(path)
    if not path.is_file():
        raise ExplainError(f"{name} does not exist" if not path.exists() else f"{name} is no file")
    onnxruntime.set_default_logger_severity(SILENT)
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has its own exceptions, without a common base
        version = onnxruntime.__version__
        older = tuple(map(int, version.split(".")[:2])) < tuple(map(int, OLDEST.split(".")))
        advice = f"; networks of 2 bits need {OLDEST} or later: pip install 'onnxruntime>={OLDEST}'" if older else ""
        raise ExplainError(f"{name} cannot be loaded by ONNX Runtime {version}{advice}: {last_line(error)}") from None
    try:
        _check_kind(session)
        _check_interface(session)
        _class_names(session)
    except ExplainError as error:
        raise ExplainError(f"{name} {error}") from None
    except UnicodeDecodeError:  # wherever the runtime hands out a name or a text
        raise ExplainError(f"{name} is damaged: a name in it is no text (UTF-8)") from None
    return session


def _check_kind(session: onnxruntime.InferenceSession) -> None:
    """Raise ExplainError unless the model says that it explains."""
    kind = session.get_modelmeta().custom_metadata_map.get("kind")
    if kind == "prediction":
        raise ExplainError("holds the prediction alone, without a map; take the cell's file that ends in .explain.onnx")
    if kind != "explanation":
        raise ExplainError("was not written by saqlib; its metadata do not say that it explains")


def _check_interface(session: onnxruntime.InferenceSession) -> None:
    """Raise ExplainError unless the model takes pictures and gives logits and maps."""
    for expected, found in ((INPUTS, session.get_inputs()), (OUTPUTS, session.get_outputs())):
        there = {value.name: (value.type, value.shape[1:]) for value in found}
        if there != expected:
            raise ExplainError(f"says that it explains, but it has {printable(there)[:200]} where {expected} is needed")


def _class_names(session: onnxruntime.InferenceSession) -> list[str]:
    """Names of the classes, fit for a terminal; their numbers where the file tells none."""
    try:
        names = json.loads(session.get_modelmeta().custom_metadata_map.get("classes", "null"))
    except (ValueError, RecursionError):
        names = False
    if names is None:
        return [str(label) for label in range(CLASSES)]
    if not isinstance(names, list) or len(names) != CLASSES or not all(isinstance(name, str) for name in names):
        raise ExplainError(f"says that it explains, but its metadata do not name {CLASSES} classes")
    return [printable(name)[:LONGEST_NAME] for name in names]


def explain(session: onnxruntime.InferenceSession, image: np.ndarray) -> Explanation:
    """Class and map of one picture, uint8 (28, 28).

    Raises ExplainError for another picture, if the model fails on it or answers with NaN or infinity, and if the
    network is dead: its logits are the same for the picture, its negative and a blank one, and the straight-through map
    would look plausible all the same.
    """
    if image.dtype != np.uint8 or image.shape != (SIDE, SIDE):
        raise ExplainError(f"a picture is uint8 ({SIDE}, {SIDE}), not {image.dtype} {image.shape}")
    probes = np.stack([image, 255 - image, np.zeros_like(image)])
    try:
        logits, maps = session.run(["logits", "map"], {"images": probes[:, None].astype(np.float32) / 255})
    except Exception as error:  # whatever the model's operators lead the runtime to, no memory included
        raise ExplainError(f"the model fails on the picture: {last_line(error)}") from None
    if (logits.shape, maps.shape) != ((len(probes), CLASSES), (len(probes), SIDE, SIDE)):
        raise ExplainError(f"the model gives logits {logits.shape} and maps {maps.shape}, not those of a picture")
    if not (np.isfinite(logits).all() and np.isfinite(maps).all()):
        raise ExplainError("the model answers with numbers that are not finite (NaN or infinity)")
    if (logits == logits[0]).all():
        raise ExplainError("the network is dead: its logits do not depend on the picture, so its map means nothing")
    label = int(logits[0].argmax())
    likelihoods = np.exp(logits[0] - logits[0].max())
    return Explanation(
        label=label,
        name=_class_names(session)[label],
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


def output_of(image: Path, model: Path, output: Path | None) -> Path:
    """Where the picture is written: `output`, or IMAGE with .map.png behind its whole name, another one for each IMAGE.

    Raises ExplainError if the picture or the model is there, or what is no file.
    """
    output = output or image.with_name(f"{image.name}.map.png")
    name = printable(output)
    if output.exists() and not output.is_file():
        raise ExplainError(f"{name} is a folder or a device; name a file with -o")
    for what, taken in (("picture", image), ("model", model)):
        if output.exists() and taken.exists() and output.samefile(taken):
            raise ExplainError(f"{name} is the {what} itself; name another file with -o")
    return output


def main(arguments: list[str] | None = None) -> None:
    """The command: print class and confidence, write the picture; one line on stderr and exit code 1 for an error."""
    parser = argparse.ArgumentParser(prog="python -m saqlib.deployment.explain", description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a file that ends in .explain.onnx, of results/models")
    parser.add_argument("image", type=Path, help=f"a grey picture of {SIDE} x {SIDE} pixels, bright on black")
    parser.add_argument("-o", "--output", type=Path, help="the picture to write (default: IMAGE.map.png)")
    options = parser.parse_args(arguments)
    with told(ExplainError, PictureError):
        output = output_of(options.image, options.model, options.output)
        image = read_image(options.image)
        explanation = explain(open_model(options.model), image)
        content = io.BytesIO()
        draw(image, explanation).save(content, "PNG")
        files.write(output, content.getvalue())
        print(f"class: {explanation.name}\nconfidence: {explanation.confidence:.1%}\npicture: {printable(output)}")
        if not explanation.map.any():
            print("The map is zero everywhere (a dead map): no pixel speaks for or against the class.")


if __name__ == "__main__":
    main()
