"""RandAugment as Swin's recipe has it (Cubuk et al., 2020; timm's name for it: rand-m9-mstd0.5-inc1) [P52, G24].

Two of 15 operations, drawn with replacement; each is applied with probability 1/2, at a strength around 9 of 10.
torchvision's RandAugment with magnitude 9 is another one: 9 of 30, always applied, without Invert and SolarizeAdd.
"""
from collections.abc import Callable

import torch
from PIL import Image, ImageEnhance, ImageOps

from s21k.files.images import MEAN

COUNT = 2                                           # operations an image
PROBABILITY = 0.5                                   # of each of them
MAGNITUDE, DEVIATION, MOST = 9.0, 0.5, 10.0         # normal, cut to [0, MOST]
COLOUR = tuple(round(value) for value in MEAN)      # of what a moved image uncovers
SOLARIZE_BELOW = 128                                # SolarizeAdd leaves the lighter half alone


def _move(image: Image.Image, *matrix: float) -> Image.Image:
    """The image under an affine map, of which `matrix` is the inverse's two rows."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=COLOUR)


def _solarize_add(image: Image.Image, amount: int) -> Image.Image:
    lighter = [min(255, level + amount) if level < SOLARIZE_BELOW else level for level in range(256)]
    return image.point(lighter * 3)


def _posterize(image: Image.Image, bits: int) -> Image.Image:
    """The highest bits of each level alone; 0 bits are black (newer versions of Pillow's own function refuse them)."""
    return image.point([level & (256 - 2 ** (8 - bits)) for level in range(256)] * 3)


def _enhance(kind: Callable) -> Callable:
    return lambda image, m, sign: kind(image).enhance(max(0.1, 1.0 + sign * (m * 0.9)))


# name -> function of (image, strength m in [0, 1], sign: 1 or -1). All grow stronger with m ("increasing").
OPERATIONS: dict[str, Callable[[Image.Image, float, int], Image.Image]] = {
    "AutoContrast": lambda image, m, sign: ImageOps.autocontrast(image),
    "Equalize": lambda image, m, sign: ImageOps.equalize(image),
    "Invert": lambda image, m, sign: ImageOps.invert(image),
    "Rotate": lambda image, m, sign: image.rotate(sign * m * 30, Image.Resampling.BICUBIC, fillcolor=COLOUR),
    "Posterize": lambda image, m, sign: _posterize(image, 4 - int(m * 4)),
    "Solarize": lambda image, m, sign: ImageOps.solarize(image, 256 - int(m * 256)),
    "SolarizeAdd": lambda image, m, sign: _solarize_add(image, int(m * 110)),
    "Color": _enhance(ImageEnhance.Color),
    "Contrast": _enhance(ImageEnhance.Contrast),
    "Brightness": _enhance(ImageEnhance.Brightness),
    "Sharpness": _enhance(ImageEnhance.Sharpness),
    "ShearX": lambda image, m, sign: _move(image, 1, sign * m * 0.3, 0, 0, 1, 0),
    "ShearY": lambda image, m, sign: _move(image, 1, 0, 0, sign * m * 0.3, 1, 0),
    "TranslateX": lambda image, m, sign: _move(image, 1, 0, sign * m * 0.45 * image.width, 0, 1, 0),
    "TranslateY": lambda image, m, sign: _move(image, 1, 0, 0, 0, 1, sign * m * 0.45 * image.height),
}


class RandAugment:
    """RGB image -> RGB image of the same size, at random (torch's global generator)."""

    def __call__(self, image: Image.Image) -> Image.Image:
        operations = list(OPERATIONS.values())
        for index in torch.randint(len(operations), (COUNT,)).tolist():
            if torch.rand(()) < PROBABILITY:
                magnitude = MAGNITUDE + DEVIATION * float(torch.randn(()))
                sign = 1 if torch.rand(()) < 0.5 else -1
                image = operations[index](image, min(max(magnitude, 0.0), MOST) / MOST, sign)
        return image
