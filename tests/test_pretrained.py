"""Public weights: each source's names fill our backbone, which then gives the source's features."""
import pytest
import timm
import torch
import torchvision

from s21k.core.categories import imagenet21k_wnids
from s21k.core.errors import InputError
from s21k.models import resnet, swin
from s21k.models.pretrained import load_backbone, microsoft_22k_order

PICTURE = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def last_level(backbone):
    with torch.no_grad():
        return backbone.eval()(PICTURE)[-1]


@pytest.mark.parametrize("make, ours, theirs", [
    (lambda: torchvision.models.resnet18(weights=None), resnet.resnet18,
     lambda m: torch.nn.Sequential(*list(m.children())[:-2])),
    (lambda: timm.create_model("resnet18", pretrained=False), resnet.resnet18, lambda m: m.forward_features),
    (lambda: torchvision.models.swin_t(weights=None), swin.swin_t,
     lambda m: lambda x: m.norm(m.features(x)).permute(0, 3, 1, 2)),
    (lambda: timm.create_model("swin_tiny_patch4_window7_224", pretrained=False), swin.swin_t,
     lambda m: lambda x: m.forward_features(x).permute(0, 3, 1, 2)),
], ids=["torchvision resnet", "timm resnet", "torchvision swin", "timm swin"])
def test_a_public_file_fills_the_backbone_and_gives_its_features(make, ours, theirs):
    torch.manual_seed(0)
    model = make().eval()
    backbone = ours()
    report = load_backbone(backbone, model.state_dict())
    with torch.no_grad():
        expected = theirs(model)(PICTURE)
    difference = (last_level(backbone) - expected).norm() / expected.norm()
    assert difference < 1e-4
    assert set(report.missing) <= {f"norm{i}.{part}" for i in range(3) for part in ("weight", "bias")}
    assert {name.split(".")[0] for name in report.unexpected} == ({"head"} if "Swin" in report.source else {"fc"})
    assert report.share > 0.999 and "% of the backbone's parameters" in str(report)


def test_microsofts_file_is_ours_by_name_with_its_buffers_and_head_left():
    backbone, other = swin.swin_t(), swin.swin_t()
    state = {name: value for name, value in other.state_dict().items() if not name.startswith("norm")}
    state |= {"norm.weight": torch.full((768,), 2.0), "norm.bias": torch.zeros(768), "head.weight": torch.zeros(5, 768),
              "layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49),
              "layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49)}
    report = load_backbone(backbone, {"model": state})
    assert report.source == "microsoft Swin" and report.unexpected == ["head.weight"]
    assert torch.equal(backbone.norm3.weight, torch.full((768,), 2.0))
    assert torch.equal(backbone.layers[2].blocks[3].mlp.fc1.weight, other.layers[2].blocks[3].mlp.fc1.weight)


def test_a_missing_parameter_a_wrong_shape_and_an_unknown_source_are_refused():
    state = torchvision.models.resnet18(weights=None).state_dict()
    with pytest.raises(InputError, match="lack layer3.0.conv1.weight"):
        load_backbone(resnet.resnet18(), {k: v for k, v in state.items() if k != "layer3.0.conv1.weight"})
    with pytest.raises(InputError, match="the backbone's conv1.weight is"):
        load_backbone(resnet.resnet18(), state | {"conv1.weight": torch.zeros(64, 3, 3, 3)})
    with pytest.raises(InputError, match="no known source"):
        load_backbone(resnet.resnet18(), {"blocks.0.weight": torch.zeros(1)})


def test_the_vocabulary_and_microsofts_order_agree_with_timms_lists():
    """G24: Google's 21,843 sorted wnids, the last two moved into the two rows without images."""
    from importlib import resources
    lists = resources.files("timm.data._info")
    google = lists.joinpath("imagenet21k_goog_synsets.txt").read_text().split()
    sorted_22k = lists.joinpath("imagenet22k_synsets.txt").read_text().split()
    ours = imagenet21k_wnids()
    assert ours == sorted_22k and len(ours) == len(set(ours)) == 21_841
    rows = microsoft_22k_order()
    expected = google[:21841]
    expected[9205], expected[15027] = google[21841], google[21842]
    assert rows == expected and sorted(rows) == ours
