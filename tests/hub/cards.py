"""Read the YAML of a README like the Hub: validation as in `POST /api/validate-yaml`, and tags."""

import json
import re
from typing import Any

import yaml

_LICENCES = """apache-2.0 mit openrail bsd-2-clause bsd-3-clause cc cc0-1.0 cc-by-2.0 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0
cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-4.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
cdla-permissive-2.0 gpl gpl-2.0 gpl-3.0 agpl-3.0 lgpl-3.0 mpl-2.0 odc-by odbl unlicense other unknown"""
_TASKS = """image-classification zero-shot-image-classification image-feature-extraction image-segmentation
image-to-image object-detection mask-generation unconditional-image-generation feature-extraction
text-classification tabular-classification other"""
_SIZES = """n<1K 1K<n<10K 10K<n<100K 100K<n<1M 1M<n<10M 10M<n<100M 100M<n<1B 1B<n<10B 10B<n<100B 100B<n<1T
n>1T"""
LICENCES, TASKS, SIZES = _LICENCES.split(), _TASKS.split(), _SIZES.split()
SPACE_SDKS = ("gradio", "streamlit", "docker", "static")
FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)


def card_data(readme: str) -> Any:
    """Return the YAML at the top of a README, or None. Raises yaml.YAMLError if it is invalid."""
    match = FRONT_MATTER.match(readme)
    return yaml.safe_load(match[1]) if match else None


def validate_card(readme: str, repo_type: str) -> tuple[list[str], list[str]]:
    """Return the errors and warnings in a README's metadata, like `POST /api/validate-yaml`."""
    try:
        card = card_data(readme)
    except yaml.YAMLError as error:
        return [f"YAML metadata error: {error}"], []
    if card is None:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(card, dict):
        return ["YAML metadata must be an object"], []
    if repo_type == "space":
        return _not_among(card, "sdk", SPACE_SDKS, required=True) + _not_among(card, "license", LICENCES), []
    errors = _not_among(card, "license", LICENCES, required=True)
    errors += _not_among(card, "pipeline_tag", TASKS)
    errors += _not_among(card, "task_categories", TASKS)
    errors += _not_among(card, "size_categories", SIZES)
    if repo_type == "model":
        errors += _model_index_errors(card.get("model-index"))
    else:
        errors += _config_errors(card.get("configs"))
    return errors, []


def _not_among(card: dict[str, Any], key: str, allowed: Any, required: bool = False) -> list[str]:
    value = card.get(key)
    if value is None:
        return [f'"{key}" is required'] if required else []
    values = value if isinstance(value, list) else [value]
    return [f'"{key}" must be one of [{", ".join(allowed)}], not {item!r}' for item in values if item not in allowed]


def _model_index_errors(index: Any) -> list[str]:
    """Every result needs a task type, a dataset with name and type, and metrics with type and value."""
    if index is None:
        return []
    if not isinstance(index, list):
        return ['"model-index" must be an array']
    errors = []
    for i, model in enumerate(index):
        errors += [] if model.get("name") else [f'"model-index[{i}].name" is required']
        for j, result in enumerate(model.get("results") or []):
            where = f"model-index[{i}].results[{j}]"
            dataset, metrics = result.get("dataset") or {}, result.get("metrics") or []
            errors += [] if (result.get("task") or {}).get("type") else [f'"{where}.task.type" is required']
            errors += [f'"{where}.dataset.{key}" is required' for key in ("name", "type") if not dataset.get(key)]
            errors += [] if metrics else [f'"{where}.metrics" must not be empty']
            errors += [
                f'"{where}.metrics[{k}].{key}" is required'
                for k, metric in enumerate(metrics)
                for key in ("type", "value")
                if metric.get(key) is None
            ]
    return errors


def _config_errors(configs: Any) -> list[str]:
    if configs is None:
        return []
    if not isinstance(configs, list):
        return ['"configs" must be an array']
    return [
        f'"configs[{i}].config_name" is required'
        for i, config in enumerate(configs)
        if not isinstance(config, dict) or not isinstance(config.get("config_name"), str)
    ]


def described(files: dict[str, bytes], repo_type: str) -> dict[str, Any]:
    """Return what the Hub derives from the README and, for a model, from config.json."""
    try:
        card = card_data(files.get("README.md", b"").decode()) or {}
        config = json.loads(files.get("config.json", b"{}"))
    except (yaml.YAMLError, ValueError):
        card, config = {}, {}
    licence = card.get("license")
    tags = [*card.get("tags", []), *([f"license:{licence}"] if isinstance(licence, str) else [])]
    fields: dict[str, Any] = {"cardData": card, "tags": tags}
    if repo_type == "space":
        return fields | {"sdk": card.get("sdk")}
    if repo_type == "dataset":
        tags += [f"task_categories:{task}" for task in card.get("task_categories", [])]
        tags += [f"size_categories:{size}" for size in card.get("size_categories", [])]
        return fields
    classifier = any(name.endswith("ForImageClassification") for name in config.get("architectures") or [])
    fields["pipeline_tag"] = card.get("pipeline_tag") or ("image-classification" if classifier else None)
    fields["library_name"] = card.get("library_name") or ("transformers" if config.get("model_type") else None)
    return fields | {"config": config, "model-index": card.get("model-index")}
