"""ResNet and Swin against torchvision and timm with copied weights: outputs and input gradients."""
import pytest
import timm
import torch
import torchvision
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from s21k.core.config import load_config
from s21k.core.errors import InputError
from s21k.models import backbones, resnet, swin
from s21k.models.classifier import build_classifier
from s21k.models.detector import build_detector
from tests.toy import SMALL, batch


def randomise(model):
    """Norms and biases away from their neutral start, so that a forgotten one shows."""
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 or "bias_table" in name:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=g))


def compare(ours, theirs, size):
    """Relative difference of the four levels and of the input gradient <= 1e-4."""
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    mine, other = ours(a), theirs(b)
    assert len(mine) == len(other) == 4
    g = torch.Generator().manual_seed(2)
    weights = [torch.randn(level.shape, generator=g) for level in mine]
    for m, o in zip(mine, other):
        assert m.shape == o.shape
        assert (m - o).norm() <= 1e-4 * o.norm()
    sum((m * w).sum() for m, w in zip(mine, weights)).backward()
    sum((o * w).sum() for o, w in zip(other, weights)).backward()
    assert (a.grad - b.grad).norm() <= 1e-4 * b.grad.norm()


class TorchvisionLevels(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        m = self.model
        x = m.maxpool(m.relu(m.bn1(m.conv1(x))))
        levels = []
        for layer in (m.layer1, m.layer2, m.layer3, m.layer4):
            x = layer(x)
            levels.append(x)
        return levels


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnet_equals_torchvision_and_timm(name):
    theirs = getattr(torchvision.models, name)(weights=None)
    randomise(theirs)
    ours = getattr(resnet, name)("bn")
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    ours.load_state_dict(state, strict=True)
    compare(ours, TorchvisionLevels(theirs), (64, 96))
    other = timm.create_model(name, pretrained=False, features_only=True, out_indices=(1, 2, 3, 4))
    other.load_state_dict(state, strict=True)
    compare(ours.eval(), other.eval(), (64, 96))


def test_frozen_bn_loads_what_bn_learnt_and_gives_the_same_in_eval():
    """G17: stage I trains BN, stage II freezes it."""
    trained = resnet.resnet18("bn")
    randomise(trained)
    trained(torch.randn(4, 3, 64, 64))
    frozen = resnet.resnet18("frozen_bn")
    frozen.load_state_dict(trained.state_dict(), strict=True)
    assert any(isinstance(m, FrozenBatchNorm2d) for m in frozen.modules())
    compare(frozen.train(), trained.eval(), (64, 64))


def swin_to_torchvision(key: str) -> str:
    """Our (the authors') parameter name -> torchvision's."""
    stages = {f"layers.{i}.blocks.": f"features.{2 * i + 1}." for i in range(4)}
    stages |= {f"layers.{i}.downsample.": f"features.{2 * i + 2}." for i in range(3)}
    for ours, theirs in {"patch_embed.proj.": "features.0.0.", "patch_embed.norm.": "features.0.2.", **stages,
                         "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.3"}.items():
        key = key.replace(ours, theirs)
    return key


class TorchvisionSwinLevels(torch.nn.Module):
    def __init__(self, model, norms):
        super().__init__()
        self.model, self.norms = model, norms

    def forward(self, x):
        levels = []
        for i, layer in enumerate(self.model.features):
            x = layer(x)
            if i % 2:
                levels.append(self.norms[i // 2](x).permute(0, 3, 1, 2))
        return levels


@pytest.mark.parametrize("size", [(224, 224), (100, 180)])
def test_swin_t_equals_torchvision(size):
    """Also where the grid is no multiple of the window, and where one direction is a single window (G15).

    Outputs, and the gradients of the image and of every parameter."""
    theirs = torchvision.models.swin_t(weights=None).eval()
    randomise(theirs)
    ours = swin.swin_t().eval()
    randomise(ours)
    other = theirs.state_dict()
    state = ours.state_dict()
    for key in state:
        if not key.startswith("norm"):
            state[key] = other[swin_to_torchvision(key)]
    ours.load_state_dict(state)
    compare(ours, TorchvisionSwinLevels(theirs, [getattr(ours, f"norm{i}") for i in range(4)]), size)
    expected = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    for name, p in ours.named_parameters():
        if not name.startswith("norm"):
            torch.testing.assert_close(p.grad, expected[swin_to_torchvision(name)], rtol=1e-3, atol=2e-3, msg=name)


@pytest.mark.parametrize("h, w", [(7, 7), (14, 21), (8, 15), (3, 20), (5, 6)])
@pytest.mark.parametrize("shifted", [False, True])
def test_tokens_go_to_windows_and_come_back_as_by_padding_and_rolling(h, w, shifted):
    """Values, and the gradients of tokens and padding, by the functions that everyone would write first; a single
    window is not shifted (G15)."""
    g = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, h * w, 4, generator=g, dtype=torch.float64, requires_grad=True)
    padding = torch.randn(4, generator=g, dtype=torch.float64, requires_grad=True)
    order = swin.window_order(2, h, w, shifted, torch.device("cpu"))
    rows, columns = -(-h // 7) * 7, -(-w // 7) * 7
    down, right = (3 if shifted and side > 7 else 0 for side in (rows, columns))
    grid = padding.expand(2, rows, columns, 4).clone()
    grid[:, :h, :w] = tokens.view(2, h, w, 4)
    grid = grid.roll((-down, -right), dims=(1, 2))
    expected = torch.stack([grid[:, y:y + 7, x:x + 7].flatten(1, 2)
                            for y in range(0, rows, 7) for x in range(0, columns, 7)], dim=1)
    windows = swin.ToWindows.apply(tokens.flatten(0, 1), padding, order)
    assert torch.equal(windows.view(expected.shape), expected)
    back = swin.FromWindows.apply(windows, order).view(tokens.shape)
    assert torch.equal(back, tokens)
    weight = torch.randn(windows.shape, generator=g, dtype=torch.float64)
    ours = torch.autograd.grad((windows * weight).sum() + back.square().sum(), (tokens, padding))
    theirs = torch.autograd.grad((expected.flatten(0, 2) * weight).sum() + tokens.square().sum(), (tokens, padding))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_swin_t_equals_timm():
    """timm moves the merging to the start of a stage; everything else has our names."""
    theirs = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, features_only=True).eval()
    randomise(theirs)
    ours = swin.swin_t().eval()
    other, state = theirs.state_dict(), ours.state_dict()
    for key in state:
        if not key.startswith("norm"):
            stage = key.split(".")[1]
            name = key.replace(f"layers.{stage}.downsample",
                               f"layers_{int(stage) + 1}.downsample" if stage.isdigit() else "")
            state[key] = other[name.replace("layers.", "layers_")]
    ours.load_state_dict(state)

    class NormedTimm(torch.nn.Module):
        def forward(self, x):
            return [getattr(ours, f"norm{i}")(level).permute(0, 3, 1, 2) for i, level in enumerate(theirs(x))]

    compare(ours, NormedTimm(), (224, 224))


def test_drop_path_keeps_the_mean_and_drops_whole_branches():
    """P52: an image's branch is dropped, or scaled up by 1 / (1 - p), according to its own number."""
    block = swin.SwinBlock(12, 3, drop_path=0.25)
    branch = torch.ones(4, 2, 2, 12)
    kept = block.keep(branch, torch.tensor([0.1, 0.2, 0.3, 0.9]))
    torch.testing.assert_close(kept[:, 0, 0, 0], torch.tensor([0.0, 0.0, 4 / 3, 4 / 3]))
    assert block.keep(branch, None) is branch


def test_deeper_blocks_are_dropped_more_often():
    """P52, G22: from nothing in the first block to the rate in the last, evenly."""
    rates = [block.drop_path for layer in swin.swin_t(drop_path=0.22).layers for block in layer.blocks]
    assert rates == pytest.approx([0.02 * i for i in range(12)])


def test_any_picture_size_is_accepted_and_strides_round_up():
    model = swin.swin_t().eval()
    with torch.no_grad():
        levels = model(torch.randn(1, 3, 65, 93))
    assert [tuple(level.shape[1:]) for level in levels] == [(96, 17, 24), (192, 9, 12), (384, 5, 6), (768, 3, 3)]


@pytest.mark.parametrize("make", [lambda again: resnet.resnet18("gn", checkpoint=again),
                                  lambda again: swin.swin_t(drop_path=0.3, checkpoint=again)])
def test_recomputed_activations_change_no_gradient(make):
    """model.checkpoint_activations: the same losses and gradients, drop path included."""
    gradients = []
    for again in (False, True):
        torch.manual_seed(0)
        model = make(again).train()
        noise = torch.rand(2, model.num_noise, generator=torch.Generator().manual_seed(1)) if model.num_noise else None
        levels = model(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2)), noise)
        sum(level.square().mean() for level in levels).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-7)


