"""The recording on the terminal."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lifecycle_proxy.inspect import show, terminal
from lifecycle_proxy.recording import cassette
from lifecycle_proxy.recording.cassette_file import CassetteError

from tests.recording.build import Tape, agent, chunk, frame, write


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return write(tmp_path / "one.jsonl", agent(), agent("agent-0002"), models())


def models() -> Tape:
    head = [["Content-Type", "application/json"]]
    tape = Tape("zz").request(b"", method="GET", target="/v1/models", route="other")
    return tape.head(12, head).read(13, b'{"object":"list","data":[]}').end()


def rendered(path: Path, **options: object) -> list[str]:
    return list(show.render(cassette.load(path), **options))  # type: ignore[arg-type]


def test_the_list(path: Path) -> None:
    lines = rendered(path)
    assert " ".join(lines[0].split()) == "# id UTC status ended ms events tools request"
    row = "1 agent-0001 06:00:01 200 done 2857 65+5 web_search, terminal m"
    assert lines[1].split() == row.split()
    assert " ".join(lines[3].split()) == "3 zz 06:00:01 200 done 13 1 - GET /v1/models"
    assert lines[4] == "65+5: 65 events, and 5 that the proxy added"


def test_one_exchange(path: Path) -> None:
    lines = rendered(path, exchange_id="agent-0002")
    assert lines[1].split()[:2] == ["2", "agent-0002"]
    assert sum("agent-0001" in line for line in lines) == 0
    head = "   client: 200 OK at 82.5 ms, 11.3 KiB, 70 events (5 added by the proxy)"
    assert f"{head}, eof at 2857.0 ms; done" in lines
    assert (
        '+      422.0      160 B  hermes.tool.progress running web_search "Oslo weather"' in lines
    )
    assert '      2237.0      156 B  text "It "' in lines
    assert lines[-1] == "      2857.0       14 B  [DONE]"


def test_the_other_side(path: Path) -> None:
    lines = rendered(path, exchange_id="agent-0001", side="upstream")
    assert any(
        line.startswith("   upstream: 200 OK at 82.5 ms, 10.7 KiB, 65 events (0 added")
        for line in lines
    )
    assert not any(line.startswith("+") for line in lines)
    assert any(line.startswith("   terminal  df -h") for line in lines), "the bars stay"


@pytest.mark.parametrize("width", [10, 40, 80, 200])
def test_the_width(path: Path, width: int) -> None:
    lines = rendered(path, width=width)
    assert max(map(terminal.columns, lines)) <= max(width, 40)
    bars = [line for line in lines if "█" in line]
    assert len(bars) == 4, "a bar for each tool"
    assert all(terminal.columns(line) == max(width, 40) for line in bars[::2])


def test_bars_to_scale(tmp_path: Path) -> None:
    tape = Tape().request().head(5)
    tape.read(500, frame("a", "running")).read(1000, frame("a", "completed", isError=True))
    tape.read(1500, frame("b", "running", reason="")).read(2000, b": end\n\n")
    unseen = {"tool": "t", "toolCallId": "c", "status": "completed", "durationMs": 7}
    tape.end("eof", tools=[{**unseen, "reason": "length"}])
    lines = rendered(write(tmp_path / "one.jsonl", tape), width=80)
    bars = [line for line in lines if line.startswith(("   terminal", "   t "))]
    track = bars[0].split("  ")[3]
    assert (track.count("█"), track.index("█")) == (
        round(len(track) / 4),
        round(len(track) / 4),
    )
    assert bars[0].endswith("500 ms failed")
    assert "▒" in bars[1]
    assert bars[1].endswith("not completed")
    assert bars[2].split() == ["t", "7", "ms", "length"]


def test_nothing_writes_to_the_terminal_but_us(tmp_path: Path) -> None:
    evil = "\x1b[2J\x07\u202e\r\n\x9b"
    tape = Tape(f"id{evil}").request(target=f"/v1/{evil}", method=f"M{evil}", ts=evil * 9)
    tape.head(1).read(2, chunk({"content": evil, evil: 1}, evil)).read(3, f": {evil}".encode())
    tape.read(4, frame(f"c{evil}", "running", f"tool{evil}"))
    tape.read(5, frame(f"c{evil}", "completed", f"tool{evil}", reason=evil))
    tape.end(f"done{evil}", error=evil, omitted=evil)
    lines = rendered(write(tmp_path / "one.jsonl", tape), width=500)
    assert all(line.isprintable() for line in lines)
    assert any(r"\x1b[2J\x07\u202e" in line for line in lines)
    with pytest.raises(CassetteError) as caught:
        rendered(write(tmp_path / "one.jsonl", tape), exchange_id=evil)
    assert str(caught.value).isprintable()


def test_incomplete_and_omitted(tmp_path: Path) -> None:
    cut = Tape("cut").request().forwarded()
    left_out = Tape("out").request(None, route="websocket").end("", omitted="a WebSocket")
    path = write(tmp_path / "one.jsonl", cut, left_out)
    lines = rendered(path)
    assert lines[1].split()[-6:] == ["-", "incomplete", "0", "0", "-", "chat"]
    said = (
        "   client: no answer at 0.0 ms, 0 B, 0 events (0 added by the proxy), no end; incomplete"
    )
    assert said in lines
    assert "   omitted: a WebSocket" in lines


def test_rows_are_told_apart(tmp_path: Path) -> None:
    first = {"model": "qwen3", "messages": [{"role": "user", "content": "List\nmy  files"}]}
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "terminal"}}]}
    result = {"role": "tool", "tool_call_id": "c", "content": "a b"}
    second = {**first, "messages": [*first["messages"], call, result]}
    tapes = []
    for number, body in enumerate((first, second)):
        tape = Tape(f"e{number}").request(json.dumps(body).encode()).head(1)
        for at in range(2 * number):
            tape.read(2, frame(f"c{at}", "running")).read(3, frame(f"c{at}", "completed"))
        tapes.append(tape.end())
    broken = Tape("e2").request(b"{}").head(1).end("upstream_error", error="upstream_protocol")
    path = write(tmp_path / "one.jsonl", *tapes, broken)
    lines = rendered(path, width=120, colour=True)
    assert lines[1].endswith("-            qwen3: List my files")
    assert lines[2].endswith("terminal x2  qwen3: 1 tool result for: List my files")
    assert lines[3].startswith("\x1b[31m3  e2 ")
    assert "\x1b[31m" not in "".join(lines[1:3])
    assert "   qwen3: 1 tool result for: List my files" in rendered(path)


def test_colour(path: Path) -> None:
    plain, coloured = rendered(path), rendered(path, colour=True)
    assert not any("\x1b" in line for line in plain)
    assert sum("\x1b[36m" in line for line in coloured) == 14, "our frames and the bars"
    assert all(line.endswith("\x1b[0m") for line in coloured if "\x1b" in line)


def test_choosing(path: Path) -> None:
    with pytest.raises(
        CassetteError, match="2 exchanges begin with 'agent'; there are: agent-0001"
    ):
        rendered(path, exchange_id="agent")
    with pytest.raises(CassetteError, match="no exchange 'x'; there are: agent-0001, agent-0002"):
        rendered(path, exchange_id="x")
    assert rendered(path, exchange_id="z")[1].split()[0] == "3"


def test_wide_characters() -> None:
    assert terminal.columns("💻 日本 é") == 9
    assert terminal.columns("e\u0301✍\ufe0f") == 2
    assert terminal.fit("💻 日本", 5) == "💻 …"
    assert terminal.fit("abc", 3) == "abc"
    assert [terminal.size(n) for n in (9, 2048, 3 << 20, 5 << 30)] == [
        "9 B",
        "2.0 KiB",
        "3.0 MiB",
        "5.0 GiB",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "77")
    show.show(path, stream=(stream := Terminal()))
    assert "\x1b[1m" in stream.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    show.show(path, stream=(stream := Terminal()), exchange_id="zz", side="upstream")
    assert "\x1b" not in stream.getvalue()
    assert "   upstream: 200 OK" in stream.getvalue()


def test_a_pipe_that_closes(path: Path) -> None:
    """And an encoding that has no emoji. 300 KB are more than a pipe takes."""
    code = "import sys,pathlib; from lifecycle_proxy.inspect import show\n"
    code += "for _ in range(40): show.show(pathlib.Path(sys.argv[1]))"
    python = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert python.stdout
    python.stdout.readline()
    python.stdout.close()
    _, errors = python.communicate(timeout=60)
    assert (python.returncode, errors) == (0, b"")


def test_no_cassette(tmp_path: Path) -> None:
    with pytest.raises(CassetteError):
        show.show(tmp_path / "none.jsonl")


def test_nothing_at_all() -> None:
    assert len(list(show.render([]))) == 1
