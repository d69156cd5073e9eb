"""Class and saliency maps of one picture, from an ONNX file alone: what a device without PyTorch runs.

    python -m saqlib.deploy.explain MODEL.explain.onnx PICTURE.png -o OUT.png

Two maps are drawn side by side, where they differ: the straight-through one, and the one that passes the gradient
through clipped activations, which shows more of what a network of few bits has used.

It needs onnxruntime, numpy and pillow. The files are those of `saqlib.deploy.export_explanation`; one of an earlier
version has the first map only. A picture may have any size and colours, in a format of FORMATS; `as_image` says how it
becomes what the networks know.
"""

import argparse
import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageFont, ImageOps

from saqlib.errors import exit_with_message, last_line, printable

SIDE, CLASSES = 28, 10
OLDEST = "1.28"  # ONNX Runtime that knows weights of 2 bits
SHAPES = {"images": [1, SIDE, SIDE], "logits": [CLASSES], "map": [SIDE, SIDE]}  # behind the number of images
MAPS = {"stop": "map", "pass": "pass_through"}  # by what a clip does with the gradient; earlier files lack the second
MAP_NAMES = {"stop": "straight-through", "pass": "pass-through"}
SILENT = 4  # of ONNX Runtime's log: its errors come back as exceptions
LONGEST_NAME = 40  # letters of a class
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # none of their decoders starts another program
LARGEST = 4096 * 4096  # pixels of a picture: no browser's canvas must hold more
BOX = 20  # the longer side of what is drawn, as MNIST's authors scaled digits
FAINT = 32  # the largest grey value that still counts as ground
ZOOM, MARGIN, CAPTION = 10, 16, 56  # of the drawing: enlargement; pixels around the panels, and above them for words
INK, AGAINST, NEUTRAL, FOR = (40, 40, 40), (33, 102, 172), (247, 247, 247), (178, 24, 43)


class ExplainError(ValueError):
    """A model, a picture or an output that cannot be used; the message says which file, why, and what to do."""


@dataclass(frozen=True)
class Explanation:
    """The predicted class and its name, the softmax probability of it, and its maps, float32 (28, 28), signed.

    map: the straight-through gradient. pass_through: also through clipped activations; None if the file has none.
    """

    label: int
    name: str
    confidence: float
    map: np.ndarray
    pass_through: np.ndarray | None = None

    @property
    def maps(self) -> dict[str, np.ndarray]:
        """The maps that differ, by what they are called."""
        other = self.pass_through is not None and not np.array_equal(self.map, self.pass_through)
        return {MAP_NAMES["stop"]: self.map} | ({MAP_NAMES["pass"]: self.pass_through} if other else {})


def _file(path: Path) -> str:
    """The name of a file, fit for a terminal; a pipe would never end."""
    if not path.is_file():
        what = "is no file but a folder or a device" if path.exists() else "does not exist"
        raise ExplainError(f"{printable(path)} {what}")
    return printable(path)


def open_session(path: Path, level: str = "ORT_ENABLE_ALL") -> onnxruntime.InferenceSession:
    """Any ONNX file in one thread, at one of ONNX Runtime's optimisation levels."""
    onnxruntime.set_default_logger_severity(SILENT)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def open_model(path: Path) -> onnxruntime.InferenceSession:
    """An explaining ONNX file, ready to run; ExplainError if it is missing, not one of ours, or has no map."""
    name = _file(path)
    try:
        session = open_session(path)
    except Exception as error:  # onnxruntime has its own exceptions, without a common base
        runtime = f"ONNX Runtime {onnxruntime.__version__} (files of 2 bits need {OLDEST})"
        raise ExplainError(f"{name} cannot be loaded by {runtime}: {last_line(error)}") from None
    try:
        kind = session.get_modelmeta().custom_metadata_map.get("kind")
        shapes = {value.name: value.shape[1:] for value in (*session.get_inputs(), *session.get_outputs())}
        named = len(_class_names(session)) == CLASSES
    except Exception as error:  # text that is no UTF-8, classes that are no list
        raise ExplainError(f"{name} is damaged: {last_line(error)}") from None
    if kind == "prediction":
        raise ExplainError(f"{name} has no map; take the file of the same network that ends in .explain.onnx")
    if kind != "explanation":
        raise ExplainError(f"{name} was not written by saqlib; its metadata do not say that it explains")
    if shapes not in (SHAPES, SHAPES | {MAPS["pass"]: [SIDE, SIDE]}) or not named:
        raise ExplainError(f"{name} says that it explains, but lacks {SHAPES} or the names of {CLASSES} classes")
    return session


def _class_names(session: onnxruntime.InferenceSession) -> list[str]:
    """Names of the classes, fit for a terminal; their numbers where the file has none."""
    names = json.loads(session.get_modelmeta().custom_metadata_map.get("classes", "null"))
    return [printable(name)[:LONGEST_NAME] for name in (range(CLASSES) if names is None else names)]


def as_input(images: np.ndarray) -> np.ndarray:
    """uint8 images (N, 28, 28) as the networks take them: float32 (N, 1, 28, 28) in [0, 1]."""
    return images[:, None].astype(np.float32) / np.float32(255)