def test_a_new_backbone_needs_its_row_alone(monkeypatch):
    """The rest of the code asks for channels, num_noise and forward, and never for a name."""
    class Strided(nn.Module):
        channels, num_noise = [8, 8, 16, 16], 0

        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv2d(c_in, c_out, stride, stride) for c_in, c_out, stride in
                                        ((3, 8, 4), (8, 8, 2), (8, 16, 2), (16, 16, 2)))

        def forward(self, images, noise=None):
            levels = [images]
            for layer in self.layers:
                levels.append(layer(levels[-1]))
            return levels[1:]

    monkeypatch.setitem(backbones.BACKBONES, "strided", lambda norm, drop_path, checkpoint: Strided())
    cfg = load_config(["toy", *SMALL, "model.backbone=strided"])
    detector = build_detector(cfg)
    classifier = build_classifier(cfg.model, 4, 0.0)
    taken, random = detector.inherit(classifier.state_dict())
    assert {"backbone", "FPN", "g-hat"} <= set(taken)
    detector.train()
    losses = detector(batch(2), batch(3, objects=1))
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in detector.encoder.backbone.parameters())


def test_an_unknown_backbone_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="model.backbone: 'resnet5O' is none of .*did you mean 'resnet50'"):
        build_detector(load_config(["toy", "model.backbone=resnet5O"]))


