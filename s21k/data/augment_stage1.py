"""Strong augmentation of stage I (Sec. 4.1) [P11, P15, P51, P52]: crop, flip, jitter, RandAugment, erasing."""
import math

import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms as T
from torchvision.transforms import InterpolationMode

from s21k.data.rand_augment import RandAugment
from s21k.files.images import MEAN, STD, resize, to_tensor


class TrainAugment:
    """Image -> (3, size, size) uint8, at random (torch's global generator)."""

    def __init__(self, size: int, crop_scale: tuple[float, float], color_jitter: float, rand_augment: bool,
                 erasing: float) -> None:
        self.size, self.crop_scale, self.erasing = size, list(crop_scale), erasing
        jitter = T.ColorJitter(color_jitter, color_jitter, color_jitter) if color_jitter > 0 else None
        self.recolor = RandAugment() if rand_augment else jitter           # in place of the jitter, as in Swin's recipe

    def __call__(self, image: Image.Image) -> Tensor:
        top, left, h, w = T.RandomResizedCrop.get_params(image, self.crop_scale, [3 / 4, 4 / 3])
        mirror = bool(torch.rand(()) < 0.5)
        tensor = resize(image, (self.size, self.size), (left, top, left + w, top + h), mirror, "bicubic")
        if self.recolor is not None:
            tensor = to_tensor(self.recolor(Image.fromarray(tensor.permute(1, 2, 0).numpy())))
        return erase(tensor) if torch.rand(()) < self.erasing else tensor


def erase(image: Tensor) -> Tensor:
    """Random erasing (Zhong et al., 2020): a rectangle of 2 to 33 % of (3, h, w) becomes noise, pixel by pixel."""
    _, h, w = image.shape
    area = h * w * float(torch.empty(()).uniform_(0.02, 1 / 3))
    ratio = math.exp(float(torch.empty(()).uniform_(math.log(0.3), math.log(1 / 0.3))))
    height, width = min(h, round(math.sqrt(area * ratio))), min(w, round(math.sqrt(area / ratio)))
    top, left = int(torch.randint(h - height + 1, ())), int(torch.randint(w - width + 1, ()))
    noise = torch.randn(3, height, width) * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    image = image.clone()
    image[:, top:top + height, left:left + width] = noise.clamp(0, 255).to(torch.uint8)
    return image


class ValidateResize:
    """Image -> (3, size, size) uint8: the shorter side to size / crop, then the centre [G24]."""

    def __init__(self, size: int, crop: float) -> None:
        self.size = size
        self.steps = T.Compose([T.Resize(round(size / crop), InterpolationMode.BICUBIC, antialias=True),
                                T.CenterCrop(size)])

    def __call__(self, image: Image.Image) -> Tensor:
        return to_tensor(self.steps(image))
