"""The model card: complete when rendered, valid for the Hub, and without hard-coded numbers."""

import dataclasses
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from jinja2 import UndefinedError

from celluscan_hf import taxonomy
from celluscan_hf.dataset.card import template_path
from celluscan_hf.errors import CelluScanError
from celluscan_hf.evaluation.measure import measure, measure_external
from celluscan_hf.evaluation.predictions import FACTS, Predictions
from celluscan_hf.hub.model_card import ModelFacts, evaluation_results, render
from celluscan_hf.hub.training_facts import TrainingFacts
from celluscan_hf.sources import READERS
from celluscan_hf.training import recipes
from celluscan_hf.training.settings import TrainingSettings

REPOSITORY, DATASET = "some/vit-wbc", "some/wbc"
SOURCE = {"title": "Synthetic cells", "license": "MIT", "caution": "Grey backgrounds."}
WRONG = [("MY", "PMY", 0.9), ("MMY", "MY", 0.8), ("SNE", "BNE", 0.95), ("SNE", "BNE", 0.7), ("LY", "MO", 0.99)]
PUBLISHED = {"88.93", "95"}  # of the student project, and of the intervals


def predicted(outcomes: list[tuple[str, str, float]]) -> Predictions:
    """Predictions from (true code, predicted code, its probability)."""
    ids = [f"drawn/{number}.png" for number in range(len(outcomes))]
    labels, predictions = ([taxonomy.LABEL2ID[taxonomy.lookup(row[i]).name] for row in outcomes] for i in (0, 1))
    values = np.array([[(1 - row[2]) / 13] * 14 for row in outcomes], np.float32)
    values[range(len(ids)), predictions] = [row[2] for row in outcomes]
    facts = dict.fromkeys(FACTS, ids) | {"source": ["drawn"] * len(ids)}
    return Predictions(facts, np.array(labels), values)


def measured(outcomes: list[tuple[str, str, float]], resamples: int = 20) -> dict[str, Any]:
    """`metrics.json` for such outcomes, without what `change` below adds."""
    return measure(predicted(outcomes), resamples) | {
        "model": {"name": REPOSITORY},
        "data": {"dataset": DATASET, "split": "test", "fingerprint": "ab" * 32, "sources": {"drawn": SOURCE}},
    }


def recorded(recipe: str, **changed: Any) -> dict[str, Any]:
    """`settings.json` of the last stage of a recipe."""
    defaults = {field.name: TrainingSettings.default(field.name) for field in dataclasses.fields(TrainingSettings)}
    stage = recipes.load(recipe)[-1]
    settings = defaults | stage | {"model": json.dumps(stage["model"])} | changed
    return {
        "recipe": recipe,
        "seed": 42,
        "data": {"config": "originals", "fingerprint": "ab" * 32, "rows": {"train": 6190, "validation": 885}},
        "settings": settings,
        "processes": 1,
        "batch": 96,
        "precision": "bf16",
        "device": "cpu, 2 threads",
        "versions": {"python": "3.12", "celluscan_hf": "0.7.1", "torch": "2.34"},
        "git": "c0ffee",
    }


@pytest.fixture(scope="module")
def usual() -> dict[str, Any]:
    """Cells of all classes but Myeloblast, with mistakes, and Promyelocyte mostly mistaken."""
    codes = [cell.code for cell in taxonomy.CLASSES if cell.code not in ("MYO", "PMY")]
    outcomes = [(code, code, 0.61 + 0.01 * number) for code in codes for number in range(31)]
    return measured([*outcomes, *WRONG, *[("PMY", "MMY", 0.7)] * 6, ("PMY", "PMY", 0.9)])


