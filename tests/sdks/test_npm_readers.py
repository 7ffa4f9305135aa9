"""AG-UI's and Vercel's own readers, from npm, read what readers beside a stream get."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from lifecycle_proxy.core.stream_events import StreamEvent

from tests import npm
from tests.conftest import StartProxy
from tests.core.vocabularies.legal import Plan, Reading, read, readings
from tests.core.vocabularies.test_bytes import ROWS
from tests.fakes import DONE, Request, Upstream, Wire, ask, chat, text, tool_call

pytestmark = pytest.mark.unmeasured

_PACKAGES: Final = ("@ag-ui/client@1.0.0", "ai@6.0.326", "rxjs@7.8.2")
_SCRIPT: Final = Path(__file__).with_name("readers.mjs")
Reader = Callable[[str, bytes], Any]


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    """Reads a body in a vocabulary and gives what came of it."""
    folder = npm.installed(*_PACKAGES)
    command = ["node", str(_SCRIPT), str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        to, out = process.stdin, process.stdout
        assert to is not None
        assert out is not None

        def read_body(vocabulary: str, body: bytes) -> Any:
            to.write(json.dumps({"vocabulary": vocabulary, "body": body.decode()}) + "\n")
            to.flush()
            answer = json.loads(out.readline())
            assert answer["error"] == "", body.decode()
            return answer["last"]

        yield read_body
        to.close()


def test_the_readers_refuse_what_is_wrong(reader: Reader) -> None:
    """Else the tests below say nothing."""
    with pytest.raises(AssertionError):
        reader("ag-ui", b'data: {"type":"RUN_FINISHED","threadId":"a","runId":"a"}\n\n')
    wrong = b'data: {"type":"tool-output-available","toolCallId":"a","output":"x"}\n\n'
    with pytest.raises(AssertionError):
        reader("vercel-ui", wrong)


def test_ag_ui_reads_a_whole_stream(reader: Reader) -> None:
    events = [StreamEvent(seq, 0.0, *row) for seq, row in enumerate(ROWS, 1)]
    kinds = reader("ag-ui", read("ag-ui", events, Plan()))
    assert (kinds[0], kinds[-1]) == ("RUN_STARTED", "RUN_FINISHED")
    assert kinds.count("TOOL_CALL_RESULT") == 2


def test_vercel_s_reader_has_the_message(reader: Reader) -> None:
    events = [StreamEvent(seq, 0.0, *row) for seq, row in enumerate(ROWS, 1)]
    message = reader("vercel-ui", read("vercel-ui", events, Plan()))
    parts = {part.get("toolCallId", part["type"]): part for part in message["parts"]}
    assert parts["reasoning"]["text"] == "hm"
    assert (parts["text"]["text"], parts["text"]["state"]) == ("Hello".replace("e", "é"), "done")
    done, failed = parts["call_2"], parts["call_1"]
    assert (done["state"], done["input"], done["output"]) == ("output-available", {"q": 1}, "bin")
    assert (failed["state"], failed["errorText"]) == ("output-error", "length")
    assert failed["input"] == {"command": "ls"}


@pytest.mark.parametrize("vocabulary", ["ag-ui", "vercel-ui"])
@pytest.mark.parametrize("is_cut", [False, True])
@pytest.mark.parametrize("is_redacted", [False, True])
async def test_what_comes_over_the_wire(
    reader: Reader,
    upstream: Upstream,
    start_proxy: StartProxy,
    vocabulary: str,
    is_cut: bool,
    is_redacted: bool,
) -> None:
    async def script(_: Request, wire: Wire) -> None:
        calls = tool_call("a", "t", '{"q"'), tool_call("b"), tool_call("a", "t", ":1}")
        await wire.stream(text("Hello"), *calls, *(() if is_cut else (DONE, b"")))
        wire.close()

    upstream.script = script
    proxy = await start_proxy({"lifecycle.redact": is_redacted})
    await chat(proxy, "X-Event-Stream-Id: run-00000001", "X-Lifecycle-Arguments: on")
    path = f"/-/streams/run-00000001/events?dialect={vocabulary}"
    assert reader(vocabulary, (await ask(proxy, "GET", path)).body)


@pytest.mark.parametrize("vocabulary", ["ag-ui", "vercel-ui"])
@given(reading=readings())
@settings(max_examples=200)
def test_any_stream_from_any_place(reader: Reader, vocabulary: str, reading: Reading) -> None:
    reader(vocabulary, read(vocabulary, *reading))
