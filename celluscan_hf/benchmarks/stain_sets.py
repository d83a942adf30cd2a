"""Images to fit and to judge the check for a stained cell: cells in any light, and images that show none.

Red cells and empty fields are cut from images of cells, beside the stain; photographs and icons come with installed
packages; drawings and noise are made here.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from scipy.ndimage import uniform_filter

from ..curation.decoding import decode
from ..errors import BadImage, CelluScanError
from ..modeling.stain_celluscan import Densities
from ..sources.bccd import Box, other_cells
from ..sources.tree import FolderTree
from .ood_sets import noise, turn_hue

Images = list[Image.Image]
Generator = np.random.Generator
Item = TypeVar("Item")
_ENDINGS = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp"}
_STAINED = 0.2  # of the strongest stain of an image: less is not a nucleus, granule or platelet
HUE_TURNS = {  # degrees, by what they do to violet
    "turned to red": (90, 120),
    "turned to green": (150, 180, 210),
    "turned to blue": (240, 270),
}
# Photographs of installed packages, by what they are for; none is in both
PHOTOGRAPHS = {
    "fit": (
        "skimage/data/astronaut.png",
        "skimage/data/coffee.png",
        "skimage/data/motorcycle_left.png",
        "skimage/data/rocket.jpg",
        "skimage/data/retina.jpg",
        "sklearn/datasets/images/flower.jpg",
        "gradio/media_assets/images/cheetah1.jpg",
        "gradio/media_assets/images/groot.jpeg",
        "gradio/media_assets/images/bus.png",
    ),
    "test": (
        "skimage/data/chelsea.png",
        "skimage/data/hubble_deep_field.jpg",
        "sklearn/datasets/images/china.jpg",
        "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
        "gradio/media_assets/images/lion.jpg",
        "gradio/media_assets/images/tower.jpg",
        "gradio/test_data/cheetah2.jpg",
    ),
}
ICONS = {"fit": ("matplotlib/mpl-data/images",), "test": ("gradio/media_assets/images", "skimage/data")}
_ICONS_NAMED = ("logo", "avatar", "page.png", "text.png", "chessboard", "horse")  # of folders that hold more than icons


def cells(folder: Path, count: int, only: str = "") -> Images:
    """Read about `count` cells of a laboratory, evenly over the folders and names of its files; `only` if named so.

    A folder of BCCD, with boxes in smear fields, gives the windows around its white cells and platelets.
    """
    if (folder / "Annotations").is_dir():
        boxes = [(image, box) for image, boxes in _fields(folder) for box in boxes if only in box.name.lower()]
        return [image.crop(box.window) for image, box in _spread(boxes, count)]
    by_kind: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        named = only in str(path.relative_to(folder)).lower()
        if path.suffix.lower() in _ENDINGS and not path.name.startswith(".") and named:
            by_kind.setdefault(f"{path.parent}/{path.name.partition('_')[0]}", []).append(path)
    if not by_kind and not only:
        raise CelluScanError(f"{folder}: no image in it")
    each = -(-count // max(1, len(by_kind)))
    return [image for paths in by_kind.values() for image in _readable(_spread(paths, each))]


def _spread(items: Sequence[Item], count: int) -> list[Item]:
    return [items[row] for row in np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)]


def _readable(paths: Iterable[Path]) -> Iterator[Image.Image]:
    for path in paths:
        try:
            yield decode(path.read_bytes()).image
        except BadImage:
            continue  # PBC's folder holds a file that is not an image


def _fields(folder: Path) -> Iterator[tuple[Image.Image, list[Box]]]:
    """Yield each field of BCCD with the boxes of what is not a red cell."""
    tree = FolderTree(folder)
    for member, boxes in other_cells(tree):
        yield decode(tree.read(member)).image, boxes


def relight(image: Image.Image, rng: Generator) -> Image.Image:
    """Change stain, lamp and camera: density, white balance, exposure, gamma, saturation and uneven light."""
    light = (np.asarray(image, np.float32) + 1) / 256
    if rng.random() < 0.5:
        light = light ** rng.uniform(0.6, 1.4)  # how strongly it is stained
    mixed = np.eye(3) + rng.uniform(-0.08, 0.08, (3, 3))  # another camera
    light = (light @ (mixed / mixed.sum(axis=1)).T).clip(1 / 256)
    light = light * np.exp(rng.normal(0, 0.2, 3) + rng.uniform(-0.4, 0.1))
    if rng.random() < 0.3:
        slope = np.linspace(-1, 1, light.shape[1])[None, :, None] * np.exp(rng.normal(0, 0.3, 3))
        light = light * (1 + rng.uniform(-0.15, 0.15) * slope)
    light = light.clip(0, 1) ** np.exp(rng.uniform(-0.4, 0.4))
    grey = light.mean(axis=2, keepdims=True)
    light = grey + (light - grey) * rng.uniform(0.6, 1.4)
    return Image.fromarray((light.clip(0, 1) * 255).astype(np.uint8))


def reframe(image: Image.Image, rng: Generator) -> Image.Image:
    """Cut the image closer, or show more around it, and store it anew."""
    if rng.random() < 0.25:  # more red cells around
        margins = tuple((int(length * rng.uniform(0, 0.25)),) * 2 for length in reversed(image.size))
        image = Image.fromarray(np.pad(np.asarray(image), (*margins, (0, 0)), "reflect"))
    elif rng.random() < 0.75:
        side = int(min(image.size) * rng.uniform(0.4, 1))
        x, y = (
            int(np.clip((length - side) / 2 + rng.normal(0, 0.03) * side, 0, length - side)) for length in image.size
        )
        image = image.crop((x, y, x + side, y + side))
    return store(image, rng)


def store(image: Image.Image, rng: Generator) -> Image.Image:
    """Change size (60 to 500 pixels), sharpness and JPEG quality."""
    side = int(np.exp(rng.uniform(np.log(60), np.log(500))))
    image = image.resize((side, side), Image.Resampling.BILINEAR)
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 2) * side / 200))
    if rng.random() < 0.5:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=int(rng.integers(40, 95)))
        image = Image.open(stream).convert("RGB")
    return image


def middle(image: Image.Image, share: float) -> Image.Image:
    """Cut out the middle, a share of each side."""
    left, top = (round(length * (1 - share) / 2) for length in image.size)
    return image.crop((left, top, image.width - left, image.height - top))


def restain(image: Image.Image, rng: Generator) -> Image.Image:
    """Change the colours of stain and red cells, mostly to paler and bluer ones: a gain of density for each channel."""
    light = np.asarray(image, np.float32) / 255
    field = np.quantile(light.reshape(-1, 3), 0.9, axis=0).clip(0.05)
    gains = np.exp(rng.normal((0, 0, -0.2), (0.25, 0.2, 0.4))) * rng.uniform(0.4, 1.2)
    gains[2] = min(gains[2], 1.2 * gains[1])  # blue is absorbed less than green
    light = field * ((light + 0.01) / field).clip(0.01) ** gains
    return Image.fromarray((light.clip(0, 1) * 255).astype(np.uint8))


def move(image: Image.Image, rng: Generator) -> Image.Image:
    """Move the cell away from the middle, in some images with a turn that leaves black corners."""
    if rng.random() < 0.4:
        image = image.rotate(rng.uniform(-45, 45), Image.Resampling.BILINEAR)
    width, height = (int(length * rng.uniform(0.65, 1)) for length in image.size)
    x, y = (int(rng.integers(0, length - kept + 1)) for length, kept in zip(image.size, (width, height), strict=True))
    return image.crop((x, y, x + width, y + height))


def changed(images: Iterable[Image.Image], seed: int) -> Images:
    """Show each image in another light and frame."""
    return [reframe(relight(image, rng), rng) for image, rng in _seeded(images, seed)]


def foreign(images: Iterable[Image.Image], seed: int) -> Images:
    """Show each image as another laboratory might: another stain, light and frame, the cell not in the middle."""
    return [store(relight(move(restain(image, rng), rng), rng), rng) for image, rng in _seeded(images, seed)]


def _seeded(images: Iterable[Image.Image], seed: int) -> Iterator[tuple[Image.Image, Generator]]:
    for number, image in enumerate(images):
        yield image, np.random.default_rng([seed, number])


def unstained(images: Iterable[Image.Image], seed: int, each: int = 2) -> Images:
    """Cut squares without stain, red cells or empty field, out of images of cells.

    Stain is what has at least a part of the strongest stain of the same image, which the square itself does not show.
    """
    return [
        square for image, rng in _seeded(images, seed) for square in _beside(image, _without_stain(image), rng, each)
    ]


def _without_stain(image: Image.Image) -> NDArray[np.bool_]:
    densities = Densities(image)
    stain = uniform_filter(densities.stain, 3)
    strong = Image.fromarray((stain > _STAINED * np.quantile(stain, 0.99)).astype(np.uint8))
    free: NDArray[np.bool_] = np.asarray(strong.resize(image.size, Image.Resampling.NEAREST)) == 0
    return free


def _beside(
    image: Image.Image, free: NDArray[np.bool_], rng: Generator, each: int, widest: float = 0.45
) -> Iterator[Image.Image]:
    """Yield up to `each` random squares that are `free` (H, W) all over."""
    found = 0
    for _ in range(40):
        side = int(min(image.size) * rng.uniform(0.2, widest))
        x, y = (int(rng.integers(0, length - side + 1)) for length in image.size)
        if free[y : y + side, x : x + side].mean() > 0.9995:
            found += 1
            yield image.crop((x, y, x + side, y + side))
        if found == each:
            return


def bccd_unstained(folder: Path, seed: int, each: int = 4) -> Images:
    """Cut squares out of fields of BCCD that touch no window around a white cell or platelet."""
    squares: Images = []
    for number, (image, boxes) in enumerate(_fields(folder)):
        free = np.ones((image.height, image.width), bool)
        for left, top, right, bottom in (box.window for box in boxes):
            free[top:bottom, left:right] = False
        squares += _beside(image, free, np.random.default_rng([seed, number]), each)
    return squares


def uniform(count: int, seed: int) -> Images:
    """Make images of one colour, half of them with a little noise and a slope of light."""
    images = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        pixels = np.ones((96, 96, 3)) * rng.uniform(0, 255, 3)
        if number % 2:
            slope = np.linspace(-1, 1, 96)[:, None, None]
            pixels = pixels * (1 + rng.uniform(0, 0.15) * slope) + rng.normal(0, rng.uniform(0.5, 4), pixels.shape)
        images.append(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))
    return images


def turned(images: Iterable[Image.Image], seed: int, degrees: Sequence[float]) -> Images:
    """Turn the hue of each image by one of some angles."""
    return [turn_hue(image, float(rng.choice(degrees))) for image, rng in _seeded(images, seed)]


def inverted(images: Iterable[Image.Image]) -> Images:
    return [ImageOps.invert(image) for image in images]


def grey(images: Iterable[Image.Image]) -> Images:
    return [image.convert("L").convert("RGB") for image in images]


def photographs(part: str, each: int, seed: int) -> Images:
    """Cut random squares out of photographs that come with packages: a fifth to all of the shorter side."""
    squares = []
    for number, path in enumerate(map(_installed, PHOTOGRAPHS[part])):
        rng = np.random.default_rng([seed, number])
        photograph = Image.open(path).convert("RGB")
        for _ in range(each):
            side = int(min(photograph.size) * rng.uniform(0.2, 1))
            x, y = (int(rng.integers(0, length - side + 1)) for length in photograph.size)
            square = photograph.crop((x, y, x + side, y + side))
            square.thumbnail((400, 400))
            squares.append(square)
    return squares


def _installed(path: str) -> Path:
    package, _, inside = path.partition("/")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise CelluScanError(f"the package {package} is missing: pip install 'celluscan_hf[benchmark,demo]'")
    return Path(next(iter(spec.submodule_search_locations))) / inside


def icons(part: str) -> Images:
    images = []
    for folder in map(_installed, ICONS[part]):
        for path in sorted(folder.glob("*.png")):
            if part == "fit" or any(name in path.name for name in _ICONS_NAMED):
                with_alpha = Image.open(path).convert("RGBA")
                image = Image.new("RGB", with_alpha.size, "white")
                image.paste(with_alpha, mask=with_alpha)
                images.append(image)
    return images


def drawings(count: int, seed: int, kinds: Sequence[str]) -> Images:
    """Draw images of each of some kinds in turn: `shapes`, `text`, `lines`, `bars`, `map`, `pie`, `points`."""
    return [_DRAW[kinds[number % len(kinds)]](np.random.default_rng([seed, number])) for number in range(count)]


def _colour(rng: Generator) -> tuple[int, int, int]:
    red, green, blue = rng.integers(0, 256, 3).tolist()
    return red, green, blue


def _paper(rng: Generator) -> Image.Image:
    white = rng.random() < 0.5
    return Image.new("RGB", (int(rng.integers(80, 400)),) * 2, (255, 255, 255) if white else _colour(rng))


def _shapes(rng: Generator) -> Image.Image:
    image = _paper(rng)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 12))):
        left, top = rng.uniform(0, 0.8, 2) * image.width
        width, height = rng.uniform(0.05, 0.6, 2) * image.width
        shape = (draw.ellipse, draw.rectangle, draw.line)[int(rng.integers(3))]
        shape((left, top, left + width, top + height), fill=_colour(rng))
    return image


def _text(rng: Generator) -> Image.Image:
    image = _paper(rng)
    draw = ImageDraw.Draw(image)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz    ABCDE.,"))
    for y in range(4, image.height, int(rng.integers(12, 40))):
        draw.text((5, y), "".join(rng.choice(letters, 60)), fill=_colour(rng), font_size=int(rng.integers(9, 36)))
    return image


def _plot(kind: str, rng: Generator) -> Image.Image:
    figure = Figure(figsize=(3, 3), dpi=float(rng.uniform(40, 120)))
    axes = figure.add_subplot()
    values = rng.normal(0, 1, (12, 12)).cumsum(axis=1)
    if kind == "lines":
        for row in values[: int(rng.integers(1, 8))]:
            axes.plot(row)
    elif kind == "bars":
        axes.bar(range(12), np.abs(values[0]), color=[tuple(rng.random(3)) for _ in range(12)])
    elif kind == "pie":
        axes.pie(np.abs(values[0]), colors=[tuple(rng.random(3)) for _ in range(12)])
    elif kind == "points":
        axes.scatter(values[0], values[1], s=rng.uniform(5, 200, 12), c=values[2], cmap="viridis")
    else:
        axes.imshow(values, cmap=str(rng.choice(("viridis", "magma", "Blues", "coolwarm", "gray"))))
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return Image.open(stream).convert("RGB")


_DRAW: dict[str, Callable[[Generator], Image.Image]] = {
    "shapes": _shapes,
    "text": _text,
    **{kind: partial(_plot, kind) for kind in ("lines", "bars", "map", "pie", "points")},
}


def noises(count: int, seed: int) -> Images:
    """Make noise of several kinds: each pixel alone, coarse, grey, and shot noise."""
    images = list(noise(count // 2, seed=seed))
    for number in range(count - len(images)):
        rng = np.random.default_rng([seed, number])
        side = int(rng.integers(8, 200))
        pixels = rng.integers(0, 256, (side, side, 1 if number % 3 == 0 else 3), np.uint8)
        if number % 3 == 1:
            pixels = (rng.random((side, side, 3)) < rng.uniform(0.02, 0.5)).astype(np.uint8) * 255
        coarse = Image.fromarray(np.broadcast_to(pixels, (side, side, 3)).copy())
        images.append(coarse.resize((200, 200), Image.Resampling.BICUBIC if number % 2 else Image.Resampling.NEAREST))
    return images
