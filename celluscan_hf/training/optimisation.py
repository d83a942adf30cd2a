"""Parameter groups, Muon with AdamW, and the exponential moving average of weights."""

import re
from collections import defaultdict
from typing import Any

import torch
from torch import nn

_BLOCK = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_NO_DECAY = ("cls_token", "position_embeddings", "register_tokens")


def parameter_groups(
    model: nn.Module, learning_rate: float, weight_decay: float, layer_decay: float, muon: bool
) -> list[dict[str, Any]]:
    """Split the trained weights of a `CelluScanForImageClassification` into optimiser groups.

    Learning rates fall by the factor `layer_decay` per block, from the head down to the embeddings (Bao et al. 2022,
    https://arxiv.org/abs/2106.08254). The head's groups come first: their rate is the one that is logged. Biases,
    norms, layer scales, class and register tokens and position embeddings get no weight decay. With `muon`, the
    matrices of the blocks are marked.
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
    """Put the means and variances of batch norms in a group with learning rate 0, so that they can be averaged."""
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    return [{"params": buffers, "lr": 0.0, "weight_decay": 0.0, "muon": False}] if buffers else []


def block(name: str) -> int:
    """Number of the transformer block that a weight belongs to, from 1; 0 outside of the blocks."""
    match = _BLOCK.search(name)
    return int(match[1]) + 1 if match else 0


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for the marked groups and AdamW for the others, as one optimiser with one state.

    Muon orthogonalizes each update of a matrix (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/); its
    step is scaled to the size of AdamW's, so that both share learning rate and decay (Liu et al. 2025,
    https://arxiv.org/abs/2502.16982).
    """

    def __init__(self, groups: list[dict[str, Any]], **adamw: Any) -> None:
        matrices = [group for group in groups if group["muon"]]
        others = [group for group in groups if not group["muon"]]
        self.parts = torch.optim.AdamW(others, **adamw), torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw")
        super().__init__([group for part in self.parts for group in part.param_groups], {})

    def step(self, closure: Any = None) -> Any:
        """Step both optimisers, which share this one's groups and state, also after `load_state_dict`."""
        loss = closure() if closure is not None else None
        for part in self.parts:
            part.state = self.state
            part.param_groups = [
                group for group in self.param_groups if group["muon"] is isinstance(part, torch.optim.Muon)
            ]
            part.step()
        return loss


def averaging(optimizer: type[torch.optim.Optimizer], decay: float) -> type[torch.optim.Optimizer]:
    """Derive an optimiser class that keeps an exponential moving average (EMA) of the weights.

    Tensors without gradients, such as `running_statistics`, are averaged too (Polyak & Juditsky 1992).

    `eval()` swaps the averages into the model and `train()` swaps the trained weights back; Trainer calls both, as for
    schedule-free optimisers. The average is kept in the optimiser's state under `"average"`, so it is saved, sharded
    and resumed with it, which `torch.optim.swa_utils.AveragedModel`, a second model, would not be. While the averages
    are in the model, the trained weights are kept there instead.

    In early steps the decay is lower: at most (1 + steps) / (10 + steps).
    """

    class Averaging(optimizer):  # type: ignore[valid-type,misc]
        def __init__(self, groups: list[dict[str, Any]], **options: Any) -> None:
            super().__init__([group | {"averaged_steps": 0, "shows_averages": False} for group in groups], **options)

        def step(self, closure: Any = None) -> Any:
            result = super().step(closure)
            for group in self.param_groups:
                _update_averages(group, self.state, decay)
            return result

        def eval(self) -> None:
            """Swap the averages into the model."""
            for group in self.param_groups:
                _swap(group, self.state, averages=True)

        def train(self) -> None:
            """Swap the trained weights into the model."""
            for group in self.param_groups:
                _swap(group, self.state, averages=False)

    return Averaging


@torch.no_grad()
def _update_averages(group: dict[str, Any], state: dict[Any, Any], decay: float) -> None:
    """Move the averages of a group towards its weights."""
    group["averaged_steps"] = steps = group["averaged_steps"] + 1
    trained = [weight for weight in group["params"] if weight.grad is not None or not weight.requires_grad]
    for parameter in trained:
        state[parameter].setdefault("average", parameter.detach().clone())
    if trained:
        averages = [state[parameter]["average"] for parameter in trained]
        torch._foreach_lerp_(averages, trained, 1 - min(decay, (1 + steps) / (10 + steps)))


@torch.no_grad()
def _swap(group: dict[str, Any], state: dict[Any, Any], averages: bool) -> None:
    """Swap the weights and averages of a group, unless the model already holds the wanted ones."""
    if group["shows_averages"] == averages:
        return
    group["shows_averages"] = averages
    for parameter in group["params"]:
        if "average" in state[parameter]:
            stored = state[parameter]["average"]
            current = parameter.detach().clone()
            parameter.copy_(stored)
            stored.copy_(current)
