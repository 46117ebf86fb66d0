"""Write a photograph."""

from hvae_jax import images
from hvae_jax.images import Image
from hvae_jax.images.formats import FilePath


def write_photograph(path: FilePath, photo: Image, *, overwrite: bool = False) -> None:
    """Write a photograph, all or nothing, in the depth that it has where the format has it.

    Args:
        path: the file, whose ending says the format; missing folders are made.
        photo: the photograph.
        overwrite: whether an existing file may be replaced.

    Raises:
        ImageError: the values are not an image, or the file cannot be written.
    """
    images.write_image(
        path,
        photo.pixels,
        bit_depth=photo.bit_depth,
        alpha=photo.alpha,
        overwrite=overwrite,
        metadata=photo.metadata,
        premultiplied=photo.premultiplied,
    )