def softmax(logits: np.ndarray) -> np.ndarray:
    """The probabilities of logits (B, classes)."""
    likelihoods = np.exp(logits - logits.max(1, keepdims=True))
    return likelihoods / likelihoods.sum(1, keepdims=True)


def explain(session: onnxruntime.InferenceSession, image: np.ndarray) -> Explanation:
    """Class and maps of one picture, uint8 (28, 28).

    Raises ExplainError for another picture, if the model fails on it or answers with NaN or infinity, and if the
    network is dead: its logits are the same for the picture, its negative and a blank one, and the straight-through map
    would look plausible all the same.
    """
    if image.dtype != np.uint8 or image.shape != (SIDE, SIDE):
        raise ExplainError(f"a picture is uint8 ({SIDE}, {SIDE}), not {image.dtype} {image.shape}")
    probes = np.stack([image, 255 - image, np.zeros_like(image)])
    names = [output.name for output in session.get_outputs()]
    try:
        found = dict(zip(names, _run(session, names, {"images": as_input(probes)}), strict=True))
    except Exception as error:  # whatever the model's operators lead the runtime to, no memory included
        raise ExplainError(f"the model fails on the picture: {last_line(error)}") from None
    logits = found.pop("logits")
    fits = logits.shape == (len(probes), CLASSES) and all(each.shape == probes.shape for each in found.values())
    if not fits or not all(np.isfinite(each).all() for each in (logits, *found.values())):
        raise ExplainError("the model gives no finite logits and map of the picture")
    if (logits == logits[0]).all():
        raise ExplainError("the network is dead: its logits do not depend on the picture, so its map means nothing")
    label = int(logits[0].argmax())
    maps = {name: values[0] for name, values in found.items()}
    return Explanation(label, _class_names(session)[label], float(softmax(logits)[0, label]), **maps)


def _run(session: onnxruntime.InferenceSession, *arguments: Any) -> list[np.ndarray]:
    """`session.run` in a thread, so that a signal ends it: a model may loop for ever, and a call into C sees none."""
    options = onnxruntime.RunOptions()
    with ThreadPoolExecutor(1) as thread:
        try:
            return thread.submit(session.run, *arguments, options).result()
        except BaseException:
            options.terminate = True
            raise


def read_image(path: Path) -> np.ndarray:
    """A picture file as the networks take it, uint8 (28, 28): `as_image` of what a viewer shows.

    Raises ExplainError if it is missing, no picture, larger than LARGEST, of more than 16 bits, or blank.
    """
    image = as_image(_pixels(path))
    if image is None:
        raise ExplainError(f"{printable(path)} is blank: there is nothing to explain")
    return image


def _pixels(path: Path) -> np.ndarray:
    """The picture turned as its EXIF orientation says, uint8 (H, W, 4): red, green, blue, opacity."""
    name, kinds = _file(path), ", ".join(FORMATS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pillow, about size and metadata; what matters is checked here
            with Image.open(path, formats=FORMATS) as image:  # it has read the header alone
                if image.width * image.height > LARGEST:
                    raise ExplainError(
                        f"{name} has {image.width} x {image.height} pixels; save it with fewer than 4096 x 4096"
                    )
                if image.mode in ("I", "F"):
                    raise ExplainError(f"{name} has 32 bits a pixel; save it with 8 or 16")
                image = ImageOps.exif_transpose(image)
                if image.mode.startswith("I;16"):
                    image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
                return np.asarray(image.convert("RGBA"))
    except ExplainError:
        raise
    except Exception as error:  # decoders raise whatever broken bytes lead them to
        raise ExplainError(f"{name} is not a picture that can be read ({kinds}): {last_line(error)}") from None


def as_image(pixels: np.ndarray) -> np.ndarray | None:
    """A picture, uint8 (H, W, 4) of red, green, blue and opacity, as the networks know images: uint8 (28, 28).

    Grey, bright on black, what is drawn scaled into a box of 20 x 20 with its centre of mass in the middle. One of
    28 x 28 pixels keeps its size, place and contrast, so an image of a dataset stays what it is. None for a blank one.
    The page *Draw a digit* does the same in site/static/pixels.js; whole numbers keep both equal.
    """
    ink = _ink(pixels)
    if ink.shape != (SIDE, SIDE):
        ground, top = np.sort(_border(ink))[_border(ink).size // 2], ink.max()
        if top <= ground:
            return None
        ink = _centred((510 * (np.maximum(ink, ground) - ground) + top - ground) // (2 * (top - ground)))
    return None if (ink == ink[0, 0]).all() else ink.astype(np.uint8)


def _ink(pixels: np.ndarray) -> np.ndarray:
    """Grey values, int32, of a picture on black or white, whichever it stands out from; a bright ground is turned.

    None of the 140,000 images of both datasets has a border that is brighter than half on average, and each of their
    negatives has.
    """
    red, green, blue, opaque = (pixels[..., channel].astype(np.int32) for channel in range(4))
    grey = (299 * red + 587 * green + 114 * blue + 500) // 1000
    behind = 255 * int(2 * (grey * opaque).sum() < 255 * opaque.sum())
    grey = (2 * (grey * opaque + behind * (255 - opaque)) + 255) // 510
    return 255 - grey if 2 * _border(grey).sum() > 255 * _border(grey).size else grey


def _border(grey: np.ndarray) -> np.ndarray:
    return np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]])


