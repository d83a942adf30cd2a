"""The command `celluscan`: a table of commands, and the one place for exit statuses and error lines.

Each command is a function of its package, imported only when it runs. It gets an empty parser and the words after its
name, and those whose work is shared the `Processes` too; it raises `CelluScanError` if the request cannot be met.
`scripts/*.py` are the same commands, for launchers.
"""

import argparse
import errno
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from . import __version__
from .errors import CelluScanError
from .processes import ALONE, Processes, join, left_to_first_process

_FAILED, _INTERRUPTED = 2, 130
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LEAVE_OUT = "--leave-one-source-out"  # an audit, asked for where results are made
_DESCRIPTION = "Blood-cell images on the Hugging Face stack: datasets, training, evaluation, prediction, publishing."


@dataclass(frozen=True)
class Command:
    """A command: where its function is, and how to go on after it was interrupted.

    `quiet` silences warnings and progress bars of the libraries. `split` and `shared` commands run in every process of
    a launcher, all others in the first one alone; the processes of a shared one are connected, and the first reports.
    """

    function: str
    help: str
    resume: str = "run the same command again"
    quiet: bool = True
    split: bool = False
    shared: bool = False


_SAME = "run the same command again to go on"
COMMANDS = {
    "build": Command(
        "dataset.command:build",
        "build a dataset folder from folders or archives of images",
        "run the same command with --resume to go on",
        quiet=False,
    ),
    "train": Command(
        "training.command:train",
        "train a classifier by a recipe",
        "run the same command with --resume_from_checkpoint last to go on",
        quiet=False,
        split=True,
    ),
    "evaluate": Command(
        "evaluation.command:evaluate", "evaluate a classifier on a split or on raw sources", shared=True
    ),
    "predict": Command(
        "inference.command:predict", "classify images of single cells", resume="rows written stay", shared=True
    ),
    "explain": Command("inference.command:explain", "draw the attention of a model on one image"),
    "calibrate": Command(
        "reliability.command:calibrate",
        "calibrate probabilities and fit an abstention threshold",
        "run the same command again",
    ),
    "adapt": Command("adaptation.command:adapt", "adapt a model to another microscope by some of its cells"),
    "audit": Command("audits.command:audit", "test results for leaks, shortcuts and label errors", _SAME, quiet=False),
    "convert": Command("modeling.command:convert", "convert ViT weights from and to torchvision, transformers, timm"),
    "export-onnx": Command("inference.command:export_onnx", "write a model as an ONNX file; needs the extra onnx"),
    "demo": Command(
        "space.command:demo", "open the demo page in a browser; needs the extra demo", "the page is closed"
    ),
    "benchmark": Command("benchmarks.command:benchmark", "measure speed, memory and quality, as JSON", quiet=False),
    "push dataset": Command("hub.command:push_dataset", "publish a built dataset on the Hub", _SAME, quiet=False),
    "push model": Command("hub.command:push_model", "publish a trained model on the Hub", _SAME, quiet=False),
    "push space": Command("hub.command:push_space", "publish the demo page on the Hub", _SAME, quiet=False),
    "push metric": Command("hub.command:push_metric", "publish the metric on the Hub", _SAME, quiet=False),
}
# Commands of earlier versions, and what does their work now.
_REPLACED = {"recalibrate": "adapt MODEL --source … --method calibration --output …"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0, 2 for what cannot be done, 130 after an interruption."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] in (["-h"], ["--help"]):
        print(_help(COMMANDS))
        return 0
    if words[:1] == ["push"] and all(word.startswith("-") for word in words[1:2]):
        asked = words[1:2] in (["-h"], ["--help"])
        kinds = [name for name in COMMANDS if name.startswith("push ")]
        print(_help(kinds, "push dataset|model|space|metric"), file=sys.stdout if asked else sys.stderr)
        return 0 if asked else _FAILED
    if words == ["--version"]:
        print(f"celluscan {__version__}")
        return 0
    if words[:1] == ["evaluate"] and _LEAVE_OUT in words:
        words = ["audit", "left-out", "--by", "source", *(word for word in words[1:] if word != _LEAVE_OUT)]
    name = " ".join(words[:2]) if words[:1] == ["push"] else "".join(words[:1])
    if name not in COMMANDS:
        return _fail(_unknown(name))
    return _run(name, COMMANDS[name], words[len(name.split()) :])


def run_script(name: str) -> None:
    """Run a command as one of `scripts/`, whose folder must not hide the library `evaluate`; ends the process."""
    folder = Path(sys.argv[0]).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != folder]
    sys.exit(main([*name.split(), *sys.argv[1:]]))


class _Silent(argparse.ArgumentParser):
    """The parser of a process that does not report."""

    def error(self, message: str) -> NoReturn:
        sys.exit(_FAILED)


def _run(name: str, command: Command, arguments: Sequence[str]) -> int:
    asks_for_help = not {"-h", "--help"}.isdisjoint(arguments)
    everywhere = command.split or command.shared or asks_for_help
    if not everywhere and left_to_first_process():
        return 0
    processes = ALONE
    try:
        if command.shared and not asks_for_help:
            processes = join()
        if command.quiet and not asks_for_help:
            _quieten()
        description = f"{command.help[0].upper()}{command.help[1:]}."
        parser = (argparse.ArgumentParser if processes.is_first else _Silent)(f"celluscan {name}", None, description)
        module, function = command.function.split(":")
        with processes.failing_together():
            run = getattr(import_module(f"{__package__}.{module}"), function)
            run(parser, arguments, *([processes] if command.shared else []))
    except CelluScanError as error:
        return _fail(str(error), processes)
    except BrokenPipeError:  # whoever reads what is printed has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno is None:  # not from the operating system
            raise
        return _fail(_system_error(error, command), processes)
    except KeyboardInterrupt:
        print(f"\nstopped; {command.resume}", file=sys.stderr)
        return _INTERRUPTED
    return 0


def _help(names: Iterable[str], usage: str = "COMMAND") -> str:
    width = max(map(len, COMMANDS)) + 2
    rows = "\n".join(f"  {name:{width}}{COMMANDS[name].help}" for name in names)
    return f"usage: celluscan {usage} … [--help]\n\n{_DESCRIPTION}\n\ncommands:\n{rows}"


def _unknown(name: str) -> str:
    if not name:
        return "no command given; celluscan --help lists them"
    if name in _REPLACED:
        return f"celluscan {name} was replaced by celluscan {_REPLACED[name]}"
    close = get_close_matches(name, COMMANDS, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else "celluscan --help lists them"
    return f"unknown command {name!r}; {hint}"


def _system_error(error: OSError, command: Command) -> str:
    if error.errno in _NO_SPACE:
        hint = " with --resume" if "--resume" in command.resume else ""
        return (
            f"no space left to write {error.filename or 'the output'}; free some, then run the same command again{hint}"
        )
    return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)


def _fail(message: str, processes: Processes = ALONE) -> int:
    if processes.is_first:
        print(f"error: {message}", file=sys.stderr)
    return _FAILED


def _quieten() -> None:
    """Silence warnings and progress bars of the libraries: what matters is raised as an error."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main())
