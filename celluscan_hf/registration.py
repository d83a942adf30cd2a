"""Register our model with the Auto classes of transformers, without importing transformers or torch for it.

After `import celluscan_hf`, `AutoModelForImageClassification.from_pretrained` knows the hand-built model and needs no
`trust_remote_code`. Plain `AutoConfig.register` calls would import transformers and torch for every command, also for
dataset builds, which need neither. So import hooks of wrapt register our classes once the Auto classes are imported.
"""

import sys
from importlib import import_module
from types import ModuleType

from wrapt import register_post_import_hook

AUTO_CONFIG = "transformers.models.auto.configuration_auto"
AUTO_MODELS = "transformers.models.auto.modeling_auto"
PIPELINES = "transformers.pipelines"
OUR_CONFIG = "celluscan_hf.modeling.configuration_celluscan"
OUR_MODELS = "celluscan_hf.modeling.modeling_celluscan"
OUR_PIPELINE = "celluscan_hf.modeling.pipeline_celluscan"
NEEDED_BY_OUR_MODELS = ("transformers.modeling_utils", "transformers.modeling_layers")


def register() -> None:
    """Register config, models and pipeline, now or as soon as the Auto classes are imported."""
    register_post_import_hook(_register_config, AUTO_CONFIG)
    register_post_import_hook(_register_models, OUR_MODELS)
    for name in (AUTO_MODELS, *NEEDED_BY_OUR_MODELS):
        register_post_import_hook(_import_our_models, name)
    register_post_import_hook(_register_pipeline, PIPELINES)


def _register_config(auto: ModuleType) -> None:
    config = import_module(OUR_CONFIG).CelluScanConfig
    auto.AutoConfig.register(config.model_type, config, exist_ok=True)


def _register_models(ours: ModuleType) -> None:
    auto, config = import_module(AUTO_MODELS), ours.CelluScanModel.config_class
    auto.AutoModel.register(config, ours.CelluScanModel, exist_ok=True)
    auto.AutoModelForImageClassification.register(config, ours.CelluScanForImageClassification, exist_ok=True)


def _register_pipeline(pipelines: ModuleType) -> None:
    ours = import_module(OUR_PIPELINE)
    auto = import_module(AUTO_MODELS).AutoModelForImageClassification
    pipelines.PIPELINE_REGISTRY.register_pipeline(ours.TASK, ours.WhiteBloodCellPipeline, auto, type="image")


def _import_our_models(finished: ModuleType) -> None:
    """Import our models once the Auto classes exist, unless a needed module is still being imported.

    `transformers.modeling_layers` imports the Auto classes while it is itself half imported; its own hook follows.
    """
    unfinished = {name for name in (OUR_MODELS, *NEEDED_BY_OUR_MODELS) if _is_being_imported(name)}
    if AUTO_MODELS in sys.modules and not unfinished - {finished.__name__}:
        import_module(OUR_MODELS)


def _is_being_imported(name: str) -> bool:
    return getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False)
