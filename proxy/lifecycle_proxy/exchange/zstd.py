"""zstd, with a library that is installed: that of Python 3.14, backports.zstd or zstandard."""

from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any, Final

# Takes a whole body and a limit in bytes. Decompresses no more, and returns None if it is invalid.
Decode = Callable[[bytes, int], bytes | None]

# Bodies that are read are smaller than this window, and a decoder allocates a window in advance.
_WINDOW_LOG: Final = 23


def maybe_decoder(names: tuple[str, ...] = ()) -> Decode | None:
    """A decoder made with the first library that is installed.

    Args:
        names: the libraries to try; all that are known, if not given.
    """
    for name in names or tuple(_LIBRARIES):
        with suppress(ImportError):
            module = import_module(name)
            return _LIBRARIES[name](module)
    return None


def _with_python(module: Any) -> Decode:
    options = {module.DecompressionParameter.window_log_max: _WINDOW_LOG}

    def decode(data: bytes, size: int) -> bytes | None:
        one = module.ZstdDecompressor(options=options)
        try:
            clear: bytes = one.decompress(data, size)
        except module.ZstdError:
            return None
        return clear if (one.eof and not one.unused_data) or len(clear) == size else None

    return decode


def _with_zstandard(module: Any) -> Decode:
    def decode(data: bytes, size: int) -> bytes | None:
        one = module.ZstdDecompressor(max_window_size=1 << _WINDOW_LOG)
        try:
            clear: bytes = one.stream_reader(data).read(size)
        except module.ZstdError:
            return None
        return clear  # a truncated body is not detected here; its JSON is invalid

    return decode


_LIBRARIES: Final[dict[str, Callable[[Any], Decode]]] = {
    "compression.zstd": _with_python,
    "backports.zstd": _with_python,
    "zstandard": _with_zstandard,
}
