"""Find a ViT's state dict in what a trainer saved: inside other dictionaries, under prefixes, with custom heads.

One table each lists what is unwrapped and what is ignored; a ViT is found by one of its tensors (`key_mapping.locate`).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch

from .key_mapping import KeyMapping, WeightsError, listed, locate, not_a_vit

Tensors = Mapping[str, torch.Tensor]

# Averaged weights, which trainers evaluate; preferred if there are several state dicts.
AVERAGED = ("model_ema", "ema", "ema_model", "ema_state_dict", "state_dict_ema", "teacher")

# Keys of dictionaries and prefixes of names to remove, in any order and depth.
WRAPPERS = (
    *AVERAGED,
    *("state_dict", "model_state_dict", "model", "module", "net", "network", "backbone", "encoder", "student", "vit"),
)
WRAPPED = re.compile(rf"^((?:{'|'.join(WRAPPERS)})\.)+")

# Wrappers of torch.compile, FSDP and activation checkpointing, which may occur anywhere in a name.
TRANSPARENT = re.compile(r"_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.")

# Prefixes of tensors beside a ViT that a classifier does not need: self-supervised heads and decoders (DINO, iBOT,
# MAE), counters, losses and metrics.
IGNORED = (
    *("mask_token", "decoder_", "head.mlp.", "head.last_layer.", "dino_head.", "ibot_head."),
    *(
        "n_averaged",
        "class_weights",
        "criterion.",
        "loss.",
        "loss_fn.",
        "metrics.",
        "train_metrics.",
        "val_metrics.",
        "test_metrics.",
    ),
)

HEAD = re.compile(r"(heads|head|fc|classifier|classification_head|cls_head|linear)(\.\w+)*\.(weight|bias)")
MAX_NESTING = 3  # dictionaries within dictionaries


@dataclass(frozen=True)
class Unwrapped:
    """Tensors of one ViT, by its library's names."""

    weights: dict[str, torch.Tensor]
    mapping: KeyMapping | None
    """None for a model of ours."""
    ignored: tuple[str, ...]
    """Tensors of other tasks."""
    note: str
    """What was unwrapped, in one line; empty if nothing was."""


@dataclass(frozen=True)
class _Location:
    """The place of a ViT within the content of a file."""

    keys: tuple[str, ...]
    prefix: str
    removed: tuple[str, ...]
    """The prefix as written in the file, and wrappers within names."""
    mapping: KeyMapping | None
    tensors: Tensors

    @property
    def parts(self) -> list[str]:
        return [*self.keys, *self.prefix.split(".")[:-1]]

    @property
    def name(self) -> str:
        return ".".join(self.parts)


def unwrap(content: Mapping[str, Any], key: str | None = None) -> Unwrapped:
    """Return the tensors of the ViT that `content` holds.

    Args:
        content: A state dict, or dictionaries around one.
        key: Selects one of several ViTs, or one under an unusual name: a key of a dictionary, or a part of a prefix.
            Without it the averaged weights are preferred.

    Raises:
        WeightsError: A ViT is missing, or there are several; there are other tensors; its head is not one layer.
    """
    locations = [location for keys, tensors in _dictionaries(content) for location in _locations(keys, tensors)]
    if not locations:
        raise not_a_vit(name for _, tensors in _dictionaries(content) for name in tensors)
    chosen = _choose(locations, key)
    body = {name.removeprefix(chosen.prefix): t for name, t in chosen.tensors.items() if name.startswith(chosen.prefix)}
    beside = _beside(chosen, [other for other in locations if other is not chosen and other.keys == chosen.keys])
    ignored = [name for name in (*body, *beside) if name.startswith(IGNORED)]
    body, beside = ({n: t for n, t in part.items() if not n.startswith(IGNORED)} for part in (body, beside))
    notes = _notes(chosen, locations)
    if chosen.mapping is not None:
        body, beside, head = _with_head(body, beside, chosen.mapping)
        other_tasks = [name for name in chosen.mapping.ignored_keys if name in body]
        notes += [f"used {head!r} as the head{' without the pooler' if other_tasks else ''}"] if head else []
        ignored += other_tasks
    if beside:
        raise WeightsError(f"{len(beside)} tensors beside the ViT are not part of it: {listed(beside)}")
    return Unwrapped(body, chosen.mapping, tuple(ignored), ", ".join(notes))


