"""The command lines that publish: assemble, look at it in a clean process, upload once, look again."""

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import transformers

from ..dataset.card import REPOSITORY as DATASET
from ..errors import CelluScanError
from ..modeling.key_mapping import WeightsError
from . import data_folder, metric_folder, model_folder, space_folder
from .upload import Target, check_name, check_token, listing, push
from .verification import (
    Place,
    Reference,
    drawn_cell,
    reference,
    verify_dataset,
    verify_metric,
    verify_model,
    verify_space,
)

MODEL, METRIC, SPACE = "celluscan/vit-b16-wbc", "celluscan/wbc_metrics", "celluscan/celluscan"
_FAILED, _INTERRUPTED = 2, 130
Verify = Callable[[Place], str]


def push_dataset(arguments: Sequence[str]) -> int:
    """`scripts/push_dataset.py FOLDER [REPOSITORY]`."""
    parser = argparse.ArgumentParser(description="Publish a built data set on the Hugging Face Hub.")
    parser.add_argument("folder", type=Path, help="a folder of scripts/build_dataset.py")
    parser.add_argument("repository", nargs="?", default=DATASET, help=f"owner/name on the Hub ({DATASET})")
    parser.add_argument(
        "--recipe-only",
        action="store_true",
        help="publish card, labels, hashes and build command, but no image: for sources that cannot be passed on",
    )
    _add_common(parser)
    return _run(_dataset, parser.parse_intermixed_args(arguments))


def push_model(arguments: Sequence[str]) -> int:
    """`scripts/push_model.py RUN [REPOSITORY] --evaluation FOLDER`."""
    parser = argparse.ArgumentParser(description="Publish a trained model on the Hugging Face Hub.")
    parser.add_argument("run", type=Path, help="a finished folder of scripts/train.py")
    parser.add_argument("repository", nargs="?", help=f"owner/name of the plain ViT, which anyone can load ({MODEL})")
    parser.add_argument("--evaluation", type=Path, required=True, help="a folder of scripts/evaluate.py, test split")
    parser.add_argument("--handbuilt", metavar="REPOSITORY", help="publish the hand-built ViT too, under this name")
    parser.add_argument("--dataset", default=DATASET, help=f"Hub id of the data it was trained on ({DATASET})")
    _add_common(parser)
    return _run(_model, parser.parse_intermixed_args(arguments))


def push_metric(arguments: Sequence[str]) -> int:
    """`scripts/push_metric.py [REPOSITORY]`."""
    parser = argparse.ArgumentParser(description="Publish the metric on the Hugging Face Hub.")
    parser.add_argument("repository", nargs="?", default=METRIC, help=f"owner/name on the Hub ({METRIC})")
    _add_common(parser)
    return _run(_metric, parser.parse_intermixed_args(arguments))


def push_space(arguments: Sequence[str]) -> int:
    """`scripts/push_space.py [REPOSITORY]`."""
    parser = argparse.ArgumentParser(description="Publish the demo page on the Hugging Face Hub.")
    parser.add_argument("repository", nargs="?", default=SPACE, help=f"owner/name on the Hub ({SPACE})")
    parser.add_argument("--model", default=MODEL, help=f"Hub id of the model behind the page ({MODEL})")
    parser.add_argument(
        "--model-revision", metavar="REVISION", help="of the model, whose commit the page keeps to (main)"
    )
    parser.add_argument("--dataset", default=DATASET, help=f"Hub id of the data it was trained on ({DATASET})")
    _add_common(parser)
    return _run(_space, parser.parse_intermixed_args(arguments))


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--private", action="store_true", help="only you can see a repository that is made new")
    parser.add_argument("--revision", help="a tag that names this content for good, such as v1.0")
    parser.add_argument("--dry-run", action="store_true", help="check everything and show what would be uploaded")


