"""Swin Transformer T/S/B (Liu et al., 2021): image of any H x W -> C2..C5 at strides 4, 8, 16, 32.

B images    h, w token grid    C channels    n = M * M tokens of a window (M = 7)    W windows

Parameter names are those of the authors' code, so that their weights copy by name; each output
has its own norm (norm0..norm3), as in their detectors. The grid is padded to whole windows
inside each block, hence any image size.
"""
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

WINDOW = 7


def to_windows(x: Tensor) -> Tensor:
    """(B, h, w, C) with whole windows -> (B * W, n, C)."""
    b, h, w, c = x.shape
    x = x.view(b, h // WINDOW, WINDOW, w // WINDOW, WINDOW, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, WINDOW * WINDOW, c)


def from_windows(windows: Tensor, h: int, w: int) -> Tensor:
    """(B * W, n, C) -> (B, h, w, C): the inverse of to_windows."""
    c = windows.shape[-1]
    x = windows.view(-1, h // WINDOW, w // WINDOW, WINDOW, WINDOW, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, h, w, c)


def grid_shift(h: int, w: int) -> tuple[int, int]:
    """How far a shifted block moves the padded grid: half a window, but nothing along a single window."""
    return (WINDOW // 2 if h > WINDOW else 0, WINDOW // 2 if w > WINDOW else 0)


def shift_mask(h: int, w: int, device: torch.device) -> Tensor:
    """(W, n, n) bool: which pairs of tokens of a window may see each other after a cyclic shift.

    The shift brings together strips from opposite sides of the image; tokens of different
    strips must not attend to each other.
    """
    row, column = (torch.arange(side, device=device) for side in (h, w))
    down, right = grid_shift(h, w)
    row = (row >= h - WINDOW).long() + (row >= h - down).long()          # (h,) in {0, 1, 2}
    column = (column >= w - WINDOW).long() + (column >= w - right).long()
    strips = row[:, None] * 3 + column[None, :]                          # (h, w), nine areas
    ids = to_windows(strips[None, :, :, None]).squeeze(-1)               # (W, n)
    return ids[:, :, None] == ids[:, None, :]


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attention: q, k, v (B * W, heads, n, d), bias (W or 1, heads, n, n) -> (B * W, heads, n, d).

    By torch's kernel, except where the bias needs a gradient on a CPU: it takes a slower way there, which looks for
    tokens that may see none; here each sees itself.
    """
    if q.device.type == "cuda" or not bias.requires_grad:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.repeat(len(q) // len(bias), 1, 1, 1))
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)                 # (B * W, heads, n, n)
    logits = logits.unflatten(0, (-1, len(bias))) + bias                     # (B, W, heads, n, n)
    return logits.flatten(0, 1).softmax(-1) @ v


class WindowAttention(nn.Module):
    """Multi-head attention inside windows, with a learnt bias for each relative position."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        # (2, n)
        at = torch.stack(torch.meshgrid(torch.arange(WINDOW), torch.arange(WINDOW), indexing="ij")).flatten(1)
        # (2, n, n)
        apart = at[:, :, None] - at[:, None, :] + WINDOW - 1
        self.register_buffer("relative_position_index", apart[0] * (2 * WINDOW - 1) + apart[1], persistent=False)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """windows (B * W, n, C), mask (W, n, n) bool or None -> (B * W, n, C)."""
        bw, n, c = windows.shape
        qkv = self.qkv(windows).view(bw, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)                                                  # each (B * W, heads, n, C / heads)
        bias = self.relative_position_bias_table[self.relative_position_index]   # (n, n, heads)
        bias = bias.permute(2, 0, 1).unsqueeze(0)                                # (1, heads, n, n)
        if mask is not None:
            bias = bias.masked_fill(~mask[:, None], float("-inf"))               # (W, heads, n, n)
        x = attend(q, k, v, bias.to(q.dtype))                                    # (B * W, heads, n, C / heads)
        return self.proj(x.transpose(1, 2).reshape(bw, n, c))


class Mlp(nn.Module):
    """C -> 4 C -> C with GELU."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """Norm, (shifted) window attention, shortcut; norm, MLP, shortcut. Each branch may be dropped."""

    def __init__(self, dim: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim)

    def keep(self, branch: Tensor, noise: Tensor | None) -> Tensor:
        """Stochastic depth: the branch of an image is dropped with probability drop_path [P52].

        noise (B,) uniform in [0, 1) decides; None (inference) keeps all.
        """
        if noise is None or self.drop_path == 0:
            return branch
        kept = (noise >= self.drop_path).to(branch.dtype) / (1 - self.drop_path)
        return branch * kept.view(-1, 1, 1, 1)

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, h, w, C), mask for the padded and shifted grid -> (B, h, w, C)."""
        b, h, w, c = x.shape
        x = F.pad(x, (0, 0, 0, -w % WINDOW, 0, -h % WINDOW))             # (B, h', w', C), whole windows
        down, right = grid_shift(x.shape[1], x.shape[2]) if mask is not None else (0, 0)
        if mask is not None:
            x = torch.roll(x, (-down, -right), dims=(1, 2))
        windows = self.attn(to_windows(x), mask)                         # (B * W, n, C)
        x = from_windows(windows, x.shape[1], x.shape[2])                # (B, h', w', C)
        if mask is not None:
            x = torch.roll(x, (down, right), dims=(1, 2))
        return x[:, :h, :w]

    def forward(self, x: Tensor, mask: Tensor | None, noise: Tensor | None) -> Tensor:
        """x (B, h, w, C); noise (B, 2) or None, one number for each branch."""
        x = x + self.keep(self.attend(self.norm1(x), mask), None if noise is None else noise[:, 0])
        return x + self.keep(self.mlp(self.norm2(x)), None if noise is None else noise[:, 1])


class PatchMerging(nn.Module):
    """2 x 2 neighbours become one token of twice the channels: (B, h, w, C) -> (B, h/2, w/2, 2 C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, w % 2, 0, h % 2))
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], dim=-1)
        return self.reduction(self.norm(x))


class SwinStage(nn.Module):
    """Blocks with windows in place and shifted in turn, then (except in the last stage) the merging."""

    def __init__(self, dim: int, heads: int, drop_paths: list[float], merge: bool, checkpoint: bool) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.blocks = nn.ModuleList([SwinBlock(dim, heads, rate) for rate in drop_paths])
        self.downsample = PatchMerging(dim) if merge else None

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """x (B, h, w, C) -> the same shape, before the merging."""
        h, w = (side + -side % WINDOW for side in x.shape[1:3])
        mask = shift_mask(h, w, x.device) if max(h, w) > WINDOW else None    # a single window cannot be shifted
        for i, block in enumerate(self.blocks):
            inputs = (x, mask if i % 2 else None, None if noise is None else noise[:, 2 * i:2 * i + 2])
            again = self.checkpoint and torch.is_grad_enabled()
            x = recompute(block, *inputs, use_reentrant=False) if again else block(*inputs)
        return x


class PatchEmbed(nn.Module):
    """4 x 4 pixels become a token: (B, 3, H, W) -> (B, H/4, W/4, C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, 4, stride=4)
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        h, w = images.shape[2:]
        x = self.proj(F.pad(images, (0, -w % 4, 0, -h % 4)))
        return self.norm(x.permute(0, 2, 3, 1))


class Swin(nn.Module):
    """channels: those of C2..C5; num_noise: numbers an image's drop path needs.

    checkpoint: forget each block's activations and compute them again in the backward pass.
    """

    def __init__(self, dim: int, depths: tuple[int, ...], heads: tuple[int, ...], drop_path: float,
                 checkpoint: bool) -> None:
        super().__init__()
        self.channels = [dim * 2 ** i for i in range(4)]
        self.num_noise = 2 * sum(depths)
        rates = np.linspace(0, drop_path, sum(depths)).tolist()       # deeper blocks are dropped more often
        self.patch_embed = PatchEmbed(dim)
        self.layers = nn.ModuleList()
        for i, (depth, head) in enumerate(zip(depths, heads)):
            start = sum(depths[:i])
            self.layers.append(SwinStage(self.channels[i], head, rates[start:start + depth], i < 3, checkpoint))
            self.add_module(f"norm{i}", nn.LayerNorm(self.channels[i]))
        self.apply(self._initialise)

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> list[Tensor]:
        """images (B, 3, H, W), noise (B, num_noise) in training -> [C2 (B, c2, H/4, W/4), .., C5], rounded up."""
        x = self.patch_embed(images)                                     # (B, H/4, W/4, C)
        levels, used = [], 0
        for i, stage in enumerate(self.layers):
            count = 2 * len(stage.blocks)
            x = stage(x, None if noise is None else noise[:, used:used + count])
            used += count
            levels.append(getattr(self, f"norm{i}")(x).permute(0, 3, 1, 2))
            if stage.downsample is not None:
                x = stage.downsample(x)
        return levels


def swin_t(norm: str = "bn", drop_path: float = 0.0, checkpoint: bool = False) -> Swin:
    return Swin(96, (2, 2, 6, 2), (3, 6, 12, 24), drop_path, checkpoint)


def swin_s(norm: str = "bn", drop_path: float = 0.0, checkpoint: bool = False) -> Swin:
    return Swin(96, (2, 2, 18, 2), (3, 6, 12, 24), drop_path, checkpoint)


def swin_b(norm: str = "bn", drop_path: float = 0.0, checkpoint: bool = False) -> Swin:
    return Swin(128, (2, 2, 18, 2), (4, 8, 16, 32), drop_path, checkpoint)