@pytest.mark.parametrize("norm, again", [("bn", False), ("frozen_bn", True), ("gn", True)])
def test_activations_are_not_computed_again_where_batch_norm_is_trained(norm, again):
    """G17, G19: its statistics would count the batch twice."""
    assert resnet.resnet18(norm, checkpoint=True).checkpoint is again


@pytest.mark.parametrize("windows", [1, 4])
def test_attention_by_hand_equals_torchs_kernel(windows):
    """The way of training on a CPU: outputs and all gradients, with a mask and without, two images."""
    from s21k.models.swin import attend
    g = torch.Generator().manual_seed(0)
    parts = [torch.randn(8, 3, 49, 32, generator=g, requires_grad=True) for _ in range(3)]
    bias = torch.randn(windows, 3, 49, 49, generator=g)
    if windows > 1:
        seen = (torch.rand(windows, 1, 49, 49, generator=g) < 0.5) | torch.eye(49, dtype=torch.bool)
        bias = bias.masked_fill(~seen, float("-inf"))
    bias.requires_grad_()
    weight, found = torch.randn(8, 3, 49, 32, generator=g), []
    for out in (attend(*parts, bias), torch.nn.functional.scaled_dot_product_attention(
            *parts, attn_mask=bias.repeat(8 // windows, 1, 1, 1))):
        found.append([out.detach(), *torch.autograd.grad((out * weight).sum(), [*parts, bias])])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
