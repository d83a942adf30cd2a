"""Write the tables of measured values into the project's texts, and the classes into files that stand alone.

`python scripts/tables.py` does both.

A table stands between `<!-- table: NAME -->` and `<!-- end -->` in a Markdown file. NAME is a function of `TABLES`,
which makes the lines from `results/*.json`. A tuple of class names stands below a line that names this script.
`scripts/test.sh` runs this and fails if a file changes.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable
from math import comb
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from celluscan_hf import taxonomy  # noqa: E402
from celluscan_hf.curation import hash_search  # noqa: E402
from celluscan_hf.curation.hash_masks import MAX_DISTANCE, covering_masks  # noqa: E402
from celluscan_hf.sources import READERS  # noqa: E402
from celluscan_hf.sources.licenses import redistributable  # noqa: E402

MARKED = re.compile(r"^(<!-- table: ([\w-]+) -->\n).*?^(<!-- end -->)$", re.S | re.M)
CLASSES = re.compile(r"^(# of taxonomy\.py, written here by scripts/tables\.py\n\w+ = \(\n).*?^(\))$", re.S | re.M)
SPLITS = {"random": "after augmentation, at random", "grouped": "by group, before augmentation"}
LEAKS = {"leak": "short", "leak-memorized": "overfitted"}
ADAPTED_TO = 10  # cells of each class
TRAININGS = {"plain": "plain", "background_randomization": "`--background_randomization 0.5`"}
SECOND = "352x352/jpeg-c95c4e/neutral"  # the second acquisition of PBC
LABORATORIES = {"bccd": "BCCD", "aml_lmu": "AML-Cytomorphology_LMU"}
PLACES = LABORATORIES | {"bcisc": "BCISC", "bone_marrow": "bone marrow (MLL)"}
ABLATION = {
    "ablation-today-*.json": "with rotations, shifts and slight jitter alone",
    "ablation-augmented-*.json": "with stain, light, scale and blur varied",
    "cpu-robust*.json": "and the colours of each image standardized: `cpu-robust`",
}
VIEWS = (
    ("shortcut", "background_accuracy"),
    ("shortcut-one-acquisition", "background_accuracy"),
    ("shortcut", "background_accuracy_half_randomized"),
    ("shortcut", "background_accuracy_randomized"),
    ("shortcut-one-acquisition", "background_accuracy_randomized"),
)
MEASURED = 10**7  # hashes
RANDOM_PAIRS = 7.5 * sum(comb(64, bits) for bits in range(MAX_DISTANCE + 1)) / 2**64  # to the square of the hashes
Table = tuple[list[str], list[list[str]]]


def get(record: Any, *keys: str) -> Any:
    """Look up nested keys."""
    for key in keys:
        record = record[key]
    return record


def metrics(name: str, *keys: str) -> Any:
    """Metrics of `results/NAME.json`, or what stands below `keys` in them."""
    return get(json.loads((ROOT / "results" / f"{name}.json").read_text("utf-8")), "metrics", *keys)


def interval(record: dict[str, Any], name: str) -> str:
    low, high = record["ci95"][name]
    return f"{record[name]:.3f} ({low:.3f}–{high:.3f})"


def minutes_of(run: dict[str, Any]) -> float:
    """Minutes of a training, without what other programs took from it if that is known."""
    return float(run.get("training_seconds_undisturbed", run["training_seconds"])) / 60


def duration(run: dict[str, Any]) -> str:
    """How long a training took, and on how many cores."""
    minutes = f"{minutes_of(run):.0f} minutes" if minutes_of(run) > 1 else "under a minute"
    return f"{minutes} on {'one core' if run['device'] == 'cpu, 1 threads' else 'two cores'}"


def times_chance(view: dict[str, Any]) -> str:
    return f"{view['ring']['balanced_accuracy'] / view['ring']['chance']:.2f}"


def recipes() -> Table:
    models = {
        "cpu-small": "plain ViT, 5 x 192, 72 px",
        "cpu-best": "the same at 96 px with a convolution stem",
        "cpu-robust": "the same, for other laboratories",
    }
    rows = []
    for name, model in models.items():
        test = metrics(name, "test")
        scores = [interval(test, "macro_f1"), interval(test, "accuracy")]
        rows.append([f"`{name}`", model, duration(metrics(name)), *scores])
    bundled = metrics("bundled", "test_per_source", "pbc")
    scores = [interval(bundled, "macro_f1"), interval(bundled, "accuracy")]
    rows.append(["`bundled`", "the same, on five laboratories: `wbc-small`", duration(metrics("bundled")), *scores])
    unmeasured = {
        "finetune": "ViT-B/16 with ImageNet weights, our full training recipe",
        "lora`, `probe": "DinoBloom with low-rank adapters; with a new head alone, also on a CPU",
        "scratch": "ViT-S/16 (or B/16) from random weights",
        "original-probe`, `original-scratch": "the runs of the student project",
    }
    rows += [[f"`{name}`", model, "GPU", "not measured", "–"] for name, model in unmeasured.items()]
    return ["recipe", "model", "training", "macro-F1", "accuracy"], rows


def trust() -> Table:
    bundled, robust, leak = metrics("bundled"), metrics("cpu-robust"), metrics("leak-memorized", "random")
    count, train = len(bundled["data"]["sources"]), bundled["data"]["rows"]["train"]
    tested = f"{bundled['test']['n']:,} test cells of {count} laboratories; {train:,} in train, split by group"
    rows = [["`wbc-small`", tested, interval(bundled["test"], "accuracy")]]
    two, four = metrics("two-laboratories", "external"), metrics("left-out-robust", "bone_marrow", "recipe", "left_out")
    for words, key, place in (
        ("`cpu-robust`, trained on PBC", "bcisc", robust["external"]["bcisc"]),
        ("`bundled`, trained on PBC and bone marrow", "bcisc", two["bcisc"]),
        ("the same", "bccd", two["bccd"]),
        ("`cpu-robust`, trained on the four others", "bone_marrow", four),
    ):
        five = place["five_classes"]
        tested = f"**another laboratory**: {PLACES[key]}, {five['n']} white cells"
        rows.append([words, tested, interval(five["any_answer"], "accuracy")])
    adapted = {(row["source"], row["method"], row["shots"]): row for row in adaptation_rows()}
    same_model = [row["source"] for row in metrics("adaptation", "rows") if row["method"] == "auto"]
    for key in ("bcisc", "bone_marrow"):
        tested = f"{PLACES[key]}: other cells, after {ADAPTED_TO} labelled cells of each of five classes"
        if key in same_model:
            tested += f" (before: {adapted[key, 'none', 0]['accuracy']:.3f})"
        accuracy = f"{adapted[key, 'auto', ADAPTED_TO]['accuracy']:.3f}"
        rows.append(["`cpu-robust`, trained on PBC, **adapted** (`auto`)", tested, accuracy])
    rows += [
        [
            "`cpu-small`, leaking split, overfitted",
            "its own test: copies of the cells are in train",
            own(leak, "own_originals"),
        ],
        ["the same model", "held-out cells", own(leak, "held_out")],
    ]
    return ["model", "tested on", "accuracy"], rows


def own(record: dict[str, Any], test: str) -> str:
    return interval(get(record, test), "accuracy")


def sources() -> Table:
    rows = []
    for key, reader in READERS.items():
        if reader.info.url and key not in ("imagefolder", "hf_dataset"):
            shared = "yes" if redistributable(reader.info.license) else "no"
            rows.append([f"`{key}`", f"[{reader.info.title}]({reader.info.url})", reader.info.license, shared])
    return ["key", "dataset", "licence of the images", "may be republished"], rows


def external() -> Table:
    rows = []
    for model in ("cpu-best", "cpu-robust"):
        run = metrics(model)
        places = {f"its own test split, {run['test']['n']:,} cells": run["test"]}
        places |= {
            f"another laboratory: {PLACES[key]}, {place['n']:,} cells": place for key, place in run["external"].items()
        }
        for cells, scores in places.items():
            five = scores.get("five_classes")
            told = five["told_five"]["macro_f1"] if five else None
            among = "–" if five is None else f"{five['any_answer']['macro_f1']:.2f} ({told:.2f})"
            rows.append([f"`{model}`", cells, interval(scores, "accuracy"), interval(scores, "macro_f1"), among])
    return ["model", "cells", "accuracy", "macro-F1", "macro-F1 of the five white cells"], rows


def laboratories() -> Table:
    places = {"bcisc": "BCISC", "bone_marrow": "bone marrow"}
    rows = []
    for pattern, title in ABLATION.items():
        for file in sorted((ROOT / "results").glob(pattern)):
            run = metrics(file.stem)
            scores = [f"{run['test']['macro_f1']:.3f}"]
            for kind in ("external", "external_target_statistics"):
                for key in places:
                    scores.append(five_f1(run[kind][key]))
            rows.append([title, str(run["seed"]), *scores])
    titles = [*places.values(), *(f"{title}, its batch-norm statistics" for title in places.values())]
    return ["training on PBC alone", "seed", "other cells of PBC, 13 classes", *titles], rows


def longer() -> Table:
    """`cpu-robust` on PBC alone for longer, one seed, and what it is worth there and elsewhere."""
    rows = []
    for name in ("cpu-robust", "longer-42"):
        run = metrics(name)
        epochs = run["settings"]["num_train_epochs"]
        elsewhere = [five_f1(run["external"][key]) for key in PLACES]
        rows.append([f"{epochs:.0f}", duration(run), f"{run['test']['macro_f1']:.3f}", *elsewhere])
    return ["epochs", "training", "other cells of PBC, 13 classes", *(PLACES.values())], rows


def more_laboratories() -> Table:
    alone, three = metrics("cpu-robust", "external"), metrics("three-laboratories", "external")
    others = {key: run["recipe"]["left_out"] for key, run in metrics("left-out-robust").items()}
    several = [(key, "all others", place) for key, place in others.items()]
    several += [(key, "PBC, bone marrow, BCISC", place) for key, place in three.items()]
    two = metrics("two-laboratories", "external")
    several += [(key, "PBC, bone marrow; recipe `bundled`", place) for key, place in two.items()]
    rows = []
    for key, trained_on, place in several:
        cells = place["five_classes"]["n"]
        scores = [five_f1(alone[key]), five_f1(place), trained_on]
        rows.append([PLACES[key], str(cells), *scores])
    return ["laboratory that is not trained on", "white cells", "PBC alone", "several laboratories", "these"], rows


def five_f1(place: dict[str, Any]) -> str:
    five = place["five_classes"]
    return f"{five['any_answer']['macro_f1']:.3f} ({five['told_five']['macro_f1']:.3f})"


def adaptation_rows() -> list[dict[str, Any]]:
    """What the benchmark of adaptation measured; `auto` on BCISC in a run of its own."""
    rows = metrics("adaptation-auto", "rows") + metrics("adaptation", "rows")  # the second counts where both measured
    return list({(row["source"], row["method"], row["shots"]): row for row in rows}.values())


def adaptation() -> Table:
    methods = {"calibration": "calibrated only", "head": "head", "auto": "auto", "scratch": "trained on these alone"}
    found = {(row["source"], row["shots"], row["method"]): row for row in adaptation_rows()}
    rows = []
    for place, shots in sorted({key[:2] for key in found}):
        of_size = [found.get((place, shots, method if shots else "none")) for method in methods]
        if not shots:
            of_size[-1] = None  # it knows nothing yet
        scores = ["–" if row is None else adapted(row) for row in of_size]
        reliability = [
            f"{row['ece']:.2f}, {row['coverage']:.2f}" if (row := found.get((place, shots, method))) else "–"
            for method in ("head", "auto")
        ]
        rows.append([PLACES[place], str(shots), *scores, *reliability])
    named = ["laboratory", "labelled cells of each class", *methods.values()]
    return [*named, *(f"{method}: ECE, coverage of 90 % prediction sets" for method in ("head", "auto"))], rows


def adapted(row: dict[str, Any]) -> str:
    low, high = row.get("ci95", (None, None))
    return f"{row['balanced_accuracy']:.2f}" + (f" ({low:.2f}–{high:.2f})" if low is not None else "")


def features() -> Table:
    titles = {
        "out/robust-7/run": "`cpu-robust`, trained on PBC alone",
        "out/dinov2-random": "DINOv2 ViT-S/14 of random weights",
        "pixels": "`pixels`",
        "colours": "`colours`",
    }
    rows = []
    for start, found in metrics("features", "starts").items():
        scores = [f"{found['test'][way]['balanced_accuracy']:.2f}" for way in ("probe", "knn_1", "knn_20")]
        shots = [f"{found['test']['few_shot'][shots]['balanced_accuracy']:.2f}" for shots in ("1", "5")]
        rows.append([titles[start], str(found["width"]), *scores, *shots])
    return ["features", "width", "linear probe", "1 neighbour", "20 neighbours", "1 cell of each class", "5"], rows


def leak() -> Table:
    tests = ("own", "own_originals", "held_out")
    rows = []
    for file, training in LEAKS.items():
        for name, words in SPLITS.items():
            run = metrics(file, name)
            scores = [f"{get(run, test)[metric]:.3f}" for metric in ("accuracy", "macro_f1") for test in tests]
            rows.append([training, words, f"{run['train_images']:,}", f"{run['related_share']:.0%}", *scores])
    header = ["training", "split", "train images", "test cells with a copy in train", "accuracy: own test"]
    return [*header, "its originals", "held out", "macro-F1: own test", "its originals", "held out"], rows


def leak_short() -> Table:
    rows = []
    for file, training in LEAKS.items():
        for name, words in SPLITS.items():
            run = metrics(file, name)
            scores = [f"{get(run, test)['accuracy']:.3f}" for test in ("own_originals", "held_out")]
            rows.append([training, words, f"{run['related_share']:.0%}", *scores])
    header = ["training", "split", "test cells with a copy in train", "accuracy, originals of its own test"]
    return [*header, "accuracy, held-out cells"], rows


def leak_bias() -> Table:
    rows = []
    for file, training in LEAKS.items():
        for name, words in SPLITS.items():
            bias = metrics(file, name, "optimism")
            rows.append([training, words, f"{bias['accuracy']:+.3f}", f"{bias['macro_f1']:+.3f}"])
    return ["training", "split", "accuracy too high by", "macro-F1 too high by"], rows


def shortcut() -> Table:
    inputs = {
        "ring": "outer ring of pixels",
        "background": "colour of the background",
        "size": "width and height of the image file",
        "coding": "its format and compression",
        "source": "source",
        "all": "all of these",
    }
    views = [metrics(*view) for view in VIEWS]
    rows = []
    for name, words in inputs.items():
        scores = [view.get(name, {}).get("balanced_accuracy") for view in views]
        rows.append([words, *("–" if score is None else f"{score:.2f}" for score in scores)])
    rows.append(["chance", *(f"{view['ring']['chance']:.2f}" for view in views)])
    rows.append(["ring, times chance", *map(times_chance, views)])
    header = ["predicted from", "as it is", "one acquisition", "half randomized", "all randomized"]
    return [*header, "one acquisition, all randomized"], rows


def shortcut_seeds() -> Table:
    files = {"42": "shortcut", "43": "shortcut-43", "44": "shortcut-44"}
    return ["all randomized, seed", *files], [
        [
            "ring, times chance",
            *(times_chance(metrics(file, "background_accuracy_randomized")) for file in files.values()),
        ]
    ]


def shortcut_models() -> Table:
    rows = []
    for recipe in ("cpu-best", "cpu-small"):
        for suffix, share in (("-plain", "0"), ("", "0.5"), ("-all", "1.0")):
            model = metrics("shortcut", "models", f"out/{recipe}{suffix}/run")
            inputs = [get(model, name) for name in ("untouched", "covered", "background_randomized")]
            probe = get(model, "acquisition_probe_accuracy", "acquisition")
            scores = [record["balanced_accuracy"] for record in (model["border"]["as_is"], *inputs, probe)]
            rows.append([f"`{recipe}`", share, *(f"{score:.2f}" for score in scores)])
    header = ["model", "background randomized in training", "forest on the border of the crop", "images as they are"]
    return [*header, "cell covered", "background randomized", "acquisition probe"], rows


def shortcut_cost() -> Table:
    left_out = {key: metrics("acquisition", SECOND, key, "left_out") for key in TRAININGS}
    runs = {
        "0%": ("background_accuracy", "-plain", "plain"),
        "50%": ("background_accuracy_half_randomized", "", "background_randomization"),
        "100%": ("background_accuracy_randomized", "-all", None),
    }
    rows = []
    for share, (view, suffix, training) in runs.items():
        scores = []
        for part in ("validation", "untouched"):
            for recipe in ("cpu-small", "cpu-best"):
                model = metrics("shortcut", "models", f"out/{recipe}{suffix}/run")
                scores.append(f"{get(model, part)['macro_f1']:.3f}")
        away = interval(left_out[training], "balanced_accuracy") if training else "not measured"
        rows.append([share, times_chance(metrics("shortcut", view)), *scores, away])
    header = ["images randomized", "ring, times chance", "validation: `cpu-small`", "`cpu-best`", "test: `cpu-small`"]
    return [*header, "`cpu-best`", "second acquisition, unseen: balanced accuracy"], rows


def acquisition() -> Table:
    rows = []
    for file in ("acquisition", "acquisition-43"):
        seed = json.loads((ROOT / "results" / f"{file}.json").read_text("utf-8"))["seed"]
        for key, words in TRAININGS.items():
            run = metrics(file, SECOND, key)
            means = [interval(run[part], "balanced_accuracy") for part in ("same_classes", "left_out")]
            scores = [interval(run["learned"], "macro_f1"), *means, interval(run["left_out"], "accuracy")]
            rows.append([words, str(seed), *scores])
    header = ["training", "seed", "trained on, 11 classes: macro-F1", "the five classes: balanced accuracy"]
    return [*header, "left out: balanced accuracy", "accuracy"], rows


def acquisition_recall() -> Table:
    classes = ("Basophil", "Eosinophil", "Erythroblast", "Lymphocyte", "Monocyte")
    rows = []
    for key, words in TRAININGS.items():
        recall = metrics("acquisition", SECOND, key, "left_out", "per_class")
        rows.append([words, *(f"{recall[name]['recall']:.2f}" for name in classes)])
    return ["recall on the second acquisition", *classes], rows


def before_and_after(size: dict[str, Any]) -> list[str]:
    return [
        f"{size['before'][name]['mean']:.2f} → {size['after'][name]['mean']:.2f} (±{get(size['gain'][name], 'sd'):.2f})"
        for name in ("accuracy", "nll", "ece")
    ]


FITTED = ["accuracy", "negative log-likelihood", "calibration error"]


def acquisition_recalibrated() -> Table:
    rows = []
    for key, words in TRAININGS.items():
        for size in metrics("acquisition", SECOND, key, "recalibrated"):
            rows.append([words, str(size["cells"]), *before_and_after(size)])
    return ["training", "cells fitted to", *FITTED], rows


def recalibrated() -> Table:
    rows = []
    for key, title in LABORATORIES.items():
        for size in metrics(f"recalibration-{key}", "sizes"):
            rows.append([title, str(size["cells"]), *before_and_after(size)])
    return ["source", "cells fitted to", *FITTED], rows


def left_out() -> Table:
    rows = []
    for value, title in (*LABORATORIES.items(), ("pbc", "PBC")):
        for key, words in TRAININGS.items():
            run = metrics("left-out", value, key)
            away = run["left_out"]
            scores = [interval(away, "accuracy"), f"{away['related']['accuracy']:.3f}"]
            scores.append(interval(away, "balanced_accuracy"))
            rows.append([title, words, interval(run["learned"], "accuracy"), f"{away['n']:,}", *scores])
    header = ["left out", "training", "trained on: accuracy", "left out: cells", "accuracy"]
    return [*header, "accuracy, parent or child counted as right", "balanced accuracy"], rows


def losses() -> Table:
    rows = []
    files = {"losses": "all as fine as they are", "losses-coarse": "half of the groups by the parent"}
    for file, labels in files.items():
        for loss, run in metrics(file).items():
            scores = [
                f"{run[name]['mean']:.3f} ({', '.join(f'{value:.3f}' for value in run[name]['values'])})"
                for name in ("macro_f1", "finest_macro_f1")
            ]
            shares = [f"{run[name]['mean']:.1%}" for name in ("to_parent", "adjacent", "distant")]
            rows.append([labels, loss, *scores, f"{run['parent_macro_f1']['mean']:.3f}", *shares])
    header = ["labels", "loss", "macro-F1", "finest classes", "parent level", "answered with the parent"]
    return [*header, "one stage off", "more than one"], rows


def loss_gains() -> Table:
    rows = []
    files = {"losses": "all as fine as they are", "losses-coarse": "half of the groups by the parent"}
    for file, labels in files.items():
        for loss, run in metrics(file).items():
            if loss != "flat":
                gains = [(run[name]["gain"], *run[name]["gain_ci95"]) for name in ("macro_f1", "finest_macro_f1")]
                rows.append([labels, loss, *(f"{gain:+.3f} ({low:+.3f} to {high:+.3f})" for gain, low, high in gains)])
    return ["labels", "loss", "macro-F1, minus flat", "among the finest classes, minus flat"], rows


def labels() -> Table:
    given, trial = metrics("labels-as-given"), metrics("labels")
    pairs: dict[frozenset[str], int] = {}
    for pair in given["listed"]["pairs"]:
        names = frozenset((pair["label"], pair["suggested"]))
        pairs[names] = pairs.get(names, 0) + pair["n"]
    corrupted, by_class = trial["corrupted"], given["listed"]["by_class"]
    return ["labels", "what", "cells"], [
        ["as they are", "listed", f"{given['listed']['n']:,} of {sum(given['cells'].values()):,}"],
        [
            "",
            "Band for Segmented Neutrophil or the reverse",
            str(pairs[frozenset(("Band Neutrophil", "Segmented Neutrophil"))]),
        ],
        ["", "Myelocyte for Metamyelocyte or the reverse", str(pairs[frozenset(("Myelocyte", "Metamyelocyte"))])],
        ["", "Platelets; Eosinophils", f"{by_class['Platelet']['listed']}; {by_class['Eosinophil']['listed']}"],
        [f"{corrupted['cells']} corrupted", "listed", f"{trial['listed']['n']:,} of {sum(trial['cells'].values()):,}"],
        ["", "corrupted ones found", f"{corrupted['found']} ({corrupted['recall']:.0%})"],
        ["", "corrupted ones among the listed", f"{corrupted['precision']:.0%}"],
        ["", "among the first sixty", f"{corrupted['precision_first']:.0%}"],
        ["", "found, with the true class suggested", f"{corrupted['suggested_right']:.0%}"],
    ]


def calibration() -> Table:
    test = metrics("reliability", "test")
    names = {"accuracy": "accuracy", "nll": FITTED[1], "ece": FITTED[2], "brier": "Brier score"}
    rows = [[words, *(f"{test[when][name]:.3f}" for when in ("before", "after"))] for name, words in names.items()]
    return [f"{test['n']:,} test cells", "before", "after"], rows


def calibration_external() -> Table:
    rows = []
    for key, title in LABORATORIES.items():
        run = metrics(f"recalibration-{key}")
        changes = [f"{run['uncalibrated'][name]:.2f} → {run['all'][name]:.2f}" for name in ("nll", "ece")]
        rows.append([f"{title}, {run['cells']} cells", *changes, f"{get(run, 'out_of_distribution'):.0%}"])
    return ["cells", *FITTED[1:], "flagged as out-of-distribution"], rows


def conformal() -> Table:
    rows = []
    for record in metrics("reliability", "sets"):
        least = min(record["per_class"], key=record["per_class"].__getitem__)
        limit = "by class" if record["by_class"] else "overall"
        coverage = [f"{record['coverage']:.1%}", f"{record['size']:.2f}", f"{least}, {record['per_class'][least]:.1%}"]
        rows.append([f"{record['asked']:.0%}", limit, *coverage])
    return ["asked", "limit", "covered", "classes in a set", "least covered class"], rows


def conformal_classes() -> Table:
    records = sorted(metrics("reliability", "sets"), key=lambda record: (record["by_class"], record["asked"]))
    header = [f"{record['asked']:.0%}, {'by class' if record['by_class'] else 'overall'}" for record in records]
    return ["class", *header], [
        [name, *(f"{record['per_class'][name]:.1%}" for record in records)] for name in records[0]["per_class"]
    ]


def abstention() -> Table:
    run = metrics("reliability")
    answers = get(run, "confident_answers")
    threshold = get(answers, "confidence_threshold")
    return ["confidence threshold", "test cells answered", "of these right", "area under the risk–coverage curve"], [
        [f"{threshold:.2f}", f"{answers['share']:.1%}", f"{answers['right']:.1%}", f"{run['aurc']:.3f}"]
    ]


def ood() -> Table:
    rows = []
    for kind, record in metrics("reliability", "ood_sets").items():
        scores = [f"{record['distance']['0.98']:.0%}", f"{record['distance']['auroc']:.2f}"]
        scores += [f"{record[score]['0.98']:.0%}" for score in ("features", "colours", "energy")]
        rows.append([kind, f"{record['n']:,}", *scores])
    return [
        "images",
        "n",
        "flagged",
        "AUROC",
        "by features",
        "by colours",
        "by energy",
    ], rows


def stain() -> Table:
    """Share of images refused, by kind and part: smallest and largest over the laboratories, if there are several."""
    kinds: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for record in metrics("stain", "groups"):
        laboratory, _, what = record["images"].rpartition(": ")
        if "another stain" in what or what.startswith("platelets"):
            continue
        name = f"{laboratory}: {what}" if record["kind"] == "cell" and laboratory else what
        kinds.setdefault(name, {}).setdefault(record["part"], []).append((record["n"], record["refused"]))
    rows = []
    for name, parts in kinds.items():
        cells = []
        for part in ("fit", "validation", "test"):
            shares = [share for _, share in parts.get(part, [])]
            spread = f"{min(shares):.1%}–{max(shares):.1%}" if len(shares) > 1 else "".join(f"{x:.1%}" for x in shares)
            cells.append(f"{spread} of {sum(n for n, _ in parts[part]):,}" if shares else "")
        rows.append([name, *cells])
    return ["refused", "fit", "validation", "test"], rows


def copies() -> Table:
    run = metrics("copies")
    near = run["turned"].values()
    rows = [
        [
            "mirrored or rotated by quarters, stored anew in another size and JPEG quality",
            *(f"{sum(kind[key] for kind in near):,}" for key in ("copies", "found", "pairs_of_different_cells")),
        ]
    ]
    rows += [
        [
            words.replace("turned", "shifted" if "hue" in words else "rotated"),
            f"{kind['copies']:,}",
            f"{kind['found']:,}",
            f"{kind['pairs_of_different_cells']:,}",
        ]
        for words, kind in run["not_what_it_is_made_for"].items()
    ]
    return ["copies", "made", "found", "pairs of different cells"], rows


def duplicates() -> Table:
    rows = []
    for name, run in metrics("duplicates-scaling").items():
        ours, faiss = run["eight_orientations"], run["faiss_upright_only"]
        workers = ours["processes"] if ours["processes"] > 1 else 0  # else the main process does all of it
        peak = ours["peak_mib_of_the_main_process"] + workers * ours["peak_mib_of_a_worker"]
        rows.append(
            [
                f"{int(name.split('_')[1]):,}",
                name.split("_")[0],
                f"{ours['tasks_run']} of {ours['tasks']}",
                f"{ours['seconds']:,.1f}",
                f"{ours['cpu_seconds']:,.1f}",
                f"{peak / 1024:.1f}",
                f"{faiss['queries_run'] / faiss['hashes']:.1%}",
                f"{faiss['seconds']:,.1f}",
            ]
        )
    header = ["hashes", "kind", "tasks run", "seconds", "processor seconds", "GiB"]
    return [*header, "faiss: run", "faiss: seconds"], rows


def duplicates_skew() -> Table:
    skew = metrics("duplicates-cells", "skew")
    header = [
        *("hashes of", "number", "pairs within 8 bits, to its square", "largest of 16 parts to the mean", "of 256"),
        *("most that agree", "candidates a key"),
    ]
    rows = []
    for name, words in {"cells": "real cells", "resampled": "real cells, noise added", "random": "random"}.items():
        record = skew[name]
        largest = (f"{record['largest_part_to_mean'][parts]:.2f}" for parts in ("16", "256"))
        near = f"{record['near_pairs_to_squared_hashes']:.1e}"
        most, candidates = record["most_upright_hashes_that_agree"], record["candidates_per_key"]
        rows.append([words, f"{record['hashes']:,}", near, *largest, f"{most:,}", f"{candidates:.3f}"])
    return header, rows


def duplicates_plan() -> Table:
    """Extrapolate the search on 64 machines of 16 cores from what was measured at 10^7 hashes."""
    header = [
        *("images", "hashes", "parts", "ns a key: sorting + candidates + further parts", "core hours"),
        *("minutes on 64 machines", "GB in each", "TB read in all", "pairs within 8 bits", "GB of pairs"),
    ]
    return header, [planned(kind, count) for kind in ("random", "real") for count in (MEASURED, 10**8, 10**9)]


def planned(kind: str, count: int) -> list[str]:
    """A row of `duplicates_plan`. The cost of a candidate is what real cells cost more than random hashes."""
    skew = metrics("duplicates-cells", "skew")
    drawn = {"random": skew["random"], "real": skew["resampled"]}
    candidates = {name: record["candidates_per_key"] for name, record in drawn.items()}
    random, real = (
        metrics(file, f"{name}_{MEASURED}", "eight_orientations", "cpu_ns_per_key")
        for file, name in (("duplicates-scaling", "random"), ("duplicates-cells", "cells"))
    )
    per_candidate = (real - random) / (candidates["real"] - candidates["random"])
    parts = -(-8 * count // hash_search.SORTED_KEYS)
    costs = [
        random - per_candidate * candidates["random"],
        per_candidate * candidates[kind] * count / MEASURED,
        (parts - 1) * skew["random"]["ns_to_pass_over_a_key"],
    ]
    seconds = len(covering_masks()) * 8 * count * sum(costs) / 1e9
    near = RANDOM_PAIRS if kind == "random" else skew["cells"]["near_pairs_to_squared_hashes"]
    return [
        f"{count:,}",
        kind,
        f"{parts}",
        " + ".join(f"{cost:,.0f}" for cost in costs),
        f"{seconds / 3600:,.1f}",
        f"{seconds / 60 / (64 * 16):,.1f}",
        f"{64 * count / 1e9:,.1f}",
        f"{64 * 64 * count / 1e12:,.2f}",
        f"{near * count**2:.0e}",
        f"{18 * near * count**2 / 1e9:,.0f}",
    ]


def speed() -> Table:
    curation, loader, serving = metrics("curation"), metrics("loader"), metrics("serving")
    model = metrics("model")
    many, ray = metrics("curation-scale", "10000000"), metrics("ray")
    best = "times_as_fast_as_the_fastest"
    return ["what, on two CPU cores", "measured"], [
        [
            "dataset build, files to parquet",
            f"{curation['median_images_per_second_to_parquet']:.0f} images/s; "
            f"{curation['median_ratio_to_cleanvision']:.1f} times CleanVision",
        ],
        ["augmentation on build", f"{metrics('balancing')['median_variants_per_second']:.0f} images/s"],
        [
            "curation of 10⁷ images, without decoding and near duplicates, on one core",
            f"{many['seconds'] / 60:.0f} minutes, {many['peak_mib'] / 1024:.1f} GiB",
        ],
        *(
            [f"two Ray workers against one: {what}", f"{ray[key]['two_ray_workers_to_one']:.2f} times as fast"]
            for what, key in (("build", "build_stages_of_workers"), ("prediction", "predict"))
        ),
        ["memory with 4 times the images", f"{metrics('memory')['ratio_4x_to_1x']:.2f} times"],
        [
            "augmented images in training",
            f"{loader['images_per_second']['celluscan']:,.0f} images/s; "
            f"{loader['times_as_fast']:.2f} times torchvision",
        ],
        [
            "ViT-B/16 against the fastest of transformers, torchvision, timm",
            f"forward {model['forward'][best]:.2f}, training step {model['training_step'][best]:.2f} times as fast",
        ],
        ["demo page, ViT-B/16: file to answer", f"{serving['file_to_answer_seconds']['median']:.2f} s"],
    ]


TABLES: dict[str, Callable[[], Table]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        recipes, trust, sources, external, laboratories, longer, more_laboratories, adaptation, features,
        leak, leak_short, leak_bias,
        shortcut, shortcut_seeds, shortcut_models, shortcut_cost,
        acquisition, acquisition_recall, acquisition_recalibrated, recalibrated, left_out, losses, loss_gains, labels,
        calibration, calibration_external, conformal, conformal_classes, abstention, ood, stain, copies, speed,
        duplicates, duplicates_skew, duplicates_plan,
    )
}  # fmt: skip


def markdown(table: Table) -> str:
    header, rows = table
    numeric = [all(re.match(r"[\d+–-]|$|not ", row[column]) for row in rows) for column in range(len(header))]
    lines = [header, ["---:" if right else "---" for right in numeric], *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def expected(name: str) -> str:
    """The line of a recipe that says what to expect of it."""
    run = metrics(name)
    sources = run["data"]["sources"]
    place = PLACES.get(sources[0], "the PBC part")
    cells = place if len(sources) == 1 else f"cells of {len(sources)} laboratories"
    return (
        f"# Expected on {cells} (results/{name}.json): {duration(run)}, "
        f"test macro-F1 {run['test']['macro_f1']:.3f}, accuracy {run['test']['accuracy']:.3f}."
    )


def update(path: Path) -> bool:
    """Rewrite the generated parts of one file; whether it changed."""
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        names = "".join(f'    "{name}",\n' for name in taxonomy.NAMES)
        new = CLASSES.sub(lambda match: match[1] + names + match[2], text)
    elif path.suffix == ".yaml":
        new = re.sub(r"^# Expected on .* \(results/.*$", lambda _: expected(path.stem), text, flags=re.M)
    else:
        new = MARKED.sub(lambda match: match[1] + markdown(TABLES[match[2]]()) + match[3], text)
    if new != text:
        path.write_text(new, "utf-8")
    return new != text


def texts() -> Iterable[Path]:
    """Files with generated parts."""
    recipes = ROOT / "celluscan_hf" / "training" / "recipes"
    alone = ("modeling/configuration_celluscan.py", "evaluation/wbc_metrics/wbc_metrics.py")
    return [
        *ROOT.glob("*.md"),
        *ROOT.glob("celluscan_hf/*/README.md"),
        *recipes.glob("*.yaml"),
        *(ROOT / "celluscan_hf" / path for path in alone),
    ]


if __name__ == "__main__":
    for path in texts():
        if update(path):
            print(f"updated {path.relative_to(ROOT)}")
