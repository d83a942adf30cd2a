"""Base classes of readers: a source lists records and reads their bytes.

Most open datasets are folders named after classes. Their readers are tables: `landmarks` are the folder names of the
published layout, `decisions` map each label to a class or drop it, and `code_of` extracts the label from a path.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .. import taxonomy
from ..errors import BadImage, CelluScanError
from .entries import EMPTY_FOLDER, Entry, Tree
from .groups import shown
from .hidden import hidden_part
from .records import Decision, Dropped, Record, SourceInfo


class Source(ABC):
    """One source of a build, under its name on the command line.

    After its records are listed, `stamp` is a digest of the state of its files and `notes` are lines that its user
    should read. `groups_from` describes where the groups of its records come from. `variant` tells which of several
    images of a record are read, if the records do not. With `keeps_unmapped`, cells whose label is none of our classes
    are records too, without a class.
    """

    info: SourceInfo
    groups_from: str = ""
    variant: str = ""
    keeps_unmapped = False

    def __init__(self, name: str) -> None:
        self.name = name
        self.key = name  # on the command line
        self.license = self.info.license
        self.stamp = ""
        self.notes: list[str] = []

    @property
    def location(self) -> Path | None:
        """The path of its files; None if it has none."""
        return None

    def note_published_labels(self, labels: Iterable[str]) -> None:
        """Note which labels are read as in published datasets, since their owner may mean something else."""
        if known := sorted({label for label in labels if taxonomy.is_published_label(label)}):
            meanings = ", ".join(f"{label} as {taxonomy.lookup(label).name}" for label in known)
            self.notes.append(f"labels that are read as in the published datasets: {meanings}")

    @abstractmethod
    def records(self) -> Iterator[Record | Dropped]:
        """List all cells, and all files that are not cells, in an order that depends on names alone."""

    @abstractmethod
    def read(self, record: Record) -> bytes:
        """Read the image file of a record. Raises `BadImage`."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of a tree: `path` from the `root` of its published layout, `member` in the tree, and its `image_id`."""

    path: str
    root: str
    image_id: str

    @property
    def member(self) -> str:
        return self.root + self.path


class TreeSource(Source):
    """A source whose images are files of a tree with the folders `landmarks`.

    The layout may start below the path given (an archive often wraps its files in a folder), even in several places
    (`part1/`, `part2/`). If it starts in one place, `image_id` is relative to it, so that packing does not matter.
    """

    landmarks: ClassVar[tuple[str, ...]]

    def __init__(self, name: str, tree: Tree) -> None:
        super().__init__(name)
        self.tree = tree
        self.members: frozenset[str] = frozenset()

    @property
    def location(self) -> Path:
        return self.tree.location

    def __getstate__(self) -> dict[str, object]:
        """The state that `read` needs in a worker process."""
        return {"name": self.name, "license": self.license, "tree": self.tree}

    def records(self) -> Iterator[Record | Dropped]:
        listed = list(self.tree.all_entries())
        entries = [entry for entry in listed if not hidden_part(entry.path)]
        hidden = {part for entry in listed if (part := hidden_part(entry.path))}
        files = [entry for entry in entries if entry.problem != EMPTY_FOLDER]
        if not files:
            hidden_only = f" but hidden and system files ({shown(hidden)})" if hidden else ""
            raise CelluScanError(
                f"source {self.name}: {self.tree.location} holds no files{hidden_only}; {self.expected()}"
            )
        self.notes = [f"passed over {len(hidden)} hidden or system folders and files: {shown(hidden)}"] * bool(hidden)
        self.stamp = hashlib.sha256(repr([entry.stamp for entry in entries]).encode()).hexdigest()
        self.members = frozenset(entry.path for entry in files)
        self.prepare(files)
        roots = {root for entry in entries if (root := self.root_of(entry.path)) is not None}
        common = (min(roots) if len(roots) == 1 else "") if roots else self.without_layout()
        for entry in entries:
            image_id = f"{self.name}/{entry.path.removeprefix(common)}"
            if entry.problem:
                yield Dropped(image_id, entry.problem)
            else:
                root = self.root_of(entry.path)
                if root is None:  # a file outside the layout, such as a licence
                    root = common if entry.path.startswith(common) else ""
                yield from self.cells(File(entry.path.removeprefix(root), root, image_id))

    def prepare(self, entries: Sequence[Entry]) -> None:
        """Collect from all entries what `cells` needs for each."""

    @abstractmethod
    def cells(self, file: File) -> Iterator[Record | Dropped]:
        """Yield the cells of one file; nothing for a file that only describes others."""

    def read(self, record: Record) -> bytes:
        return self.tree.read(record.member)

    def table(self, member: str) -> str:
        """Return the text of a file that describes others; empty if it cannot be read."""
        try:
            return self.tree.read(member).decode("utf-8-sig")
        except BadImage:
            return ""
        except UnicodeDecodeError:
            raise CelluScanError(
                f"source {self.name}: {member} is not UTF-8; save it as UTF-8 (in Excel: CSV UTF-8)"
            ) from None

    def expected(self) -> str:
        return f"expected the folders {', '.join(self.landmarks)} ({self.info.title}, {self.info.url})"

    def without_layout(self) -> str:
        """Return the root if no file is in the expected layout. Raises `CelluScanError` for a published source."""
        raise CelluScanError(f"source {self.name}: unknown layout in {self.tree.location}; {self.expected()}")

    def root_of(self, path: str) -> str | None:
        """Return the folder of the first landmark in a path, where its layout starts; None if it has none."""
        landmarks = {landmark.casefold() for landmark in self.landmarks}
        folders = path.split("/")[:-1]
        for depth, folder in enumerate(folders):
            if folder.casefold() in landmarks:
                return "".join(f"{above}/" for above in folders[:depth])
        return None


class ClassFolderSource(TreeSource):
    """A tree in which a file's path names its label; `decisions` maps labels to classes."""

    decisions: ClassVar[Mapping[str, Decision]]
    augmented: ClassVar[bool] = False

    def code_of(self, path: str) -> str:
        """Return the source's own label of a file; by default the first folder of its path."""
        return path.split("/")[0] if "/" in path else ""

    def group_of(self, path: str) -> str | None:
        """Return the group that the path names (smear, patient, original image); None if it names none."""
        return None

    def cells(self, file: File) -> Iterator[Record | Dropped]:
        code = self.code_of(file.path)
        decision = self.decisions.get(code)
        if decision is not None and decision.label is None and not self.keeps_unmapped:
            yield Dropped(file.image_id, f"no_class:{code}", decision.reason, code)
            return
        label = decision.label if decision else None
        group = self.group_of(file.path)
        group_id = file.image_id if group is None else f"{self.name}/{group}"
        yield Record(file.image_id, file.member, label, code, group_id, augmented=self.augmented)


def parent_folder(path: str) -> str:
    """Return the name of the folder of a file; empty at the top level."""
    return path.rpartition("/")[0].rpartition("/")[2]


def folder_of(path: str) -> str:
    """Return the path of the folder of a file; empty at the top level."""
    return path.rpartition("/")[0]


def same(reason: str, **labels: str) -> dict[str, Decision]:
    """Return decisions for labels that mean exactly one class: `same("…", EOS="Eosinophil")`."""
    return {code: Decision(label, reason) for code, label in labels.items()}
