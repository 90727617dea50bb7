"""Public classification weights -> our backbones, by a table of names, with a report.

Read: torchvision's ResNet and Swin, timm's ResNet and Swin, microsoft's Swin (1K and 22K). What a
backbone needs and a file lacks is an error, except the norms of C2..C4, which no classifier has.
"""
import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from s21k.core.categories import imagenet21k_wnids
from s21k.core.errors import InputError

# The two rows of Google's 21,843-class order that hold no images; microsoft's 22K heads put its last two there [G24].
EMPTY_ROWS = {9205: "n03931044", 15027: "n09859684"}


@dataclass(frozen=True)
class LoadReport:
    """What a load took: names filled, ours missing, theirs not used; share of the backbone's parameters filled."""
    source: str
    taken: list[str]
    missing: list[str]
    unexpected: list[str]
    share: float
    prefix: str = ""

    def __str__(self) -> str:
        def some(names: list[str]) -> str:
            return f"{len(names)} ({', '.join(names[:4])}{', ..' if len(names) > 4 else ''})" if names else "none"
        below = f" (below {self.prefix!r}, which is taken off)" if self.prefix else ""
        return (f"{self.source} weights{below}: {len(self.taken)} tensors, {100 * self.share:.1f} % of the backbone's "
                f"parameters; missing: {some(self.missing)}; not used: {some(self.unexpected)}")


def microsoft_22k_order() -> list[str]:
    """The wnid of each of the 21,841 rows of microsoft's 22K heads: Google's sorted 21,843, whose rows 21841 and 21842
    moved into the two that have no images, 9205 and 15027 [G24]."""
    google = sorted([*imagenet21k_wnids(), *EMPTY_ROWS.values()])
    rows = google[:21841]
    rows[9205], rows[15027] = google[21841], google[21842]
    return rows


def _torchvision_swin(name: str) -> str:
    """features.{1,3,5,7} are the stages, features.{2,4,6} the mergings after them, features.0 the patches."""
    name = name.replace("features.0.0.", "patch_embed.proj.").replace("features.0.2.", "patch_embed.norm.")
    name = re.sub(r"^features\.([1357])\.", lambda m: f"layers.{int(m[1]) // 2}.blocks.", name)
    name = re.sub(r"^features\.([246])\.", lambda m: f"layers.{int(m[1]) // 2 - 1}.downsample.", name)
    name = name.replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2.")
    return re.sub(r"^norm\.", "norm3.", name)


def _timm_swin(name: str) -> str:
    """A stage's merging comes first in it: layers.1.downsample is ours of layers.0."""
    name = re.sub(r"^layers\.([123])\.downsample\.", lambda m: f"layers.{int(m[1]) - 1}.downsample.", name)
    return re.sub(r"^norm\.", "norm3.", name)


def _microsoft_swin(name: str) -> str:
    return re.sub(r"^norm\.", "norm3.", name)


# (what it is, a name that only it has, its names -> ours; str: as they are)
SOURCES = (("torchvision Swin", "features.0.0.weight", _torchvision_swin),
           ("timm Swin", "layers.3.downsample.reduction.weight", _timm_swin),
           ("microsoft Swin", "layers.0.downsample.reduction.weight", _microsoft_swin),
           ("ResNet", "layer1.0.conv1.weight", str))
BUFFERS = ("relative_position_index", "attn_mask", "relative_coords_table")
MAY_BE_MISSING = re.compile(r"^norm[012]\.")


def find_tensors(content: dict) -> dict[str, Tensor]:
    """The tensors by name in a file's content, or in its one entry that has some. InputError: none, or several."""
    def tensors(part: object) -> dict[str, Tensor]:
        return ({name: value for name, value in part.items() if isinstance(name, str) and isinstance(value, Tensor)}
                if isinstance(part, dict) else {})

    inner = {str(key): tensors(part) for key, part in content.items() if tensors(part)}
    for key in ("model", "state_dict"):
        if key in inner:
            return inner[key]
    if len(inner) > 1 and not tensors(content):
        raise InputError(f"weights: {', '.join(inner)} all hold tensors, expected one of them saved alone, or called "
                         "'model' or 'state_dict'")
    found = tensors(content) or next(iter(inner.values()), {})
    if not found:
        raise InputError("weights: no tensors in it, it holds "
                         f"{', '.join(sorted(map(str, content))[:5]) or 'nothing'}; expected a state_dict")
    return found


def find_source(state: dict[str, Tensor]) -> tuple[str, Callable[[str], str], str]:
    """(what the weights are, their names -> ours, their prefix: "", "module.", ..). InputError: no known source."""
    for kind, mark, rename in SOURCES:
        prefixes = sorted(name.removesuffix(mark) for name in state if name.endswith(mark))
        prefixes = [prefix for prefix in prefixes if prefix == "" or prefix.endswith(".")]
        if "" in prefixes or len(prefixes) == 1:
            return kind, rename, "" if "" in prefixes else prefixes[0]
        if prefixes:
            raise InputError(f"{kind} weights more than once, below {', '.join(map(repr, prefixes[:4]))}: expected one "
                             "of them saved alone")
    raise InputError(f"weights of no known source ({', '.join(kind for kind, _, _ in SOURCES)}); keys start "
                     f"{sorted(state)[:3]}")


def load_backbone(backbone: nn.Module, content: dict) -> LoadReport:
    """Fill the backbone from a public file's content ({"model": ..}, {"state_dict": ..}, or the tensors themselves).
    A common prefix of the names is taken off. InputError: no known source, a parameter missing, or of another shape."""
    state = find_tensors(content)
    kind, rename, prefix = find_source(state)
    own = backbone.state_dict()
    renamed = {rename(name.removeprefix(prefix)): (name, value) for name, value in state.items()
               if name.startswith(prefix) and not name.endswith(BUFFERS)}
    others = [name for name in state if not name.startswith(prefix)]
    taken = [name for name in own if name in renamed]
    missing = [name for name in own if name not in renamed]
    unexpected = [theirs for ours, (theirs, _) in renamed.items() if ours not in own] + others
    if needed := [name for name in missing if not MAY_BE_MISSING.match(name)]:
        raise InputError(f"{kind} weights lack {needed[0]} ({len(needed)} of the backbone's {len(own)} tensors)")
    for name in taken:
        if renamed[name][1].shape != own[name].shape:
            raise InputError(f"{kind} weights: {renamed[name][0]} is {tuple(renamed[name][1].shape)}, the backbone's "
                             f"{name} is {tuple(own[name].shape)}")
    backbone.load_state_dict({name: renamed[name][1] for name in taken}, strict=False)
    parameters = dict(backbone.named_parameters())
    filled = sum(p.numel() for name, p in parameters.items() if name in renamed)
    return LoadReport(kind, taken, missing, unexpected, filled / sum(p.numel() for p in parameters.values()), prefix)
