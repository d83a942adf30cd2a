"""Attention of heads and layers over the patches, as defined by the paper and the model."""

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel, SwinConfig, SwinForImageClassification

from celluscan_hf.errors import CelluScanError
from celluscan_hf.inference.attention import AttentionRecord, record_attention, rollout

Build = Callable[..., PreTrainedModel]
KINDS = ["linear", "convolution", "mean", "native"]


def images(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def attention(*heads: list[list[float]]) -> torch.Tensor:
    """One layer for one image, (1, h, N, N)."""
    return torch.tensor([list(heads)])


def record_of(layer: torch.Tensor, grid: tuple[int, int], pooling: str = "cls") -> AttentionRecord:
    return AttentionRecord(torch.zeros(1, 2), (layer,), grid, pooling)


def test_rollout_of_one_layer_by_hand() -> None:
    layer = attention([[0.2, 0.6, 0.2], [0, 1, 0], [0, 0, 1]], [[0.4, 0.2, 0.4], [0, 1, 0], [0, 0, 1]])
    torch.testing.assert_close(rollout([layer]), torch.tensor([[[0.65, 0.2, 0.15], [0, 1, 0], [0, 0, 1]]]))


def test_rollout_multiplies_later_layers_from_the_left() -> None:
    first, last = attention([[1.0, 0.0], [1.0, 0.0]]), attention([[0.0, 1.0], [0.0, 1.0]])
    torch.testing.assert_close(rollout([first, last]), torch.tensor([[[0.75, 0.25], [0.5, 0.5]]]))


def test_rollout_scales_rows_that_do_not_sum_to_one() -> None:
    layer = attention([[3.0, 2.0], [1.0, 2.0]])
    torch.testing.assert_close(rollout([layer]), torch.tensor([[[4 / 6, 2 / 6], [1 / 4, 3 / 4]]]))


@pytest.mark.parametrize("kind", KINDS)
def test_rollout_of_each_image_sums_to_one_and_logits_are_those_of_the_model(kind: str, build_model: Build) -> None:
    model = build_model(kind, attn_implementation="eager")
    record = record_attention(model, images())
    assert record.pooling == ("mean" if kind == "mean" else "cls")
    with torch.no_grad():
        torch.testing.assert_close(record.logits, model(images()).logits)
    shares = record.rollout()
    assert shares.shape == (2, 4, 4)
    torch.testing.assert_close(shares.sum(dim=(1, 2)), torch.ones(2))
    assert (shares > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_even_attention_gives_an_even_map(kind: str, build_model: Build) -> None:
    model = build_model(kind, attn_implementation="eager")
    for name, weight in model.named_parameters():
        if "qkv" in name or "q_proj" in name:
            torch.nn.init.zeros_(weight)
    record = record_attention(model, images())
    torch.testing.assert_close(record.rollout(), torch.full((2, 4, 4), 1 / 16))
    torch.testing.assert_close(record.heads(), torch.full((2, 4, 4, 4), 1 / 17))


def test_the_class_token_is_read_and_patches_lie_row_by_row() -> None:
    layer = torch.zeros(1, 1, 7, 7)
    layer[0, 0, 0, 1 + 5] = 1.0  # of two rows and three columns: the last
    layer[0, 0, 1:, 1] = 1.0  # what the patches look at
    expected = torch.tensor([[[[0.0, 0, 0], [0, 0, 1]]]])
    torch.testing.assert_close(record_of(layer, (2, 3)).heads(), expected)


def test_mean_pooling_reads_the_mean_of_the_patches() -> None:
    layer = attention([[0.0, 1.0, 0.0], [0.5, 0.1, 0.4], [0.1, 0.3, 0.6]])
    torch.testing.assert_close(record_of(layer, (1, 2), "mean").heads(), torch.tensor([[[[0.2, 0.5]]]]))


def test_layers_count_from_one_and_backwards_from_minus_one(build_model: Build) -> None:
    record = record_attention(build_model("linear", attn_implementation="eager"), images())
    first, last = (layer[:, :, 0, 1:].reshape(2, 4, 4, 4) for layer in record.layers)
    for number, expected in {1: first, -2: first, 2: last, -1: last}.items():
        torch.testing.assert_close(record.heads(number), expected)


@pytest.mark.parametrize("layer", [0, 3, -3])
def test_a_layer_that_does_not_exist(layer: int, build_model: Build) -> None:
    record = record_attention(build_model("linear", attn_implementation="eager"), images())
    with pytest.raises(CelluScanError, match=rf"layer {layer} does not exist; expected 1 \(first\) to 2"):
        record.heads(layer)


def test_a_fused_kernel_is_refused_with_the_way_out(build_model: Build) -> None:
    with pytest.raises(CelluScanError, match='"sdpa" returns no attention; load the model with attn_impl'):
        record_attention(build_model("linear", attn_implementation="sdpa"), images())


def test_dropout_is_off_and_training_goes_on_afterwards(build_model: Build) -> None:
    model = build_model("linear", attn_implementation="eager", attention_probs_dropout_prob=0.5)
    expected = record_attention(model, images()).rollout()
    model.train()
    torch.testing.assert_close(record_attention(model, images()).rollout(), expected)
    assert model.training


def test_a_model_whose_attention_is_not_over_patches_is_refused() -> None:
    swin = SwinForImageClassification(
        SwinConfig(
            image_size=32,
            patch_size=4,
            embed_dim=8,
            depths=[1, 1],
            num_heads=[1, 2],
            window_size=4,
            attn_implementation="eager",
        )
    )
    with pytest.raises(CelluScanError, match="SwinForImageClassification is not a ViT"):
        record_attention(swin, images())
