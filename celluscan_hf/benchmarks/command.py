"""The command `celluscan benchmark`: side-by-side measurements as JSON.

What is compared runs in turns within one run, so that its ratio also holds on a busy machine.
"""

import argparse
import json
import platform
import shlex
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from ..dataset.settings import cores
from ..versions import versions

PACKAGES = {
    "adaptation": ("celluscan_hf", "numpy", "scipy", "scikit-learn", "torch", "transformers"),
    "cpu": ("celluscan_hf", "torch", "transformers"),
    "curation_scale": ("celluscan_hf", "numpy", "pyarrow", "scipy", "scikit-learn"),
    "copies": ("celluscan_hf", "numpy", "pillow", "scipy", "torchvision"),
    "features": ("celluscan_hf", "numpy", "scikit-learn", "torch", "transformers"),
    "duplicates": ("celluscan_hf", "numpy", "faiss-cpu"),
    "data": ("celluscan_hf", "numpy", "pillow", "pyarrow", "scipy"),
    "model": ("celluscan_hf", "torch", "torchvision", "transformers", "timm"),
    "recipe": ("celluscan_hf", "torch", "torchvision", "transformers", "accelerate"),
    "reliability": ("celluscan_hf", "numpy", "scipy", "torch", "transformers", "pillow"),
    "scaling": ("celluscan_hf", "numpy", "pillow", "pyarrow", "torch", "transformers", "ray"),
    "serving": ("celluscan_hf", "torch", "transformers", "gradio", "gradio_client"),
    "stain": ("celluscan_hf", "numpy", "pillow", "scipy", "scikit-learn", "scikit-image"),
    "training": ("celluscan_hf", "torch", "torchvision", "transformers", "accelerate", "datasets", "pillow"),
}

_EXTRA = "needs the extra benchmark"
_DEFAULT = "(default: %(default)s)"
_ROUNDS = f"repetitions {_DEFAULT}"
_BATCH = f"images per step {_DEFAULT}"


