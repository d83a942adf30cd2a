"""Synthetic blood cells, drawn from the table in `morphology`: a cell among red cells, as on a stained smear.

The background is drawn first and in the same way for all classes, so it does not reveal the class. Shapes are distance
fields (negative inside), which `_cover` turns into soft-edged masks.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from .morphology import (
    BACKGROUND,
    DRAWN,
    FIELD_WIDTH,
    FINER,
    MORPHOLOGY,
    RED_CELL,
    RED_CELL_DIAMETER,
    CellMorphology,
    Granules,
    Nucleus,
    Span,
)

Plane = NDArray[np.float32]
Spot = tuple[float, float]

_RED_CELL_TRIES = (20, 60)
_RED_CELL_SPACING = 5.5
_CLEAR_RADIUS = 8.2  # minimum distance of red cells from the centre, so that even a platelet is not covered
_LAVENDER = (0.90, 0.955, 1.13)  # gains that turn the cream background into the bluish one of other staining batches
_OVERSAMPLING = 4
_SPINE_STEP = 0.35
_LOBE_SHARE = 0.66  # the rest of the spine is filament
_FILAMENT = 0.18


class Patch(NamedTuple):
    """A window of the image: `rgb` is a writable view, `x` and `y` are micrometres from the centre of the window."""

    rgb: Plane
    x: Plane
    y: Plane
    pixel: float

    def paint(self, cover: Plane, colour: Plane | tuple[float, ...]) -> None:
        self.rgb[...] += cover[..., None] * (np.asarray(colour, np.float32) - self.rgb)


def draw_cell(name: str, rng: np.random.Generator, size: int = 256) -> Image.Image:
    """Draw a cell of the class `name`, `size` x `size` pixels. Raises `KeyError` if `morphology` does not have it."""
    if name not in DRAWN:
        raise KeyError(name)
    rgb = _background(rng, size)
    batch = 1 + rng.uniform(0, 1) * (np.array(_LAVENDER) - 1)
    gains = (batch * rng.uniform(0.96, 1.03) * rng.normal(1, 0.01, 3)).astype(np.float32)
    blur = rng.uniform(0.2, 0.7) * size / 256
    off_x, off_y = rng.normal(0, 0.7, 2).clip(-1.5, 1.5).tolist()
    drawn = str(rng.choice(FINER.get(name, (name,))))
    _paint_cell(rgb, MORPHOLOGY[drawn], (off_x, off_y), rng)
    image = Image.fromarray((rgb * gains).clip(0, 255).astype(np.uint8))
    return image.filter(ImageFilter.GaussianBlur(blur))


def _background(rng: np.random.Generator, size: int) -> Plane:
    """Draw the background with its red cells and, in some images, a stray platelet."""
    rgb = np.empty((size, size, 3), np.float32)
    slope = np.linspace(-1, 1, size, dtype=np.float32)
    tilt_x, tilt_y = rng.normal(0, 0.012, 2)
    rgb[...] = (1 + np.float32(tilt_x) * slope + np.float32(tilt_y) * slope[:, None])[..., None] * BACKGROUND
    edge, tint = rng.uniform(0.4, 1.1), rng.normal(1, 0.03, 3)
    placed: list[Spot] = []
    tries = int(rng.integers(*_RED_CELL_TRIES))
    for x, y in (rng.uniform(-0.58, 0.58, (tries, 2)) * FIELD_WIDTH).tolist():
        nearest = min((math.hypot(x - at_x, y - at_y) for at_x, at_y in placed), default=math.inf)
        if math.hypot(x, y) > _CLEAR_RADIUS and nearest > _RED_CELL_SPACING:
            placed.append((x, y))
            _paint_red_cell(rgb, (x, y), edge, tint, rng)
    if rng.random() < 0.35:
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(11.5, 17)
        _paint_cell(rgb, MORPHOLOGY["Platelet"], (reach * math.cos(angle), reach * math.sin(angle)), rng)
    return rgb


def _paint_red_cell(rgb: Plane, spot: Spot, edge: float, tint: NDArray[np.float64], rng: np.random.Generator) -> None:
    """Paint a biconcave disc: darkest near the rim, pale in the middle. Overlapping cells both absorb."""
    radius = _pick(RED_CELL_DIAMETER, rng) / 2
    patch = _patch(rgb, spot, radius * 1.5)
    distance = _disc(patch, radius, 0.3, rng)
    pallor = rng.uniform(0.25, 0.5) * radius
    depth = _cover(distance, edge) * (1 - 0.75 * _cover(distance + radius - pallor, radius * rng.uniform(0.3, 0.6)))
    absorbed = 1 - np.array(RED_CELL) * tint / BACKGROUND
    patch.rgb[...] *= 1 - depth[..., None] * (rng.uniform(0.8, 1.1) * absorbed).astype(np.float32)


def _paint_cell(rgb: Plane, cell: CellMorphology, spot: Spot, rng: np.random.Generator) -> None:
    radius = _pick(cell.diameter, rng) / 2
    patch = _patch(rgb, spot, radius * 1.35)
    body_distance = _disc(patch, radius, cell.uneven, rng)
    body = _cover(body_distance, 0.45)
    cytoplasm = np.array(cell.cytoplasm) + rng.normal(0, 4, 3)
    mottle = cell.texture * _noise(patch, 0.5, rng) - 22 * _cover(-body_distance - 0.35, 0.7)
    patch.paint(body, cytoplasm.astype(np.float32) + mottle[..., None])
    granules = [(kind, _granule_cover(patch, kind, radius, rng) * body) for kind in cell.granules]
    for kind, cover in granules:
        patch.paint(cover, kind.colour)
    vacuoles = Granules(cell.vacuoles, (0.3, 0.8), (244, 230, 228))
    patch.paint(_granule_cover(patch, vacuoles, radius, rng) * body, vacuoles.colour)
    if cell.nucleus:
        nucleus = _paint_nucleus(patch, cell.nucleus, radius, body, rng)
        for kind, cover in granules:
            patch.paint(cover * nucleus * kind.over_nucleus, kind.colour)


def _paint_nucleus(patch: Patch, nucleus: Nucleus, radius: float, body: Plane, rng: np.random.Generator) -> Plane:
    """Paint the nucleus and return its mask."""
    points, widths = _fit(*_spine(nucleus, radius, rng), nucleus, radius, rng)
    x, y = (axis + nucleus.wavy * _noise(patch, 2.2, rng) for axis in (patch.x, patch.y))
    distance = np.full(x.shape, np.inf, np.float32)
    for (at_x, at_y), width in zip(points, widths, strict=True):
        np.minimum(distance, np.sqrt((x - at_x) ** 2 + (y - at_y) ** 2) - width, out=distance)
    cover = _cover(distance, 0.4) * body
    chromatin = _noise(patch, nucleus.grain, rng) + 0.5 * _noise(patch, 2.5 * nucleus.grain, rng)
    gaps = (chromatin * 0.6 + nucleus.openness - 0.1).clip(0, 1) * _cover(distance + 0.45, 0.5)
    dark, pale = (np.array(colour, np.float32) for colour in (nucleus.dark, nucleus.pale))
    shade = rng.normal(0, 5, 3).astype(np.float32)
    patch.paint(cover * 0.97, dark + shade + gaps[..., None] * (pale - dark))
    _paint_nucleoli(patch, nucleus, points.mean(0), radius, rng)
    return cover


def _spine(nucleus: Nucleus, radius: float, rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Sample points along the spine and the half width at each."""
    lobes = int(rng.integers(nucleus.lobes[0], nucleus.lobes[1], endpoint=True))
    length = _pick(nucleus.length, rng) * radius
    along = np.linspace(0, 1, int(length / _SPINE_STEP) + 2)
    turned = 0.5 - abs(along - 0.5) if rng.random() < nucleus.s_share else along
    lobe = np.minimum((along * lobes).astype(int), lobes - 1)
    kinks = rng.normal(0, 0.35 * (lobes > 1), lobes)
    heading = rng.uniform(0, 2 * np.pi) + np.radians(_pick(nucleus.turn, rng)) * turned + kinks[lobe]
    steps = np.stack([np.cos(heading), np.sin(heading)], 1) * length / len(along)
    profile = _lobed(along * lobes - lobe, lobe, rng) if lobes > 1 else 1 + 0.1 * np.sin(6 * along + rng.uniform(0, 6))
    widths = np.maximum(_pick(nucleus.width, rng) * radius * profile, _FILAMENT)
    return steps.cumsum(0).astype(np.float32), widths.astype(np.float32)


