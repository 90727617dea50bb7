"""Optimisers: SGD with momentum and AdamW; what is not decayed [P50, P52, P60, G18, G24]."""
import torch
from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float, exempt: bool = True) -> list[dict]:
    """Two groups: all that has several dimensions, and the rest: biases, norms and Swin's position tables.
    exempt: the rest is not decayed, as in Swin's recipe under AdamW [G18]; He et al. [17] decay all under SGD [P50]."""
    decayed, plain = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_plain = parameter.ndim == 1 or name.endswith("relative_position_bias_table")
            (plain if is_plain else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay},
            {"params": plain, "weight_decay": 0.0 if exempt else weight_decay}]


OPTIMIZERS = {"sgd": lambda groups, lr, momentum: torch.optim.SGD(groups, lr=lr, momentum=momentum),
              "adamw": lambda groups, lr, momentum: torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.999), fused=True)}


def build_optimizer(groups: list[dict], kind: str, lr: float, momentum: float = 0.9) -> torch.optim.Optimizer:
    """kind: a name of OPTIMIZERS."""
    return OPTIMIZERS[kind](groups, lr, momentum)


def match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Lay its state out in memory as the parameters are. A checkpoint keeps the layout of the device it was written on
    (transfer.model_to), and AdamW's fused kernel pairs numbers by their place in memory."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if torch.is_tensor(value) and value.shape == parameter.shape:
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The same rate for every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
