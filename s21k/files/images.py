"""Opening an image safely: the one place where image files become RGB.

Handled: EXIF rotation, CMYK, palettes and transparency (on grey), 10 to 16 bits a channel, one-bit, a gzip file in a
image's place. Refused in one line: what is no image, truncated files, and sizes that are absurd.
"""
import contextlib
import io
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from s21k.core.errors import InputError, refused
from s21k.core.transfer import constant
from s21k.files import deep_images as deep

MAX_PIXELS = 120_000_000                            # larger images are refused before they are decoded
MAX_BYTES = 256_000_000                             # of an image file that was gzipped
MEAN = (123.675, 116.28, 103.53)                    # ImageNet, RGB, of values 0..255 [G23]
STD = (58.395, 57.12, 57.375)
END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
Source = str | Path | BinaryIO


class NamedBytes(io.BytesIO):
    """A file's content that knows where it came from, for errors."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name

    def __str__(self) -> str:
        return self.name


def _gunzipped(source: Source) -> NamedBytes | None:
    """The image inside where the file is a gzip file, as some of ImageNet-21K's are; None where it is none."""
    with open(source, "rb") if isinstance(source, (str, Path)) else contextlib.nullcontext(source) as file:
        file.seek(0)
        start = file.read(2)
        if start != b"\x1f\x8b":
            return None
        content = start + file.read(MAX_BYTES)
    inside = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(content, MAX_BYTES)       # never more than this
    return NamedBytes(inside, str(source))


def _open(source: Source) -> Image.Image:
    """The header only. InputError where it is no image or too large."""
    with refused(f"{source}: not a readable image", Exception):     # Pillow raises whatever damaged bytes lead it to
        try:
            image = Image.open(source)
        except UnidentifiedImageError:
            inside = _gunzipped(source)
            if inside is None:
                raise InputError(f"{source}: not a readable image (of no known format)") from None
            image = Image.open(inside)
    if image.width * image.height > MAX_PIXELS or min(image.size) < 1:
        raise InputError(f"{source}: {image.width} x {image.height} pixels, expected at most {MAX_PIXELS} in all")
    return image


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8 (5 to 8 swap width and height); 1 where it is absent or damaged."""
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:                               # as above
        return 1
    return value if value in range(1, 9) else 1


def image_size(source: Source) -> tuple[int, int]:
    """(h, w) as read_image would give it, from the header alone."""
    return _upright_size(_open(source))


def stored_size(source: Source) -> tuple[int, int]:
    """(h, w) of the file's own rows and columns, whatever its EXIF says."""
    image = _open(source)
    return image.height, image.width


def _upright_size(image: Image.Image) -> tuple[int, int]:
    w, h = image.size
    return (w, h) if _orientation(image) >= 5 else (h, w)


def check_image(source: Source, tail: bytes) -> tuple[int, int]:
    """(h, w) as read_image would give it, of a file that looks whole. tail: its last kilobyte or more. A JPEG or PNG
    whose end mark is in the tail is not decoded; every other file is. InputError: no image, or truncated."""
    image = _open(source)
    size = _upright_size(image)
    if END_MARKS.get(image.format, b"") not in tail or image.format not in END_MARKS:
        read_image(source)
    return size


def read_image(source: Source, at_least: int | None = None, expected: tuple[int, int] | None = None) -> Image.Image:
    """An image as RGB, upright.

    expected: the (h, w) that its annotation was made on. Another size is refused: the boxes would
    lie elsewhere. Where the file's own rows and columns fit but the rotated ones don't, it is not rotated.

    at_least: the caller will shrink it, and needs no side below this many pixels: JPEG is then
    decoded at 1/2, 1/4 or 1/8 of its size where that is enough, which is several times cheaper.
    """
    image = _open(source)
    with refused(f"{source}: cannot be decoded", Exception):    # before the orientation: for it Pillow reads all a PNG
        low = deep.low_byte_tiles(image)
        said = deep.said_depth(image) if low or image.mode.startswith("I") else None
    rotated = _orientation(image)
    upright = (image.width, image.height) if rotated >= 5 else (image.height, image.width)
    if expected is not None and upright != expected:
        if (image.height, image.width) != expected:
            raise InputError(f"{source}: {image.height} x {image.width} pixels (h, w), its annotation says {expected}")
        rotated = 1
    with refused(f"{source}: cannot be decoded", Exception):
        if at_least is not None:
            factor = max(1.0, min(image.size) / max(at_least, 1))
            image.draft("RGB", (int(image.width / factor), int(image.height / factor)))
        image.load()
        turn = ImageOps.exif_transpose if rotated != 1 else lambda turned: turned
        if low and max(high for _, high in image.getextrema()[:3]) < deep.DARK:
            image = deep.colours(turn(image), turn(deep.decode_low(_open(source), low)), said)
        else:
            image = turn(image)
        return _to_rgb(image, said)


def _to_rgb(image: Image.Image, said: int | None) -> Image.Image:
    """said: the bits of a channel by the file's own word, if it has one."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):                              # 16-bit grey: Pillow would clip, not scale
        return Image.fromarray(deep.to_eight_bits(np.asarray(image), said)).convert("RGB")
    if image.mode == "F":
        return Image.fromarray(deep.grey_of_floats(np.asarray(image))).convert("RGB")
    if image.mode in ("P", "PA", "LA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        layered = image.convert("RGBA")                         # transparent pixels hold any colour: show grey there
        return Image.alpha_composite(Image.new("RGBA", image.size, (128, 128, 128, 255)), layered).convert("RGB")
    return image.convert("RGB")


def resize(image: Image.Image, size: tuple[int, int], window: tuple[int, int, int, int] | None = None,
           mirror: bool = False, mode: str = "bilinear") -> Tensor:
    """The image, or its window (x1, y1, x2, y2), perhaps mirrored, at another size (h, w): (3, h, w) uint8, with
    antialiasing; mode "bilinear" or "bicubic".

    As Pillow's to a level, and several times as fast. The memory stays row by row of pixels (channels last), which is
    how images are decoded and how `collate` lays them down.
    """
    if window is not None and window != (0, 0, *image.size):
        image = image.crop(window)
    if mirror:                                      # by Pillow: numpy takes ten times as long over three-byte pixels
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = torch.from_numpy(np.array(image))      # (h, w, 3), a copy: Pillow's own memory may not be written
    # The batch's axis comes first: added after permute, its stride would hide from torch that the channels are last,
    # and the result would be laid out anew, plane by plane, which takes longer than the resize.
    return F.interpolate(pixels[None].permute(0, 3, 1, 2), size=size, mode=mode, antialias=True)[0]


def to_tensor(image: Image.Image) -> Tensor:
    """RGB image -> (3, h, w) uint8, its memory channels last as resize's."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def normalize(images: Tensor, sizes: list[tuple[int, int]] | None = None) -> Tensor:
    """(B, 3, H, W) uint8 -> float32, ImageNet mean and deviation; the padding outside sizes is exactly 0 [G23]."""
    mean, std = (constant(values, images.device).view(3, 1, 1) for values in (MEAN, STD))
    normal = (images.to(torch.float32, memory_format=torch.contiguous_format) - mean) / std
    for image, (h, w) in zip(normal, sizes or []):
        image[:, h:] = 0
        image[:, :, w:] = 0
    return normal