def _run(publish: Callable[[argparse.Namespace], None], arguments: argparse.Namespace) -> int:
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # whose warnings are told here in our words
    transformers.utils.logging.disable_progress_bar()  # of loading and saving; that of the upload stays
    try:
        publish(arguments)
    except (CelluScanError, WeightsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        print("\nstopped; run the same command again, what was sent is not sent twice", file=sys.stderr)
        return _INTERRUPTED
    return 0


def _dataset(arguments: argparse.Namespace) -> None:
    if not arguments.recipe_only:
        data_folder.check_licenses(arguments.folder)
    target = Target(arguments.repository, "dataset", arguments.private, arguments.revision)
    _check([target], arguments.dry_run)
    versions = [] if arguments.dry_run else data_folder.published_versions(target)
    with _scratch(arguments.folder) as scratch:
        folder = scratch / "dataset"
        data_folder.assemble(arguments.folder, target, versions, folder, arguments.recipe_only)
        verify = None if arguments.recipe_only else lambda place: verify_dataset(place, folder)
        _publish([(folder, target, verify)], arguments.dry_run)
    if not arguments.dry_run and not arguments.recipe_only:
        print(f'load_dataset("{target.repository}")')


def _model(arguments: argparse.Namespace) -> None:
    trained = model_folder.TrainedModel(arguments.run, arguments.evaluation)
    plain = arguments.repository or (None if arguments.handbuilt else MODEL)
    names = filter(None, (plain, arguments.handbuilt))
    _check([Target(name, "model", revision=arguments.revision) for name in names], arguments.dry_run)
    with _scratch(arguments.run) as scratch:
        expected = reference(trained.run, trained.images or [drawn_cell(scratch)])
        published = []
        for repository, counterpart, hand_built in (
            (plain, arguments.handbuilt, False),
            (arguments.handbuilt, plain, True),
        ):
            if repository is None:
                continue
            variant = model_folder.Variant(repository, hand_built, counterpart, arguments.dataset, arguments.revision)
            folder = scratch / ("handbuilt" if hand_built else "plain")
            tag = model_folder.assemble(trained, variant, folder)
            target = Target(repository, "model", arguments.private, tag)
            published.append((folder, target, _model_check(expected, hand_built)))
        _publish(published, arguments.dry_run)
    if plain and not arguments.dry_run:
        print(f'pipeline("image-classification", model="{plain}")')


def _model_check(expected: Reference, hand_built: bool) -> Verify:
    return lambda place: verify_model(place, expected, hand_built)


def _metric(arguments: argparse.Namespace) -> None:
    name = arguments.repository.rpartition("/")[2]
    assemble = partial(metric_folder.assemble, arguments.repository)
    target = _publish_space(arguments, "static", name, assemble, verify_metric)
    if not arguments.dry_run:
        print(f'evaluate.load("{target.repository}")')


def _space(arguments: argparse.Namespace) -> None:
    options = {"model": arguments.model, "revision": arguments.model_revision, "dataset": arguments.dataset}
    target = _publish_space(arguments, "gradio", "space", partial(space_folder.assemble, **options), verify_space)
    if not arguments.dry_run:
        print(target.url)


def _publish_space(
    arguments: argparse.Namespace, sdk: str, name: str, assemble: Callable[[Path], None], verify: Verify
) -> Target:
    """Publish what `assemble` writes into a folder of that name as a Space."""
    target = Target(arguments.repository, "space", arguments.private, arguments.revision, sdk)
    _check([target], arguments.dry_run)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / name
        assemble(folder)
        _publish([(folder, target, verify)], arguments.dry_run)
    return target


def _check(targets: Sequence[Target], dry_run: bool) -> None:
    """Told before any work is done: names that cannot be, and a token that cannot write."""
    for target in targets:
        check_name(target)
    if not dry_run:
        check_token(targets[0])


def _publish(folders: Sequence[tuple[Path, Target, Verify | None]], dry_run: bool) -> None:
    """Look at all folders first; then upload each, and look at what the Hub gives back."""
    for folder, target, verify in folders:
        print(f"{target.repository}: {tree_size(folder)}")
        if verify is not None:
            print(f"  before: {verify(Place(str(folder)))}")
    for folder, target, verify in folders:
        if dry_run:
            print(f"\n{target.kind} {target.repository}, as it would be uploaded:\n\n{tree(folder)}\n")
            print((folder / "README.md").read_text("utf-8"))
            continue
        pushed = push(folder, target, f"Publish {target.revision or 'with celluscan_hf'}")
        done = "uploaded" if pushed.changed else "unchanged"
        print(f"{target.url}: {done}, commit {pushed.commit[:12]}{f', tag {target.revision}' * bool(target.revision)}")
        if verify is not None:
            print(f"  after: {verify(replace(Place(target.repository), commit=pushed.commit))}")


def tree(folder: Path) -> str:
    """The files of a folder with their sizes."""
    return "\n".join(f"{file.stat().st_size:>14,}  {path}" for path, file in listing(folder))


def tree_size(folder: Path) -> str:
    """How many files a folder has, and how many MB."""
    sizes = [file.stat().st_size for _, file in listing(folder)]
    return f"{len(sizes)} files, {sum(sizes) / 1e6:.1f} MB"


@contextmanager
def _scratch(beside: Path) -> Iterator[Path]:
    """A folder for what is assembled, on the disk of what it is made of, so that large files need not be copied."""
    beside = beside.resolve()
    if not beside.is_dir():
        raise CelluScanError(f"{beside} is no folder")
    with tempfile.TemporaryDirectory(prefix=f".{beside.name}-", dir=beside.parent) as scratch:
        yield Path(scratch)
