"""Hidden and system folders, and files left behind by systems, which builds and `celluscan predict` skip.

Any other hidden file (`.DS_169665.jpg`, in the published PBC) may be an image with a bad name: a build opens it like
any other file, and lists it in `dropped.csv` if it is not an image.
"""

_SYSTEM_FOLDERS = frozenset(  # besides those that start with a dot; lower case
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
_APPLE_DOUBLE = "._"  # prefix of files in which macOS keeps attributes on other file systems


def is_hidden_folder(name: str) -> bool:
    """Whether a folder with this name is hidden or belongs to the system."""
    return (name.startswith(".") and name not in (".", "..")) or name.lower() in _SYSTEM_FOLDERS


def is_system_file(name: str) -> bool:
    """Whether a file with this name was left behind by an operating or version control system."""
    return name.startswith(_APPLE_DOUBLE) or name.lower() in _SYSTEM_FILES


def hidden_part(path: str) -> str:
    """Return the outermost hidden folder of a path, ending in `/`, or the path of a system file, or an empty string."""
    *folders, name = path.split("/")
    for depth, folder in enumerate(folders, start=1):
        if is_hidden_folder(folder):
            return "/".join(folders[:depth]) + "/"
    return path if is_system_file(name) else ""
