"""The backbones, and all that the rest of the code asks of one: images -> C2..C5.

To add one: its file beside resnet.py and swin.py, its row in BACKBONES, and its word in s21k/configs.
"""
from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn

from s21k.core.errors import InputError, nearest
from s21k.core.randomness import derive_seed, uniform
from s21k.models.resnet import resnet10, resnet18, resnet34, resnet50, resnet101
from s21k.models.swin import swin_b, swin_s, swin_t


class Backbone(Protocol):
    """An nn.Module with these two attributes and this forward.

    Random choices of training (drop path) are made of `noise` alone, so that an image is treated the same whatever
    shares its batch.
    """
    channels: list[int]                     # of C2, C3, C4, C5
    num_noise: int                          # uniform random numbers that an image needs; 0 where nothing is random

    def __call__(self, images: Tensor, noise: Tensor | None = None) -> list[Tensor]:
        """images (B, 3, H, W) of any H and W, noise (B, num_noise) or None -> [C2 (B, c2, H/4, W/4), C3 (.., H/8, ..),
        C4, C5 (.., H/32, ..)], sizes rounded up."""


# Made with norm ("bn", "frozen_bn" or "gn"; a backbone with norms of its own leaves it out of account), drop_path (the
# rate of the last block) and checkpoint (compute activations again in the backward pass, where that changes nothing).
# Rows of the paper: ResNet-50, Swin-T, -S, -B [P95].
BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "resnet10": resnet10, "resnet18": resnet18, "resnet34": resnet34, "resnet50": resnet50, "resnet101": resnet101,
    "swin_t": swin_t, "swin_s": swin_s, "swin_b": swin_b}


def build_backbone(name: str, norm: str, drop_path: float, checkpoint: bool) -> nn.Module:
    """InputError: no row of BACKBONES has this name."""
    if name not in BACKBONES:
        raise InputError(f"model.backbone: {name!r} is none of {', '.join(BACKBONES)}{nearest(name, BACKBONES)}")
    return BACKBONES[name](norm=norm, drop_path=drop_path, checkpoint=checkpoint)


def drop_path_noise(backbone: nn.Module, images: Tensor, seeds: list[int] | None) -> Tensor | None:
    """(B, num_noise) uniform numbers made of the images' seeds in training; None otherwise."""
    if not (backbone.training and seeds and backbone.num_noise):
        return None
    return uniform([derive_seed(seed, "rows") for seed in seeds], backbone.num_noise, images.device)
