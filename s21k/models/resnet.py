"""ResNet-10/18/34/50/101 (He et al., 2016): image -> C2..C5 at strides 4, 8, 16, 32.

Layer names are torchvision's, so that weights copy by name. As there, the 3x3 convolution of a
bottleneck carries the stride. The norm is chosen by a function of the channels [G17].
"""
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute
from torchvision.ops import FrozenBatchNorm2d

Norm = Callable[[int], nn.Module]


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups, as Wu and He (2018) for detectors; of 48 channels 16."""
    return nn.GroupNorm(math.gcd(32, channels), channels)


NORMS: dict[str, Norm] = {"bn": nn.BatchNorm2d, "frozen_bn": FrozenBatchNorm2d, "gn": group_norm}


def conv_norm(x: Tensor, conv: nn.Conv2d, norm: nn.Module) -> Tensor:
    """norm(conv(x)). A frozen BN is a fixed scale and shift a channel: the convolution takes them over, which saves two
    passes over its output, forward and backward."""
    if not isinstance(norm, FrozenBatchNorm2d):
        return norm(conv(x))
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()          # (c_out,)
    shift = norm.bias - norm.running_mean * scale
    return F.conv2d(x, conv.weight * scale[:, None, None, None], shift, conv.stride, conv.padding)


def conv3x3(c_in: int, c_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False)


def conv1x1(c_in: int, c_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 1, stride=stride, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut."""
    expansion = 1

    def __init__(self, c_in: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = conv3x3(c_in, width, stride)
        self.bn1 = norm(width)
        self.conv2 = conv3x3(width, width)
        self.bn2 = norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(c_in, width * self.expansion, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(conv_norm(x, self.conv1, self.bn1))
        y = conv_norm(y, self.conv2, self.bn2)
        y += x if self.downsample is None else conv_norm(x, *self.downsample)
        return self.relu(y)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 convolutions and the shortcut."""
    expansion = 4

    def __init__(self, c_in: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = conv1x1(c_in, width)
        self.bn1 = norm(width)
        self.conv2 = conv3x3(width, width, stride)
        self.bn2 = norm(width)
        self.conv3 = conv1x1(width, width * self.expansion)
        self.bn3 = norm(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(c_in, width * self.expansion, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(conv_norm(x, self.conv1, self.bn1))
        y = self.relu(conv_norm(y, self.conv2, self.bn2))
        y = conv_norm(y, self.conv3, self.bn3)
        y += x if self.downsample is None else conv_norm(x, *self.downsample)
        return self.relu(y)


def shortcut(c_in: int, c_out: int, stride: int, norm: Norm) -> nn.Sequential | None:
    """A projection where the shape changes, else None (the identity)."""
    if stride == 1 and c_in == c_out:
        return None
    return nn.Sequential(conv1x1(c_in, c_out, stride), norm(c_out))


class ResNet(nn.Module):
    """channels: those of C2..C5; width: of the stem and of C2's blocks. There is no chance inside: num_noise is 0.

    checkpoint: forget each block's activations and compute them again in the backward pass; not where BN is trained,
    whose statistics would count the batch twice.
    """
    num_noise = 0

    def __init__(self, block: type[BasicBlock | Bottleneck], depths: tuple[int, int, int, int], norm: Norm,
                 checkpoint: bool = False, width: int = 64) -> None:
        super().__init__()
        self.checkpoint = checkpoint and norm is not nn.BatchNorm2d
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm(width)
        self.relu = nn.ReLU(inplace=True)
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.channels = [w * block.expansion for w in widths]
        c_in = width
        for number, (depth, w) in enumerate(zip(depths, widths), start=1):
            blocks = []
            for position in range(depth):
                stride = 2 if number > 1 and position == 0 else 1
                blocks.append(block(c_in, w, stride, norm))
                c_in = w * block.expansion
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        self._initialise()

    def _initialise(self) -> None:
        """He initialisation; a block's last norm starts at zero, so that each block starts as the identity."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, (BasicBlock, Bottleneck)):
                last = module.bn2 if isinstance(module, BasicBlock) else module.bn3
                if not isinstance(last, FrozenBatchNorm2d):
                    nn.init.zeros_(last.weight)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> list[Tensor]:
        """images (B, 3, H, W) -> [C2 (B, c2, H/4, W/4), .., C5 (B, c5, H/32, W/32)], rounded up."""
        x = self.relu(conv_norm(images, self.conv1, self.bn1))   # (B, 64, H/2, W/2)
        x = F.max_pool2d(x, 3, stride=2, padding=1)      # (B, 64, H/4, W/4)
        levels = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in layer:
                again = self.checkpoint and torch.is_grad_enabled()
                x = recompute(block, x, use_reentrant=False) if again else block(x)
            levels.append(x)
        return levels


def resnet10(norm: str = "bn", drop_path: float = 0.0, checkpoint: bool = False) -> ResNet:
    """One block a stage, three quarters as wide: for small worlds on a CPU, not of He et al."""
    return ResNet(BasicBlock, (1, 1, 1, 1), NORMS[norm], checkpoint, width=48)


def resnet18(norm: str = "bn", drop_path: float = 0.0, checkpoint: bool = False) -> ResNet:
    return ResNet(BasicBlock, (2, 2, 2, 2), NORMS[norm], checkpoint)


def resnet34(norm: str = "bn", drop_path: float = 0.0, checkpoint: bool = False) -> ResNet:
    return ResNet(BasicBlock, (3, 4, 6, 3), NORMS[norm], checkpoint)


def resnet50(norm: str = "bn", drop_path: float = 0.0, checkpoint: bool = False) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 6, 3), NORMS[norm], checkpoint)


def resnet101(norm: str = "bn", drop_path: float = 0.0, checkpoint: bool = False) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 23, 3), NORMS[norm], checkpoint)
