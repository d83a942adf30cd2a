"""Report dropped files: counts by reason, what to do about it, and the error if a source has no usable image."""

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from .. import taxonomy
from ..atomic_io import atomic_write
from ..errors import CelluScanError
from ..sources import Dropped, Source

_SHOWN = 4  # reasons in a message
_ADVISED = 2  # most frequent reasons that get advice
FEW = 0.1  # a source with a smaller share of usable images gets a warning
_NO_LABEL = "unknown_label:"

# What to do about a reason; for `no_class:LABEL` and the like by the part before the colon.
ADVICE = {
    "animated": "files of several images are not read: save each image as a file of its own",
    "archive": "archives inside a source are not opened: unpack them, each class into a folder of its name",
    "broken_link": "links that point nowhere: copy the files themselves (cp -RL, rsync -L)",
    "empty_file": "files of 0 bytes: copy or download them again",
    "empty_folder": "folders without files: copy or download them again",
    "encrypted": "the archive asks for a password: unpack it and give the folder",
    "git_lfs_pointer": "Git LFS pointers instead of images: run git lfs pull in the repository",
    "html_page": "web pages instead of images, such as a login page: log in and download the files again",
    "link_in_archive": "links inside an archive are not followed: pack the files themselves (tar -h)",
    "missing_file": "a table names files that are not there: compare its file_name with the names of the files",
    "multi_page": "TIFF files of several pages: save the page of each cell as a file of its own",
    "no_class": "none of the classes fits these labels",
    "non_utf8_name": "names of files that are not UTF-8: rename them (convmv -f latin1 -t utf8)",
    "not_an_image": "expected JPEG, PNG, TIFF, BMP, GIF, WebP or PPM: convert the files",
    "not_embedded": "the images are stored as URLs or as paths outside the dataset: embed them as bytes",
    "too_many_bytes": "crop single cells",
    "too_many_pixels": "crop single cells",
    "too_small": "give the images in their full size, not as thumbnails",
    "truncated": "truncated files: copy or download them again",
    "unknown_compression": "unsupported compression of the archive: unpack it and give the folder",
    "undecodable": "damaged files: copy or download them again, or save them again as PNG",
    "unknown_label": "labels that this source does not have: check its key, or use imagefolder",
    "unreadable": "files that cannot be read: check their permissions, or copy or download them again",
    "unreadable_folder": "folders that cannot be opened: check their permissions",
    "unsafe_path": "names that point outside the dataset (..): pack it again from inside its folder",
    "unsigned": "images that no expert labelled: give the signed ones too",
    "unsupported_format": "unsupported formats: convert the files to PNG or TIFF",
    "unsupported_mode": "32-bit or other samples without a range: convert the files to 8 or 16 bit",
    "whole_field": "fields of view instead of single cells: give the folder with the crops",
}
# Dropped on purpose, so not a sign of a damaged or misread source.
_DECIDED = {
    "no_class", "segmentation_mask", "ambiguous_field", "other_cell_in_window", "augmented", "empty_folder",
    "whole_field", "unsigned", "duplicate", "label_conflict", "excluded_acquisition",
}  # fmt: skip


def list_beside(output: Path) -> Path:
    """Return the path of the list of dropped files of a build without a usable image."""
    return output.with_name(f"{output.name}.dropped.csv")


def write_dropped(path: Path, dropped: Iterable[Dropped]) -> None:
    """Write the dropped files as `path,reason,detail`, sorted by path."""
    with atomic_write(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "reason", "detail"))
        ordered = sorted(dropped, key=lambda item: (item.path, item.reason))
        writer.writerows((item.path, item.reason, item.detail) for item in ordered)


