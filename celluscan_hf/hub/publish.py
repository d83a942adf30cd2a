"""Publish on the Hub: assemble a folder, verify it in a clean process, upload once, verify again."""

import argparse
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import transformers

from ..errors import CelluScanError
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

Verify = Callable[[Place], str]


def dataset(arguments: argparse.Namespace) -> None:
    """Publish a built folder."""
    _quieten()
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


def model(arguments: argparse.Namespace) -> None:
    """Publish a run with its evaluation."""
    _quieten()
    trained = model_folder.TrainedModel(arguments.run, arguments.evaluation)
    plain = arguments.repository
    names = filter(None, (plain, arguments.handbuilt))
    _check([Target(name, "model", revision=arguments.revision) for name in names], arguments.dry_run)
    data = arguments.dataset or trained.dataset
    if data is None:
        print(f"the card names no dataset: {trained.data} is a local folder; if it is published, give --dataset NAME")
    with _scratch(arguments.run) as scratch:
        expected = reference(trained.run, trained.images or [drawn_cell(scratch)])
        published = []
        for repository, counterpart, hand_built in (
            (plain, arguments.handbuilt, False),
            (arguments.handbuilt, plain, True),
        ):
            if repository is None:
                continue
            variant = model_folder.Variant(repository, hand_built, counterpart, data, arguments.revision)
            folder = scratch / ("handbuilt" if hand_built else "plain")
            tag = model_folder.assemble(trained, variant, folder)
            target = Target(repository, "model", arguments.private, tag)
            published.append((folder, target, _model_check(expected, hand_built)))
        _publish(published, arguments.dry_run)
    if plain and not arguments.dry_run:
        print(f'pipeline("image-classification", model="{plain}")')


def _model_check(expected: Reference, hand_built: bool) -> Verify:
    return lambda place: verify_model(place, expected, hand_built)


def metric(arguments: argparse.Namespace) -> None:
    """Publish the metric."""
    _quieten()
    name = arguments.repository.rpartition("/")[2]
    assemble = partial(metric_folder.assemble, arguments.repository)
    target = _publish_space(arguments, "static", name, assemble, verify_metric)
    if not arguments.dry_run:
        print(f'evaluate.load("{target.repository}")')


def space(arguments: argparse.Namespace) -> None:
    """Publish the page for a model on the Hub, or for that of the package."""
    _quieten()
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


def _quieten() -> None:
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its warnings are raised here as errors
    transformers.utils.logging.disable_progress_bar()  # of loading and saving; that of the upload stays


def _check(targets: Sequence[Target], dry_run: bool) -> None:
    """Check repository names and the token before any work is done."""
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
        raise CelluScanError(f"{beside} is not a directory")
    with tempfile.TemporaryDirectory(prefix=f".{beside.name}-", dir=beside.parent) as scratch:
        yield Path(scratch)
