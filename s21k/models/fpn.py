"""Feature pyramid (Lin et al., 2017): C2..C5 -> P2..P6 of equal channels, no norm [G10]."""
import torch.nn.functional as F
from torch import Tensor, nn


class FPN(nn.Module):
    """lateral 1x1 convolutions, the sum with the coarser level, 3x3 output convolutions."""

    def __init__(self, in_channels: list[int], channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList([nn.Conv2d(c, channels, 1) for c in in_channels])
        self.output = nn.ModuleList([nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels])
        for conv in [*self.lateral, *self.output]:
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)

    def copy_output(self, level: int) -> None:
        """Every output convolution becomes that of P<level>: stage I's whole-image RoI trains only one [G15]."""
        for conv in self.output:
            conv.load_state_dict(self.output[level - 2].state_dict())

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """[C2..C5] -> [P2..P6], each (B, channels, ., .); P6 is P5 at every second place [G10]."""
        outputs = [conv(merged) for conv, merged in zip(self.output, self._top_down(features, 2))]
        return [*outputs, F.max_pool2d(outputs[-1], 1, stride=2)]

    def level(self, features: list[Tensor], level: int) -> Tensor:
        """[C2..C5] -> P<level> alone, 2..5: the finer levels, and the other outputs, are not computed."""
        return self.output[level - 2](self._top_down(features, level)[0])

    def _top_down(self, features: list[Tensor], finest: int) -> list[Tensor]:
        """The sums that the output convolutions read, of the levels finest..5."""
        merged = [self.lateral[3](features[3])]
        for i in range(2, finest - 3, -1):
            finer = self.lateral[i](features[i])
            merged.insert(0, finer + F.interpolate(merged[0], size=finer.shape[-2:], mode="nearest"))
        return merged
