"""What a real photograph needs around the method: files, borders, noise, kernels, masks (NumPy only)."""

from hvae_jax.images.borders import Box, crop, extend_periodic, fit_square, pad_to_multiple
from hvae_jax.images.formats import SUFFIXES, ImageError, Source, list_images, survey
from hvae_jax.images.kernels import Kernel, parse_kernel, read_kernel, read_kernels, write_kernel
from hvae_jax.images.masks import make_mask, read_mask
from hvae_jax.images.metadata import Metadata
from hvae_jax.images.noise import NoiseEstimate, estimate_noise, estimate_noise_std
from hvae_jax.images.read import Image, count_pages, read_image
from hvae_jax.images.squares import Squares, read_squares
from hvae_jax.images.write import check_writable, encode_image, write_image

__all__ = [
    "SUFFIXES",
    "Box",
    "Image",
    "ImageError",
    "Kernel",
    "Metadata",
    "NoiseEstimate",
    "Source",
    "Squares",
    "check_writable",
    "count_pages",
    "crop",
    "encode_image",
    "estimate_noise",
    "estimate_noise_std",
    "extend_periodic",
    "fit_square",
    "list_images",
    "make_mask",
    "pad_to_multiple",
    "parse_kernel",
    "read_image",
    "read_kernel",
    "read_kernels",
    "read_mask",
    "read_squares",
    "survey",
    "write_image",
    "write_kernel",
]
