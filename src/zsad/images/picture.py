"""A picture as read, and what went wrong."""

from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from zsad.images.levels import Extent, Window

Size = tuple[int, int]


class ImageError(ValueError):
    """A file cannot be read as an image; the message names the file and the reason."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A file as an upright RGB picture, with what is doubtful about it.

    Args:
        image: 8-bit RGB.
        warning: A sentence, or None.
        fitting: The window that would fit, if the grey levels use less than an eighth of their container's range.
        source: (height, width) of the whole picture, if a smaller one was decoded.
        instance: SHA-256 of a DICOM file's SOP instance UID, in hexadecimal; nothing else of a header is kept.
    """

    image: Image.Image
    warning: str | None = None
    fitting: Window | None = None
    source: Size | None = None
    instance: str | None = None

    @property
    def size(self) -> Size:
        """(height, width) of the upright picture as the file holds it."""
        return self.source or (self.image.height, self.image.width)


def small_part(extent: Extent, full: Window, fitting: Window) -> str:
    """Return the warning of a picture that looks nearly black, with the window that would fit."""
    return (
        f"Its grey levels {extent.low:g} to {extent.high:g} are less than an eighth of {full[0]:g} to {full[1]:g}: "
        f"a window of {fitting[0]:g},{fitting[1]:g} would fit."
    )


def reason(error: Exception) -> str:
    """Return what went wrong as one sentence."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or of an unknown format."
    if isinstance(error, FileNotFoundError):
        return "no such file."
    text = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
    return f"{text.rstrip('.')}."
