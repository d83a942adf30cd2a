"""Render the model card: `model_card.md` filled with measured values, and YAML for the Hub.

Every value comes from the training record or from the evaluation; what was not measured is omitted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml

from ..dataset.card import table, taxonomy_table, template_path
from ..errors import CelluScanError
from ..evaluation import folder
from ..evaluation.cells import CONFIG
from ..evaluation.plots import ORDER
from ..evaluation.report import environment, largest_confusions, results_table
from ..sources import KEYS, READERS
from .training_facts import TrainingFacts

HUB = "https://huggingface.co"
TASK = "image-classification"
FEW = 30  # cells: with fewer, the interval of the recall is too wide to be useful
WEAK = 0.8  # recall below which a class is named among the known failures
_TEMPLATE = "model_card.md"
_TAGS = ["biology", "medical", "haematology", "white-blood-cells", "microscopy", "vit"]
_DIGITS = 4  # decimals in the metrics for the Hub
_CONFUSIONS = 6
_LEFT_OUT = "other laboratories: [lower, see below](#other-laboratories)"
# name in metrics.json -> type, name and config on the Hub; balanced accuracy is the macro-averaged recall
_METRICS = {
    "accuracy": ("accuracy", "Accuracy", None),
    "balanced_accuracy": ("recall", "Balanced accuracy (macro recall)", "macro"),
    "macro_f1": ("f1", "Macro-F1", "macro"),
}


@dataclass(frozen=True)
class ModelFacts:
    """Data for the card of one repository.

    - `repository`: its Hub id; `counterpart`: that of the other variant of the same weights, if both are published.
    - `hand_built`: our own architecture with its Python files; else the library's ViT.
    - `revision`: the tag pinned in the loading example of the hand-built variant.
    - `dataset`: Hub id of the dataset it was trained on; None if it is not published.
    - `settings`, `training`: the `settings.json` and `training.json` of the run.
    - `metrics`, `examples`: the `metrics.json` and `examples.json` of the evaluation.
    - `config`, `parameters`: the config of the model as a hand-built one, and its number of parameters.
    - `adaptation`: the `adaptation.json` of an adapted model, else None.
    - `packaged`: whether it comes with this package, without code of its own.
    - `left_out`: what such trainings reached on the five white cells of a laboratory that they left out: `title`, `n`,
      `trained_on`, `accuracy` and `macro_f1` of each.
    """

    repository: str
    hand_built: bool
    counterpart: str | None
    revision: str
    dataset: str | None
    settings: Mapping[str, Any]
    training: Mapping[str, Any]
    metrics: Mapping[str, Any]
    config: Mapping[str, Any]
    parameters: int
    examples: Sequence[Mapping[str, Any]]
    adaptation: Mapping[str, Any] | None = None
    packaged: bool = False
    left_out: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        if self.metrics["data"].get("split") == "train":
            raise CelluScanError(
                "the evaluation used the training split, which the model was fitted to: "
                "run celluscan evaluate with --split test"
            )

    @property
    def of_split(self) -> bool:
        """Whether it was evaluated on a split of a built dataset, not on raw sources."""
        return "dataset" in self.metrics["data"]

    @property
    def dataset_link(self) -> str:
        """The dataset in a sentence."""
        if self.packaged:
            count = len(self.metrics["data"]["sources"])
            return f"a dataset [built of {count} published ones](#data)"
        return f"[{self.dataset}]({HUB}/datasets/{self.dataset})" if self.dataset else "a dataset that is not published"

    @property
    def dataset_argument(self) -> str:
        """The dataset in a command."""
        return self.dataset or "DATASET"

    @property
    def external(self) -> Mapping[str, Mapping[str, Any]]:
        """Metrics of external sources by name; empty for evaluations without or older than them."""
        return self.metrics.get("external") or {}


def render(facts: ModelFacts) -> str:
    """Render the card, YAML first. A value that the template uses but nobody gives raises `UndefinedError`."""
    training = TrainingFacts(facts.settings)
    context = {field.name: getattr(facts, field.name) for field in fields(facts)}
    jinja = environment()
    jinja.filters["duration"] = _duration
    body = jinja.from_string(template_path(_TEMPLATE, __file__).read_text("utf-8")).render(
        context,
        trained=training,
        dataset_link=facts.dataset_link,
        dataset_argument=facts.dataset_argument,
        command=training.command(facts.dataset_argument),
        data=facts.metrics["data"],
        of_split=facts.of_split,
        same_data=facts.metrics["data"]["fingerprint"] == facts.settings["data"]["fingerprint"],
        ci=facts.metrics.get("ci95") or {},
        sources=_sources(facts.metrics["data"]["sources"]),
        external=facts.external,
        external_sources=_sources(facts.external),
        results=results_table(facts.metrics, _home(facts), _LEFT_OUT if facts.left_out else None),
        name=facts.repository.rpartition("/")[2],
        classes=ORDER,
        confusions=largest_confusions(facts.metrics)[:_CONFUSIONS],
        weak_classes=_weak_classes(facts.metrics),
        mean_confidence=_mean_confidence(facts.metrics),
        taxonomy_table=taxonomy_table(),
        recipe_table=table(["setting", "value"], training.rows()),
        hub=HUB,
        files=folder,
    )
    return str(ModelCard(f"---\n{metadata(facts).to_yaml()}\n---\n\n{body}"))


def _home(facts: ModelFacts) -> str:
    """Return the name of the evaluated cells in the table of the main results."""
    data = facts.metrics["data"]
    if facts.of_split:
        return f"the {data['split']} split of {facts.dataset_link}"
    return ", ".join(source["title"] for source in _sources(data["sources"]))


def metadata(facts: ModelFacts) -> ModelCardData:
    """Return the card's YAML: task, licence, data, metrics, and a widget with the examples."""
    return ModelCardData(
        license="mit",
        library_name="transformers",
        pipeline_tag=TASK,
        tags=_TAGS,
        datasets=[facts.dataset] if facts.dataset else None,
        metrics=sorted({_METRICS[name][0] for name in _measured(facts.metrics)}),
        base_model=TrainingFacts(facts.settings).base_model,
        widget=[
            {"src": f"{HUB}/{facts.repository}/resolve/main/{example['file']}", "example_title": example["class"]}
            for example in facts.examples
        ]
        or None,
        model_name=facts.repository.rpartition("/")[2],
        eval_results=_eval_results(facts),
    )


