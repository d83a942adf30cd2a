"""Draw a figure for one cell: the model's input, its prediction and its attention."""

import math
import textwrap
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from transformers import BaseImageProcessor, PreTrainedModel

from ..atomic_io import atomic_write
from ..curation.decoding import decode
from ..errors import BadImage, CelluScanError
from .attention import AttentionRecord, record_attention
from .loading import load_classifier, load_reliability
from .predict import Row, row
from .prediction import outputs

RESOLUTION = 120  # dots per inch
PANEL_INCHES, PANEL_TITLE_INCHES, LINE_INCHES, LEGEND_INCHES = 2.3, 0.3, 0.2, 0.9
LABELS = 3  # in the title
LETTERS_PER_PANEL = 24  # letters of a title that fit above one panel
MIN_SCALE = 2.0  # least upper end of a colour scale, in multiples of even attention
LEGEND = "attention; 1 × is the share of each patch if attention is spread evenly"
TINT = np.c_[colormaps["YlOrRd"](np.linspace(0, 1, 256))[:, :3], np.linspace(0, 0.8, 256)]  # zero is transparent
Pixels = NDArray[np.float32]
_NO_BREAK = "\N{NO-BREAK SPACE}"
_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # luminance, ITU-R BT.601


def explain(
    image_path: str | Path,
    model: str | Path | PreTrainedModel,
    output_png: str | Path,
    layer: int = -1,
    processor: BaseImageProcessor | None = None,
    *,
    views: int | None = None,
    trust_remote_code: bool = False,
) -> Path:
    """Draw one cell as the model sees it, the attention rollout and each head of one layer, as a PNG file.

    Args:
        image_path: An image file of one cell.
        model: A checkpoint folder, the name of a model on the Hub, or a model with `attn_implementation="eager"`.
        output_png: Output file; must end in `.png`.
        layer: Layer whose heads are drawn, from 1 (first) to the number of layers, or from -1 (last) backwards.
        processor: The image processor, if `model` is a model object.
        views: Mirrored copies of an image that the prediction averages over; None for those of the model. Attention is
            that of the image as it is.
        trust_remote_code: Run code from the checkpoint.

    Returns:
        The file that was written.

    Raises:
        CelluScanError: The image or the model is missing or cannot be used, there is no such layer, or `output_png`
            has another ending.
    """
    output = Path(output_png)
    if output.suffix.lower() != ".png":
        raise CelluScanError(f"{output}: expected a file name that ends in .png")
    image = read_image(Path(image_path))
    if isinstance(model, (str, Path)):
        model, processor = load_classifier(model, trust_remote_code, views=views, attn_implementation="eager")
    elif processor is None or views is not None:
        raise CelluScanError("a model object needs its image processor, and has its views: explain(…, processor=…)")
    pixel_values = processor(images=image, return_tensors="pt")["pixel_values"]
    record = record_attention(model, pixel_values)
    cell = displayed(pixel_values[0], processor)
    figure = draw(cell, record, layer, f"{Path(image_path).name}\n{answer_text(predict_row(image, model, processor))}")
    with atomic_write(output) as partial:
        figure.savefig(partial, format="png", dpi=RESOLUTION)
    return output


def read_image(path: Path) -> Image.Image:
    """Read an upright RGB image from an untrusted file. Raises a `CelluScanError` that says why it cannot be used."""
    try:
        return decode(path.read_bytes()).image
    except FileNotFoundError as error:
        raise CelluScanError(f"{path}: there is no such image") from error
    except IsADirectoryError as error:
        raise CelluScanError(f"{path} is a folder; expected one image file") from error
    except BadImage as error:
        raise CelluScanError(f"{path} cannot be used: {error}") from error


def displayed(pixels: torch.Tensor, processor: BaseImageProcessor) -> Pixels:
    """Undo the normalisation of one image's `pixel_values` (3, H, W): (H, W, 3) in [0, 1]."""
    image: Pixels = pixels.permute(1, 2, 0).float().cpu().numpy()
    if processor.do_normalize:
        image = image * np.asarray(processor.image_std, np.float32) + np.asarray(processor.image_mean, np.float32)
    return image.clip(0, 1)


