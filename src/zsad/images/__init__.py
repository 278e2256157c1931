"""Who opens a file: reading, finding, resizing and colouring pictures."""

from typing import TYPE_CHECKING

from zsad import lazily
from zsad.images.levels import ReadOptions
from zsad.images.listing import IMAGE_EXTENSIONS, Found, is_image, list_images, walk
from zsad.images.masks import load_mask, mask_levels
from zsad.images.medical import expand_slices
from zsad.images.picture import ImageError, Picture, Size
from zsad.images.pixels import model_pixels, resized
from zsad.images.reading import image_size, load_picture, load_rgb, to_rgb

if TYPE_CHECKING:
    from zsad.images.tensors import mask_to_tensor, normalise, to_pixels, to_tensor

__all__ = [
    "IMAGE_EXTENSIONS",
    "Found",
    "ImageError",
    "Picture",
    "ReadOptions",
    "Size",
    "expand_slices",
    "image_size",
    "is_image",
    "list_images",
    "load_mask",
    "load_picture",
    "load_rgb",
    "mask_levels",
    "mask_to_tensor",
    "model_pixels",
    "normalise",
    "resized",
    "to_pixels",
    "to_rgb",
    "to_tensor",
    "walk",
]

_TORCH = ("mask_to_tensor", "normalise", "to_pixels", "to_tensor")

__getattr__ = lazily(__name__, dict.fromkeys(_TORCH, "zsad.images.tensors"))
