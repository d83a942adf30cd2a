"""What every reader shares: a source lists records and reads their bytes.

Most open data sets are folders named after classes. For those a reader is a table: `landmarks`, the folder names of
the published layout, `decisions`, what becomes of each label, and `code_of`, where the label stands in a path.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..errors import CelluScanError
from .groups import shown
from .hidden import hidden_part
from .records import Decision, Dropped, Record, SourceInfo
from .tree import EMPTY_FOLDER, Entry, Tree


class Source(ABC):
    """One source of a build, under the name it was given on the command line.

    Once its records were listed, `stamp` says in which state its files were found, and `notes` what its user should
    know of them, a line each. `groups_from` says what tells the groups of its records, in words. `variant` says which
    of several images of a record are read, if its records do not tell.
    """

    info: SourceInfo
    groups_from: str = ""
    variant: str = ""

    def __init__(self, name: str) -> None:
        self.name = name
        self.key = name  # as the command line names it
        self.license = self.info.license
        self.stamp = ""
        self.notes: list[str] = []

    @property
    def location(self) -> Path | None:
        """Where its files are; None where it has none."""
        return None

    @abstractmethod
    def records(self) -> Iterator[Record | Dropped]:
        """Every cell and every file that is none, in an order that depends on names alone."""

    @abstractmethod
    def read(self, record: Record) -> bytes:
        """The bytes of the record's image file. Raises `BadImage`."""


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
    """A source whose images are files of a tree laid out as `landmarks` says.

    The layout may begin deeper than the path given (an archive often wraps its files in a folder), even in several
    places (`part1/`, `part2/`). Where it begins in one place, `image_id` counts from there, so that it does not depend
    on the packing.
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
        """What `read` needs; a worker process does without what was gathered while listing."""
        return {"name": self.name, "license": self.license, "tree": self.tree}

    def records(self) -> Iterator[Record | Dropped]:
        listed = list(self.tree.all_entries())
        entries = [entry for entry in listed if not hidden_part(entry.path)]
        hidden = {part for entry in listed if (part := hidden_part(entry.path))}
        files = [entry for entry in entries if entry.problem != EMPTY_FOLDER]
        if not files:
            beside = f" but hidden and system files ({shown(hidden)})" if hidden else ""
            raise CelluScanError(f"source {self.name}: {self.tree.location} holds no files{beside}; {self.expected()}")
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
                if root is None:  # a file beside the layout: a licence, a page of the publisher
                    root = common if entry.path.startswith(common) else ""
                yield from self.cells(File(entry.path.removeprefix(root), root, image_id))

    def prepare(self, entries: Sequence[Entry]) -> None:
        """Learn from all entries what `cells` needs to know of each."""

    @abstractmethod
    def cells(self, file: File) -> Iterator[Record | Dropped]:
        """The cells of one file; nothing for a file that only describes others."""

    def read(self, record: Record) -> bytes:
        return self.tree.read(record.member)

    def table(self, member: str) -> str:
        """The text of a file that describes others. Raises `BadImage` where there is none."""
        try:
            return self.tree.read(member).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise CelluScanError(
                f"source {self.name}: {member} is not UTF-8; save it so (in Excel: CSV UTF-8)"
            ) from None

    def expected(self) -> str:
        return f"expected the folders {', '.join(self.landmarks)} ({self.info.title}, {self.info.url})"

    def without_layout(self) -> str:
        """The root where no file stands in the published layout. Raises `CelluScanError` for a published source."""
        raise CelluScanError(f"source {self.name}: unknown layout in {self.tree.location}; {self.expected()}")

    def root_of(self, path: str) -> str | None:
        """The folder in which the layout of a file begins: that of its first landmark; None where it has none."""
        known = {landmark.casefold() for landmark in self.landmarks}
        folders = path.split("/")[:-1]
        for depth, folder in enumerate(folders):
            if folder.casefold() in known:
                return "".join(f"{above}/" for above in folders[:depth])
        return None


class ClassFolderSource(TreeSource):
    """A tree in which a file's path names its label; `decisions` says what each label becomes."""

    decisions: ClassVar[Mapping[str, Decision]]
    augmented: ClassVar[bool] = False

    def code_of(self, path: str) -> str:
        """The source's own label for the file; by default the first folder of its path."""
        return path.split("/")[0] if "/" in path else ""

    def group_of(self, path: str) -> str | None:
        """What else was made of the same blood, as far as the path tells; None where that is nothing."""
        return None

    def cells(self, file: File) -> Iterator[Record | Dropped]:
        code = self.code_of(file.path)
        decision = self.decisions.get(code)
        if decision is not None and decision.label is None:
            yield Dropped(file.image_id, f"no_class:{code}", decision.reason, code)
            return
        label = decision.label if decision else None
        group = self.group_of(file.path)
        group_id = file.image_id if group is None else f"{self.name}/{group}"
        yield Record(file.image_id, file.member, label, code, group_id, augmented=self.augmented)


def parent_folder(path: str) -> str:
    """The name of the folder a file lies in; empty for one that lies in none."""
    return path.rpartition("/")[0].rpartition("/")[2]


def folder_of(path: str) -> str:
    """The path of the folder a file lies in; empty for one that lies in none."""
    return path.rpartition("/")[0]


def same(reason: str, **labels: str) -> dict[str, Decision]:
    """Decisions for labels that mean exactly one of our classes: `same("…", EOS="Eosinophil")`."""
    return {code: Decision(label, reason) for code, label in labels.items()}
