"""``[[upstreams]]``, ``[models]``, ``[failover]``: what is refused, and what it all means."""

import os
from pathlib import Path
from typing import Any

import pytest
import trustme
from lifecycle_proxy.cli import main as cli
from lifecycle_proxy.config import checks
from lifecycle_proxy.config import model as config
from lifecycle_proxy.config.targets import Target, leads, settings_for, upstreams_of

TWO = (
    "[[upstreams]]\nname = 'local'\nurl = 'http://127.0.0.1:1/v1'\n"
    "[[upstreams]]\nname = 'cloud'\nurl = 'http://127.0.0.1:2/v1'\n"
)
KNOWN = "known are local, cloud"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("LIFECYCLE_PROXY_"):
            monkeypatch.delenv(name)


MISTAKES = [
    (
        "[[upstreams]]\nurl = 'http://a/v1'",
        "upstreams[0].name: missing; each of these tables needs name (line 1)",
    ),
    (
        "[[upstreams]]\nname = 'a'",
        "upstreams[0].url: missing; each of these tables needs url, or agent (line 1)",
    ),
    (
        "[upstreams]\nname = 'a'\nurl = 'http://a/v1'",
        "upstreams: write [[upstreams]], with double brackets, above each one (line 1)",
    ),
    (
        "[[upstreams]]\nname = 'My GPU'\nurl = 'http://a/v1'",
        (
            'upstreams[0].name: "My GPU" is not 1 to 64 lower-case letters, digits and hyphens, '
            'such as "my-gpu" (line 2)'
        ),
    ),
    (
        f"{TWO}[[upstreams]]\nname = 'local'\nurl = 'http://a/v1'",
        'upstreams[2].name: "local" is upstreams[0] already; choose another (line 8)',
    ),
    (
        "[[upstreams]]\nname = 'a'\nurl = 'a:1'",
        (
            'upstreams[0].url: "a:1" is not a base URL, such as http://127.0.0.1:11434/v1, nor '
            'unix:/PATH (no query, no user name); write "http://a:1" (line 3)'
        ),
    ),
    (
        "[[upstreams]]\nname = 'a'\nurl = 'http://k@a/v1'",
        (
            'upstreams[0].url: "http://***@a/v1" is not a base URL, such as '
            "http://127.0.0.1:11434/v1, nor unix:/PATH (no query, no user name); a key belongs "
            "into upstreams[0].api_key (line 3)"
        ),
    ),
    (
        "[[upstreams]]\nname = 'a'\nurl = 'https://a/v1'",
        (
            "upstreams[0].api_key: missing: a would be asked without a key; write api_key = "
            '"env:NAME", or client_key = "pass" (the client\'s), or "drop" (none) (line 1)'
        ),
    ),
    (
        "[[upstreams]]\nname = 'a'\nurl = 'https://a/v1'\napi_key = 'env:NOT_THERE'",
        (
            "upstreams[0].api_key: the environment variable NOT_THERE is not set, or is empty "
            "(line 4)"
        ),
    ),
    (
        "[[upstreams]]\nname = 'a'\nurl = 'http://a/v1'\nmodels = ['', 'gpt-[45', 'a b', 'x[0-9]']",
        (
            'upstreams[0].models[0]: "" is not a name or a shell pattern, such as "gpt-*" (line 4)'
            '\nupstreams[0].models[1]: "gpt-[45" has a "[" that is not closed; write "[[]" for the '
            'character itself (line 4)\nupstreams[0].models[2]: "a b" is not a name or a shell '
            'pattern, such as "gpt-*" (line 4)'
        ),
    ),
    (
        "[[upstreams]]\nname = 'a'\nurl = 'http://a/v1'\nclient_key = 'yes'",
        'upstreams[0].client_key: unknown value "yes" (known are auto, drop, pass) (line 4)',
    ),
    (
        "[[upstreams]]\nname = 'a'\nurl = 'http://a/v1'\nverify_tls = 'no'",
        'upstreams[0].verify_tls: "no" is not true or false; write verify_tls = false (line 4)',
    ),
    (
        "[[upstreams]]\nname = 'a'\nurl = 'http://a/v1'\nfirst_byte_timeout_s = '5s'",
        (
            'upstreams[0].first_byte_timeout_s: "5s" is not a number of seconds, 0 or more; write '
            "first_byte_timeout_s = 5 (line 4)"
        ),
    ),
    (
        "[[upstreams]]\nname = 'a'\nurl = 'http://a/v1'\nca_file = '/nowhere'",
        "upstreams[0].ca_file: cannot be used: /nowhere: No such file or directory (line 4)",
    ),
    (
        f"[upstream]\napi_key = 'k'\n{TWO}",
        (
            "upstream.api_key: would be sent to every upstream; move it into the [[upstreams]] "
            "that it is for (line 2)"
        ),
    ),
    (
        f"{TWO}[models]\n'fast' = ['lokal/x']",
        (
            'models.fast: "lokal/x" leads to an unknown upstream (did you mean local? '
            f"{KNOWN}) (line 8)"
        ),
    ),
    (
        f"{TWO}[models]\n'qwen3:8b' = 'qwen3:4b'",
        f'models.qwen3:8b: "qwen3:4b" names no upstream; write "local/qwen3:4b" ({KNOWN}) (line 8)',
    ),
    (
        f"{TWO}[models]\nfast = 'local/'",
        'models.fast: "local/" names no model; write "local/MODEL" (line 8)',
    ),
    (
        f"{TWO}[models]\na = 'b'\nb = ['c']\nc = [['local/x', 'a']]",
        (
            "models.c: leads to itself (a -> b -> c -> a); name an upstream's model: "
            "UPSTREAM/MODEL (line 10)"
        ),
    ),
    (
        f"{TWO}[models]\na = 'a'",
        "models.a: leads to itself (a -> a); name an upstream's model: UPSTREAM/MODEL (line 8)",
    ),
    (f"{TWO}[models]\na = []", 'models.a: leads nowhere; write ["local/MODEL"] (line 8)'),
    (f"{TWO}[models]\na = [[]]", 'models.a: leads nowhere; write ["local/MODEL"] (line 8)'),
    (
        f"{TWO}[models]\na = 5",
        (
            'models.a: 5 is not a list of targets, such as ["local/qwen3:8b", "cloud/gpt-5-mini"] '
            "(line 8)"
        ),
    ),
    (
        f"{TWO}[models]\n'a b' = 'local/x'",
        "models.a b: a model's name has 1 to 256 characters, and no space (line 8)",
    ),
    ("models = 'x'", 'models: "x" is not a table of names and texts (line 1)'),
    (
        "[failover]\nbudget = 3",
        "failover.budget: unknown key (did you mean budget_s?) (line 2)",
    ),
    (
        "[failover]\nbudget_s = -1",
        "failover.budget_s: -1 is not a number of seconds, 0 or more, such as 20 (line 2)",
    ),
    (
        (
            "[server]\nlisten = '127.0.0.1:18787'\n[[upstreams]]\nname = 'a'\n"
            "url = 'http://127.0.0.1:18787/v1'"
        ),
        (
            'upstreams[0].url: "http://127.0.0.1:18787/v1" is this proxy itself, which listens on '
            '"127.0.0.1:18787"; name the backend, or let the proxy listen on another port (line 5)'
        ),
    ),
]


