"""Stage I: an image classifier that is a detector's RoI head on one RoI, the entire image (Fig. 2a)."""
import torch
from torch import Tensor, nn

from s21k.core.config import ModelConfig
from s21k.models.backbones import build_backbone, drop_path_noise
from s21k.models.region_encoder import RegionEncoder


def in_float32(layer: nn.Linear, x: Tensor) -> Tensor:
    """layer(x), in float32 also under autocast: logits are not rounded."""
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.float())


class RegionClassifier(nn.Module):
    """Backbone, FPN, RoIAlign on the whole image, two FC layers, linear g-hat [P13, P14, P16]."""

    def __init__(self, encoder: RegionEncoder, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.cls_classifier = nn.Linear(encoder.fc2.out_features, num_classes)
        nn.init.normal_(self.cls_classifier.weight, std=0.01)
        nn.init.zeros_(self.cls_classifier.bias)

    @property
    def backbone(self) -> nn.Module:
        return self.encoder.backbone

    def forward(self, images: Tensor, seeds: list[int] | None = None) -> Tensor:
        """images (B, 3, H, W) without padding -> logits (B, C^) of Eq. 3."""
        features = self.encoder.features(images, seeds)                      # C2..C5
        sizes = [(images.shape[2], images.shape[3])] * len(images)
        x = self.encoder.images(features, sizes, seeds)                      # (B, d)
        return in_float32(self.cls_classifier, x)                            # (B, C^)


class PooledClassifier(nn.Module):
    """The usual classifier, "Ours (-reform.)" [P67, P76]: average pooling of C5 and a linear layer."""

    def __init__(self, backbone: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.cls_classifier = nn.Linear(backbone.channels[-1], num_classes)
        nn.init.normal_(self.cls_classifier.weight, std=0.01)
        nn.init.zeros_(self.cls_classifier.bias)

    def forward(self, images: Tensor, seeds: list[int] | None = None) -> Tensor:
        """images (B, 3, H, W) -> logits (B, C^)."""
        noise = drop_path_noise(self.backbone, images, seeds)
        c5 = self.backbone(images, noise)[-1]                                # (B, c5, H/32, W/32)
        return in_float32(self.cls_classifier, c5.mean(dim=(2, 3)))          # (B, C^)


def build_classifier(cfg: ModelConfig, num_classes: int, drop_path: float) -> nn.Module:
    """The stage-I network of a configuration. BN is trained here even where stage II freezes it [G17]."""
    norm = "gn" if cfg.norm == "gn" else "bn"
    backbone = build_backbone(cfg.backbone, norm, drop_path, cfg.checkpoint_activations)
    if not cfg.reformulated:
        return PooledClassifier(backbone, num_classes)
    encoder = RegionEncoder(backbone, cfg.fpn_channels, cfg.region_dim, cfg.image_roi_level, cfg.image_roi)
    return RegionClassifier(encoder, num_classes)
