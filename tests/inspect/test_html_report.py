"""The page: what is in it, and that nothing of it runs."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from lifecycle_proxy.inspect import export, html_report
from lifecycle_proxy.recording import cassette
from lifecycle_proxy.recording.cassette_file import CassetteError

from tests.commands import run
from tests.recording.build import Tape, agent, chunk, frame, write

MS, SIZE, OURS, KIND, WORDS, TEXT, THOUGHT, RAW = range(8)


class Reader(HTMLParser):
    """Tags, their attributes, and the texts of scripts and styles, as a browser takes them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.is_inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.texts.append("")
        self.is_inside = True

    def handle_endtag(self, tag: str) -> None:
        self.is_inside = False

    def handle_data(self, data: str) -> None:
        if self.is_inside:
            self.texts[-1] += data

    def of(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        both = zip(self.tags, self.texts, strict=True)
        return [(attributes, text) for (name, attributes), text in both if name == tag]


def made(tmp_path: Path, *tapes: Tape, title: str = "one.jsonl", **limits: int) -> str:
    return html_report.page(
        cassette.load(write(tmp_path / "one.jsonl", *tapes)), title=title, **limits
    )


def embedded(text: str) -> Any:
    (data,) = [t for attributes, t in Reader(text).of("script") if attributes.get("id") == "data"]
    return json.loads(data)


def test_what_is_in_it(tmp_path: Path) -> None:
    data = embedded(made(tmp_path, agent()))
    (exchange,) = data["exchanges"]
    client, upstream = exchange["client"]["frames"], exchange["upstream"]["frames"]
    assert [len(client), sum(f[OURS] for f in client)] == [70, 5]
    assert [len(upstream), sum(f[OURS] for f in upstream)] == [65, 0]
    assert "".join(f[TEXT] for f in client).startswith("Let me check both. It will rain")
    assert "".join(f[THOUGHT] for f in client).startswith("Let me think")
    bodies = cassette.load(tmp_path / "one.jsonl")[0]
    for frames, side in ((client, bodies.client), (upstream, bodies.upstream)):
        assert "".join(exchange["raws"][f[RAW]] for f in frames).encode() == side.body
        assert sum(f[SIZE] for f in frames) == len(side.body)
    assert len(set(exchange["raws"])) == len(exchange["raws"]), "what both have is there once"
    assert [(b["tool"], b["start"], b["stop"]) for b in exchange["bars"]] == [
        ("web_search", 422, 2128),
        ("terminal", 570, 1488),
    ]
    assert exchange["request"]["body"] == '{"model": "m", "stream": true}'
    assert exchange["forwarded"]["same"] is True
    assert exchange["forwarded"]["body"] == ""
    assert exchange["cut"] is False
    assert (exchange["line"], exchange["bad"]) == ("m", False)


def test_the_policy_allows_our_script_and_style_and_no_network(tmp_path: Path) -> None:
    reader = Reader(made(tmp_path, agent()))
    metas = [meta for meta, _ in reader.of("meta")]
    (policy,) = [m["content"] for m in metas if m.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in str(policy).split("; "))
    assert rules.keys() == {"default-src", "script-src", "style-src", "base-uri", "form-action"}
    for kind in ("script", "style"):
        (text,) = [text for attributes, text in reader.of(kind) if not attributes]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules.pop(f"{kind}-src") == f"'sha256-{digest}'"
    assert set(rules.values()) == {"'none'"}
    for _, attributes in reader.tags:
        assert not attributes.keys() & {"src", "href", "style", "action"}
        assert not [name for name in attributes if name.startswith("on")]


def test_our_script_writes_text_only(tmp_path: Path) -> None:
    (script,) = [t for attributes, t in Reader(made(tmp_path)).of("script") if not attributes]
    for way in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function("):
        assert way not in script
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|fetch\(|import\(", script)


EVIL = "</script><script>alert(1)</script><!--<script>\"'&amp;{{data}}{{csp}}\u2028\ud800"


def test_nothing_recorded_becomes_markup(tmp_path: Path) -> None:
    tape = Tape(EVIL).request(EVIL.encode("utf-8", "replace"), target=f"/{EVIL}", method=EVIL)
    tape.forwarded(headers=[[EVIL, EVIL]]).head(
        1, [["Content-Type", "text/event-stream"], [EVIL] * 2]
    )
    tape.read(2, chunk({"content": EVIL})).read(3, frame("c", "running", EVIL.strip("\ud800")))
    tape.end(EVIL, error=EVIL)
    left_out = Tape("b").request().end(omitted=EVIL)
    text = made(tmp_path, tape, left_out, title=EVIL)
    plain, evil = Reader(made(tmp_path)), Reader(text)
    assert [tag for tag, _ in evil.tags] == [tag for tag, _ in plain.tags]
    title = EVIL.replace("\ud800", "?")
    assert evil.of("title")[0][1] == f"{title} – recording"
    exchange, other = embedded(text)["exchanges"]
    assert (exchange["id"], other["omitted"]) == (EVIL, EVIL)
    assert exchange["client"]["frames"][0][TEXT] == EVIL
    text.encode()


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    head = [["Content-Type", "application/octet-stream"]]
    data = embedded(made(tmp_path, Tape().request().head(1, head).read(2, b"a\xff\r\n").end()))
    assert data["exchanges"][0]["raws"] == ["a\\xff\r\n"]


def test_another_body_to_the_upstream(tmp_path: Path) -> None:
    tape = Tape().request(b"{}").forwarded(body='{"other": 1}').head().end()
    forwarded = embedded(made(tmp_path, tape))["exchanges"][0]["forwarded"]
    assert (forwarded["same"], forwarded["body"]) == (False, '{"other": 1}')


def test_nothing_recorded(tmp_path: Path) -> None:
    (exchange,) = embedded(made(tmp_path, Tape().request(None, omitted="large")))["exchanges"]
    assert exchange["request"]["body"] is None
    assert exchange["forwarded"] is None
    assert exchange["complete"] is False


def test_long_texts_and_many_tools_are_cut(tmp_path: Path) -> None:
    tape = Tape().request(target="/" + "x" * 20_000).head(1, [["A", "b" * 20_000]] * 600)
    tape.read(2, b"".join(frame(f"c{n}", "running", "t" * 400) for n in range(501))).end()
    (exchange,) = embedded(made(tmp_path, tape))["exchanges"]
    headers = exchange["client"]["headers"]
    assert len(headers) == 500
    assert headers[0][1].endswith("b… cut off in this page")
    assert len(exchange["request"]["target"]) < 17_000
    assert (len(exchange["bars"]), exchange["moreBars"]) == (500, 1)
    assert len(exchange["bars"][0]["tool"]) == 300


def test_limits(tmp_path: Path) -> None:
    (exchange,) = embedded(made(tmp_path, agent(), max_frames=10))["exchanges"]
    assert (len(exchange["client"]["frames"]), exchange["client"]["more"]) == (10, 60)
    assert exchange["cut"] is False
    (exchange,) = embedded(made(tmp_path, agent(), max_exchange_bytes=1000))["exchanges"]
    assert exchange["cut"] is True
    assert embedded_size(exchange) == 1000
    assert exchange["client"]["size"] > 11_000, "sizes are right all the same"
    tapes = [agent("a"), agent("b"), agent("c")]
    exchanges = embedded(made(tmp_path, *tapes, max_bytes=20_000))["exchanges"]
    assert [one["cut"] for one in exchanges] == [False, True, True]
    assert sum(map(embedded_size, exchanges)) == 20_000


def embedded_size(exchange: Any) -> int:
    frames = [*exchange["client"]["frames"], *exchange["upstream"]["frames"]]
    texts = sum(len(f[TEXT]) + len(f[THOUGHT]) for f in frames)
    return len(exchange["request"]["body"]) + sum(map(len, exchange["raws"])) + texts


@pytest.mark.parametrize("name", ["one.jsonl", "."])
def test_to_a_file(tmp_path: Path, name: str) -> None:
    out = tmp_path / "page.html"
    write(tmp_path / "one.jsonl", agent())
    export.export(tmp_path / name, "html", out)
    assert out.read_text("utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize("form", ["html", "har"])
def test_one_exchange(tmp_path: Path, form: export.Form) -> None:
    path, out = (
        write(tmp_path / "one.jsonl", agent("aa-1"), agent("aa-2"), agent("b")),
        tmp_path / "o",
    )
    export.export(path, form, out, exchange_id="aa-2")
    text = out.read_text("utf-8")
    assert ("aa-1" in text, "aa-2" in text) == (False, True)
    assert form == "html" or len(json.loads(text)["log"]["entries"]) == 1
    export.export(path, "html", out, exchange_id="b")
    assert [one["id"] for one in embedded(out.read_text("utf-8"))["exchanges"]] == ["b"]
    with pytest.raises(CassetteError, match="2 exchanges begin with 'aa'"):
        export.export(path, form, out, exchange_id="aa")
    with pytest.raises(CassetteError, match="no exchange 'x'"):
        export.export(path, form, out, exchange_id="x")


def test_the_command(tmp_path: Path) -> None:
    path = write(tmp_path / "one.jsonl", agent("aa-1"), agent("b"))
    done = run("export", str(path), "--html", "--exchange", "aa")
    assert [one["id"] for one in embedded(done.stdout)["exchanges"]] == ["aa-1"]
