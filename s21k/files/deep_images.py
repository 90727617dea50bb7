"""Images of more than 8 bits a channel -> 8 bits, scaled by the range of their content, not by that of their file.

Cameras and scanners write 10, 12 or 14 bits into files of 16: taken for 16 bits, such an image is nearly black. The
file's own word counts where it has one that its content keeps to (PNG's sBIT, TIFF's BitsPerSample and
MaxSampleValue); else the content's depth does.
"""
import sys

import numpy as np
from PIL import Image

DEPTHS = (8, 10, 12, 14)  # of content; a larger one is 16
SWAPPED = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}  # orders of two bytes
GREY_ALPHA = "LA;16B"  # what Pillow calls grey of 16 bits with transparency
DARK = 64  # colours whose high bytes are all below this have 14 bits or less
TIFF_BITS, TIFF_MAX = 258, 281  # tags


def said_depth(image: Image.Image) -> int | None:
    """The bits of a channel by the file's own word, if less than the 16 stored. Asked before the pixels are read."""
    if image.format == "PNG":
        said = _sbit(image)
    elif image.format == "TIFF":
        bits, highest = (np.atleast_1d(image.tag_v2.get(tag, 0)).max() for tag in (TIFF_BITS, TIFF_MAX))
        said = int(highest).bit_length() if highest else int(bits)
    else:
        return None
    return said if said is not None and 1 <= said < 16 else None


def _sbit(image: Image.Image) -> int | None:
    """The largest number in a PNG's sBIT chunk, which comes before the pixels, or None. The file's place is kept."""
    file, at = image.fp, image.fp.tell()
    try:
        file.seek(8)
        for _ in range(64):
            head = file.read(8)
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            if kind == b"sBIT":
                return max(file.read(min(length, 4)), default=None)
            if len(head) < 8 or kind in (b"IDAT", b"IEND"):
                return None
            file.seek(length + 4, 1)
        return None
    finally:
        file.seek(at)


def depth_of(highest: int, said: int | None) -> int:
    """Bits of content whose highest value is `highest`, in a file that says `said`, or nothing."""
    if said is not None and highest < 1 << said:
        return max(said, 8)
    return next((depth for depth in DEPTHS if highest < 1 << depth), max(16, highest.bit_length()))


def to_eight_bits(values: np.ndarray, said: int | None) -> np.ndarray:
    """Whole numbers of any shape -> uint8, the highest of which fills the range of its depth."""
    values = values.astype(np.int64).clip(0)
    highest = int(values.max(initial=0))
    return (values >> (depth_of(highest, said) - 8)).astype(np.uint8)


def grey_of_floats(values: np.ndarray) -> np.ndarray:
    """Real numbers -> uint8: 0..1 as shares of white, to 255 as they are, above by their depth; nan: black."""
    values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0).clip(0)
    highest = values.max(initial=0)
    if highest <= 1:
        return (values * 255).round().astype(np.uint8)
    return values.astype(np.uint8) if highest < 256 else to_eight_bits(np.minimum(values, 2.0**62), None)


def low_byte_tiles(image: Image.Image) -> list | None:
    """How to decode the low byte of each channel in place of the high one; None: not colours of 16 bits a channel.
    Pillow keeps the high byte, which of 12 bits is nearly nothing. To be asked before the pixels are read."""
    tiles = []
    for tile in getattr(image, "tile", None) or []:
        codec, extents, offset, args = tile
        mode, *others = args if isinstance(args, tuple) else (args,)
        kind, _, ending = str(mode).partition(";")
        if mode == GREY_ALPHA:
            swapped = "RGBA"  # the same 32 bits, a byte a channel: grey high and low, alpha high and low
        elif kind in ("RGB", "RGBA", "RGBX") and ending in SWAPPED:
            swapped = f"{kind};{SWAPPED[ending]}"
        else:
            return None
        changed = codec, extents, offset, (swapped, *others) if isinstance(args, tuple) else swapped
        tiles.append(type(tile)._make(changed) if hasattr(tile, "_make") else changed)       # a plain tuple before 11.0
    return tiles or None


def colours(high: Image.Image, low: Image.Image, said: int | None) -> Image.Image:
    """An RGB or RGBA image of both bytes of each channel; transparency has a depth of its own."""
    first, second = np.asarray(high).astype(np.int64), np.asarray(low).astype(np.int64)  # (h, w, 3 or 4)
    if low.info.get(GREY_ALPHA):
        first, second = second[..., [0, 0, 0, 2]], second[..., [1, 1, 1, 3]]
    values = first << 8 | second
    parts = [to_eight_bits(part, said) for part in np.split(values, [3], axis=2)]
    return Image.fromarray(np.concatenate(parts, axis=2))


def decode_low(image: Image.Image, tiles: list) -> Image.Image:
    """The image, not read yet, of the low bytes of its channels."""
    image.tile = tiles
    image.info[GREY_ALPHA] = any("RGBA" in (args, *args[:1]) for *_, args in tiles)
    image.load()
    return image
