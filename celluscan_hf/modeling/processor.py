"""The image processor of every checkpoint: pad to square, resize, scale, normalise.

It is a class of the library, so that a native checkpoint needs no remote code: `LlavaImageProcessor` pads with the mean
colour, which normalises to about zero and is also the padding colour of a dataset build.
"""

from collections.abc import Sequence

from transformers import LlavaImageProcessor

BILINEAR = 2  # PIL.Image.Resampling.BILINEAR, as in a dataset build


def build_image_processor(
    image_size: int, image_mean: Sequence[float], image_std: Sequence[float], resized: int | None = None
) -> LlavaImageProcessor:
    """Build the processor for square images of `image_size` pixels.

    Args:
        image_size: Height and width the model expects, in pixels.
        image_mean: Mean of red, green and blue over the training images, in [0, 1]. A dataset build
            stores it as `channel_mean` in `curation/statistics.json`.
        image_std: Standard deviation, likewise; `channel_std`.
        resized: Side in pixels to resize the padded image to before the central `image_size` pixels are cropped; by
            default nothing is cropped.

    Raises:
        ValueError: `resized` is smaller than `image_size`; or not three means in [0, 1], or not three positive standard
            deviations.
    """
    if len(image_mean) != 3 or not all(0 <= value <= 1 for value in image_mean):
        raise ValueError(f"image_mean must be three values in [0, 1], got {list(image_mean)}")
    if len(image_std) != 3 or not all(0 < value <= 1 for value in image_std):
        raise ValueError(f"image_std must be three values above 0 and at most 1, got {list(image_std)}")
    resized = resized or image_size
    if resized < image_size:
        raise ValueError(f"resized ({resized}) must be at least image_size ({image_size})")
    return LlavaImageProcessor(
        do_convert_rgb=True,
        do_pad=True,
        do_resize=True,
        size={"height": resized, "width": resized},
        resample=BILINEAR,
        do_center_crop=resized > image_size,
        crop_size={"height": image_size, "width": image_size},
        image_mean=list(image_mean),
        image_std=list(image_std),
    )
