"""What a client sent becomes an upright RGB picture, if its content is of a known kind; its header is read first."""

from io import BytesIO

from PIL import Image, UnidentifiedImageError

from zsad.deploy.refusals import Refusal
from zsad.images.levels import ReadOptions
from zsad.images.picture import ImageError
from zsad.images.reading import to_rgb

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
"""By content, not by name; of a TIFF file with several pages the first is taken."""


def open_upload(data: bytes | bytearray, reading: ReadOptions) -> Image.Image:
    """Return a picture as :func:`zsad.images.reading.load_rgb` would from a file.

    Args:
        data: The file.
        reading: How grey levels beyond eight bits are read, and how many pixels are too many.

    Raises:
        Refusal: 422; for too many pixels before any is decoded.
    """
    if not data:
        raise Refusal(422, "empty", "The image is empty.")
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_many("more", reading.max_pixels) from error
    except UnidentifiedImageError as error:
        raise Refusal(422, "not_an_image", f"This is no image of a kind read here: {', '.join(FORMATS)}.") from error
    except Exception as error:  # Pillow's readers raise almost any type on damaged data
        raise _broken(error) from error
    if image.width * image.height > reading.max_pixels:
        raise _too_many(f"{image.width} x {image.height}", reading.max_pixels)
    try:
        picture = to_rgb(image, "upload", reading)
    except ImageError as error:
        raise Refusal(422, "broken_image", str(error)) from error
    picture.info = {}  # it is upright now, and must not be turned again
    return picture


def _too_many(size: str, limit: int) -> Refusal:
    return Refusal(422, "too_many_pixels", f"The image has {size} pixels; at most {limit} are read here.")


def _broken(error: Exception) -> Refusal:
    return Refusal(422, "broken_image", f"The image's header cannot be read ({type(error).__name__}).")
