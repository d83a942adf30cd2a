"""Identify files that cannot be read as images by their first bytes, so that the error says what they are."""

import re
from collections.abc import Mapping

_READ = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF"}  # supported, so a file that failed is damaged
_NOT_READ = {
    b"\0\0\0\x0cjP  \r\n": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"II\xbc\x01": "JPEG XR",
    b"8BPS": "Photoshop (PSD)",
    b"ZISRAWFILE": "Zeiss CZI",
    b"SIMPLE  =": "FITS",
    b"v/1\x01": "OpenEXR",
    b"DDS ": "DDS",
    b"qoif": "QOI",
    b"P7\n": "PAM",
}
_LFS = b"version https://git-lfs"  # https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
_WEB_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body|script)", re.IGNORECASE)
_ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf\x27\x1c", b"Rar!")
_TAR, _TAR_AT = b"ustar", 257
_NOT_IMAGES = {b"%PDF": "a PDF", b"\x89HDF": "HDF5, as arrays are stored"}
_BRANDS = {"HEIC": rb"hei[cxms]|hev[cx]|mif1|msf1", "AVIF": rb"avi[fs]"}  # of ISO media files, in their first box
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers of JPEG that begin with the bits of a sample
_LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF}


def name_format(data: bytes) -> tuple[str, str]:
    """Return why a file cannot be read, as a reason and its detail."""
    name = _unsupported_format(data)
    if name:
        return "unsupported_format", f"{name} is not read, convert to PNG or TIFF"
    damaged = _by_magic(data, _READ)
    if damaged:
        return "undecodable", f"a damaged {damaged} file"
    if is_lfs_pointer(data):
        return "git_lfs_pointer", "a Git LFS pointer; run git lfs pull"
    if _WEB_PAGE.match(data[:200]):
        return "html_page", "a web page; download the image itself"
    if data.startswith(_ARCHIVES) or data[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR:
        return "archive", "an archive; unpack it"
    return "not_an_image", _by_magic(data, _NOT_IMAGES) or f"starts with {data[:8].hex(' ')}"


def is_lfs_pointer(data: bytes) -> bool:
    """Whether a file is a Git LFS pointer."""
    return data.startswith(_LFS)


def _by_magic(data: bytes, table: Mapping[bytes, str]) -> str | None:
    return next((name for start, name in table.items() if data.startswith(start)), None)


def _unsupported_format(data: bytes) -> str | None:
    if data[4:8] == b"ftyp":
        brands = data[8 : min(int.from_bytes(data[:4], "big"), 200)]
        return next((name for name in ("AVIF", "HEIC") if re.search(_BRANDS[name], brands)), "a video (MP4)")
    if data[128:132] == b"DICM":
        return "DICOM"
    if data.startswith(b"\xff\xd8\xff"):
        return _unusual_jpeg(data)
    return _by_magic(data, _NOT_READ)


def _unusual_jpeg(data: bytes) -> str | None:
    """Name a JPEG of 12 or 16 bits, or a lossless one; None for usual ones."""
    offset = 2
    while offset + 5 <= len(data) and data[offset] == 0xFF:
        marker, length = data[offset + 1], int.from_bytes(data[offset + 2 : offset + 4], "big")
        if marker in _FRAMES:
            kind = "lossless " if marker in _LOSSLESS else ""
            return f"{kind}{data[offset + 4]}-bit JPEG" if kind or data[offset + 4] != 8 else None
        offset += 2 + length
    return None