def benchmark(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Run one benchmark and write its metrics with what they were measured on."""
    _add_benchmarks(parser)
    options = parser.parse_args(arguments)
    module = import_module(f"{__package__}.{options.module}")  # one alone: torch would weigh on what measures memory
    module.check_needs(options)
    result = {
        "what": options.what,
        "command": shlex.join(["celluscan", "benchmark", *arguments]),
        "machine": {"processor": platform.processor() or platform.machine(), "processes": options.num_proc},
        "software": versions(("python", *PACKAGES[options.module])),
        "metrics": getattr(module, options.what.replace("-", "_"))(options),
    }
    text = json.dumps(result, indent=1)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n", "utf-8")
    print(text)


def _add_benchmarks(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="benchmarks", dest="what", required=True, metavar="BENCHMARK")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", type=Path, help="also write the result to this file")
    common.add_argument("--num-proc", type=int, default=cores(), help="number of processes (default: the cores)")
    _add_data_commands(commands, common)
    _add_duplicates_command(commands, common)
    _add_model_command(commands, common)
    _add_training_commands(commands, common)
    _add_serving_command(commands, common)
    _add_reliability_commands(commands, common)


def _add_data_commands(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser
) -> None:
    described = {
        "curation": f"images per second from files to parquet, beside CleanVision; {_EXTRA}",
        "balancing": "augmented images per second",
        "memory": f"peak memory of a build with 1x and with 4x the images; {_EXTRA}",
    }
    for name, text in described.items():
        commands.add_parser(name, help=text, parents=[common]).set_defaults(module="data")
    for name in ("curation", "balancing"):
        commands.choices[name].add_argument("--pbc", type=Path, required=True, help="the folder of PBC")
        commands.choices[name].add_argument("--rounds", type=int, default=3, help=_ROUNDS)
    commands.choices["balancing"].add_argument(
        "--target", type=int, default=1500, help="rows per train class (default: %(default)s)"
    )
    commands.add_parser("copies", help="recall of the duplicate search on transformed copies", parents=[common])
    commands.choices["copies"].set_defaults(module="copies")
    commands.choices["copies"].add_argument("--pbc", type=Path, required=True, help="the folder of PBC")
    commands.choices["copies"].add_argument(
        "--count", type=int, default=500, help="cells that are copied (default: %(default)s)"
    )
    commands.add_parser(
        "ray", help="build and prediction on Ray: two workers, one, and none; needs the extra ray", parents=[common]
    )
    commands.choices["ray"].set_defaults(module="scaling")
    commands.choices["ray"].add_argument("--pbc", type=Path, required=True, help="the folder of PBC")
    commands.choices["ray"].add_argument(
        "--count", type=int, default=1000, help="images of each class, at most (default: %(default)s)"
    )
    commands.choices["ray"].add_argument("--rounds", type=int, default=3, help=_ROUNDS)
    scale = commands.add_parser(
        "curation-scale", help=f"time and peak memory of curation, on invented tables; {_EXTRA}", parents=[common]
    )
    scale.set_defaults(module="curation_scale")
    scale.add_argument(
        "--counts", type=int, nargs="+", default=[10**5, 10**6, 10**7], help=f"numbers of images {_DEFAULT}"
    )
    scale.add_argument(
        "--folder", type=Path, help="where the tables are written, about 1 KB an image (default: the temporary folder)"
    )
    commands.choices["memory"].add_argument(
        "--count", type=int, default=100, help="synthetic cells per class (default: %(default)s)"
    )


def _add_duplicates_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser
) -> None:
    text = f"time, memory and skew of the search for pairs of hashes within 8 bits; {_EXTRA}"
    command = commands.add_parser("duplicates", help=text, parents=[common])
    command.set_defaults(module="duplicates")
    command.add_argument(
        "--counts", type=int, nargs="+", default=[10**4, 10**5, 10**6], help=f"numbers of hashes {_DEFAULT}"
    )
    command.add_argument(
        "--cells", type=Path, help="folder of images: measure hashes of these, with noise, and the skew of their parts"
    )
    command.add_argument(
        "--tasks", type=int, help="tasks to run of each search, its time is scaled to all of them (default: all)"
    )
    command.add_argument(
        "--faiss-queries", type=int, default=65_536, help="hashes looked up by faiss; 0: without faiss (default: 65536)"
    )
    command.add_argument("--folder", type=Path, help="folder for temporary files (default: that of the system)")
    command.add_argument("--plot", type=Path, help="also draw time against the number of hashes, as PNG")


def _add_model_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser
) -> None:
    text = f"ViT-B/16 beside transformers, torchvision and timm; {_EXTRA}"
    command = commands.add_parser("model", help=text, parents=[common])
    command.set_defaults(module="model")
    command.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help=_DEFAULT)
    command.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help=_DEFAULT)
    command.add_argument("--compile", action="store_true", help="torch.compile every model")
    command.add_argument("--batch-size", type=int, default=8, help=_BATCH)
    command.add_argument(
        "--rounds", type=_several, default=15, help="at least 2: quartiles are taken over them (default: %(default)s)"
    )
    command.add_argument(
        "--steps", type=int, default=1, help="steps per measurement; 20 suits a GPU (default: %(default)s)"
    )


def _several(text: str) -> int:
    if (rounds := int(text)) < 2:
        raise argparse.ArgumentTypeError(f"expected at least 2, got {rounds}")
    return rounds


def _add_training_commands(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser
) -> None:
    described = {
        "loader": "augmented images per second from parquet, beside the transforms of torchvision",
        "training": "ViT-B/16 through the Trainer, in bf16: images per second, share of the chip's rate, waiting",
    }
    for name, text in described.items():
        command = commands.add_parser(name, help=text, parents=[common])
        command.set_defaults(module="training")
        command.add_argument("--dataset", required=True, help="a built dataset folder")
        command.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help=_DEFAULT)
        command.add_argument("--batch-size", type=int, default=64, help=_BATCH)
    text = "a training step of the recipes for the CPU: attention, and memory kept or given back"
    command = commands.add_parser("cpu", help=text, parents=[common])
    command.set_defaults(module="cpu")
    command.add_argument("--rounds", type=int, default=3, help=_ROUNDS)
    command.add_argument("--steps", type=int, default=20, help="measured steps after a warm-up (default: %(default)s)")
    text = "train by a recipe, and evaluate on the test split"
    command = commands.add_parser("recipe", help=text, parents=[common])
    command.set_defaults(module="recipe")
    command.add_argument("--recipe", required=True, help="training recipe")
    command.add_argument("--dataset", required=True, help="a built dataset folder")
    command.add_argument("--output", type=Path, required=True, help="a folder for the run and its evaluation")
    command.add_argument(
        "--external",
        action="append",
        default=[],
        metavar="KEY=PATH",
        help="also evaluate on this raw source; repeatable",
    )
    command.add_argument("--seed", type=int, default=42, help=f"seed of the training {_DEFAULT}")
    command.add_argument(
        "options", nargs=argparse.REMAINDER, metavar="-- OPTIONS", help="options of celluscan train, after --"
    )
    commands.choices["loader"].add_argument("--rounds", type=int, default=3, help=_ROUNDS)
    training = commands.choices["training"]
    training.add_argument(
        "--steps", type=int, default=100, help="measured steps after a warm-up (default: %(default)s)"
    )
    training.add_argument("--compile", action="store_true", help="torch.compile the model")
    training.add_argument("--cache-images", action="store_true", help="decode all images before")


def _add_serving_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser
) -> None:
    command = commands.add_parser(
        "serving", help="page latency for one and for many clients; needs the extra demo", parents=[common]
    )
    command.set_defaults(module="serving")
    command.add_argument("--model", help="a trained model (default: a ViT-B/16 of random weights)")
    command.add_argument("--clients", type=int, default=8, help="clients at once (default: %(default)s)")
    command.add_argument("--requests", type=int, default=50, help="total requests per round (default: %(default)s)")
    command.add_argument("--rounds", type=int, default=3, help=_ROUNDS)


def _add_reliability_commands(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser
) -> None:
    described = {
        "reliability": "calibration, prediction sets and out-of-distribution detection of a model",
        "recalibration": "recalibration on some cells of another microscope, tested on its others",
    }
    for name, text in described.items():
        command = commands.add_parser(name, help=text, parents=[common])
        command.set_defaults(module="reliability")
        command.add_argument("--model", type=Path, required=True, help="a calibrated checkpoint folder")
    commands.choices["reliability"].add_argument("--dataset", required=True, help="a built dataset folder")
    commands.choices["reliability"].add_argument("--bccd", type=Path, help="the folder of BCCD, for its red cells")
    _add_stain_command(commands, common)
    _add_adaptation_command(commands, common)
    _add_features_command(commands, common)
    command = commands.choices["recalibration"]
    command.add_argument(
        "--source", required=True, metavar="KEY=PATH", help="a raw source that the model was not trained on"
    )
    command.add_argument(
        "--sizes", type=int, nargs="+", default=[16, 32, 64], help="numbers of cells to fit to (default: %(default)s)"
    )
    command.add_argument("--draws", type=int, default=20, help="random draws per size (default: %(default)s)")


def _add_adaptation_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser
) -> None:
    text = "accuracy of adapted models against labelled cells per class, on other laboratories"
    command = commands.add_parser("adaptation", help=text, parents=[common])
    command.set_defaults(module="adaptation")
    command.add_argument("--model", type=Path, required=True, help="a calibrated checkpoint folder")
    command.add_argument(
        "--source", action="append", required=True, metavar="KEY=PATH", help="a raw source; repeatable"
    )
    command.add_argument("--output", type=Path, required=True, help="a folder for the outcome of each draw")
    command.add_argument("--own", action="append", default=[], metavar="KEY", help="a source with classes of its own")
    command.add_argument(
        "--own-classes", nargs="+", default=[], metavar="CLASS", help="the classes of such a source that are used"
    )
    command.add_argument(
        "--shots", type=int, nargs="+", default=[0, 1, 2, 5, 10, 20, 50], help=f"cells of each class {_DEFAULT}"
    )
    command.add_argument(
        "--methods",
        nargs="+",
        default=["calibration", "head", "auto", "scratch"],
        help=f"methods of celluscan adapt, or scratch: the same network from random weights {_DEFAULT}",
    )
    command.add_argument("--draws", type=int, default=20, help=f"draws where nothing is trained {_DEFAULT}")
    command.add_argument("--training-draws", type=int, default=3, help=f"draws where layers are trained {_DEFAULT}")
    command.add_argument("--minutes", type=float, default=5.0, help=f"time that auto may take {_DEFAULT}")


def _add_features_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser
) -> None:
    text = "what the features of pretrained models are worth on cells: probe, nearest neighbours, few labelled cells"
    command = commands.add_parser("features", help=text, parents=[common])
    command.set_defaults(module="features")
    command.add_argument(
        "--start",
        action="append",
        required=True,
        help="weights as celluscan train --start takes them, or random, pixels, colours; repeatable",
    )
    command.add_argument("--dataset", required=True, help="a built dataset: its folder, or its name on the Hub")
    command.add_argument(
        "--external", action="append", default=[], metavar="KEY=PATH", help="a source of another laboratory; repeatable"
    )
    command.add_argument("--output", type=Path, required=True, help="a folder for the features")
    command.add_argument("--shots", type=int, nargs="+", default=[1, 5, 10, 20], help=f"cells of each class {_DEFAULT}")
    command.add_argument("--draws", type=int, default=10, help=f"draws of such cells {_DEFAULT}")


def _add_stain_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser
) -> None:
    command = commands.add_parser(
        "stain", help="what the check for a stained cell refuses, of cells and of other images", parents=[common]
    )
    command.set_defaults(module="stain")
    for part, text in {
        "fit": "a laboratory to fit on",
        "validation": "a laboratory to choose the settings on",
        "test": "a laboratory that had no part in either",
    }.items():
        command.add_argument(
            f"--{part}", action="append", default=[], metavar="NAME=FOLDER", help=f"{text}; repeatable"
        )
    command.add_argument("--count", type=int, default=250, help="images of a group, about (default: %(default)s)")
    command.add_argument("--write", action="store_true", help="fit, and write the numbers into the package")
