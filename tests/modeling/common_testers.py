"""The common tests of transformers on our models; `test_transformers_common.py` runs this file where it has them.

`transformers_tests` is the package `tests` of the library's source distribution. Two of its tests ask for what these
models refuse; they are replaced below by tests of the refusal.
"""

import unittest

import torch
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin, floats_tensor

from celluscan_hf.modeling.configuration_celluscan import CelluScanConfig
from celluscan_hf.modeling.modeling_celluscan import CelluScanForImageClassification, CelluScanModel, PatchEmbedding

SIZES = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=37, image_size=32, patch_size=8
)
# by these tables the tests tell what a classifier is
MODEL_MAPPING_NAMES[CelluScanConfig.model_type] = CelluScanModel.__name__
MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[CelluScanConfig.model_type] = CelluScanForImageClassification.__name__


class ModelTester:
    """What the common tests ask for: a small config and a batch."""

    batch_size = 4
    seq_length = 1 + (SIZES["image_size"] // SIZES["patch_size"]) ** 2
    num_hidden_layers, num_attention_heads, hidden_size = 2, 4, 32
    is_training = True

    def __init__(self, patch_stem: str) -> None:
        self.patch_stem = patch_stem

    def get_config(self) -> CelluScanConfig:
        return CelluScanConfig(**SIZES, patch_stem=self.patch_stem, attn_implementation="eager")

    def prepare_config_and_inputs_for_common(self) -> tuple[CelluScanConfig, dict[str, torch.Tensor]]:
        side = SIZES["image_size"]
        return self.get_config(), {"pixel_values": floats_tensor([self.batch_size, 3, side, side])}


class CommonTests(ModelTesterMixin):
    all_model_classes = (CelluScanModel, CelluScanForImageClassification)
    test_resize_embeddings = False  # there is no vocabulary
    test_can_init_all_missing_weights_before_2023 = True
    patch_stem: str

    def setUp(self) -> None:
        self.model_tester = ModelTester(self.patch_stem)
        sizes = SIZES | {"patch_stem": self.patch_stem}
        self.config_tester = ConfigTester(self, CelluScanConfig, has_text_modality=False, **sizes)

    def test_config(self) -> None:
        self.config_tester.run_common_tests()

    def test_model_get_set_embeddings(self) -> None:
        """No `nn.Embedding`, as in every ViT of the library: images become tokens by patches."""
        for model_class in self.all_model_classes:
            model = model_class(self.model_tester.get_config())
            self.assertIsInstance(model.get_input_embeddings(), PatchEmbedding)
            self.assertIsNone(model.get_output_embeddings())

    def test_problem_types(self) -> None:
        """A cell has one of at least two classes: several labels, regression and a single class are refused."""
        refusals = (
            ("multi_label_classification", 2, "'single_label_classification',.*got multi_label_classification"),
            ("regression", 2, "'single_label_classification',.*got regression"),
            ("single_label_classification", 1, "id2label must hold at least two classes"),
        )
        for problem_type, num_labels, message in refusals:
            config = self.model_tester.get_config()
            with self.subTest(problem_type), self.assertRaisesRegex(Exception, message):
                config.problem_type = problem_type
                config.num_labels = num_labels
                CelluScanForImageClassification(config)


class LinearStem(CommonTests, unittest.TestCase):
    patch_stem = "linear"


class ConvolutionStem(CommonTests, unittest.TestCase):
    patch_stem = "convolution"