def _dictionaries(content: Mapping[Any, Any], keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Tensors]]:
    """Yield every dictionary of tensors by name, with the keys that lead to it."""
    tensors = {name: t.detach() for name, t in content.items() if isinstance(t, torch.Tensor) and isinstance(name, str)}
    if tensors:
        yield keys, tensors
    for key, value in content.items():
        if isinstance(value, Mapping) and len(keys) < MAX_NESTING:
            yield from _dictionaries(value, (*keys, str(key)))


def _locations(keys: tuple[str, ...], tensors: Tensors) -> Iterator[_Location]:
    """Yield the ViTs of one dictionary: several if it holds names with different prefixes."""
    originals: dict[str, str] = {}
    for name in tensors:
        bare = TRANSPARENT.sub("", name)
        if bare in originals:
            raise WeightsError(f"two tensors have the same name once unwrapped: {originals[bare]}, {name}")
        originals[bare] = name
    mapping, sentinel, prefixes = locate(originals)
    bare_tensors = {bare: tensors[name] for bare, name in originals.items()}
    for prefix in prefixes:
        first = originals[prefix + sentinel]
        start = first.find(sentinel.split(".")[0], len(prefix))
        inner = sorted({part for name in tensors for part in TRANSPARENT.findall(name[start:])})
        yield _Location(keys, prefix, (first[:start], *inner), mapping, bare_tensors)


def _choose(locations: list[_Location], key: str | None) -> _Location:
    names = ", ".join(sorted(location.name or "(no prefix)" for location in locations))
    if key is not None:
        usable = [location for location in locations if key in location.parts]
        if not usable:
            raise WeightsError(f"key {key!r}: expected a part of one of: {names}")
    else:
        usable = [location for location in locations if set(location.parts) <= set(WRAPPERS)]
        if not usable:
            first = locations[0]
            unknown = next(part for part in first.parts if part not in WRAPPERS)
            raise WeightsError(f"the ViT is under an unknown name, {first.name!r}: to use it, give the key {unknown!r}")
    averaged = [location for location in usable if set(location.parts) & set(AVERAGED)]
    if len(averaged or usable) > 1:
        raise WeightsError(f"expected one ViT, got several, choose one by a key that no other has: {names}")
    return (averaged or usable)[0]


def _beside(chosen: _Location, others: list[_Location]) -> dict[str, torch.Tensor]:
    """Return the tensors outside of all ViTs, without the wrappers of their names."""
    own = chosen.prefix.split(".")[:-1]
    theirs = []
    for other in others:
        parts = other.prefix.split(".")[:-1]
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(own, parts, strict=False)))
        theirs.append(parts[: shared + 1])
    beside: dict[str, torch.Tensor] = {}
    for name, tensor in chosen.tensors.items():
        if name.startswith(chosen.prefix) or any(name.split(".")[: len(root)] == root for root in theirs):
            continue
        bare = WRAPPED.sub("", name)
        if bare in beside or chosen.prefix + bare in chosen.tensors:
            raise WeightsError(f"two tensors have the same name once unwrapped: {name} and another {bare}")
        beside[bare] = tensor
    return beside


def _notes(chosen: _Location, locations: list[_Location]) -> list[str]:
    notes = [f"used {'.'.join(chosen.keys)!r}"] if chosen.keys else []
    prefix, *inner = chosen.removed
    notes += [f"removed the prefix {prefix!r}"] if prefix else []
    notes += [f"removed {part!r} within names" for part in inner]
    others = sorted(location.name or "the names without a prefix" for location in locations if location is not chosen)
    return notes + ([f"not {', '.join(others)} (a key would choose another)"] if others else [])


def _with_head(
    body: dict[str, torch.Tensor], beside: dict[str, torch.Tensor], mapping: KeyMapping
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], str]:
    """Rename the head to its library's name; return its old name, or "" if it is absent or needs no renaming."""
    named = {name: t for name, t in (body | beside).items() if HEAD.fullmatch(name)}
    usual = {mapping.head + kind for kind in ("weight", "bias")}
    if set(named) <= usual and not set(named) & set(beside):
        return body, beside, ""
    matrices = [name for name, tensor in named.items() if name.endswith("weight") and tensor.dim() == 2]
    stem = matrices[0].removesuffix("weight") if matrices else ""
    if len(matrices) != 1 or set(named) != {stem + "weight", stem + "bias"}:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in named.items())
        raise WeightsError(
            f"the head must be one linear layer with a bias, got {shapes}; remove these tensors to get a new head"
        )
    rest = [{name: t for name, t in part.items() if name not in named} for part in (body, beside)]
    renamed = {mapping.head + kind: named[stem + kind] for kind in ("weight", "bias")}
    return rest[0] | renamed, rest[1], stem.removesuffix(".")
