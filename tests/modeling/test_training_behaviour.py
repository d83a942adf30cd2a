"""What training relies on: gradients, fresh weights, the loss, and randomness that is gone in eval mode."""

from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close
from transformers import Trainer, TrainingArguments

from celluscan_hf.modeling.modeling_celluscan import (
    CelluScanForImageClassification,
    StochasticDepth,
    TransformerBlock,
)

from .conftest import NO_DROPOUT, gradients, images, labels, tiny_config, tiny_model

CLOSE = {"rtol": 0.0, "atol": 1e-5}


@pytest.fixture
def poisoned_memory():
    """Fill uninitialized memory with NaN, or the largest integer."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory and torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("patch_stem", "pooling", "fresh"),
    [("linear", "cls", True), ("linear", "mean", False), ("convolution", "cls", False), ("convolution", "mean", True)],
)
def test_every_parameter_learns(patch_stem, pooling, fresh):
    changes = {"patch_stem": patch_stem, "pooling": pooling}
    model = CelluScanForImageClassification(tiny_config(**changes)) if fresh else tiny_model(**changes)
    for name, gradient in gradients(model.train(), pixel_values=images(), labels=labels()).items():
        assert gradient.isfinite().all() and gradient.abs().max() > 0, name


def test_every_position_learns():
    gradient = gradients(tiny_model(), pixel_values=images(), labels=labels())["vit.embeddings.position_embeddings"]
    assert (gradient.abs().amax(dim=2) > 0).all()


def as_fresh(model: nn.Module, key: str, value: torch.Tensor) -> bool:
    """Whether `value` looks as a new tensor of this name should."""
    path, _, kind = key.rpartition(".")
    if not value.isfinite().all():
        return False
    if kind in ("bias", "running_mean", "num_batches_tracked"):
        return bool((value == 0).all())
    if kind == "running_var" or isinstance(model.get_submodule(path), (nn.LayerNorm, nn.BatchNorm2d)):
        return bool((value == 1).all())
    return abs(value.mean()) < 0.01 and 0.012 < value.std() < 0.028  # initializer_range is 0.02


@pytest.mark.parametrize("patch_stem", ["linear", "convolution"])
def test_missing_tensors_are_initialized_and_the_rest_kept(patch_stem, tmp_path, poisoned_memory):
    model = tiny_model(patch_stem=patch_stem, num_hidden_layers=1)
    model.train()(images(16))  # moves the running statistics of the stem
    state = model.state_dict()
    model.config.save_pretrained(tmp_path)
    for missing in state:
        kept = {key: value for key, value in state.items() if key != missing}
        save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
        loaded = CelluScanForImageClassification.from_pretrained(tmp_path).state_dict()
        assert not as_fresh(model, missing, state[missing]), f"{missing} can not be told from a fresh one"
        assert as_fresh(model, missing, loaded.pop(missing)), missing
        assert all(torch.equal(loaded[key], kept[key]) for key in kept), missing


def test_a_new_head_is_fresh_and_the_base_kept(tmp_path, poisoned_memory):
    model = tiny_model()
    model.vit.save_pretrained(tmp_path)
    again = CelluScanForImageClassification.from_pretrained(tmp_path, num_labels=5)
    for key, value in again.classifier.state_dict().items():
        assert as_fresh(again.classifier, key, value)
    assert torch.equal(again.vit(images()).pooler_output, model.vit(images()).pooler_output)


def test_loss_is_cross_entropy_for_labels_of_any_integer_type():
    model = tiny_model()
    expected = nn.functional.cross_entropy(model(images()).logits, labels())
    for dtype in (torch.uint8, torch.int32, torch.int64):
        assert_close(model(images(), labels=labels().to(dtype)).loss, expected)


def test_inputs_can_be_asked_for_gradients():
    model = tiny_model()
    model.requires_grad_(False)
    model.enable_input_require_grads()
    assert model(images()).logits.requires_grad


def test_loss_is_a_share_of_all_images_of_a_step():
    outputs = tiny_model()(images(), labels=labels(), num_items_in_batch=torch.tensor(32))
    assert_close(outputs.loss, nn.functional.cross_entropy(outputs.logits, labels(), reduction="sum") / 32)


def trained(folder, batch_size: int, accumulation: int, **settings: Any) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and weights after two steps of plain gradient descent, in which the size of a gradient shows."""
    model = tiny_model(**NO_DROPOUT)
    rows = [{"pixel_values": image, "labels": label} for image, label in zip(images(16), labels(16), strict=True)]
    arguments = TrainingArguments(
        folder,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=1,
        optim="sgd",
        learning_rate=0.1,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **settings,
    )
    trainer = Trainer(model, arguments, train_dataset=rows)
    trainer.train()
    return [log["loss"] for log in trainer.state.log_history if "loss" in log], model.state_dict()