def _measured(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics for the Hub that were measured, rounded."""
    return {name: round(metrics[name], _DIGITS) for name in _METRICS if metrics.get(name) is not None}


def _eval_results(facts: ModelFacts) -> list[EvalResult]:
    """Return the results of the evaluated cells, then those of each external source."""
    data = facts.metrics["data"]
    dataset: dict[str, Any]
    if facts.of_split and facts.dataset:
        dataset = {"dataset_type": facts.dataset, "dataset_name": facts.dataset}
        dataset |= {"dataset_config": CONFIG, "dataset_split": data["split"]}
    else:
        titles = [source["title"] for source in data["sources"].values()]
        dataset = {"dataset_type": "+".join(data["sources"]), "dataset_name": ", ".join(titles)}
    results = _results(facts.metrics, **dataset)
    for name, metrics in facts.external.items():
        results += _results(metrics, dataset_type=name, dataset_name=metrics["title"] or name)
    return results


def _results(metrics: Mapping[str, Any], **dataset: Any) -> list[EvalResult]:
    return [
        EvalResult(
            task_type=TASK,
            task_name="Image classification",
            metric_type=_METRICS[name][0],
            metric_name=_METRICS[name][1],
            metric_config=_METRICS[name][2],
            metric_value=value,
            **dataset,
        )
        for name, value in _measured(metrics).items()
    ]


def evaluation_results(facts: ModelFacts) -> str:
    """Return the YAML of `.eval_results/celluscan.yaml`; an empty list for data that is not on the Hub.

    https://huggingface.co/docs/hub/eval-results
    """
    if not (facts.of_split and facts.dataset):
        return yaml.safe_dump([])
    data, intervals = facts.metrics["data"], facts.metrics.get("ci95") or {}
    entries = []
    for name, value in _measured(facts.metrics).items():
        notes = [f"{data['split']} split", f"{facts.metrics['n']} cells"]
        if name in intervals:
            notes.append("95 % interval {:.4f}–{:.4f}".format(*intervals[name]))
        notes.append(f"data fingerprint {data['fingerprint'][:12]}")
        entries.append(
            EvalResultEntry(
                dataset_id=facts.dataset,
                task_id=name,
                value=value,
                source_url=f"{HUB}/{facts.repository}",
                source_name="Model card",
                notes=", ".join(notes),
            )
        )
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True, width=120)


def _sources(described: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """Describe the sources of the evaluated cells, with citation and URL of published ones.

    `key` is the name of the source on the command line.
    """
    rows = []
    for name, source in described.items():
        info = READERS[name].info if name in READERS else None
        published = info if info is not None and info.title == source["title"] else None
        rows.append(
            {
                "name": name,
                "key": source.get("key") or (name if name in KEYS else f"imagefolder:{name}"),
                "title": source["title"] or name,
                "license": source["license"] or "not stated",
                "caution": source["caution"],
                "citation": published.citation if published else "",
                "url": published.url if published else "",
            }
        )
    return rows


def _weak_classes(metrics: Mapping[str, Any]) -> dict[str, list[str]]:
    """Name the classes with `few_cells` in the evaluation, with none (`untested`), and with `low_recall` of enough."""
    per_class: Mapping[str, Mapping[str, Any]] = metrics["per_class"]
    names = [cell.name for cell in ORDER]
    present = [name for name in names if per_class[name]["support"]]
    return {
        "untested": [name for name in names if name not in present],
        "few_cells": [f"{name} ({per_class[name]['support']})" for name in present if per_class[name]["support"] < FEW],
        "low_recall": [
            f"{name} ({100 * per_class[name]['recall']:.1f} %)"
            for name in present
            if per_class[name]["recall"] < WEAK and per_class[name]["support"] >= FEW
        ],
    }


def _duration(seconds: float) -> str:
    """Format seconds; from a minute on also in the larger unit."""
    for size, unit in ((3600, "hours"), (60, "minutes")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit} ({seconds:,.0f} s)"
    return f"{seconds:.1f} s"


def _mean_confidence(metrics: Mapping[str, Any]) -> float | None:
    """Compute the mean probability of the top class from the bins of the calibration error."""
    bins = metrics.get("calibration") or []
    cells = sum(row["n"] for row in bins)
    return sum(row["n"] * row["confidence"] for row in bins) / cells if cells else None