@pytest.fixture
def facts(usual) -> ModelFacts:
    model = {"num_hidden_layers": 5, "hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
    examples = [
        {"file": f"examples/{code}.jpg", "class": taxonomy.lookup(code).name, "code": code, "image_id": f"drawn/{code}"}
        | {"source": "drawn", "license": "MIT", "title": "Synthetic cells"}
        for code in ("BNE", "BA")
    ]
    return ModelFacts(
        repository=REPOSITORY,
        hand_built=False,
        counterpart=None,
        revision="v3.5",
        dataset=DATASET,
        settings=recorded("cpu-small"),
        training={
            "resumed_from": None,
            "seconds": 659.4,
            "steps": 960,
            "images_per_second": 141.5,
            "best_step": 832,
            "validation": {"n": 885, "accuracy": 0.8371, "macro_f1": 0.8236},
        },
        metrics=usual,
        config=model | {"image_size": 72, "patch_size": 8},
        parameters=2_280_398,
        examples=examples,
    )


def change(facts: ModelFacts, **sections: Any) -> ModelFacts:
    """The same facts with others in some fields; mappings are merged."""
    merged = {
        name: dict(getattr(facts, name)) | value if isinstance(value, dict) else value
        for name, value in sections.items()
    }
    return dataclasses.replace(facts, **merged)


def from_raw(facts: ModelFacts) -> ModelFacts:
    return change(facts, metrics={"data": {"fingerprint": "ef" * 32, "sources": {"drawn": SOURCE}}})


def with_external(facts: ModelFacts, resamples: int = 20, **titles: str) -> ModelFacts:
    """With external sources of these titles, each of two wrong cells, one named finer, and one right."""
    metrics = measure_external(predicted([("NEU", "SNE", 0.9), ("LY", "MO", 0.8), ("EO", "EO", 0.9)]), resamples)
    metrics |= {"license": "CC-BY-4.0", "caution": "Other stain.", "fingerprint": "ef" * 32}
    metrics |= {"dropped": {"truncated": 4}}
    external = {name: metrics | {"title": title} for name, title in (titles or {"lab": "Far lab"}).items()}
    return change(facts, metrics={"external": external})


def words(facts: ModelFacts) -> str:
    """The card on one line, spaces single."""
    return re.sub(r"\s+", " ", render(facts))


def variants(facts: ModelFacts) -> list[ModelFacts]:
    bare = {"ci95": None, "maturation": None, "abnormal": None, "calibration": [], "nll": None, "ece": None}
    return [
        facts,
        change(facts, hand_built=True, counterpart="some/other", config={"patch_stem": "convolution"}),
        from_raw(facts),
        change(facts, metrics=bare, examples=[], training={"resumed_from": "checkpoint-64"}),
        change(facts, settings=recorded("original-probe")),
        with_external(facts),
        with_external(change(facts, metrics={"ci95": None}), 0, a="A", b="B", c="C"),
    ]


def test_no_variant_has_remains_of_the_template_or_gaps(facts):
    for variant in variants(facts):
        text = render(variant)
        assert not re.search(r"\{%|%\}|\{#|Undefined|\bNone\b|\bnan\b|\d\.\d{6}", text)
        assert "{{" not in text.replace("{{The CelluScan authors}}", "")
        assert "\n\n\n" not in text
        assert not re.search(r"[^\n]\n(#|```\w)|\n#[^\n]*\n[^\n]", text.partition("\n---\n")[2])


def test_tables_have_as_many_fields_in_every_line(facts):
    for variant in variants(facts):
        lines = render(variant).splitlines()
        tables = [line.count("|") if line.startswith("|") else 0 for line in lines]
        assert all(0 in (first, second) or first == second for first, second in pairwise(tables))
        assert max(tables) > 5


def test_the_template_has_no_hard_coded_number():
    prose = re.sub(
        r"```.*?```|\{\{.*?\}\}|\{%.*?%\}|\(\d\d?([, –]+\d\d?)*\)",
        "",
        template_path("model_card.md").read_text("utf-8"),
        flags=re.S,
    )
    published = {"88.93", "95", "16", "10,766", "4,500", "14,530", "1,000"}
    works = {"2020", "2024", "2019", "2021", "200029", "240300"}
    assert set(re.findall(r"(?<![\w/.])(?:e)?(\d[\d,.]*\d|\d(?=\s?%))", prose)) <= published | works


def numbers(value: Any) -> Iterator[float | str]:
    """Yield all numbers in the facts, also those in strings."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from numbers(key)
            yield from numbers(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, str):
        yield from re.findall(r"\d+\.\d+|\d+", value)
    elif isinstance(value, int | float):
        yield value


def test_every_number_follows_from_the_facts(facts):
    facts = with_external(facts)
    given = list(numbers(dataclasses.asdict(facts)))
    maturation, matrix = facts.metrics["maturation"], facts.metrics["confusion_matrix"]["matrix"]
    given += [maturation[name] / maturation["n"] for name in ("exact", "adjacent", "distant", "without_stage")]
    given += [count / sum(row) for row in matrix for count in row if count]
    given += [sum(row["n"] * row["confidence"] for row in facts.metrics["calibration"]) / facts.metrics["n"]]
    given += [facts.training["seconds"] / 60]
    expected = {form for v in given if not isinstance(v, str) for form in forms(v)} | {
        v for v in given if isinstance(v, str)
    }
    body = render(facts).partition("\n---\n")[2]
    shown = set(re.findall(r"\d+\.\d+|\d+(?=\s?%)", body))
    assert len(shown) > 50
    assert shown - expected <= PUBLISHED


def forms(value: float) -> list[str]:
    return [
        f"{value:.3f}",
        f"{value:.1f}",
        f"{value:g}",
        f"{100 * value:.1f}",
        f"{100 * value:.0f}",
        f"{100 * value:g}",
    ]


def test_headline_has_the_metrics_with_their_intervals(facts):
    low, high = facts.metrics["ci95"]["accuracy"]
    text = words(facts)
    assert f"**{100 * facts.metrics['accuracy']:.1f} %** (95 % interval {100 * low:.1f}–{100 * high:.1f} %)" in text
    assert text.index("Not a medical device") < text.index("How to use it")


def test_the_metadata_is_what_the_hub_reads(facts):
    data = ModelCard(render(facts)).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("mit", "transformers", "image-classification")
    assert data.datasets == [DATASET]
    assert data.metrics == ["accuracy", "f1", "recall"]
    assert data.widget == [
        {
            "src": f"https://huggingface.co/{REPOSITORY}/resolve/main/examples/BNE.jpg",
            "example_title": "Band Neutrophil",
        },
        {"src": f"https://huggingface.co/{REPOSITORY}/resolve/main/examples/BA.jpg", "example_title": "Basophil"},
    ]
    results = {(result.metric_type, result.metric_config): result for result in data.eval_results}
    assert set(results) == {("accuracy", None), ("recall", "macro"), ("f1", "macro")}
    f1 = results["f1", "macro"]
    assert f1.metric_value == round(facts.metrics["macro_f1"], 4)
    assert (f1.dataset_type, f1.dataset_config, f1.dataset_split) == (DATASET, "originals", "test")


def test_a_dataset_that_is_not_published_is_not_named(facts):
    local = dataclasses.replace(facts, dataset=None)
    text = render(local)
    assert DATASET not in text
    assert "Trained on a dataset that is not published" in text
    assert "--dataset DATASET" in text
    data = ModelCard(text).data
    assert data.datasets is None
    assert {result.dataset_name for result in data.eval_results} == {"Synthetic cells"}
    assert yaml.safe_load(evaluation_results(local)) == []


def test_results_for_the_hub_are_entries_with_what_they_are_of(facts):
    entries = parse_eval_result_entries(yaml.safe_load(evaluation_results(facts)))
    assert [entry.task_id for entry in entries] == ["accuracy", "balanced_accuracy", "macro_f1"]
    assert {entry.dataset_id for entry in entries} == {DATASET}
    assert entries[2].value == round(facts.metrics["macro_f1"], 4)
    low, high = facts.metrics["ci95"]["macro_f1"]
    notes = entries[2].notes or ""
    assert f"{facts.metrics['n']} cells" in notes and f"{low:.4f}–{high:.4f}" in notes


def test_the_plain_model_loads_without_trusted_code(facts):
    text = render(facts)
    assert f'pipeline("image-classification", model="{REPOSITORY}")' in text
    assert "trust_remote_code" not in text


def test_the_hand_built_model_is_loaded_at_a_pinned_revision(facts):
    text = render(change(facts, hand_built=True))
    examples = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(examples) == 2
    assert all('revision="v3.5"' in example for example in examples)
    assert "import celluscan_hf" in examples[0] and "trust_remote_code=True" in examples[1]


def test_examples_in_the_card_are_python(facts):
    for variant in variants(facts):
        for example in re.findall(r"```python\n(.*?)```", render(variant), re.S):
            compile(example, "card", "exec")


def test_without_examples_there_is_no_widget(facts):
    text = render(change(facts, examples=[]))
    assert "widget" not in text and "examples/" not in text.replace("`examples/` among them", "")
    assert 'classify("cell.jpg")' in text


def test_the_other_variant_is_named_where_there_is_one(facts):
    assert "[some/other](https://huggingface.co/some/other)" in render(change(facts, counterpart="some/other"))
    assert "The same weights" not in render(facts)


def test_without_resamples_there_are_no_intervals_of_means(facts):
    text = render(change(facts, metrics={"ci95": None}))
    assert "Intervals are percentiles" not in text
    assert "interval" not in text.partition("\n---\n")[2].partition("## How to use it")[0]
    assert re.search(rf"\| {facts.metrics['n']} \| 13 \| {facts.metrics['accuracy']:.3f} \|", text)
    assert "intervals not calculated" in text


def test_what_was_not_measured_has_no_section(facts):
    text = render(change(facts, metrics={"maturation": None, "abnormal": None, "calibration": [], "ece": None}))
    for section in (
        "### Maturation stages",
        "### Detecting abnormal cells",
        "mean confidence",
        "expected calibration error is",
    ):
        assert section in render(facts)
        assert section not in text


def test_a_missing_value_is_an_error_not_a_gap(facts):
    with pytest.raises(UndefinedError):
        render(dataclasses.replace(facts, training={}))


def test_failures_are_derived_from_the_metrics(facts):
    text = words(facts)
    assert "**Classes without test cells**: Myeloblast." in text
    assert "| Myeloblast | MYO | 0 | not measured |" in text
    assert "**Classes with few test cells**: Promyelocyte (7);" in text
    assert "**Low recall**" not in text  # of so few cells nothing is known
    assert "**Shortcut in `drawn`**: Grey backgrounds." in text
    assert "**One source**" in text


def test_external_results_stand_next_to_those_of_the_split(facts):
    lines = render(with_external(facts, a="A lab", b="B lab")).splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("| the test split of ["))
    assert f"| {facts.metrics['accuracy']:.3f} (" in lines[first]
    assert lines[first + 1].startswith("| A lab (`a`) | 3 | 3 | 0.333 (")
    assert lines[first + 2].startswith("| B lab (`b`) | 3 | 3 | 0.333 (")
    alone = render(facts).splitlines()
    assert "not measured" in alone[alone.index(lines[first]) + 1]


@pytest.mark.parametrize(
    "sections",
    [
        {"metrics": {"maturation": None}},
        {"metrics": {"abnormal": None}},
        {"metrics": {"calibration": [], "ece": None}},
        {"metrics": {"ci95": None}},
        {"metrics": {"groups": 12}},
        {"training": {"resumed_from": "checkpoint-64"}},
        {"counterpart": "some/other"},
        {"examples": []},
        {"settings": recorded("original-probe", start="out/run/stage-3")},
    ],
    ids=lambda sections: "-".join(sections),
)
def test_the_card_depends_on_what_was_measured(facts, sections):
    text = render(change(facts, **sections))
    assert text != render(facts)
    assert "stage-3" not in text


def test_headline_failures_and_calibration_speak_of_other_laboratories(facts):
    before, after = words(facts), words(with_external(facts))
    ece = with_external(facts).external["lab"]["ece"]
    for warning in (
        "Other laboratories were not measured",
        "Expect it to do worse",
        "In another laboratory, probabilities",
    ):
        assert warning in before and warning not in after
    headline, limits = after.partition("## How to use it")[0], after.partition("## Limits ")[2]
    assert re.search(r"\*\*33\.3.%\*\* .*on 3 cells of Far lab\.", headline)
    assert limits.startswith("- **Other laboratories**: accuracy is")
    assert re.search(r"% on the test split and 33\.3.% on Far lab \(balanced accuracy 33\.3.%\)\.", limits)
    assert f"{ece:.3f} on `lab`" in after.partition("### Calibration")[2]
    assert re.search(
        r"On Far lab 1 cells got the parent or a child of the right class; counted as right, accuracy is 66\.7.%", after
    )
    assert (
        "all cells of the split are of Synthetic cells." in after
        and "all cells evaluated are of Synthetic cells." in before
    )


def test_external_sources_have_licence_citation_and_a_way_to_measure_them_again(facts):
    info = READERS["bccd"].info
    text = render(with_external(facts, bccd=info.title, lab="Far lab"))
    assert f"| {info.title} (`bccd`) | CC-BY-4.0 | Other stain. |" in text
    assert f"- {info.citation}. {info.url}" in text
    assert "--split test --external bccd=PATH --external imagefolder:lab=PATH --output" in text
    assert f"| external data (32) | Results: {info.title} and Far lab |" in text
    assert "Shortcut in `lab`" not in text


def test_external_metrics_are_results_of_their_own_for_the_hub(facts):
    results = ModelCard(render(with_external(facts))).data.eval_results
    assert [(result.dataset_name, result.metric_type) for result in results[3:]] == [
        ("Far lab", "accuracy"),
        ("Far lab", "recall"),
        ("Far lab", "f1"),
    ]
    assert results[3].metric_value == 0.3333
    assert evaluation_results(with_external(facts)) == evaluation_results(facts)


def test_raw_sources_are_called_so_and_stay_out_of_the_hubs_table(facts):
    raw = from_raw(facts)
    text = words(raw)
    assert "cells read straight from Synthetic cells" in text.partition("## How to use it")[0]
    assert "is not checked here" in text
    assert ModelCard(render(raw)).data.eval_results[0].dataset_name == "Synthetic cells"
    assert yaml.safe_load(evaluation_results(raw)) == []
    assert "--split test" not in text


def test_figures_of_validation_are_called_so(facts):
    text = render(change(facts, metrics={"data": facts.metrics["data"] | {"split": "validation"}}))
    assert "These are metrics of validation" in text


def test_figures_of_the_training_split_are_refused(facts):
    with pytest.raises(CelluScanError, match="--split test"):
        change(facts, metrics={"data": facts.metrics["data"] | {"split": "train"}})


def test_a_run_that_was_resumed_says_what_its_time_is_of(facts):
    assert "11.0 minutes (659 s) of training" in words(facts)
    assert "was resumed from `checkpoint-64`" in words(change(facts, training={"resumed_from": "checkpoint-64"}))


def test_stages_are_told_and_their_first_start(facts):
    text = words(change(facts, settings=recorded("original-probe", start="out/run/stage-3")))
    assert "torchvision's `vit_b_16`, pretrained on ImageNet, in 4 stages" in text
    assert "The time is of the last of 4 stages." in text
    assert "Weights of the last step, 960." in text
    assert "the head alone" in text
    assert "stage-3" not in text


@pytest.mark.parametrize(
    ("start", "base_model", "description"),
    [
        ("scratch", None, "random weights"),
        ("torchvision:vit_b_16", None, "torchvision's `vit_b_16`"),
        (
            "google/vit-base-patch16-224",
            "google/vit-base-patch16-224",
            "https://huggingface.co/google/vit-base-patch16",
        ),
        ("weights/mine.safetensors", None, "weights of a local file or folder"),
        ("mine", None, "weights of a local file or folder"),
    ],
)
def test_only_a_repository_of_the_hub_is_a_base_model(start, base_model, description, facts):
    text = render(change(facts, settings=recorded("cpu-small", start=start)))
    assert ModelCard(text).data.base_model == base_model
    assert description in text


def test_a_folder_here_is_no_base_model(facts, tmp_path, monkeypatch):
    (tmp_path / "out" / "secret").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    text = render(change(facts, settings=recorded("cpu-small", start="out/secret")))
    assert ModelCard(text).data.base_model is None
    assert "secret" not in text and "--start WEIGHTS" in text


@pytest.mark.parametrize("recipe", recipes.names())
def test_the_command_of_an_unchanged_recipe_has_no_options_more(recipe):
    command = TrainingFacts(recorded(recipe)).command(DATASET)
    assert command == f"celluscan train --recipe {recipe} --dataset {DATASET} --output_dir out/run"


def test_the_command_has_what_was_changed():
    record = recorded("cpu-small", learning_rate=0.004, muon=False, model='{"hidden_size": 96}') | {"processes": 2}
    command = TrainingFacts(record).command(DATASET) or ""
    assert command.startswith("accelerate launch --num_processes 2 scripts/train.py --recipe cpu-small")
    assert command.endswith("""--model '{"hidden_size": 96}' --muon false --learning_rate 0.004""")


def test_a_loss_that_knows_the_taxonomy_is_told_with_its_settings():
    changed = {"loss": "hierarchical", "parent_share": 0.2, "maturation_weight": 0.5}
    trained = TrainingFacts(recorded("cpu-small", **changed))
    loss = "hierarchical, parent share 0.2, label smoothing 0.05, 0.5 x squared maturation distance"
    assert dict(trained.rows())["loss"] == loss
    assert (trained.command(DATASET) or "").endswith("--loss hierarchical --parent_share 0.2 --maturation_weight 0.5")


def test_a_record_older_than_an_option_is_read_as_if_it_was_left_out():
    record = recorded("cpu-small")
    del record["settings"]["maturation_weight"], record["settings"]["parent_share"]
    assert TrainingFacts(record).rows() == TrainingFacts(recorded("cpu-small")).rows()
    assert TrainingFacts(record).command(DATASET) == TrainingFacts(recorded("cpu-small")).command(DATASET)


def test_a_recipe_of_ones_own_has_no_command_and_no_folder(facts):
    record = recorded("cpu-small") | {"recipe": "secret/folder/mine.yaml"}
    text = render(change(facts, settings=record))
    assert "Recipe: `mine.yaml`" in text
    assert "secret" not in text and "celluscan train" not in text


def test_settings_that_were_not_used_are_left_out(facts):
    plain = dict(TrainingFacts(facts.settings).rows())
    assert "layer-wise learning-rate decay" not in plain
    tuned = dict(TrainingFacts(recorded("finetune")).rows())
    assert tuned["layer-wise learning-rate decay"] == "0.75"
    assert "MixUp 0.2, CutMix 1" in tuned["training augmentation"]