def test_eight_small_batches_train_as_one_large(tmp_path):
    losses, weights = trained(tmp_path, batch_size=8, accumulation=1)
    again, weights_again = trained(tmp_path, batch_size=1, accumulation=8)
    assert len(losses) == 2 and weights.keys() == weights_again.keys()
    assert again == pytest.approx(losses, abs=1e-5)
    assert_close(weights_again, weights, **CLOSE)


def test_eight_images_can_be_memorized():
    model = CelluScanForImageClassification(tiny_config()).train()
    batch = {"pixel_values": images(8), "labels": labels(8)}
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    outputs = model.eval()(**batch)
    assert outputs.loss < 0.5
    assert (outputs.logits.argmax(dim=1) == labels(8)).float().mean() > 0.9


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_dropout_acts_in_training_only(attention):
    for name in NO_DROPOUT:
        model = tiny_model(attention=attention, **(NO_DROPOUT | {name: 0.5}))
        assert torch.equal(model(images()).logits, model(images()).logits), name
        model.train()
        assert not torch.equal(model(images()).logits, model(images()).logits), name
    model = tiny_model(attention=attention, **NO_DROPOUT)
    assert torch.equal(model(images()).logits, model.train()(images()).logits)


def test_dropout_acts_at_every_place():
    model = tiny_model(hidden_dropout_prob=0.5).train()
    dropped = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda module, args, output, name=name: dropped.update({name: output}))
    model.vit(images())
    places = ["embeddings", *(f"layers.{index}.{part}" for index in (0, 1) for part in ("attention", "mlp"))]
    assert set(dropped) == {f"vit.{place}.dropout" for place in places}
    for output in dropped.values():
        assert 0.4 < (output == 0).float().mean() < 0.6


def test_stochastic_depth_drops_entire_images_and_keeps_the_mean():
    assert (branch := torch.randn(4, 17, 32)) is StochasticDepth(0.9).eval()(branch)
    kept = StochasticDepth(0.2).train()(torch.ones(20_000, 2, 3)).flatten(1)
    assert (kept == kept[:, :1]).all()
    assert kept.unique().tolist() == pytest.approx([0.0, 1.25])
    assert kept.mean().item() == pytest.approx(1, abs=0.01)


def test_stochastic_depth_grows_linearly_over_the_blocks():
    blocks = tiny_model(num_hidden_layers=4, drop_path_rate=0.3).vit.layers
    assert [block.drop_path.probability for block in blocks] == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_a_skipped_block_gives_back_what_it_got():
    block = TransformerBlock(tiny_model().config, drop_path_rate=1 - 1e-12).train()
    tokens = torch.randn(4, 17, 32)
    assert torch.equal(block(tokens), tokens)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_recomputes_and_keeps_gradients_and_inner_states(reentrant):
    model = tiny_model(attention="eager", **NO_DROPOUT).train()
    batch = {"pixel_values": images(), "labels": labels(), "output_hidden_states": True, "output_attentions": True}
    expected, expected_gradients = model(**batch), gradients(model, **batch)
    calls = []
    model.vit.layers[0].layernorm_before.register_forward_hook(lambda *_: calls.append(1))
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    outputs = model(**batch)
    assert [len(outputs.hidden_states), len(outputs.attentions)] == [3, 2]
    assert_close(outputs.hidden_states, expected.hidden_states, **CLOSE)
    assert_close(outputs.attentions, expected.attentions, **CLOSE)
    calls.clear()
    assert_close(gradients(model, **batch), expected_gradients, **CLOSE)
    assert len(calls) == 2


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
def test_gradient_checkpointing_draws_the_same_dropout_again():
    model = tiny_model(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3, drop_path_rate=0.3).train()
    batch = {"pixel_values": images(), "labels": labels()}
    torch.manual_seed(5)
    expected = gradients(model, **batch)
    model.gradient_checkpointing_enable()
    torch.manual_seed(5)
    assert_close(gradients(model, **batch), expected, **CLOSE)


@pytest.mark.parametrize(("attention", "pooling"), [("eager", "cls"), ("sdpa", "mean")])
def test_forward_and_backward_are_one_graph(attention, pooling, fresh_compiler):
    model = tiny_model(attention=attention, pooling=pooling, **NO_DROPOUT).train()
    batch = {"pixel_values": images(), "labels": labels()}
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_close(compiled(**batch).loss, model(**batch).loss, **CLOSE)
    expected = gradients(model, **batch)
    model.zero_grad()
    compiled(**batch).loss.backward()
    assert_close({name: parameter.grad for name, parameter in model.named_parameters()}, expected, **CLOSE)
