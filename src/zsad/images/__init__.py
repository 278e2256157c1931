"""Who opens a file: reading, finding, resizing and colouring pictures."""

from zsad.images.listing import IMAGE_EXTENSIONS, Found, is_image, list_images, walk
from zsad.images.reading import ImageError, Size, image_size, load_mask, load_rgb, mask_levels, to_rgb
from zsad.images.tensors import mask_to_tensor, normalise, resized, to_pixels, to_tensor

__all__ = [
    "IMAGE_EXTENSIONS",
    "Found",
    "ImageError",
    "Size",
    "image_size",
    "is_image",
    "list_images",
    "load_mask",
    "load_rgb",
    "mask_levels",
    "mask_to_tensor",
    "normalise",
    "resized",
    "to_pixels",
    "to_rgb",
    "to_tensor",
    "walk",
]