@pytest.mark.parametrize(("text", "lines"), MISTAKES, ids=[text for text, _ in MISTAKES])
def test_each_mistake_has_place_key_and_cure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, lines: str
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    assert cli.main(["check-config", str(file)]) == 2
    shown = capsys.readouterr().err.replace(str(file), "FILE").splitlines()
    assert shown == [f"lifecycle-proxy: FILE: {line}" for line in lines.splitlines()]


def test_a_name_that_leads_to_a_name_leads_where_that_does() -> None:
    models: dict[str, Any] = {
        "fast": ["small", "cloud/x"],
        "small": [["local/a", "local/b"], "cloud/x"],
        "any": [["fast", "cloud/y"]],
        "org/small": "local/org/small",
    }
    found = leads(models, ["local", "cloud"])
    a, b, x = Target("local", "a"), Target("local", "b"), Target("cloud", "x")
    assert found["fast"] == ((a, b), (x,))
    assert found["any"] == ((a, b, x, Target("cloud", "y")),)
    assert found["org/small"] == ((Target("local", "org/small"),),)


def test_names_that_double_at_each_step_are_followed_in_no_time() -> None:
    models: dict[str, Any] = {f"n{at}": [f"n{at + 1}", f"n{at + 1}"] for at in range(15)}
    models["n15"] = "local/x"
    assert leads(models, ["local"])["n0"] == ((Target("local", "x"),),)
    deep: dict[str, Any] = {f"n{at}": f"n{at + 1}" for at in range(5000)}
    notes: list[str] = []
    leads(deep, ["local"], lambda key, text: notes.append(text))
    assert notes


