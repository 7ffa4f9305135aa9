"""What people get wrong in their settings, and the sentence that each of them reads.

The first 32 were tried by newcomers. Each text is whole: place, key, value, cure, line.
"""

import os
import socket
from pathlib import Path

import pytest
import trustme
from lifecycle_proxy.cli import main as cli
from lifecycle_proxy.core import dialects

from tests.commands import run, run_here

FAULTS = (
    "latency, stall, cut_at_byte, cut_inside_character, reset, drop_done, duplicate_chunk, "
    "garbage_line, status_429, status_500, error_200, slow_drip"
)
DIALECTS = ", ".join(dialects.DIALECTS)
HOST_PORT = "HOST:PORT, such as 127.0.0.1:8787 (port 0 picks a free one), nor unix:/PATH"
BASE_URL = "a base URL, such as http://127.0.0.1:11434/v1, nor unix:/PATH (no query, no user name)"
SECONDS = "a number of seconds, 0 or more, such as 15"

# In the file, and what is said of it: "FILE: " in front, one line for each mistake.
MISTAKES = [
    (
        "[upstream]\nconect_timeout_s = 1",
        "upstream.conect_timeout_s: unknown key (did you mean connect_timeout_s?) (line 2)",
    ),
    ("[upstraem]\nretries = 1", "upstraem: unknown key (did you mean upstream?) (line 1)"),
    (
        "[lifecycle]\ndialect = 'chunky'",
        (
            'lifecycle.dialect: unknown dialect "chunky" (did you mean chunk? '
            f"known are {DIALECTS}) (line 2)"
        ),
    ),
    (
        "[upstream]\napi_key = 'env:NOT_THERE'",
        "upstream.api_key: the environment variable NOT_THERE is not set, or is empty (line 2)",
    ),
    (
        "[[faults.rules]]\nkind = 'latancy'",
        (
            "faults.rules[0]: unknown fault 'latancy' (did you mean latency? "
            f"known are {FAULTS}) (line 1)"
        ),
    ),
    (
        "[recording]\nredact_patterns = ['(']",
        (
            "recording.redact_patterns[0]: not a valid regular expression: missing ), "
            "unterminated subpattern at position 0 (line 2)"
        ),
    ),
    (
        "[server]\nlisten = '8787'",
        (
            f'server.listen: "8787" is not {HOST_PORT}; write 127.0.0.1:8787, or 0.0.0.0:8787 for '
            "other machines too (line 2)"
        ),
    ),
    (
        "[recording]\nmode = 'recrd'",
        (
            'recording.mode: unknown value "recrd" (did you mean record? known are off, record, '
            "once, new_episodes, replay) (line 2)"
        ),
    ),
    (
        "[[lifecycle.clients]]\nheader = 'x'\ndialect = 'off'\nmacht = 'y'",
        "lifecycle.clients[0].macht: unknown key (did you mean match?) (line 4)",
    ),
    (
        "[server]\nheartbeat_s = '15s'",
        f'server.heartbeat_s: "15s" is not {SECONDS}; write heartbeat_s = 15 (line 2)',
    ),
    (
        "[lifecycle.clients]\nheader = 'x'\ndialect = 'off'",
        (
            "lifecycle.clients: write [[lifecycle.clients]], with double brackets, above each one "
            "(line 1)"
        ),
    ),
    (
        "[[upstream]]\nurl = 'http://a/v1'\n[[upstream]]\nurl = 'http://b/v1'",
        (
            "upstream: write [upstream] once, with single brackets; for several backends write "
            "[[upstreams]], each with a name and a url (line 1)"
        ),
    ),
    (
        "[upstream]\nurl = ['http://a/v1', 'http://b/v1']",
        (
            "upstream.url: a list, where one URL is needed; write [[upstreams]], and name and url, "
            "for each (line 2)"
        ),
    ),
    (
        "listen = '127.0.0.1:8787'",
        "listen: unknown key (did you mean listen under [server]?) (line 1)",
    ),
    (
        "[server]\nlisten = 127.0.0.1:8787",
        (
            "not valid TOML: expected newline or end of document after a statement (line 2, column "
            '15); text needs quotes: listen = "127.0.0.1:8787"'
        ),
    ),
    (
        "[server]\nlisten = 5\nworkers = 0\n[upstream]\nurll = 'x'",
        (
            'server.listen: 5 is not text in quotes, such as "127.0.0.1:8787"; '
            'write listen = "127.0.0.1:5" (line 2)\n'
            "server.workers: 0 is not a whole number from 1 to 1024 (line 3)\n"
            "upstream.urll: unknown key (did you mean url?) (line 5)"
        ),
    ),
    (
        "[server]\ncors_origins = ['chat.example']",
        (
            'server.cors_origins[0]: "chat.example" can never match: an origin begins with its '
            'scheme; write "https://chat.example" (line 2)'
        ),
    ),
    (
        "[upstream]\nurl = 'http://127.0.0.1:9/v1/chat/completions'",
        (
            'upstream.url: "http://127.0.0.1:9/v1/chat/completions" is one endpoint; write its '
            'base URL, "http://127.0.0.1:9/v1" (line 2)'
        ),
    ),
    (
        "[server]\nlisten = '127.0.0.1:18787'\n[upstream]\nurl = 'http://127.0.0.1:18787/v1'",
        (
            'upstream.url: "http://127.0.0.1:18787/v1" is this proxy itself, which listens on '
            '"127.0.0.1:18787"; name the backend, or let the proxy listen on another port (line 4)'
        ),
    ),
    (
        "[server]\nheartbeat_s = -1",
        f"server.heartbeat_s: -1 is not {SECONDS} (line 2)",
    ),
    (
        "[upstream]\nverify_tls = 'no'",
        'upstream.verify_tls: "no" is not true or false; write verify_tls = false (line 2)',
    ),
    (
        "[upstream]\nurl = 'localhost:11434'",
        (
            f'upstream.url: "localhost:11434" is not {BASE_URL}; write "http://localhost:11434" '
            "(line 2)"
        ),
    ),
    (
        "[upstream]\nurl = 'http://me:secret@127.0.0.1/v1'",
        (
            f'upstream.url: "http://***@127.0.0.1/v1" is not {BASE_URL}; a key belongs into '
            "upstream.api_key (line 2)"
        ),
    ),
    (
        "[upstream]\nurl = 'http://127.0.0.1/v1?key=secret'",
        (
            f'upstream.url: "http://127.0.0.1/v1" is not {BASE_URL}; leave out what follows after '
            "? or # (line 2)"
        ),
    ),
    (
        "upstream = 'http://127.0.0.1:9/v1'",
        (
            'upstream: "http://127.0.0.1:9/v1" is not a table; write [upstream], and below it '
            'url = "http://127.0.0.1:9/v1" (line 1)'
        ),
    ),
    (
        "[server]\napi_keys = 'secret'",
        'server.api_keys: this value is not a list of keys; write api_keys = ["..."] (line 2)',
    ),
    (
        "[upstream]\nagent = 'opencode acp'",
        (
            'upstream.agent: "opencode acp" is not a list of texts; write agent = '
            '["opencode", "acp"] (line 2)'
        ),
    ),
    (
        "[upstream]\napi_keys = ['secret']",
        (
            "upstream.api_keys: unknown key (did you mean api_keys under [server], or api_key?) "
            "(line 2)"
        ),
    ),
    (
        "[server]\nport = 8787\nhost = '0.0.0.0'\nbase_url = 'x'",
        (
            "server.port: unknown key (did you mean listen?) (line 2)\n"
            "server.host: unknown key (did you mean listen?) (line 3)\n"
            "server.base_url: unknown key (did you mean url under [upstream]?) (line 4)"
        ),
    ),
    (
        "[lifecycle.recording]\nmode = 'off'\n[clients]\nx = 1\n[lifecycle]\nClients = []",
        (
            "lifecycle.recording: unknown key (did you mean [recording]?) (line 1)\n"
            "clients: unknown key (did you mean [[lifecycle.clients]]?) (line 3)\n"
            "lifecycle.Clients: unknown key (did you mean clients?) (line 6)"
        ),
    ),
    (
        "[[lifecycle.clients]]\nheader = 'User-Agent:'\ndialect = 'off'\nmatch = '[z-a]'",
        (
            'lifecycle.clients[0].header: "User-Agent:" can never match: it is not the name of a '
            'header; write "user-agent" (line 2)\n'
            'lifecycle.clients[0].match: "[z-a]" can never match: its brackets match no character; '
            "write a range as [a-z] (line 4)"
        ),
    ),
    (
        "[upstream]\napi_key = '$OPENAI_API_KEY'",
        (
            "upstream.api_key: would be used as it stands; to read a variable, write "
            '"env:OPENAI_API_KEY" (line 2)'
        ),
    ),
    (
        "[recording]\nmode = 'replay'\npath = '/nowhere/at/all'",
        "recording.path: there is no /nowhere/at/all, so mode replay has nothing to play (line 3)",
    ),
    # Not of the newcomers.
    (
        "[[lifecycle.clients]]\nmatch = ''",
        (
            "lifecycle.clients[0].header: missing; each of these tables needs header (line 1)\n"
            "lifecycle.clients[0].dialect: missing; each of these tables needs dialect (line 1)"
        ),
    ),
    (
        (
            "[[lifecycle.clients]]\nheader = 'a b'\ndialect = 'off'\nmatch = ''\n"
            "[[lifecycle.clients]]\nheader = 'x-lifecycle-events'\ndialect = 'off'\nmatch = ' x'\n"
            '[[lifecycle.clients]]\nheader = "x"\ndialect = "off"\nmatch = "x\\ny"'
        ),
        (
            'lifecycle.clients[0].header: "a b" can never match: it is not the name of a header; '
            "write one such as user-agent (line 2)\n"
            'lifecycle.clients[0].match: "" can never match: it is empty; leave it out, or write '
            '"*", to match any value (line 4)\n'
            'lifecycle.clients[1].header: "x-lifecycle-events" can never match: a request with '
            "this header names its dialect itself (line 6)\n"
            'lifecycle.clients[1].match: " x" can never match: the value of a header has no spaces '
            "around it; leave them out (line 8)\n"
            'lifecycle.clients[2].match: "x\\ny" can never match: the value of a header has no '
            "control characters (line 12)"
        ),
    ),
    (
        (
            "[server]\ncors_origins = ['https://A.example', 'https://a.example:443/', 'http://[', "
            "'https://*.*.example', 'https://a.example/x']"
        ),
        (
            'server.cors_origins[2]: "http://[" can never match: it is not an origin, such '
            "as https://chat.example (line 2)\n"
            'server.cors_origins[3]: "https://*.*.example" can never match: write one * at most, '
            'such as "https://*.example.com" (line 2)\n'
            'server.cors_origins[4]: "https://a.example/x" can never match: browsers send '
            '"https://a.example" (line 2)'
        ),
    ),
    (
        "[server]\ntls_key = 'x'\n[upstream]\nca_file = '/nowhere'",
        (
            "server.tls_key: has no certificate; set server.tls_cert, too (line 2)\n"
            "upstream.ca_file: cannot be used: /nowhere: No such file or directory (line 4)"
        ),
    ),
    (
        "[recording]\nredact_headers = ['X Key']",
        (
            'recording.redact_headers[0]: "X Key" can never match: it is not the name of a header; '
            "write one such as user-agent (line 2)"
        ),
    ),
    (
        "[recording]\nmode = 'record'\npath = 'one.jsonl'\n[server]\nworkers = 2",
        (
            'recording.path: "one.jsonl" is one file, for 2 workers; name a folder, or set workers '
            "to 1 (line 3)"
        ),
    ),
    (
        "[server]\nlisten = '127.0.0.1:99999'",
        f'server.listen: "127.0.0.1:99999" is not {HOST_PORT}; the highest port is 65535 (line 2)',
    ),
    (
        "[server]\nlisten = 'http://127.0.0.1:1'",
        f'server.listen: "http://127.0.0.1:1" is not {HOST_PORT}; leave out http:// (line 2)',
    ),
    (
        "[server]\nlisten = '192.0.2.1:80'",
        (
            "server.listen: cannot listen on 192.0.2.1:80: cannot assign requested address; choose "
            "an address of this machine (line 2)"
        ),
    ),
    (
        "[server]\nlisten = 'unix:/nowhere/x.sock'",
        (
            "server.listen: cannot listen on unix:/nowhere/x.sock: no folder /nowhere; make the "
            "folder, or choose another path (line 2)"
        ),
    ),
]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("LIFECYCLE_PROXY_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def checked(file: Path, capsys: pytest.CaptureFixture[str], code: int = 0) -> tuple[str, str]:
    """What ``check-config`` prints: output and errors."""
    assert cli.main(["check-config", str(file)]) == code
    told = capsys.readouterr()
    return told.out.replace(str(file), "FILE"), told.err.replace(str(file), "FILE")


@pytest.mark.parametrize(("text", "lines"), MISTAKES)
def test_each_mistake_has_one_plain_sentence(
    file: Path, capsys: pytest.CaptureFixture[str], text: str, lines: str
) -> None:
    file.write_text(text)
    out, err = checked(file, capsys, 2)
    assert out == ""
    assert err.splitlines() == [f"lifecycle-proxy: FILE: {line}" for line in lines.splitlines()]


@pytest.mark.unmeasured
def test_serve_says_the_same(file: Path) -> None:
    file.write_text("[server]\nlisten = 5\nworkers = 0\n[upstream]\nurll = 'x'")
    assert (
        run_here("serve", "--config", str(file)).stderr
        == run_here("check-config", str(file)).stderr
    )
    own = run("serve", "--listen", "0.0.0.0:11434")
    assert own.returncode == 2
    assert 'url: "http://127.0.0.1:11434/v1" is this proxy itself, which listens on' in own.stderr


@pytest.mark.parametrize(
    ("listen", "upstream", "is_loop"),
    [
        ("127.0.0.1:18787", "http://localhost:18787/v1", True),
        ("localhost:18787", "http://127.0.0.1:18787/-/as/off/v1", True),
        ("[::]:18787", "http://[::ffff:127.0.0.1]:18787/v1", True),
        ("0.0.0.0:18787", f"http://{socket.gethostname()}:18787/v1", True),
        ("127.0.0.1:80", "http://127.0.0.1/v1", True),
        ("unix:/tmp/x.sock", "unix:/tmp/x.sock:/v1", True),
        ("unix:/tmp/x.sock", "unix:/tmp/y.sock", False),
        ("unix:/tmp/x.sock", "http://127.0.0.1:80", False),
        ("127.0.0.1:18787", "http://127.0.0.1:18788/v1", False),
        ("127.0.0.1:18787", "http://127.0.0.2:18787/v1", False),
        ("0.0.0.0:18787", "http://192.0.2.1:18787/v1", False),
        ("127.0.0.1:18787", "http://no-such-host.invalid:18787/v1", False),
        ("127.0.0.1:0", "http://127.0.0.1:18787/v1", False),
    ],
)
def test_an_upstream_that_is_the_proxy_itself(
    file: Path, capsys: pytest.CaptureFixture[str], listen: str, upstream: str, *, is_loop: bool
) -> None:
    file.write_text(f"[server]\nlisten = '{listen}'\n[upstream]\nurl = '{upstream}'")
    _, err = checked(file, capsys, 2 if is_loop else 0)
    assert ("this proxy itself" in err) is is_loop


def test_a_replay_asks_no_upstream(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("[server]\nlisten = '127.0.0.1:11434'\n[recording]\nmode = 'replay'")
    _, err = checked(file, capsys, 2)
    assert "this proxy itself" not in err
    assert "nothing to play" in err


def test_a_file_where_the_recordings_should_go(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(f"[recording]\nmode = 'record'\npath = '{file}/rec'")
    _, err = checked(file, capsys, 2)
    assert "FILE is a file, where a folder is needed; choose another path" in err
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    file.write_text(f"[recording]\nmode = 'record'\npath = '{tmp_path}/rec/one.jsonl'")
    _, err = checked(file, capsys, 2)
    assert f"cannot write into {tmp_path}; give this user the right to, or choose another" in err


def test_a_folder_with_nothing_to_play(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rec").mkdir()
    file.write_text(f"[recording]\nmode = 'replay'\npath = '{tmp_path}/rec'")
    _, err = checked(file, capsys, 2)
    assert f"recording.path: {tmp_path}/rec: " in err
    file.write_text(f"[recording]\nmode = 'once'\npath = '{tmp_path}/rec'")
    out, _ = checked(file, capsys)
    assert f"recording  mode once: requests that {tmp_path}/rec does not hold are recorded" in out


def test_a_port_below_1024_without_the_right(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", denied)  # root may
    file.write_text("[server]\nlisten = '127.0.0.1:80'")
    _, err = checked(file, capsys, 2)
    assert "127.0.0.1:80: permission denied; choose a port above 1023 (line 2)" in err


# --- what is accepted, and warned of ------------------------------------------------------------


OPEN = "[server]\nlisten = '0.0.0.0:0'\n"


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (
            OPEN,
            (
                "server.listen: other machines can reach 0.0.0.0:0 and use the upstream without a "
                "key; set server.api_keys, or listen on 127.0.0.1"
            ),
        ),
        (
            f"{OPEN}[upstream]\napi_key = 'k'",
            (
                "server.listen: anyone who reaches 0.0.0.0:0 can use your upstream.api_key, at "
                "your cost; set server.api_keys, or listen on 127.0.0.1"
            ),
        ),
        (
            "[upstream]\nurl = 'https://a.example'\nverify_tls = false",
            (
                "upstream.verify_tls: is false: anyone between here and the upstream can read "
                "every key and prompt"
            ),
        ),
        (
            "[upstream]\nserver_name = 'x'",
            "upstream.server_name: has no effect: upstream.url is not https",
        ),
        (
            "[server]\nheartbeat_s = 0\nheartbeat_before_first_byte = true",
            "server.heartbeat_before_first_byte: has no effect: server.heartbeat_s is 0",
        ),
        (
            "[server]\ncors_origins = ['*', 'https://a.example', 'null']",
            'server.cors_origins: has "*", so the others have no effect',
        ),
        (
            (
                "[[lifecycle.clients]]\nheader = 'x'\ndialect = 'off'\n"
                "[[lifecycle.clients]]\nheader = 'X'\nmatch = 'y'\ndialect = 'off'"
            ),
            (
                "lifecycle.clients[1]: never used: lifecycle.clients[0] matches the same requests, "
                "and comes first"
            ),
        ),
        (
            "[[lifecycle.clients]]\nheader = 'x'\nmatch = '^a'\ndialect = 'off'",
            (
                'lifecycle.clients[0].match: "^a" is read as a shell pattern: * is any text, ? one '
                "character, . a dot"
            ),
        ),
        (
            "[[faults.rules]]\nkind = 'status_500'",
            "faults: refused without --allow-faults, since they break answers on purpose",
        ),
    ],
)
def test_what_is_warned_of(
    file: Path, capsys: pytest.CaptureFixture[str], text: str, warning: str
) -> None:
    file.write_text(text)
    out, err = checked(file, capsys)
    assert out.startswith("FILE: ok\n")
    assert f"lifecycle-proxy: warning: {warning}" in err.splitlines()


@pytest.mark.parametrize("listen", ["127.0.0.2:0", "[::1]:0", "localhost:0", "unix:/tmp/lp.sock"])
def test_what_only_this_machine_reaches_needs_no_key(
    file: Path, capsys: pytest.CaptureFixture[str], listen: str
) -> None:
    file.write_text(f"[server]\nlisten = '{listen}'")
    out, err = checked(file, capsys)
    assert err == ""
    assert "(this machine only, no key needed)" in out


def test_a_port_in_use_is_warned_of(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        file.write_text(f"[server]\nlisten = '{where}'")
        _, err = checked(file, capsys)
    assert err == (
        f"lifecycle-proxy: warning: server.listen: something listens on {where} already: "
        "another program, or the proxy that is running now\n"
    )


def test_good_rules_and_origins_are_not_warned_of(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "[server]\nlisten = '127.0.0.1:0'\n"
    text += "cors_origins = ['https://a.example', 'http://a.example:8080/', 'null', "
    text += "'chrome-extension://abc']\n"
    for match in ("Python/3.* aiohttp/3.*", "[!a]*", "x?"):
        text += (
            f"[[lifecycle.clients]]\nheader = 'User-Agent'\nmatch = '{match}'\ndialect = 'off'\n"
        )
    file.write_text(text)
    assert checked(file, capsys)[1] == ""


@pytest.mark.parametrize(
    ("origin", "why"),
    [
        ("https://a.example ", ""),
        ("HTTPS://A.Example:443/", ""),
        ("https://*.a.example", ""),
        ("chrome-extension://*", ""),
        ("http://localhost:*", ""),
        ("https://*.a.*", "one * at most"),
        ("*://a.example", "it is not an origin"),
        ("a.example", 'write "https://a.example"'),
        ("https://a.example/app", 'browsers send "https://a.example"'),
        ("https://me@a.example", 'browsers send "https://a.example"'),
        ("https://a.example:", "it is not an origin"),
        ("https://[::1]:03000", ""),
        ("https://m\u00fcnchen.example", ""),
        ("https://" + "\u00fc" * 70 + ".example", "it is not an origin"),
        ("https://a.example,https://b.example", "it is not an origin"),
        ("https://", "it is not an origin"),
        ("file:///x", "it is not an origin"),
        ("", "it is not an origin"),
        ("https://[::1]:3000", ""),
        ("tauri://localhost", ""),
        ("http://a.example:443/", ""),
    ],
)
def test_origins_are_as_browsers_send_them(
    file: Path, capsys: pytest.CaptureFixture[str], origin: str, why: str
) -> None:
    file.write_text(f"[server]\nlisten = '127.0.0.1:0'\ncors_origins = ['{origin}']", "utf-8")
    _, err = checked(file, capsys, 2 if why else 0)
    assert why in err


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("chat.example", ""),
        ("Chat.Example", ""),
        ("*.example", ""),
        ("*", ""),
        ("my_host", ""),
        ("10.0.0.1", ""),
        ("::1", ""),
        ("chat.example:8787", 'write "chat.example"'),
        ("https://chat.example/v1", 'write "chat.example"'),
        ("a.*.example", "is not the name of a host"),
        ("", "is not the name of a host"),
    ],
)
def test_hosts_are_names(
    file: Path, capsys: pytest.CaptureFixture[str], name: str, why: str
) -> None:
    file.write_text(f"[server]\nlisten = '127.0.0.1:0'\nhosts = ['{name}']")
    _, err = checked(file, capsys, 2 if why else 0)
    assert why in err


def test_nothing_in_a_file_writes_to_the_terminal(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text('[server]\n"\\u001b[2J\\n\\u202e" = 1\nlisten = "\\u009b\\u202e"\n')
    _, err = checked(file, capsys, 2)
    assert len(err.splitlines()) == 2
    assert all(line.isprintable() for line in err.splitlines())


def test_a_path_that_standard_output_cannot_take_is_no_reason_to_fail(tmp_path: Path) -> None:
    file = tmp_path / "\u00e4.toml"
    file.write_text("[server]\nlisten = '127.0.0.1:0'")
    done = run("check-config", str(file), PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert done.stdout.startswith(f"{tmp_path}/\\xe4.toml: ok\n")


# --- certificates ---------------------------------------------------------------------------------


def test_certificates_that_cannot_be_used(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ca = trustme.CA()
    one, other = ca.issue_cert("localhost"), ca.issue_cert("localhost")
    cert, key, ca_file = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "ca.pem"
    one.cert_chain_pems[0].write_to_path(str(cert))
    ca.cert_pem.write_to_path(str(ca_file))

    def refusal(server: str, upstream: str = "") -> str:
        file.write_text(f"[server]\nlisten = '127.0.0.1:0'\n{server}\n[upstream]\n{upstream}")
        return checked(file, capsys, 2)[1]

    pair = f"tls_cert = '{cert}'\ntls_key = '{key}'"
    assert f"server.tls_cert: cannot be used: {key}: No such file or directory" in refusal(pair)
    other.private_key_pem.write_to_path(str(key))
    problem = f"cannot be used: {cert}, {key}: the key does not belong to the certificate (line 3)"
    assert problem in refusal(pair)
    problem = f"cannot be used: {cert}: not a PEM file with a certificate, and its key where"
    assert problem in refusal(f"tls_cert = '{cert}'")
    problem = "upstream.ca_file: cannot be used: FILE: there is no certificate in it (line 5)"
    assert problem in refusal("", f"ca_file = '{file}'")
    one.private_key_pem.write_to_path(str(key))
    file.write_text(
        f"[server]\nlisten = '127.0.0.1:0'\n{pair}\n[upstream]\nca_file = '{ca_file}'\n"
        "url = 'https://a.example'"
    )
    out, err = checked(file, capsys)
    assert "  listen     https://127.0.0.1:0 (this machine only, no key needed)\n" in out
    assert err == ""


def test_a_key_that_is_empty(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("[server]\napi_keys = ['a', '']")
    _, err = checked(file, capsys, 2)
    assert "server.api_keys: a key must not be empty (line 2)" in err
