"""Recipes: YAML files of training settings, with stages, and overrides from the command line."""

import json
from collections.abc import Sequence
from copy import copy
from dataclasses import fields, make_dataclass
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from transformers import HfArgumentParser, TrainingArguments

from ..errors import CelluScanError
from .settings import TrainingSettings

_FOLDER = resources.files(__package__) / "recipes"

# of version 0.1: new names
_RENAMED = {"--surroundings": "--background_randomization", "--dihedral": "--rotate"}
_RENAMED_RECIPES = {"seed-probe": "original-probe", "seed-scratch": "original-scratch"}


def names() -> list[str]:
    """Names of the recipes in the package."""
    return sorted(Path(file.name).stem for file in _FOLDER.iterdir() if file.name.endswith(".yaml"))


def load(recipe: str) -> list[dict[str, Any]]:
    """Load the settings of each stage from a recipe of the package or a YAML file.

    A recipe maps `TrainingSettings` fields to values; a list of such mappings under `stages` overrides them.

    Raises:
        CelluScanError: The recipe does not exist, is not a mapping, or has unknown settings.
    """
    text = _read(recipe)
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise CelluScanError(f"recipe {recipe} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise CelluScanError(f"recipe {recipe}: expected a mapping of settings, got {type(content).__name__}")
    stages = content.pop("stages", [{}])
    if not isinstance(stages, list) or not stages or not all(isinstance(stage, dict) for stage in stages):
        raise CelluScanError(f"recipe {recipe}: stages must be a list of mappings of settings")
    merged = [content | stage | {"model": content.get("model", {}) | stage.get("model", {})} for stage in stages]
    if unknown := sorted({name for stage in merged for name in stage} - set(TrainingSettings.__dataclass_fields__)):
        raise CelluScanError(f"recipe {recipe}: {', '.join(unknown)} is not a setting; see `celluscan train --help`")
    return merged


def _read(recipe: str) -> str:
    path = Path(recipe)
    if path.suffix in (".yaml", ".yml"):
        try:
            return path.read_text(encoding="utf-8")
        except OSError as error:
            raise CelluScanError(f"recipe {recipe} cannot be read: {error.strerror}") from error
    if new := _RENAMED_RECIPES.get(recipe):
        raise CelluScanError(f"the recipe {recipe} was renamed to {new}")
    if recipe not in names():
        raise CelluScanError(f"there is no recipe {recipe!r}; there are: {', '.join(names())}; or give a .yaml file")
    return (_FOLDER / f"{recipe}.yaml").read_text(encoding="utf-8")


def stages(recipe: str, arguments: Sequence[str]) -> list[TrainingSettings]:
    """Return the settings of each stage; command-line arguments override the recipe.

    Fields of `--model` are merged into those of the recipe.

    Raises:
        CelluScanError: See `load`; or a value is out of range.
    """
    return [_parse(stage, arguments) for stage in load(recipe)]


def parser() -> HfArgumentParser:
    """Build the parser: one option per field of `TrainingSettings`."""
    return HfArgumentParser(TrainingSettings, prog="celluscan train --recipe NAME", allow_abbrev=False)


def help_text() -> str:
    """Describe every option, the project's own before those of `transformers.TrainingArguments`."""
    hints = get_type_hints(TrainingSettings)
    library = {field.name for field in fields(TrainingArguments)}
    groups = []
    for title, inherited in (("options of CelluScan", False), ("options of transformers.TrainingArguments", True)):
        members = [field for field in fields(TrainingSettings) if (field.name in library) == inherited]
        group = [(field.name, hints[field.name], copy(field)) for field in members]
        groups.append(make_dataclass("Options", group, namespace={"_argument_group_name": title}))
    return HfArgumentParser(
        groups,
        usage="celluscan train --recipe NAME --dataset DATASET --output_dir FOLDER [options]",
        description=f"Train by a recipe; options change its settings. "
        f"Recipes: {', '.join(names())}, or a .yaml file of your own.",
    ).format_help()


def _parse(stage: dict[str, Any], arguments: Sequence[str]) -> TrainingSettings:
    options, model = parser(), stage["model"]
    options.set_defaults(**stage | {"model": json.dumps(model)})
    try:
        settings, *left = options.parse_args_into_dataclasses(
            list(arguments), return_remaining_strings=True, look_for_args_file=False
        )
    except (ValueError, ImportError) as error:  # raised by the library's own checks
        raise CelluScanError(f"invalid configuration: {' '.join(str(error).split())}") from error
    if unknown := next(iter(left[-1]), None):
        if new := _RENAMED.get(unknown.partition("=")[0]):
            raise CelluScanError(f"{unknown} was renamed to {new}")
        close = get_close_matches(unknown, [f"--{name}" for name in TrainingSettings.__dataclass_fields__], n=2)
        hint = f"did you mean {' or '.join(close)}?" if close else "see `celluscan train --help`"
        raise CelluScanError(f"there is no option {unknown}; {hint}")
    settings.model = json.dumps(model | settings.model_fields)
    return settings
