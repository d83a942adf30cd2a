"""Safe decoding of untrusted image files, with the code that is shipped in checkpoints, and cropping of boxes."""

from PIL import Image

from ..errors import BadImage
from ..modeling.decoding_celluscan import MAX_PIXELS, MIN_SIDE, Decoded, decode, largest_sample

__all__ = ["MAX_PIXELS", "MIN_SIDE", "Decoded", "crop", "decode", "largest_sample"]


def crop(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """Crop an image to a box (left, top, right, bottom), in pixels. Raises `BadImage` if it exceeds the image."""
    left, top, right, bottom = box
    if not (0 <= left < right <= image.width and 0 <= top < bottom <= image.height):
        raise BadImage("box_outside_image", f"box {box} in an image of {image.width}x{image.height}")
    return image.crop(box)
