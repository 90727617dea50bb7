"""Swin Transformer T/S/B (Liu et al., 2021): image of any H x W -> C2..C5 at strides 4, 8, 16, 32.

B images    h, w token grid    C channels    n = M * M tokens of a window (M = 7)    W windows

Parameter names are those of the authors' code, so that their weights copy by name; each output
has its own norm (norm0..norm3), as in their detectors. A grid of any size is padded with zeros
to whole windows. Query, key and value of a zero are the layer's bias, so the bias is put there
and nothing is multiplied. As in the authors' code tokens attend to the padding, too; what the
padding itself attends to is thrown away.
"""
import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

WINDOW = 7


def grid_shift(h: int, w: int) -> tuple[int, int]:
    """How far a shifted block moves the padded grid: half a window, but nothing along a single window."""
    return (WINDOW // 2 if h > WINDOW else 0, WINDOW // 2 if w > WINDOW else 0)


def to_windows(grid: Tensor) -> Tensor:
    """(h, w) with whole windows -> (W, n)."""
    h, w = grid.shape
    grid = grid.view(h // WINDOW, WINDOW, w // WINDOW, WINDOW)
    return grid.transpose(1, 2).reshape(-1, WINDOW * WINDOW)


def shift_mask(h: int, w: int, device: torch.device) -> Tensor:
    """(W, n, n): 0 for the pairs of tokens of a window that may see each other after a cyclic shift, else -inf.

    The shift brings together strips from opposite sides of the image; tokens of different
    strips must not attend to each other.
    """
    row, column = (torch.arange(side, device=device) for side in (h, w))
    down, right = grid_shift(h, w)
    row = (row >= h - WINDOW).long() + (row >= h - down).long()          # (h,) in {0, 1, 2}
    column = (column >= w - WINDOW).long() + (column >= w - right).long()
    ids = to_windows(row[:, None] * 3 + column[None, :])                 # (W, n), nine areas
    apart = ids[:, :, None] != ids[:, None, :]
    return torch.zeros(apart.shape, device=device).masked_fill(apart, float("-inf"))


class WindowOrder(NamedTuple):
    """How the tokens of B grids, h x w and padded at the bottom and right, stand in B * W windows.

    places (B * h * w,): where each token stands, grid by grid and row by row.
    padding: the places without a token.
    tokens (B * W * n,): which token stands at each place; for padding any valid number.
    mask: None, or the shift_mask of a shifted grid.
    """
    places: Tensor
    padding: Tensor
    tokens: Tensor
    mask: Tensor | None


def window_order(b: int, h: int, w: int, shifted: bool, device: torch.device) -> WindowOrder:
    """shifted: the padded grid is moved cyclically before it is cut; one that is a single window stays (G15)."""
    rows, columns = (math.ceil(side / WINDOW) * WINDOW for side in (h, w))
    grid = F.pad(torch.arange(h * w, device=device).view(h, w), (0, columns - w, 0, rows - h), value=h * w)
    mask = None
    if shifted and max(rows, columns) > WINDOW:
        down, right = grid_shift(rows, columns)
        grid = torch.roll(grid, (-down, -right), dims=(0, 1))
        mask = shift_mask(rows, columns, device)
    tokens = to_windows(grid).flatten()                                  # (W * n,); h * w for padding
    places = tokens.argsort(stable=True)                                 # of the tokens, then of padding
    image = torch.arange(b, device=device)[:, None]
    places, tokens = image * len(places) + places, image * h * w + tokens.clamp(max=h * w - 1)
    return WindowOrder(places[:, :h * w].flatten(), places[:, h * w:].flatten(), tokens.flatten(), mask)


class ToWindows(torch.autograd.Function):
    """x (B * h * w, D), padding (D,) -> (B * W * n, D), for any number D of channels.

    Each token goes to one place, so its gradient is a copy in the opposite direction. autograd does not know this: for
    index_select it adds to a tensor of zeros, which is slower. padding receives the sum over its places.
    """

    @staticmethod
    def forward(ctx, x: Tensor, padding: Tensor, order: WindowOrder) -> Tensor:
        ctx.order = order
        out = x.index_select(0, order.tokens)
        out[order.padding] = padding
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        return grad.index_select(0, ctx.order.places), grad.index_select(0, ctx.order.padding).sum(0), None


class FromWindows(torch.autograd.Function):
    """x (B * W * n, D) -> (B * h * w, D): the opposite of ToWindows, without the padding."""

    @staticmethod
    def forward(ctx, x: Tensor, order: WindowOrder) -> Tensor:
        ctx.order = order
        return x.index_select(0, order.places)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad.index_select(0, ctx.order.tokens).index_fill_(0, ctx.order.padding, 0), None


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

    def forward(self, x: Tensor, order: WindowOrder) -> Tensor:
        """x (B, h, w, C) -> the same shape."""
        shape, n, d = x.shape, WINDOW * WINDOW, x.shape[-1] // self.heads
        qkv = self.qkv(x).flatten(0, 2)                                          # (B * h * w, 3 C)
        qkv = ToWindows.apply(qkv, self.qkv.bias.to(qkv.dtype), order)           # (B * W * n, 3 C)
        qkv = qkv.view(-1, n, 3, self.heads, d).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)                                                  # each (B * W, heads, n, d)
        bias = self.relative_position_bias_table[self.relative_position_index]   # (n, n, heads)
        bias = bias.permute(2, 0, 1).unsqueeze(0)                                # (1, heads, n, n)
        if order.mask is not None:
            bias = bias + order.mask[:, None]                                    # (W, heads, n, n)
        x = attend(q, k, v, bias.to(q.dtype))                                    # (B * W, heads, n, d)
        x = FromWindows.apply(x.transpose(1, 2).reshape(-1, shape[-1]), order)   # (B * h * w, C)
        return self.proj(x.view(shape))


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

    def forward(self, x: Tensor, order: WindowOrder, noise: Tensor | None) -> Tensor:
        """x (B, h, w, C); noise (B, 2) or None, one number for each branch."""
        x = x + self.keep(self.attn(self.norm1(x), order), None if noise is None else noise[:, 0])
        return x + self.keep(self.mlp(self.norm2(x)), None if noise is None else noise[:, 1])


class PatchMerging(nn.Module):
    """2 x 2 neighbours become one token of twice the channels: (B, h, w, C) -> (B, h/2, w/2, 2 C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % 2 or x.shape[2] % 2:
            x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        b, h, w, c = x.shape
        x = x.reshape(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 4, 2, 5).flatten(3)   # left column, then right
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
        orders = [window_order(*x.shape[:3], shifted, x.device) for shifted in (False, True)]
        for i, block in enumerate(self.blocks):
            inputs = (x, orders[i % 2], None if noise is None else noise[:, 2 * i:2 * i + 2])
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
