"""What every reader shares: a source lists records and reads their bytes.

Most open data sets are folders named after classes. For those a reader is a table: `landmarks`, the folder names of
the published layout, `decisions`, what becomes of each label, and `code_of`, where the label stands in a path.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar

from ..errors import CelluScanError
from .records import Decision, Dropped, Record, SourceInfo
from .tree import Tree


class Source(ABC):
    """One source of a build, under the name it was given on the command line."""

    info: ClassVar[SourceInfo]

    def __init__(self, name: str) -> None:
        self.name = name
        self.license = self.info.license

    @abstractmethod
    def records(self) -> Iterator[Record | Dropped]:
        """Every cell and every file that is none, in an order that depends on names alone."""

    @abstractmethod
    def read(self, record: Record) -> bytes:
        """The bytes of the record's image file. Raises `BadImage`."""


class TreeSource(Source):
    """A source whose images are files of a tree laid out as `landmarks` says.

    The tree may lie deeper than the path given (an archive often wraps its files in a folder): paths are counted
    from the folder that holds a landmark, so that `image_id` does not depend on the packing.
    """

    landmarks: ClassVar[tuple[str, ...]]

    def __init__(self, name: str, tree: Tree) -> None:
        super().__init__(name)
        self.tree = tree
        self.root = ""
        self.paths: frozenset[str] = frozenset()

    def __getstate__(self) -> dict[str, object]:
        """What `read` needs; a worker process does without what was gathered while listing."""
        return {"name": self.name, "license": self.license, "tree": self.tree, "root": self.root}

    def records(self) -> Iterator[Record | Dropped]:
        entries = list(self.tree.entries())
        if not entries:
            raise CelluScanError(f"source {self.name}: {self.tree.location} holds no files; {self.expected()}")
        self.root = self._find_root([entry.path for entry in entries])
        self.paths = frozenset(entry.path.removeprefix(self.root) for entry in entries)
        for entry in entries:
            path = entry.path.removeprefix(self.root)
            if entry.problem:
                yield Dropped(self.image_id(path), entry.problem)
            else:
                yield from self.cells(path)

    @abstractmethod
    def cells(self, path: str) -> Iterator[Record | Dropped]:
        """The cells of one file, by its path from the root; nothing for a file that only describes others."""

    def read(self, record: Record) -> bytes:
        return self.tree.read(self.root + record.member)

    def table(self, path: str) -> str:
        """The text of a file that describes others. Raises `BadImage` where there is none."""
        try:
            return self.tree.read(self.root + path).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise CelluScanError(f"source {self.name}: {path} is not UTF-8; save it so (in Excel: CSV UTF-8)") from None

    def image_id(self, path: str) -> str:
        return f"{self.name}/{path}"

    def expected(self) -> str:
        return f"expected the folders {', '.join(self.landmarks)} ({self.info.title}, {self.info.url})"

    def _find_root(self, paths: list[str]) -> str:
        roots = {root for path in paths for root in self._roots_in(path)}
        if not roots:
            raise CelluScanError(f"source {self.name}: unknown layout in {self.tree.location}; {self.expected()}")
        return min(roots, key=lambda root: (root.count("/"), root))

    def _roots_in(self, path: str) -> Iterator[str]:
        known = {landmark.casefold() for landmark in self.landmarks}
        folders = path.split("/")[:-1]
        for depth, folder in enumerate(folders):
            if folder.casefold() in known:
                yield "".join(f"{above}/" for above in folders[:depth])


class ClassFolderSource(TreeSource):
    """A tree in which a file's path names its label; `decisions` says what each label becomes."""

    decisions: ClassVar[Mapping[str, Decision]]
    augmented: ClassVar[bool] = False

    def code_of(self, path: str) -> str:
        """The source's own label for the file; by default the first folder of its path."""
        return path.split("/")[0] if "/" in path else ""

    def group_of(self, path: str) -> str:
        """What else was made of the same blood, as far as the path tells; by default nothing is known."""
        return path

    def cells(self, path: str) -> Iterator[Record | Dropped]:
        code = self.code_of(path)
        decision = self.decisions.get(code)
        if decision is not None and decision.label is None:
            yield Dropped(self.image_id(path), f"no_class:{code}", decision.reason, code)
            return
        label = decision.label if decision else None
        group = self.image_id(self.group_of(path))
        yield Record(self.image_id(path), path, label, code, group, augmented=self.augmented)


def parent_folder(path: str) -> str:
    """The name of the folder a file lies in; empty for one that lies in none."""
    return path.rpartition("/")[0].rpartition("/")[2]


def same(reason: str, **labels: str) -> dict[str, Decision]:
    """Decisions for labels that mean exactly one of our classes: `same("…", EOS="Eosinophil")`."""
    return {code: Decision(label, reason) for code, label in labels.items()}
