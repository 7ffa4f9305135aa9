"""A recording that a person opens in the live page, drawn by a process of its own.

Whatever is in the file, it holds up and takes down nothing but that process, which has a time and
gets the bytes on its standard input.
"""

import asyncio
import json
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.inspect import html_report
from lifecycle_proxy.recording import cassette
from lifecycle_proxy.recording.cassette_file import CassetteError

_PATIENCE_S: Final = 30.0
_MAX_BYTES: Final = 16 << 20
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
        raise _refused(f"the recording could not be read in {patience_s:g} s") from None
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if process.returncode == _REFUSED:
        raise _refused(problem.decode("utf-8", "replace").strip().splitlines()[-1])
    if process.returncode:
        raise _refused("the recording could not be read")
    return out


def _refused(message: str) -> ProxyError:
    return ProxyError("bad_request", message)


def main() -> int:
    """Draw the recording on standard input; 2 where it is none."""
    with tempfile.TemporaryDirectory() as folder:  # a cassette is read as a file
        file = Path(folder) / "opened"
        file.write_bytes(sys.stdin.buffer.read())
        try:
            exchanges = cassette.load(file)
        except CassetteError as error:
            print(str(error).replace(str(file), _NAME), file=sys.stderr)
            return _REFUSED
    data = html_report.recording_of(exchanges, title=_NAME, max_bytes=_MAX_BYTES)
    sys.stdout.write(json.dumps(data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