def _lobed(within: NDArray[np.float64], lobe: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the half width along lobes of unequal size, 0 between them; `within` is the position in each lobe."""
    from_middle = (2 * within - 1) / _LOBE_SHARE
    sizes = rng.uniform(0.8, 1.1, lobe.max() + 1)
    return np.asarray(sizes[lobe] * np.sqrt((1 - from_middle**2).clip(0)))


def _fit(
    points: Plane, widths: Plane, nucleus: Nucleus, radius: float, rng: np.random.Generator
) -> tuple[Plane, Plane]:
    """Scale the nucleus to fit in the cell and move it off the centre."""
    points = points - (points.min(0) + points.max(0)) / 2
    reach = float((np.hypot(points[:, 0], points[:, 1]) + widths).max())
    scale = min(1.0, 0.93 * radius / reach)
    room = (0.96 * radius - reach * scale) * _pick(nucleus.eccentric, rng)
    angle = rng.uniform(0, 2 * np.pi)
    off = np.array([room * np.cos(angle), room * np.sin(angle)], np.float32)
    return points * np.float32(scale) + off, widths * np.float32(scale)


def _paint_nucleoli(patch: Patch, nucleus: Nucleus, centre: Plane, radius: float, rng: np.random.Generator) -> None:
    first = rng.uniform(0, 2 * np.pi)
    count = int(rng.integers(nucleus.nucleoli[0], nucleus.nucleoli[1], endpoint=True))
    for number in range(count):
        angle = first + 2 * np.pi * number / count + rng.normal(0, 0.3)
        reach, size = rng.uniform(0.2, 0.45) * radius, rng.uniform(0.75, 1.15)
        at_x, at_y = centre + np.array([np.cos(angle), np.sin(angle)], np.float32) * np.float32(reach)
        distance = np.hypot(patch.x - at_x, patch.y - at_y) - np.float32(size)
        patch.paint(_cover(distance, 0.6) * 0.7, (158, 128, 206))
        patch.paint(_cover(abs(distance) - 0.1, 0.5) * 0.4, nucleus.dark)


def _granule_cover(patch: Patch, granules: Granules, radius: float, rng: np.random.Generator) -> Plane:
    """Draw the mask of granules scattered over a disc of the cell's radius, each with its own opacity."""
    height, width = patch.rgb.shape[:2]
    mask = Image.new("L", (width * _OVERSAMPLING, height * _OVERSAMPLING))
    draw = ImageDraw.Draw(mask)
    count = int(rng.integers(granules.count[0], granules.count[1], endpoint=True))
    reach, angle = radius * np.sqrt(rng.random(count)), rng.uniform(0, 2 * np.pi, count)
    scale = _OVERSAMPLING / patch.pixel
    at_x = (reach * np.cos(angle) - patch.x[0, 0]) * scale
    at_y = (reach * np.sin(angle) - patch.y[0, 0]) * scale
    sizes = rng.uniform(*granules.radius, count) * scale
    depths = rng.integers(120, 256, count)
    for x, y, r, depth in zip(at_x.tolist(), at_y.tolist(), sizes.tolist(), depths.tolist(), strict=True):
        draw.ellipse((x - r, y - r, x + r, y + r), fill=depth)
    return np.asarray(mask.reduce(_OVERSAMPLING), np.float32) / np.float32(255)


def _patch(rgb: Plane, spot: Spot, reach: float) -> Patch:
    """Return the window of half side `reach` around `spot`, clipped to the image."""
    size = rgb.shape[0]
    pixel = FIELD_WIDTH / size
    (left, right), (top, bottom) = (
        [min(max(round((at + side) / pixel + size / 2), 0), size) for side in (-reach, reach)] for at in spot
    )
    x = (np.arange(left, right) + 0.5 - size / 2) * pixel - spot[0]
    y = (np.arange(top, bottom) + 0.5 - size / 2) * pixel - spot[1]
    return Patch(rgb[top:bottom, left:right], x[None].astype(np.float32), y[:, None].astype(np.float32), pixel)


def _disc(patch: Patch, radius: float, uneven: float, rng: np.random.Generator) -> Plane:
    """Compute the distance field of a slightly oval, uneven disc."""
    angle, oval = rng.uniform(0, np.pi), 1 + rng.uniform(0, 0.12)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    along = (patch.x * cos + patch.y * sin) / np.float32(oval)
    across = (patch.y * cos - patch.x * sin) * np.float32(oval)
    distance: Plane = np.hypot(along, across) - np.float32(radius)
    return distance + np.float32(uneven) * _noise(patch, radius, rng)


def _noise(patch: Patch, grain: float, rng: np.random.Generator) -> Plane:
    """Draw smooth noise of about unit variance with a correlation length of `grain` micrometres."""
    height, width = patch.rgb.shape[:2]
    rows, columns = (max(2, round(side * patch.pixel / grain)) for side in (height, width))
    coarse = Image.fromarray(rng.standard_normal((rows, columns), np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def _cover(distance: Plane, softness: float) -> Plane:
    """Return 1 inside, 0 outside and a ramp of width `softness` between them."""
    return (0.5 - distance / np.float32(softness)).clip(0, 1)


def _pick(span: Span, rng: np.random.Generator) -> float:
    return float(rng.uniform(*span))
