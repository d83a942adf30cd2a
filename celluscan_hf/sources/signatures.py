"""What a file is that is named like an image and holds none, by its first bytes."""

_LFS = b"version https://git-lfs"  # https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
_HTML = (b"<!doctype html", b"<html", b"<head", b"<body", b"<script")
_ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf\x27\x1c", b"Rar!")
_TAR, _TAR_AT = b"ustar", 257


def kind_of(data: bytes) -> str:
    """The reason to drop a file that no image decoder knows: `git_lfs_pointer`, `html_page`, `archive`, `not_an_image`.

    An HTML page is what a download saves that was answered with a page of login or error.
    """
    if data.startswith(_LFS):
        return "git_lfs_pointer"
    if data[:64].removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_HTML):
        return "html_page"
    if data.startswith(_ARCHIVES) or data[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR:
        return "archive"
    return "not_an_image"
