"""A recording that a person opens in the live page, drawn by a process of its own.

Whatever is in the file, it holds up and takes down nothing but that process, which has a time and
gets the bytes on its standard input. What is drawn is bounded too: bytes, events, frames, tools.
"""

import asyncio
import gzip
import io
import json
import resource
import sys
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Final

from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.inspect import html_report
from lifecycle_proxy.recording import cassette
from lifecycle_proxy.recording.cassette_file import CassetteError

_PATIENCE_S: Final = 30.0
_MAX_BYTES: Final = 16 << 20
_MAX_UNPACKED_BYTES: Final = 64 << 20
_MAX_EVENTS: Final = 300_000
_MAX_EXCHANGES: Final = 5000
_MAX_MEMORY: Final = 2 << 30
_READ_BYTES: Final = 1 << 20
# What can be done about a recording that is too much for a running proxy.
ELSEWHERE: Final = (
    "in a terminal, `lifecycle-proxy export FILE --html -o PAGE.html` makes a page of it, and with "
    "`--exchange ID` of one exchange of it"
)
_REFUSED: Final = 2
_NAME: Final = "this file"


async def drawn(data: bytes, patience_s: float = _PATIENCE_S) -> bytes:
    """A recording as the page draws it, as JSON.

    Args:
        data: a cassette, maybe compressed.
        patience_s: how long it may take, in seconds.

    Raises:
        ProxyError: ``bad_request``: it is none, or took too long.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(patience_s):
            out, problem = await process.communicate(data)
    except TimeoutError:
        words = f"the recording could not be read in {patience_s:g} s; {ELSEWHERE}"
        raise _refused(words) from None
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if process.returncode == _REFUSED:
        raise _refused(problem.decode("utf-8", "replace").strip().splitlines()[-1])
    if process.returncode:
        words = f"the process that read the recording has failed ({_how(process.returncode)})"
        raise _refused(f"{words}; {ELSEWHERE}")
    return out


def _how(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def _refused(message: str) -> ProxyError:
    return ProxyError("bad_request", message)


def main() -> int:
    """Draw the recording on standard input; 2 where that cannot be done, with the reason."""
    with suppress(ValueError, OSError):  # not all systems have this limit
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY, most))
    with tempfile.TemporaryDirectory() as folder:  # a cassette is read as a file
        file = Path(folder) / "opened"
        try:
            sys.stdout.write(_drawn(sys.stdin.buffer.read(), file))
        except MemoryError:
            problem = f"it takes more than {_MAX_MEMORY >> 30} GiB of memory; {ELSEWHERE}"
        except CassetteError as error:
            problem = str(error).replace(str(file), _NAME)
        else:
            return 0
    print(problem, file=sys.stderr)
    return _REFUSED


def _drawn(data: bytes, file: Path) -> str:
    _unpack(data, file)
    drawn = html_report.recording_of(
        cassette.load(file),
        _NAME,
        max_bytes=_MAX_BYTES,
        max_events=_MAX_EVENTS,
        max_exchanges=_MAX_EXCHANGES,
    )
    return json.dumps(drawn)


def _unpack(data: bytes, file: Path) -> None:
    """Write a recording into a file, decompressed up to where it is cut off.

    Args:
        data: maybe compressed.
        file: is made.

    Raises:
        CassetteError: it is larger than a page opens.
    """
    source = io.BytesIO(data)
    stream = gzip.GzipFile(fileobj=source) if data.startswith(b"\x1f\x8b") else source
    size = 0
    with file.open("wb") as out, suppress(EOFError, gzip.BadGzipFile, zlib.error):
        while piece := stream.read1(_READ_BYTES):
            out.write(piece)
            size += len(piece)
            if size > _MAX_UNPACKED_BYTES:
                most = f"{_MAX_UNPACKED_BYTES >> 20} MiB, which is the most that a page opens"
                raise CassetteError(f"{_NAME} unpacks to more than {most}; {ELSEWHERE}")


if __name__ == "__main__":
    sys.exit(main())