def predict_row(image: Image.Image, model: PreTrainedModel, processor: BaseImageProcessor) -> Row:
    """Return the row that `celluscan predict` writes for one image."""
    reliability = load_reliability(model)
    calibrated = reliability is not None
    (result,) = outputs([lambda: image], model, processor, with_features=calibrated, check_stain=True)
    return row("", result, model.config.id2label, LABELS, reliability)


def answer_text(fields: Row) -> str:
    """List the likeliest labels of a row with probabilities, `Monocyte 71.2 %, then …`; below, why it abstains."""
    first, *others = [f"{best['label']} {100 * best['score']:.1f}{_NO_BREAK}%" for best in fields["top"]]
    likeliest = f"{first}, then {', '.join(others)}" if others else first
    abstains = f"abstains: {fields['reason']}" if fields["abstain"] else None
    return "\n".join(line for line in (likeliest, abstains, fields["hint"]) if line)


def draw(cell: Pixels, record: AttentionRecord, layer: int, title: str) -> Figure:
    """Draw the first image of a record: the cell (H, W, 3), then rollout and every head of `layer` over it.

    Every map has its own colour scale, from zero to its maximum, which is in its title. If attention is about even, the
    scale ends at twice the even share, so that noise does not look like a finding.
    """
    heads = record.heads(layer)[0]  # (h, rows, columns)
    grids = torch.cat([record.rollout()[:1], heads]) * heads[0].numel()  # an even spread is 1
    names = ["rollout", *(f"head {number}" for number in range(1, 1 + len(heads)))]
    count = len(record.layers)
    subtitle = f"Rollout through all {count} layers; heads of layer {layer if layer > 0 else count + 1 + layer}."
    figure, axes = _panels(1 + len(grids), f"{title}\n{subtitle}")
    axes[0].imshow(cell)
    axes[0].set_title("as the model sees it", fontsize=9)
    grey = np.repeat((cell @ _GREY)[..., None], 3, axis=2)
    for panel, name, grid in zip(axes[1:], names, grids, strict=False):
        top = float(grid.max())
        panel.imshow(grey)
        panel.imshow(smooth(grid, cell.shape[:2]), cmap=ListedColormap(TINT), vmin=0, vmax=max(top, MIN_SCALE))
        panel.set_title(f"{name}, up to {top:.1f} ×", fontsize=9)
    _legend(figure, axes)
    return figure


def smooth(grid: torch.Tensor, size: tuple[int, ...]) -> NDArray[np.float32]:
    """Enlarge a map of patches (rows, columns) to the image's (H, W), without edges between patches."""
    enlarged = nn.functional.interpolate(grid[None, None].float(), size=size, mode="bicubic", align_corners=False)
    values: NDArray[np.float32] = enlarged[0, 0].clamp(min=0).cpu().numpy()  # bicubic overshoots below zero
    return values


def _panels(count: int, title: str) -> tuple[Figure, list[Axes]]:
    """Create a titled figure with at least `count` panels without axes, with as few empty panels as possible."""
    columns = min(range(3, 7), key=lambda columns: (-count % columns, abs(columns - 5)))
    rows = math.ceil(count / columns)
    lines = [part for line in title.splitlines() for part in textwrap.wrap(line, LETTERS_PER_PANEL * columns)]
    height = rows * (PANEL_INCHES + PANEL_TITLE_INCHES) + len(lines) * LINE_INCHES + LEGEND_INCHES
    figure = Figure((columns * PANEL_INCHES, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    FigureCanvasAgg(figure)
    figure.suptitle("\n".join(lines), fontsize=11, parse_math=False)
    axes: list[Axes] = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in axes:
        panel.axis("off")
    return figure, axes


def _legend(figure: Figure, axes: list[Axes]) -> None:
    """Add a colour bar below the panels, with the tint as it looks over white."""
    colours, opacity = TINT[:, :3], TINT[:, 3:]
    scale = ScalarMappable(cmap=ListedColormap(colours * opacity + 1 - opacity))
    bar = figure.colorbar(scale, ax=axes, location="bottom", shrink=0.6, aspect=50)
    bar.set_ticks([0, 1], labels=["none", f"the panel's maximum, at least {MIN_SCALE:.0f} ×"], fontsize=9)
    bar.set_label(LEGEND, fontsize=9)
