"""Configuration of the hand-built Vision Transformer of CelluScan.

This file is shipped with every checkpoint as remote code, so it stands alone: it imports nothing of this package.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig

if TYPE_CHECKING:  # never run; tells the library to save and fetch these files together with this one
    from .modeling_celluscan import CelluScanModel  # noqa: F401
    from .pipeline_celluscan import WhiteBloodCellPipeline  # noqa: F401

# of taxonomy.py, written here by scripts/tables.py
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

# Which file and class an Auto class, and `pipeline`, finds in a checkpoint folder; written into every config.json.
AUTO_MAP = {
    "AutoConfig": "configuration_celluscan.CelluScanConfig",
    "AutoModel": "modeling_celluscan.CelluScanModel",
    "AutoModelForImageClassification": "modeling_celluscan.CelluScanForImageClassification",
}
CUSTOM_PIPELINES = {
    "wbc-classification": {
        "impl": "pipeline_celluscan.WhiteBloodCellPipeline",
        "pt": ["AutoModelForImageClassification"],
        "type": "image",
    }
}


@strict
class CelluScanConfig(PreTrainedConfig):
    """Shape and regularisation of a `CelluScanModel`. The defaults are ViT-B/16 for 14 classes of blood cells.

    Field names are those of the library's `ViTConfig`; `pooling`, `patch_stem`, `input_norm`, `views`, `crops` and
    those of DINOv2 (`mlp`, `layer_scale_init`, `num_register_tokens`; Oquab et al. 2023,
    https://arxiv.org/abs/2304.07193) are ours, `drop_path_rate` is the library's name in other models. Base, Large and
    Huge are defined in Dosovitskiy et al. 2021, table 1 (https://arxiv.org/abs/2010.11929).

    Args:
        hidden_size: Width D of every token; a multiple of `num_attention_heads`.
        num_hidden_layers: Number of transformer blocks.
        num_attention_heads: Heads per block; each is `hidden_size / num_attention_heads` wide.
        intermediate_size: Width of the hidden layer of each MLP.
        hidden_act: Activation in the plain MLP, a name that `transformers.activations.ACT2FN` knows.
        mlp: `"plain"`, or `"swiglu"`, whose hidden layer is a product of two, one of them through a SiLU (Shazeer
            2020, https://arxiv.org/abs/2002.05202).
        layer_scale_init: Start of a learned factor on each of the D numbers of a branch (Touvron et al. 2021,
            https://arxiv.org/abs/2103.17239); None for no such factors.
        num_register_tokens: Learned tokens behind the class token, which carry what is of no place (Darcet et al. 2023,
            https://arxiv.org/abs/2309.16588).
        hidden_dropout_prob: Dropout after the position embeddings and after every linear layer but qkv, in [0, 1).
        attention_probs_dropout_prob: Dropout on the attention weights, in [0, 1).
        drop_path_rate: Stochastic depth (Huang et al. 2016, https://arxiv.org/abs/1603.09382): the share of images
            for which the last block's branches are skipped in training, growing linearly from 0 at the first; [0, 1).
        initializer_range: Standard deviation of newly initialized weights.
        layer_norm_eps: Epsilon of every LayerNorm; 1e-6 as in torchvision and timm (the library's ViT has 1e-12).
        image_size: Height and width of an image in pixels, a multiple of `patch_size`.
        patch_size: Height and width of a patch in pixels.
        num_channels: Channels of an image.
        qkv_bias: Whether queries, keys and values have a bias.
        pooling: What the classifier reads: the class token (`"cls"`), the mean of the patch tokens (`"mean"`), or one
            beside the other (`"cls_mean"`), 2 D numbers.
        patch_stem: How pixels become tokens: one `"linear"` projection of each patch, or a `"convolution"` stem of
            log2(patch_size) 3x3 convolutions (Xiao et al. 2021, https://arxiv.org/abs/2106.14881).
        input_norm: `"image"` standardizes the colours of every image by itself, so that the lamp, the camera and the
            amount of stain matter less; `"none"` takes them as the image processor gives them.
        views: The answer is the mean over this many of the eight mirrored and transposed copies of an image, outside
            of training: 1, 2, 4 or 8. Slower by that factor, and a little more accurate.
        crops: The answer is the mean over these shares of a picture's side, looked at around its middle, the largest
            first: laboratories cut their pictures closer or wider around the cell. The image processor crops to the
            largest, and resizes so that the smallest has `image_size` pixels: see `picture_size`.

    The classes are the 14 unless given by `id2label`, by its inverse `label2id`, or by both; `num_labels=N` alone names
    them `LABEL_0` and so on. An image has exactly one of them: `problem_type` takes nothing but
    `"single_label_classification"`, and regression and several labels per image are refused by choice.

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
    mlp: Literal["plain", "swiglu"] = "plain"
    layer_scale_init: float | None = None
    num_register_tokens: int = 0
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.0
    drop_path_rate: float | int = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-6
    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    qkv_bias: bool = True
    pooling: Literal["cls", "mean", "cls_mean"] = "cls"
    patch_stem: Literal["linear", "convolution"] = "linear"
    input_norm: Literal["none", "image"] = "none"
    views: Literal[1, 2, 4, 8] = 1
    crops: list[float] | tuple[float, ...] = ()
    id2label: dict[int, str] | dict[str, str] | None = None
    label2id: dict[str, int] | dict[str, str] | None = None
    problem_type: Literal["single_label_classification"] = "single_label_classification"

    def __post_init__(self, **kwargs: Any) -> None:
        if __name__.startswith("celluscan_hf."):  # the installed package has the pipeline: ignore the checkpoint's copy
            kwargs.pop("custom_pipelines", None)
        self.id2label = _class_names(self.id2label, self.label2id, kwargs.pop("num_labels", None))
        self.label2id = {name: index for index, name in self.id2label.items()}
        self.crops = list(self.crops)
        super().__post_init__(**kwargs)
        self.auto_map = dict(AUTO_MAP)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a config from a dictionary, as the library does, but refuse the config of another model.

        Classes given by keyword, as `id2label`, `label2id` or both, are checked like those of the file and replace
        them. A different `num_labels` alone asks for a new head: the names of the file are ignored.
        """
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(
                f'expected a checkpoint with model_type "{cls.model_type}", got "{model_type}"; '
                "to convert the weights of another ViT, run celluscan convert"
            )
        stored = config_dict.get("id2label") or config_dict.get("label2id") or {}
        given = {name: kwargs.pop(name, None) for name in ("id2label", "label2id")}
        if kwargs.get("num_labels") is None:
            kwargs.pop("num_labels", None)
        if any(value is not None for value in given.values()) or kwargs.get("num_labels") not in (None, len(stored)):
            config_dict = config_dict | given
        elif config_dict.get("id2label") is not None:
            config_dict = config_dict | {"label2id": None}  # a file may be older than a change of its id2label by hand
        return super().from_dict(config_dict, **kwargs)

    def to_diff_dict(self) -> dict[str, Any]:
        """Return what config.json holds; the library would omit two classes (its default) and the pipeline."""
        label2id = {name: index for index, name in (self.id2label or {}).items()}
        always = {"id2label": self.id2label, "label2id": label2id, "custom_pipelines": CUSTOM_PIPELINES}
        return super().to_diff_dict() | always

    @property
    def picture_size(self) -> int:
        """Side in pixels of what the image processor makes; larger than `image_size` if there are `crops`."""
        return round(self.image_size * self.crops[0] / self.crops[-1]) if self.crops else self.image_size

    def check_fields(self) -> None:
        """Check all fields again, as they may have been changed since the config was made. Raises a ValueError.

        `validate` would also refuse `output_attentions` with a fused kernel, which a saved model may have.
        """
        self.validate_sizes()
        self.validate_labels()
        self.validate_patch_stem()
        self.validate_crops()
        self.validate_layers()
        self.validate_probabilities()

    def validate_sizes(self) -> None:
        """Check that sizes are positive, heads divide the width and patches divide the image."""
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
        """Check that there are at least two classes whose ids count up from 0."""
        ids = [int(key) for key in self.id2label or {}]
        if len(ids) < 2:
            raise ValueError(f"id2label must hold at least two classes, got {self.id2label}")
        if sorted(ids) != list(range(len(ids))):
            raise ValueError(f"the ids of the classes must count up from 0 to {len(ids) - 1}, got {ids}")

    def validate_patch_stem(self) -> None:
        """Check that a convolutional stem can halve the image and double its channels up to the hidden size."""
        if self.patch_stem != "convolution":
            return
        if self.patch_size < 2 or self.patch_size & (self.patch_size - 1):
            raise ValueError(f'patch_stem "convolution" needs a power of two as patch_size, got {self.patch_size}')
        if self.hidden_size % (self.patch_size // 2):
            raise ValueError(
                f'patch_stem "convolution" needs a hidden_size ({self.hidden_size}) that is a multiple of '
                f"half the patch_size ({self.patch_size})"
            )

    def validate_crops(self) -> None:
        """Check that crops are shares of a side, the largest first."""
        crops = list(self.crops)
        if crops and (crops[0] > 1 or crops != sorted(set(crops), reverse=True) or crops[-1] <= 0):
            raise ValueError(
                f"crops must be shares of at most 1.0, the largest first, such as [0.8, 0.64], got {crops}"
            )

    def validate_layers(self) -> None:
        """Check that the activation exists, and that numbers are positive where they must be."""
        if self.hidden_act not in ACT2FN:
            raise ValueError(f'hidden_act must be one of transformers.activations.ACT2FN, got "{self.hidden_act}"')
        if self.num_register_tokens < 0:
            raise ValueError(f"num_register_tokens must be 0 or more, got {self.num_register_tokens}")
        for name in ("layer_norm_eps", "initializer_range", "layer_scale_init"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")

    def validate_probabilities(self) -> None:
        """Check that dropout and stochastic depth lie in [0, 1)."""
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")


def _class_names(
    id2label: dict[int, str] | dict[str, str] | None, label2id: dict[str, int] | dict[str, str] | None, count: Any
) -> dict[int, str]:
    """Return the classes by id, from whichever arguments were given. Raises if they contradict each other."""
    if count is not None and not isinstance(count, int):
        raise _refusal("num_labels", f"num_labels must be a whole number, got {count!r}")
    if id2label is None and label2id is None:
        names = dict(enumerate(LABELS)) if count is None else {index: f"LABEL_{index}" for index in range(count)}
    elif id2label is None:
        names = _by_index("label2id", ((index, name) for name, index in (label2id or {}).items()))
    else:
        names = _by_index("id2label", id2label.items())
    if len(names) < 2:
        raise _refusal("id2label", f"expected at least two classes, got {names}; regression is not supported")
    if count not in (None, len(names)):
        field = "label2id" if id2label is None else "id2label"
        raise _refusal(field, f"num_labels ({count}) must be the number of classes in {field} ({len(names)}): {names}")
    if label2id is not None and not _inverse(label2id, names):
        message = f"label2id must be the inverse of id2label, or left out, got {label2id} for {names}"
        raise _refusal("label2id", message)
    return names


def _by_index(field: str, pairs: Iterable[tuple[int | str, str]]) -> dict[int, str]:
    """Return names by integer id; in JSON, ids are strings."""
    names: dict[int, str] = {}
    for key, name in pairs:
        if not str(key).isdecimal():
            raise _refusal(field, f"the ids of {field} must be whole numbers from 0, got {key!r} for {name!r}")
        if int(key) in names:
            raise _refusal(field, f"{field} has two classes with the id {key}: {names[int(key)]!r} and {name!r}")
        names[int(key)] = name
    return names


def _inverse(label2id: dict[str, int] | dict[str, str], names: dict[int, str]) -> bool:
    """Whether every name has one of its own ids; a name may occur twice in id2label, as in ImageNet's."""
    same_names = set(label2id) == set(names.values())
    return same_names and all(names.get(int(index)) == name for name, index in label2id.items())


def _refusal(field: str, message: str) -> StrictDataclassFieldValidationError:
    return StrictDataclassFieldValidationError(field, ValueError(message))


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