def _centred(ink: np.ndarray) -> np.ndarray:
    """What is not ground, its longer side BOX, with the centre of mass in the middle; (28, 28)."""
    rows, columns = (np.flatnonzero((ink > FAINT).any(axis)) for axis in (1, 0))
    drawn = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = BOX / max(drawn.shape)
    down, across = (_means(side, max(1, int(side * scale + 0.5))) for side in drawn.shape)
    small = np.floor(down @ drawn @ across.T + 0.5 + 1e-6)  # a half goes up, whatever the order of the sums made of it
    image = np.zeros((SIDE, SIDE))
    if small.any():  # not of specks that the means lose
        top, left = (_start(small.sum(axis)) for axis in (1, 0))
        image[top : top + len(small), left : left + small.shape[1]] = small
    return image


def _start(mass: np.ndarray) -> int:
    """Where along a side of the image this begins, so that its centre of mass lies nearest to the middle."""
    middle = (mass * (np.arange(len(mass)) + 0.5)).sum() / mass.sum()
    return min(max(int(np.floor(SIDE / 2 - middle + 0.5)), 0), SIDE - len(mass))


def _means(size: int, cells: int) -> np.ndarray:
    """How much each of `size` pixels in a row counts in the mean of each of `cells` equal parts: (cells, size)."""
    edges, pixel = size / cells * np.arange(cells + 1)[:, None], np.arange(size)
    shares = np.minimum(pixel + 1, edges[1:]) - np.maximum(pixel, edges[:-1])
    return np.maximum(shares, 0) * (cells / size)


def draw(image: np.ndarray, explanation: Explanation) -> Image.Image:
    """Picture and maps side by side: red where a brighter pixel speaks for the class, blue where it speaks against."""
    panels = [(image, f"{explanation.name}, {explanation.confidence:.1%}")]
    for what, values in explanation.maps.items():
        panels.append((_coloured(values), f"{what} map:\nfor (red) and against (blue) {explanation.name}"))
    panel = SIDE * ZOOM
    size = len(panels) * (panel + MARGIN) + MARGIN, panel + CAPTION + MARGIN
    sheet = Image.new("RGB", size, "white")
    for i, (pixels, words) in enumerate(panels):
        left = MARGIN + i * (panel + MARGIN)
        sheet.paste(Image.fromarray(pixels).resize((panel, panel), Image.Resampling.NEAREST), (left, CAPTION))
        ImageDraw.Draw(sheet).text((left, MARGIN // 2 + 2), words, fill=INK, font=ImageFont.load_default(15))
    return sheet


def _coloured(saliency: np.ndarray) -> np.ndarray:
    """Blue, white and red for negative, zero and positive values, full colour at the largest magnitude."""
    strength = (saliency / (np.abs(saliency).max() or 1))[..., None]
    end = np.where(strength > 0, FOR, AGAINST)
    return np.rint(np.array(NEUTRAL) + (end - NEUTRAL) * np.abs(strength)).astype(np.uint8)


def main(arguments: list[str] | None = None) -> None:
    """The command: print class and confidence, write the picture; one line on stderr and exit code 1 for an error."""
    about = "Class and saliency maps of one picture, from an ONNX file alone."
    parser = argparse.ArgumentParser(prog="python -m saqlib.deploy.explain", description=about)
    parser.add_argument("model", type=Path, help="a file that ends in .explain.onnx, of results/models")
    parser.add_argument("image", type=Path, help="any picture of one thing: it is made grey, scaled and centred")
    parser.add_argument("-o", "--output", type=Path, help="the picture to write (default: IMAGE.map.png)")
    options = parser.parse_args(arguments)
    with exit_with_message(ExplainError):
        output = options.output or options.image.with_name(f"{options.image.name}.map.png")
        for what, taken in (("picture", options.image), ("model", options.model)):
            if output.exists() and _file(output) and taken.exists() and output.samefile(taken):
                raise ExplainError(f"{printable(output)} is the {what} itself; name another file with -o")
        image = read_image(options.image)
        explanation = explain(open_model(options.model), image)
        output.parent.mkdir(parents=True, exist_ok=True)
        draw(image, explanation).save(output, "PNG")
        print(f"class: {explanation.name}\nconfidence: {explanation.confidence:.1%}\npicture: {printable(output)}")
        for what, values in explanation.maps.items():
            if not values.any():
                print(f"The {what} map is zero everywhere (a dead map): no pixel speaks for or against the class.")
        if explanation.pass_through is None:
            again = "write it again with saqlib.deploy.export_explanation"
            print(f"{printable(options.model)} is of an earlier version, without a pass-through map; {again}.")
        elif len(explanation.maps) == 1:
            print("The pass-through map is the same: no clipped activation is on the way.")


if __name__ == "__main__":
    main()
