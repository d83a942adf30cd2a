"""The one rule for hidden and system folders, and for the files that systems leave behind: they are in no source.

A build and `celluscan predict` both follow it. Any other hidden file (`.DS_169665.jpg`, in the published PBC) may be an
image under a bad name: a build opens it like the rest, and lists it in `dropped.csv` if it is not an image.
"""

_SYSTEM_FOLDERS = frozenset(  # besides those that begin with a dot; lower case
    {
        "__macosx",  # macOS: beside the files of a zip
        "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot",  # network storage
        "$recycle.bin", "recycler", "system volume information",  # Windows
        "lost+found", "__pycache__",
    }
)  # fmt: skip
_SYSTEM_FILES = frozenset(  # lower case
    {
        ".ds_store", ".localized", "icon\r",  # macOS
        "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini",  # Windows
        ".directory", ".nomedia", ".gitattributes", ".gitignore", ".gitkeep", ".keep",
    }
)  # fmt: skip
_APPLE_DOUBLE = "._"  # attributes of the file of the rest of the name, written by macOS to other file systems


def is_hidden_folder(name: str) -> bool:
    """Whether a folder of this name is hidden or a system's own."""
    return (name.startswith(".") and name not in (".", "..")) or name.lower() in _SYSTEM_FOLDERS


def is_system_file(name: str) -> bool:
    """Whether a file of this name was left behind by an operating system or a version control system."""
    return name.startswith(_APPLE_DOUBLE) or name.lower() in _SYSTEM_FILES


def hidden_part(path: str) -> str:
    """The outermost hidden folder of a path with `/`, ending in `/`; the path itself for a system's file; else ""."""
    *folders, name = path.split("/")
    for depth, folder in enumerate(folders, start=1):
        if is_hidden_folder(folder):
            return "/".join(folders[:depth]) + "/"
    return path if is_system_file(name) else ""
