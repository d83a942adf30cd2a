"""The command `celluscan`: thin. Each subcommand imports what it needs only when it runs."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import __version__
from .errors import CelluScanError
from .processes import left_to_first_process

_FAILED, _INTERRUPTED = 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; the exit status. What cannot be done is said in one line on standard error."""
    arguments = _parser().parse_args(argv)
    if left_to_first_process():
        return 0
    try:
        arguments.run(arguments)
    except CelluScanError as error:
        return _fail(str(error))
    except BrokenPipeError:  # whoever reads what is printed has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno is None:  # not from the operating system
            raise
        return _fail(f"{error.strerror}: {error.filename}")
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return _INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="celluscan", description="Single blood cells in 14 classes.")
    parser.add_argument("--version", action="version", version=f"celluscan {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_predict(commands)
    _add_export_onnx(commands)
    _add_explain(commands)
    _add_demo(commands)
    _add_calibrate(commands)
    _add_recalibrate(commands)
    return parser


def _add_predict(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "say which cells images show"
    parser = commands.add_parser("predict", help=text, description=text)
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="image files, folders of them, quoted patterns such as 'cells/**/*.jpg', or parquet files with a column "
        "image",
    )
    _add_model(parser, "--model", required=True)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", dest="form", action="store_const", const="json", help="write JSON lines")
    form.add_argument("--csv", dest="form", action="store_const", const="csv", help="write CSV; the default")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="a new file, .csv, or .jsonl for JSON lines; by default rows are printed",
    )
    parser.add_argument("--top-k", type=int, default=3, metavar="K", help="how many labels, likeliest first (3)")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images in one forward pass (64)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps; by default a GPU where there is one")
    parser.add_argument(
        "--coverage",
        type=float,
        default=0.9,
        metavar="SHARE",
        help="how often the set of a calibrated model is to hold the true class (0.9)",
    )
    parser.set_defaults(run=_predict)


def _add_export_onnx(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "write a model as an ONNX file, checked against PyTorch"
    parser = commands.add_parser("export-onnx", help=text, description=text)
    _add_model(parser, "model")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="the folder to be written; must be new or empty")
    parser.set_defaults(run=_export_onnx)


def _add_explain(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "draw where a model looked in one image"
    parser = commands.add_parser("explain", help=text, description=text)
    parser.add_argument("image", metavar="IMAGE", help="an image file of one cell")
    _add_model(parser, "--model", required=True)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE.png",
        help="where to draw; by default <image>-attention.png in the current folder",
    )
    parser.add_argument(
        "--layer", type=int, default=-1, help="whose heads are drawn, 1 is the first; by default the last"
    )
    parser.set_defaults(run=_explain)


def _add_demo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "open the demo page in a browser; needs the extra demo"
    parser = commands.add_parser("demo", help=text, description=text)
    parser.add_argument(
        "--model",
        required=True,
        metavar="MODEL",
        help="a folder of scripts/train.py, or the name of a model on the Hub",
    )
    parser.add_argument(
        "--evaluation", type=Path, metavar="FOLDER", help="a folder of scripts/evaluate.py, whose examples are shown"
    )
    parser.add_argument("--host", default="127.0.0.1", help="who may ask: 0.0.0.0 lets other machines in (127.0.0.1)")
    parser.add_argument("--port", type=int, help="by default the first free one from 7860 on")
    parser.set_defaults(run=_demo)


def _add_calibrate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "make a model's probabilities mean what they say, and measure when it should keep quiet"
    parser = commands.add_parser("calibrate", help=text, description=text)
    parser.add_argument("model", type=Path, metavar="MODEL", help="a checkpoint folder; its head is changed")
    parser.add_argument("--dataset", required=True, help="a built data set, whose validation cells are looked at")
    parser.set_defaults(run=_calibrate)


def _add_recalibrate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "fit a calibrated model to another microscope, from some 16 to 64 of its cells with labels"
    parser = commands.add_parser("recalibrate", help=text, description=text)
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="a calibrated checkpoint folder, which stays as it is"
    )
    parser.add_argument(
        "--source",
        action="append",
        required=True,
        metavar="KEY=PATH",
        help="the cells, as scripts/build_dataset.py takes them: imagefolder=DIR. May be repeated",
    )
    parser.add_argument("--output", type=Path, required=True, help="the new folder of the fitted model")
    parser.set_defaults(run=_recalibrate)


def _add_model(parser: argparse.ArgumentParser, name: str, **options: Any) -> None:
    parser.add_argument(name, metavar="MODEL", help="a checkpoint folder, or the name of a model on the Hub", **options)
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run code that lies in the checkpoint; the models of CelluScan do not need it",
    )


def _predict(arguments: argparse.Namespace) -> None:
    _quieten()
    from .inference.predict import predict

    done = predict(
        arguments.images,
        arguments.model,
        arguments.output,
        form=arguments.form,
        top_k=arguments.top_k,
        batch_size=arguments.batch_size,
        device=arguments.device,
        coverage=arguments.coverage,
        trust_remote_code=arguments.trust_remote_code,
    )
    print(done, file=sys.stderr)


def _export_onnx(arguments: argparse.Namespace) -> None:
    _quieten()
    from .inference.onnx import export_onnx

    done = export_onnx(arguments.model, arguments.output, trust_remote_code=arguments.trust_remote_code)
    print(f"{arguments.output / done.file.name}: {done.size / 1e6:.1f} MB")
    print(f"largest difference of a logit from PyTorch: {done.max_difference:.1e}")


def _explain(arguments: argparse.Namespace) -> None:
    _quieten()
    from .inference.explain import explain
    from .inference.inputs import refuse_address

    refuse_address(arguments.image)
    output = arguments.output or Path(f"{Path(arguments.image).stem}-attention.png")
    trust = arguments.trust_remote_code
    print(explain(arguments.image, arguments.model, output, arguments.layer, trust_remote_code=trust))


def _demo(arguments: argparse.Namespace) -> None:
    _quieten()
    try:
        from .space.demo import run
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise CelluScanError('gradio is not installed: pip install "celluscan_hf[demo]"') from error

    run(arguments.model, arguments.evaluation, arguments.host, arguments.port)


def _calibrate(arguments: argparse.Namespace) -> None:
    _quieten()
    from .reliability.calibrate import calibrate, summary

    print(summary(calibrate(arguments.model, arguments.dataset)))


def _recalibrate(arguments: argparse.Namespace) -> None:
    _quieten()
    from .reliability.recalibrate import recalibrate, summary

    print(summary(recalibrate(arguments.model, arguments.source, arguments.output)))


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return _FAILED


def _quieten() -> None:
    """No progress bars and warnings of transformers: what matters is raised as an error."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main())
