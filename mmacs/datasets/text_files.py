"""Encodings of the text files that data sets read, told in one sentence."""

import codecs
import os

from mmacs.utils.errors import MmacsError

_GZIP = b'\x1f\x8b'


def not_utf8(error: UnicodeDecodeError) -> str:
    """Returns what a file is that is no text in UTF-8, and what to do, after the file's name in a sentence."""
    if error.object.startswith(_GZIP):
        return 'it is compressed by gzip; unpack it'
    return f'it is not UTF-8 (byte {error.object[error.start]:#04x} at position {error.start}); save it in UTF-8'


def require_no_mark(path: os.PathLike) -> None:
    """Require that a text file starts with its first line, and not with a byte order mark, which would be part of it.

    Raises:
        MmacsError: If it has one.
    """
    with open(path, 'rb') as file:
        if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8:
            raise MmacsError(f'{path} starts with a byte order mark, which no line is: save it in UTF-8 without one')
