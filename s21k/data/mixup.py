"""Mixup, CutMix and label smoothing: hard labels (B,) -> soft labels (B, C^) [P52, G24].

They act on the image tensor; the RoI is still one entire image, with the mixed soft label.
"""
import math

import numpy as np
import torch.nn.functional as F
from torch import Tensor


class Mixup:
    """mixup, cutmix: alphas of the Beta distributions, 0 = off; with both on, each batch draws one of them.
    Each image is mixed with the one opposite in the batch (the batch reversed), by one share."""

    def __init__(self, num_classes: int, mixup: float = 0.0, cutmix: float = 0.0, smoothing: float = 0.0) -> None:
        self.num_classes, self.mixup, self.cutmix, self.smoothing = num_classes, mixup, cutmix, smoothing

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """images (B, 3, H, W) float, labels (B,) -> images, soft labels (B, C^) whose rows sum to one.
        Chance from numpy's global generator."""
        soft = F.one_hot(labels, self.num_classes).float() * (1 - self.smoothing) + self.smoothing / self.num_classes
        use_cutmix = self.cutmix > 0 and (self.mixup == 0 or np.random.rand() < 0.5)
        alpha = self.cutmix if use_cutmix else self.mixup
        if alpha == 0:
            return images, soft
        share = float(np.random.beta(alpha, alpha))                  # of the image itself
        if use_cutmix:
            images, share = self._paste(images, share)
        else:
            images = share * images + (1 - share) * images.flip(0)
        return images, share * soft + (1 - share) * soft.flip(0)

    @staticmethod
    def _paste(images: Tensor, share: float) -> tuple[Tensor, float]:
        """A rectangle of the opposite image, of area 1 - share before it is cut at the border; the true share."""
        h, w = images.shape[-2:]
        side = math.sqrt(1 - share)
        y, x = np.random.randint(h), np.random.randint(w)
        top, bottom = max(0, y - int(h * side) // 2), min(h, y + int(h * side) // 2)
        left, right = max(0, x - int(w * side) // 2), min(w, x + int(w * side) // 2)
        mixed = images.clone()
        mixed[..., top:bottom, left:right] = images.flip(0)[..., top:bottom, left:right]
        return mixed, 1 - (bottom - top) * (right - left) / (h * w)
