"""Images of 10 to 16 bits a channel: scaled by what they hold, never black; ordinary ones as before, bit for bit."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from s21k.files.images import read_image


def ramp(depth, shape=(12, 16)):
    """Values over the whole range of a depth, (h, w) uint16."""
    return np.linspace(0, (1 << depth) - 1, shape[0] * shape[1]).round().astype(np.uint16).reshape(shape)


def png(values, sbit=None, interlace=0):
    """A 16-bit PNG of (h, w) or (h, w, 3 or 4) uint16, which Pillow does not write in colour; sbit: bytes of that
    chunk."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    channels = 1 if values.ndim == 2 else values.shape[2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0,
                       interlace)
    parts = [
        chunk(b"IHDR", head),
        chunk(b"gAMA", struct.pack(">I", 45455)),
        *([chunk(b"sBIT", sbit)] if sbit else []),
        chunk(b"IDAT", zlib.compress(rows)),
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def read(content, tmp_path, name="a.png"):
    (tmp_path / name).write_bytes(content)
    return np.asarray(read_image(tmp_path / name))


def tiff(values, **tags):
    content, extra = io.BytesIO(), TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        extra[int(tag[1:])] = value
    Image.fromarray(values).save(content, "TIFF", tiffinfo=extra)
    return content.getvalue()


@pytest.mark.parametrize("depth", [8, 10, 12, 14, 16])
def test_grey_of_every_depth_uses_the_whole_range(tmp_path, depth):
    values = ramp(depth)
    for content, name in ((png(values), "a.png"), (tiff(values), "b.tif")):
        assert np.array_equal(read(content, tmp_path, name)[..., 0], values >> (depth - 8))


def test_ordinary_images_of_sixteen_bits_are_read_as_before(tmp_path):
    """The high byte, in grey and in colour, even where the file says less than it holds."""
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 65536, (9, 7), dtype=np.uint16)
    colour = rng.integers(0, 65536, (9, 7, 3), dtype=np.uint16)
    assert np.array_equal(read(png(grey), tmp_path)[..., 1], grey >> 8) and np.array_equal(
        read(png(colour), tmp_path), colour >> 8
    )
    assert np.array_equal(
        read(png(grey, sbit=b"\x0c"), tmp_path)[..., 1], grey >> 8
    )  # as PNG means it: 12 bits, scaled up to 16
    assert np.array_equal(read(png(grey | 0x8000, sbit=b"\x02"), tmp_path)[..., 1], (grey | 0x8000) >> 8)


def test_the_files_own_word_counts_where_its_content_keeps_to_it(tmp_path):
    """A dark image of 12 bits is as dark as it says: its highest value is not white."""
    dark = ramp(9)
    assert np.array_equal(read(png(dark, sbit=b"\x0c"), tmp_path)[..., 0], dark >> 4)
    assert np.array_equal(read(tiff(dark, t281=4095), tmp_path, "b.tif")[..., 0], dark >> 4)
    assert np.array_equal(read(tiff(dark), tmp_path, "b.tif")[..., 0], dark >> 2)  # says nothing: 10 bits hold it
    assert np.array_equal(read(tiff(ramp(12), t281=65535), tmp_path, "b.tif")[..., 0], ramp(12) >> 4)


def test_a_tiff_of_twelve_packed_bits_is_scaled_by_its_tag(tmp_path):
    """BitsPerSample 12: two values in three bytes."""
    values = ramp(11, (4, 8)).astype(np.uint32)
    pairs = values.reshape(-1, 2)
    packed = (
        np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1)
        .astype(np.uint8)
        .tobytes()
    )
    tags = [(256, 8), (257, 4), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 4), (279, len(packed))]
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    content = b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + struct.pack("<H", len(tags)) + body + b"\0\0\0\0"
    assert np.array_equal(read(content, tmp_path, "c.tif")[..., 0], values >> 4)


@pytest.mark.parametrize("depth", [10, 12, 14])
def test_colours_of_twelve_bits_keep_their_low_bytes(tmp_path, depth):
    rng = np.random.default_rng(depth)
    values = rng.integers(0, 1 << depth, (11, 13, 3), dtype=np.uint16)
    values[0, 0] = (1 << depth) - 1
    assert np.array_equal(read(png(values), tmp_path), values >> (depth - 8))
    alpha = np.concatenate([values, np.full((11, 13, 1), 65535, np.uint16)], axis=2)
    assert np.array_equal(read(png(alpha), tmp_path), values >> (depth - 8))
    assert np.array_equal(read(png(values >> 3, sbit=bytes([depth] * 3)), tmp_path), values >> 3 >> (depth - 8))


@pytest.mark.parametrize("order, code", [("<", b"II"), (">", b"MM")])
def test_a_tiff_in_colour_of_either_byte_order(tmp_path, order, code):
    values = np.random.default_rng(1).integers(0, 4096, (5, 6, 3), dtype=np.uint16)
    values[0, 0] = 4095
    pixels = values.astype(order + "u2").tobytes()
    tags = [(256, 6), (257, 5), (258, 8), (259, 1), (262, 2), (273, 14), (277, 3), (278, 5), (279, len(pixels))]
    body = b"".join(
        struct.pack(order + "HHI", tag, 3 if tag == 258 else 4, 3 if tag == 258 else 1)
        + struct.pack(order + "I", value)
        for tag, value in tags
    )
    start = 14 + len(pixels)
    content = code + struct.pack(order + "HI", 42, start) + struct.pack(order + "HHH", 16, 16, 16) + pixels
    content += struct.pack(order + "H", len(tags)) + body + b"\0\0\0\0"
    assert np.array_equal(read(content, tmp_path, "d.tif"), values >> 4)


def test_real_numbers_and_values_beyond_sixteen_bits_are_not_black(tmp_path):
    share = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
    for values, expected in (
        (share, (share.astype(np.float64) * 255).round()),
        (share * 200, (share * 200).astype(np.uint8)),
        (share * 60000, (share * 60000).astype(int) >> 8),
    ):
        assert np.array_equal(read(tiff(values), tmp_path, "f.tif")[..., 0], expected)
    broken = share.copy()
    broken[0, :2] = np.nan, np.inf
    assert read(tiff(broken), tmp_path, "f.tif").max() == 255
    deep = (np.arange(48).reshape(6, 8) << 15).astype(np.int32)
    assert read(tiff(deep), tmp_path, "i.tif").max() == 47 * 4


def test_a_black_image_stays_black_and_one_pixel_is_enough(tmp_path):
    assert read(png(np.zeros((3, 4), np.uint16)), tmp_path).max() == 0
    assert read(png(np.zeros((3, 4, 3), np.uint16)), tmp_path).max() == 0
    assert read(png(np.full((1, 1), 4095, np.uint16)), tmp_path).tolist() == [[[255] * 3]]


@pytest.mark.parametrize("depth", [8, 12, 14, 16])
def test_grey_with_transparency(tmp_path, depth):
    grey = ramp(depth)
    for alpha in (65535, 4095, 0) if depth < 16 else (65535,):  # of 16 bits, the high bytes are read as before
        values = np.stack([grey, np.full_like(grey, alpha)], axis=2)
        expected = np.full_like(grey, 128) if alpha == 0 else grey >> (depth - 8)
        assert np.abs(read(png(values), tmp_path)[..., 0].astype(int) - expected).max() <= 1
