"""Zip archives from strangers, opened so that opening them and reading them costs no more than what comes out."""

from __future__ import annotations

import struct
import zipfile
from typing import BinaryIO

MAX_DIRECTORY_BYTES = 8 << 20
"""Of an archive's list of files, which is read whole when it is opened: tens of thousands of names."""
_END, _END_64, _END_BYTES, _LONGEST_COMMENT = b"PK\x05\x06", b"PK\x06\x07", 22, 1 << 16


def open_archive(stream: BinaryIO) -> zipfile.ZipFile:
    """The archive. Raises zipfile.BadZipFile for what is none, and for what could not be read at a bounded cost.

    Of packings only deflate is taken: it comes out piece by piece, where Python's bzip2 and LZMA readers unpack
    all that was read at once, however much it is."""
    stream.seek(0, 2)
    size = stream.tell()
    tail_at = max(0, size - _END_BYTES - _LONGEST_COMMENT)
    stream.seek(tail_at)
    tail = stream.read()
    end = tail.rfind(_END)
    if end < 0 or len(tail) < end + _END_BYTES:
        raise zipfile.BadZipFile("it has no end")
    (directory_bytes,) = struct.unpack_from("<L", tail, end + 12)
    if directory_bytes > MAX_DIRECTORY_BYTES or _END_64 in tail[max(0, end - 20) : end]:
        raise zipfile.BadZipFile("its list of files is too long")
    stream.seek(0)
    archive = zipfile.ZipFile(stream)
    for member in archive.infolist():
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise zipfile.BadZipFile("it is packed in another way than deflate")
    return archive
