"""Which weights learn how fast, and the running average of all of them."""

import re
from collections import defaultdict
from typing import Any

import torch
from torch import nn

_BLOCK = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_NO_DECAY = ("cls_token", "position_embeddings")


def parameter_groups(
    model: nn.Module, learning_rate: float, weight_decay: float, layer_decay: float, muon: bool
) -> list[dict[str, Any]]:
    """Groups for an optimiser, of all weights of a `CelluScanForImageClassification` that are trained.

    Learning rates fall by `layer_decay` from block to block, counted from the head down to the embeddings (Bao et al.
    2022, https://arxiv.org/abs/2106.08254); the head's come first, and are what is logged. Biases, norms, class token
    and position table have no weight decay. With `muon`, the matrices of the blocks are marked for it.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    top = 1 + max((block(name) for name in names), default=0)
    groups: dict[tuple[int, bool, bool], list[nn.Parameter]] = defaultdict(list)
    for name in names:
        parameter = model.get_parameter(name)
        decays = parameter.ndim > 1 and not name.endswith(_NO_DECAY)
        level = block(name) or (0 if ".embeddings." in name else top)
        groups[level, decays, muon and parameter.ndim == 2 and block(name) > 0].append(parameter)
    return [
        {
            "params": parameters,
            "lr": learning_rate * layer_decay ** (top - level),
            "weight_decay": weight_decay if decays else 0.0,
            "muon": is_matrix,
        }
        for (level, decays, is_matrix), parameters in sorted(groups.items(), key=lambda item: item[0], reverse=True)
    ]


def running_statistics(model: nn.Module) -> list[dict[str, Any]]:
    """The means and variances of batch norms as a group that nothing is learned in, but that can be averaged."""
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    return [{"params": buffers, "lr": 0.0, "weight_decay": 0.0, "muon": False}] if buffers else []


def block(name: str) -> int:
    """The transformer block that a weight belongs to, from 1; 0 for what is in none."""
    found = _BLOCK.search(name)
    return int(found[1]) + 1 if found else 0


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for the groups marked so, AdamW for the others: one optimiser with one state.

    Muon makes each update of a matrix orthogonal (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/); its
    step is scaled to the size of AdamW's, so that both share learning rate and decay (Liu et al. 2025,
    https://arxiv.org/abs/2502.16982).
    """

    def __init__(self, groups: list[dict[str, Any]], **adamw: Any) -> None:
        matrices = [group for group in groups if group["muon"]]
        others = [group for group in groups if not group["muon"]]
        self.parts = torch.optim.AdamW(others, **adamw), torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw")
        super().__init__([group for part in self.parts for group in part.param_groups], {})

    def step(self, closure: Any = None) -> Any:
        """One step of both. Their groups and state are this optimiser's own, also after it was loaded."""
        loss = closure() if closure is not None else None
        for part in self.parts:
            part.state = self.state
            part.param_groups = [
                group for group in self.param_groups if group["muon"] is isinstance(part, torch.optim.Muon)
            ]
            part.step()
        return loss


def averaging(optimizer: type[torch.optim.Optimizer], decay: float) -> type[torch.optim.Optimizer]:
    """An optimiser class that also keeps an exponential moving average of the weights (Polyak & Juditsky 1992).

    Of tensors that do not require gradients, such as `running_statistics`, it keeps one too.

    `eval()` puts the averages into the model and `train()` puts the trained weights back; Trainer calls both, as it
    does for schedule-free optimisers. The average lives in the optimiser's state under `"average"`, so it is saved,
    sharded and resumed with it; while the averages are in the model, the trained weights lie there.

    Early on, when `decay` would reach back before the start, the average forgets faster: (1 + steps) / (10 + steps).
    """

    class Averaging(optimizer):  # type: ignore[valid-type,misc]
        def __init__(self, groups: list[dict[str, Any]], **options: Any) -> None:
            super().__init__([group | {"averaged_steps": 0, "shows_averages": False} for group in groups], **options)

        def step(self, closure: Any = None) -> Any:
            result = super().step(closure)
            for group in self.param_groups:
                _follow(group, self.state, decay)
            return result

        def eval(self) -> None:
            """The averages into the model."""
            for group in self.param_groups:
                _show(group, self.state, averages=True)

        def train(self) -> None:
            """The trained weights into the model."""
            for group in self.param_groups:
                _show(group, self.state, averages=False)

    return Averaging


@torch.no_grad()
def _follow(group: dict[str, Any], state: dict[Any, Any], decay: float) -> None:
    """Move the averages of a group towards its weights."""
    group["averaged_steps"] = steps = group["averaged_steps"] + 1
    trained = [one for one in group["params"] if one.grad is not None or not one.requires_grad]
    for parameter in trained:
        state[parameter].setdefault("average", parameter.detach().clone())
    if trained:
        averages = [state[parameter]["average"] for parameter in trained]
        torch._foreach_lerp_(averages, trained, 1 - min(decay, (1 + steps) / (10 + steps)))


@torch.no_grad()
def _show(group: dict[str, Any], state: dict[Any, Any], averages: bool) -> None:
    """Let weights and averages of a group change places, where they are not as wanted."""
    if group["shows_averages"] == averages:
        return
    group["shows_averages"] = averages
    for parameter in group["params"]:
        if "average" in state[parameter]:
            kept = state[parameter]["average"]
            moved = parameter.detach().clone()
            parameter.copy_(kept)
            kept.copy_(moved)