def test_what_an_upstream_leaves_out_is_as_in_upstream(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(ca))
    file = tmp_path / "config.toml"
    file.write_text(
        f"[upstream]\nconnect_timeout_s = 3\nca_file = '{ca}'\nverify_tls = false\nretries = 2\n"
        "[[upstreams]]\nname = 'a'\nurl = 'http://a/v1'\nverify_tls = true\n"
        "first_byte_timeout_s = 0\nmax_connections = 4\napi_key = 'env:KEY'\n"
        "[[upstreams]]\nname = 'b'\nurl = 'unix:/run/b.sock'\nserver_name = 'b'\n"
    )
    settings = config.load(file, environ={"KEY": "secret"})
    one, two = (settings_for(settings, own).upstream for own in upstreams_of(settings))
    assert (one.connect_timeout_s, one.retries, one.ca_file) == (3, 2, str(ca))
    assert (one.verify_tls, one.first_byte_timeout_s, one.max_connections) == (True, 0, 4)
    assert (one.api_key, two.api_key) == ("secret", "")
    assert (two.verify_tls, two.first_byte_timeout_s, two.server_name) == (False, 600, "b")
    assert settings_for(settings, settings.upstreams[1]).upstream_socket == "/run/b.sock"


def test_one_upstream_with_names_is_called_upstream() -> None:
    settings = config.load(environ={}, flags={"models": {"fast": "upstream/x"}})
    assert settings.is_routed
    (own,) = upstreams_of(settings)
    assert (own.name, own.models, own.client_key) == ("upstream", ["*"], "pass")


@pytest.mark.parametrize("name", ["UPSTREAMS__NAME", "MODELS__FAST", "UPSTREAMS"])
def test_upstreams_stand_in_the_file_only(name: str) -> None:
    with pytest.raises(config.ConfigError) as caught:
        config.load(environ={f"LIFECYCLE_PROXY_{name}": "x"})
    assert "no setting has this name" in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "key", "part"),
    [
        ({"upstream.url": "http://x/v1"}, "upstream.url", "has no effect"),
        ({"models": {}}, "upstreams[1].models", "put cloud before it"),
        ({}, "upstreams[1].client_key", "api_key is sent in its place"),
        ({}, "upstreams[0].api_key_header", "api_key is not set"),
    ],
)
def test_what_has_no_effect_is_said(flags: dict[str, Any], key: str, part: str) -> None:
    local = {"name": "local", "url": "http://a/v1", "models": ["*"], "api_key_header": "x-key"}
    cloud = {"name": "cloud", "url": "http://b/v1", "models": ["gpt-*"], "api_key": "k"}
    cloud["client_key"] = "pass"
    settings = config.load(environ={}, flags={"upstreams": [local, cloud], **flags})
    found = {one.key: one.text for one in checks.warnings(settings)}
    assert part in found[key]


def test_failover_within_streams_needs_more_than_one_upstream() -> None:
    settings = config.load(environ={}, flags={"failover.in_stream": True})
    assert [one.key for one in checks.warnings(settings)] == ["failover.in_stream"]


def test_check_config_and_routes_say_where_each_name_leads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        "[[upstreams]]\nname = 'local'\nurl = 'http://127.0.0.1:1/v1'\n"
        "[[upstreams]]\nname = 'cloud'\nurl = 'https://127.0.0.1:2/v1'\napi_key = 'k'\n"
        "models = ['gpt-*', 'o*']\n"
        "[models]\nfast = [['local/a', 'local/b'], 'cloud/c']\n"
    )
    lines = [
        "local: http://127.0.0.1:1/v1, the models that it lists (without a key)",
        "cloud: https://127.0.0.1:2/v1, models gpt-*, o* (with its api_key)",
        "fast -> local/a or local/b, then cloud/c",
    ]
    assert cli.main(["check-config", str(file)]) == 0
    shown = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert f"upstreams  {lines[0]}" in shown
    assert shown[shown.index(lines[1]) + 1] == lines[2]
    assert cli.main(["routes", "--config", str(file)]) == 0
    assert capsys.readouterr().out.splitlines() == lines
    for model, line in (
        ("fast", "fast -> local/a or local/b, then cloud/c (named in [models])"),
        ("gpt-9", 'gpt-9 -> cloud/gpt-9 ("gpt-*" of cloud matches)'),
        ("local/z", "local/z -> local/z (local is named in front of the model)"),
    ):
        assert cli.main(["routes", model, "--config", str(file)]) == 0
        assert capsys.readouterr().out.splitlines() == [line]
    assert cli.main(["routes", "zzz", "--config", str(file)]) == 1
    assert "the list of local could not be read" in capsys.readouterr().err
