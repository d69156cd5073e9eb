"""Class and saliency maps of one picture, from an ONNX file alone: what a device without PyTorch runs.

    python -m saqlib.deploy.explain MODEL.explain.onnx PICTURE.png -o OUT.png

Two maps are drawn side by side, where they differ: the straight-through one, and the one that passes the gradient
through clipped activations, which shows more of what a network of few bits has used.

It needs onnxruntime, numpy and pillow. The files are those of `saqlib.deploy.export_explanation`; one of an earlier
version has the first map only. A picture has 28 x 28 pixels, bright on black, in a format of FORMATS, turned as its
EXIF orientation says. Refused, with what to do, are other sizes, colours, transparent pixels and more than 8 bits,
since to make them grey is a choice that is the person's; a blank picture; and one with a bright ground: none of the
140,000 images of both datasets has a border that is brighter than half on average, and each of their negatives has.
"""

import argparse
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

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
GREY_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")  # of these, pillow's conversion to 8 bits loses nothing
HALF = 127.5
ZOOM, MARGIN, CAPTION = 10, 16, 56  # of the drawing: enlargement; pixels around the panels, and above them for words
INK, AGAINST, NEUTRAL, FOR = (40, 40, 40), (33, 102, 172), (247, 247, 247), (178, 24, 43)

# What to do about an unfit picture, as Python with the picture as `image`; the tests follow each advice.
GREY = "image.convert('RGB').convert('L')"
SCALED = "Image.fromarray((np.asarray(image) / 257).round().astype('uint8'))"
DRAWN_IN_ALPHA = "image.convert('RGBA').getchannel('A')"
ON_BLACK = "Image.alpha_composite(Image.new('RGBA', image.size, 'black'), image.convert('RGBA')).convert('L')"
NEGATIVE = "ImageOps.invert(image.convert('L'))"


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
        found = dict(zip(names, session.run(names, {"images": as_input(probes)}), strict=True))
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


def read_image(path: Path) -> np.ndarray:
    """The grey values of a picture, uint8 (28, 28).

    Raises ExplainError if it is missing, no picture, of another size, not grey, transparent, blank, or dark on bright.
    """
    name, image = _file(path), _opened(path)
    mode = image.mode
    if mode not in GREY_MODES:
        deep = mode.startswith(("I", "F"))  # 16 or 32 bits
        advice = f"scale its values to 0 to 255, of 16 bits by {SCALED}" if deep else f"make it grey: {GREY}"
        raise ExplainError(f"{name} has {'more than 8 bits a pixel' if deep else f'pixels of type {mode}'}; {advice}")
    pixels = np.asarray(image.convert("RGBA"))
    colours, alpha, grey = pixels[..., :3], pixels[..., 3], pixels[..., 0].copy()
    drawn = (colours[alpha > 0] == colours[alpha > 0][:1]).all()  # in one tone: the picture is what is opaque
    border = np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]])
    on_black = f"put it on black, so that what it shows is bright: {DRAWN_IN_ALPHA if drawn else ON_BLACK}"
    for unfit, message in (
        ((alpha < 255).any(), f"has transparent pixels; {on_black}"),
        ((colours != colours[..., :1]).any(), f"has colours; make it grey: {GREY}"),
        ((grey == grey[0, 0]).all(), f"is blank: every pixel has the value {grey[0, 0]}; there is nothing to explain"),
        (border.mean() > HALF, f"has a bright ground, and the networks know bright on black; turn it: {NEGATIVE}"),
    ):
        if unfit:
            raise ExplainError(f"{name} {message}")
    return grey


def _opened(path: Path) -> Image.Image:
    """The picture as it is shown, decoded only once its header has told the right size."""
    name = printable(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pillow, about size and metadata; what matters is checked here
            with Image.open(path, formats=FORMATS) as file:
                width, height = file.size
                if (width, height) == (SIDE, SIDE):
                    return ImageOps.exif_transpose(file)
    except Exception as error:  # decoders raise whatever broken bytes lead them to
        kinds = ", ".join(FORMATS)
        raise ExplainError(f"{name} is not a picture that can be read ({kinds}): {last_line(error)}") from None
    raise ExplainError(f"{name} is {width} x {height} pixels; the network takes {SIDE} x {SIDE}. Scale it first")


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
    parser.add_argument("image", type=Path, help=f"a grey picture of {SIDE} x {SIDE} pixels, bright on black")
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