def require_usable(
    sources: Sequence[Source], usable: Mapping[str, int], dropped: Sequence[Dropped], output: Path
) -> None:
    """Stop if a source has no usable image. `usable` counts them by source.

    Raises:
        CelluScanError: Names the sources, the reasons and what to do; the dropped files are listed next to `output`.
    """
    empty = [source for source in sources if not usable.get(source.name)]
    if empty:
        path = list_beside(output)
        write_dropped(path, dropped)
        reasons = "; ".join(
            f"source {source.name}: no usable image; {_explain_source(source, dropped)}" for source in empty
        )
        others = "" if len(empty) == len(sources) else "; to build without it, leave it out"
        raise CelluScanError(f"{reasons}{others}; every dropped file is listed in {path}")


def warnings(sources: Sequence[Source], rows: Mapping[str, int], dropped: Sequence[Dropped]) -> list[str]:
    """Warn about sources with no or few usable images and about empty folders. `rows` counts those kept."""
    lines = []
    for source in sources:
        own, kept = _dropped_of(source, dropped), rows.get(source.name, 0)
        bad = [item for item in own if item.reason.partition(":")[0] not in _DECIDED]
        if not kept:
            lines.append(f"source {source.name} adds no image: {explain(own)}")
        elif kept < FEW * (kept + len(bad)):
            lines.append(
                f"source {source.name}: only {kept:,} of {kept + len(bad):,} images can be used; of the others "
                f"{_explain_source(source, bad)}"
            )
        empty = [item.path for item in own if item.reason == "empty_folder"]
        if empty:
            lines.append(f"empty folders: {_few(empty)}; {ADVICE['empty_folder']}")
    return lines


def explain(dropped: Sequence[Dropped]) -> str:
    """Return the reasons with their counts, the most frequent first, and what to do about them."""
    return "; ".join([_count_reasons(dropped), *_advice(dropped)])


def _explain_source(source: Source, dropped: Sequence[Dropped]) -> str:
    own = _dropped_of(source, dropped)
    return "; ".join([_count_reasons(own), *_layout_advice(source, own), *_advice(own)])


def _dropped_of(source: Source, dropped: Sequence[Dropped]) -> list[Dropped]:
    return [item for item in dropped if item.path.startswith(f"{source.name}/")]


def _count_reasons(dropped: Sequence[Dropped]) -> str:
    if not dropped:
        return "there were none; check the paths given"
    counts = Counter("no label" if item.reason == _NO_LABEL else item.reason for item in dropped)
    reasons = _few([f"{reason} {count:,}" for reason, count in counts.most_common()])
    return f"all {len(dropped):,} were dropped: {reasons}"


def _advice(dropped: Sequence[Dropped]) -> list[str]:
    kinds = Counter(item.reason.partition(":")[0] for item in dropped if item.reason != _NO_LABEL)
    advice = (ADVICE[kind] for kind, _ in kinds.most_common() if kind in ADVICE)
    return list(dict.fromkeys(advice))[:_ADVISED]


def _layout_advice(source: Source, dropped: Sequence[Dropped]) -> list[str]:
    """Advise on images without a label: how the layout differs from what was expected, judged by names."""
    if all(item.reason != _NO_LABEL for item in dropped):
        return []
    paths = [PurePosixPath(item.path.removeprefix(f"{source.name}/")) for item in dropped]
    tables = [path for path in paths if path.suffix.lower() in (".csv", ".tsv", ".xlsx", ".xls", ".ods", ".txt")]
    if source.location is not None and _is_class(source.location.stem):
        place = source.location.resolve()
        what = "the folder of one class" if place.is_dir() else "an archive of one class: unpack it into a folder"
        return [f"{source.location} looks like {what}; give the folder above it, {place.parent}, for all classes"]
    if tables:
        return [f"if {tables[0]} holds the labels, save it as metadata.csv with the columns file_name and label"]
    if any("\\" in path.name for path in paths):
        return ["names hold \\ for folders: give the archive itself, or unpack it with another program"]
    return ["expected class folders (Basophil/a.png), or a metadata.csv with the columns file_name and label"]


def _is_class(name: str) -> bool:
    try:
        taxonomy.lookup(name)
    except KeyError:
        return False
    return True


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
