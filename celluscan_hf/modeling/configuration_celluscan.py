"""Configuration of the hand-built Vision Transformer of CelluScan.

This file is shipped with every checkpoint as remote code, so it stands alone: it imports nothing of this package.
"""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig

LABELS = (
    "Band Neutrophil",
    "Basophil",
    "Eosinophil",
    "Erythroblast",
    "Immature Granulocyte",
    "Lymphocyte",
    "Metamyelocyte",
    "Monocyte",
    "Myeloblast",
    "Myelocyte",
    "Neutrophil",
    "Platelet",
    "Promyelocyte",
    "Segmented Neutrophil",
)

# Which file and class an Auto class finds in a checkpoint folder; written into every config.json.
AUTO_MAP = {
    "AutoConfig": "configuration_celluscan.CelluScanConfig",
    "AutoModel": "modeling_celluscan.CelluScanModel",
    "AutoModelForImageClassification": "modeling_celluscan.CelluScanForImageClassification",
}


@strict
class CelluScanConfig(PreTrainedConfig):
    """Shape and regularisation of a `CelluScanModel`. The defaults are ViT-B/16 for 14 classes of blood cells.

    Field names are those of the library's `ViTConfig`; `pooling` and `patch_stem` are ours, `drop_path_rate` is the
    library's name in other models. Base, Large and Huge are defined in Dosovitskiy et al. 2021, table 1
    (https://arxiv.org/abs/2010.11929).

    Args:
        hidden_size: Width D of every token; a multiple of `num_attention_heads`.
        num_hidden_layers: Number of transformer blocks.
        num_attention_heads: Heads per block; each is `hidden_size / num_attention_heads` wide.
        intermediate_size: Width of the hidden layer of each MLP.
        hidden_act: Activation in the MLP, a name that `transformers.activations.ACT2FN` knows.
        hidden_dropout_prob: Dropout after the position embeddings and after every linear layer but qkv, in [0, 1).
        attention_probs_dropout_prob: Dropout on the attention weights, in [0, 1).
        drop_path_rate: Stochastic depth (Huang et al. 2016, https://arxiv.org/abs/1603.09382): the share of images
            for which the last block's branches are skipped in training, growing linearly from 0 at the first; [0, 1).
        initializer_range: Standard deviation of newly made weights.
        layer_norm_eps: Epsilon of every LayerNorm; 1e-6 as in torchvision and timm (the library's ViT has 1e-12).
        image_size: Height and width of an image in pixels, a multiple of `patch_size`.
        patch_size: Height and width of a patch in pixels.
        num_channels: Channels of an image.
        qkv_bias: Whether queries, keys and values have a bias.
        pooling: What the classifier reads: the class token (`"cls"`) or the mean of the patch tokens (`"mean"`).
        patch_stem: How pixels become tokens: one `"linear"` projection of each patch, or a `"convolution"` stem of
            log2(patch_size) 3x3 convolutions (Xiao et al. 2021, https://arxiv.org/abs/2106.14881).

    `problem_type` is `"single_label_classification"` and no other by choice: a cell has one of at least two classes, so
    regression and several labels at once are refused.

    `id2label` is the 14 classes unless given; `num_labels=N` alone names them `LABEL_0` and so on. `label2id` follows
    from it.

    Raises:
        StrictDataclassError: A field has the wrong type or range, or two fields exclude each other.
    """

    model_type = "celluscan_vit"
    _auto_class = "AutoConfig"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.0
    drop_path_rate: float | int = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-6
    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    qkv_bias: bool = True
    pooling: Literal["cls", "mean"] = "cls"
    patch_stem: Literal["linear", "convolution"] = "linear"
    id2label: dict[int, str] | dict[str, str] | None = None
    problem_type: Literal["single_label_classification"] = "single_label_classification"

    def __post_init__(self, **kwargs: Any) -> None:
        if __name__.startswith("celluscan_hf."):  # where the package knows the pipeline, a checkpoint's own is not run
            kwargs.pop("custom_pipelines", None)
        if self.id2label is None and kwargs.get("num_labels") is None:
            self.id2label = dict(enumerate(LABELS))
        if self.id2label is not None:
            _check_id2label(self.id2label, kwargs.get("num_labels"))
        super().__post_init__(**kwargs)
        self.label2id = {name: index for index, name in (self.id2label or {}).items()}
        self.auto_map = dict(AUTO_MAP)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As the library's, but a config of another model raises: its weights would not fit.

        Classes given by keyword are checked as those of the file are; `label2id` follows from them. Another
        `num_labels` alone asks for a new head: the names of the file are left aside.
        """
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(
                f'expected a checkpoint with model_type "{cls.model_type}", got "{model_type}"; '
                "weights of a ViT can be converted with scripts/convert_weights.py"
            )
        if "id2label" in kwargs:
            config_dict = config_dict | {"id2label": kwargs.pop("id2label")}
        elif kwargs.get("num_labels") not in (None, len(config_dict.get("id2label") or {})):
            config_dict = config_dict | {"id2label": None}
        kwargs.pop("label2id", None)
        return super().from_dict(config_dict, **kwargs)

    def to_diff_dict(self) -> dict[str, Any]:
        """What config.json holds: the classes always. The library leaves out two unnamed ones, its own default."""
        return super().to_diff_dict() | {"id2label": self.id2label, "label2id": self.label2id}

    def check_fields(self) -> None:
        """Raises a ValueError where what a new config is checked for no longer holds, as fields may be changed.

        Not `validate`: it refuses too that attentions are asked for and not given, which a saved model may do.
        """
        self.validate_sizes()
        self.validate_labels()
        self.validate_patch_stem()
        self.validate_layers()
        self.validate_probabilities()

    def validate_sizes(self) -> None:
        """Sizes are positive; heads divide the width, patches divide the image."""
        for name in SIZES:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of "
                f"num_attention_heads ({self.num_attention_heads})"
            )
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size ({self.image_size}) must be a multiple of patch_size ({self.patch_size})")

    def validate_labels(self) -> None:
        """There are at least two, and their ids count up from 0."""
        ids = [int(key) for key in self.id2label or {}]
        if len(ids) < 2:
            raise ValueError(f"id2label must hold at least two classes, got {self.id2label}")
        if sorted(ids) != list(range(len(ids))):
            raise ValueError(f"the ids of id2label must count up from 0 to {len(ids) - 1}, got {ids}")

    def validate_patch_stem(self) -> None:
        """A convolutional stem halves the image once per layer and doubles its channels up to the hidden size."""
        if self.patch_stem != "convolution":
            return
        if self.patch_size < 2 or self.patch_size & (self.patch_size - 1):
            raise ValueError(f'patch_stem "convolution" needs a power of two as patch_size, got {self.patch_size}')
        if self.hidden_size % (self.patch_size // 2):
            raise ValueError(
                f'patch_stem "convolution" needs a hidden_size ({self.hidden_size}) that is a multiple of '
                f"half the patch_size ({self.patch_size})"
            )

    def validate_layers(self) -> None:
        """The activation is known; epsilon and the spread of new weights are positive."""
        if self.hidden_act not in ACT2FN:
            raise ValueError(f'hidden_act must be one of transformers.activations.ACT2FN, got "{self.hidden_act}"')
        for name in ("layer_norm_eps", "initializer_range"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")

    def validate_probabilities(self) -> None:
        """Dropout and stochastic depth lie in [0, 1)."""
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")


def _check_id2label(id2label: dict[int, str] | dict[str, str], num_labels: int | None) -> None:
    """Raises what the library says without a name, or only warns of before it drops the labels."""
    told = ""
    if not all(str(key).isdecimal() for key in id2label):
        told = f"the ids of id2label must be whole numbers from 0, got {list(id2label)}"
    elif num_labels not in (None, len(id2label)):
        told = f"num_labels ({num_labels}) must be the number of classes in id2label ({len(id2label)}): {id2label}"
    if told:
        raise StrictDataclassFieldValidationError("id2label", ValueError(told))


SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "image_size",
    "patch_size",
    "num_channels",
)

__all__ = ["CelluScanConfig"]
