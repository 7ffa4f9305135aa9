"""The command, as people and scripts run it: a process of its own."""

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from lifecycle_proxy.cli import main as cli

from tests.commands import LISTEN, ended, run, run_here, serving
from tests.fakes import Client, Request, Upstream, Wire, ask, lifecycle, payloads, tool_call

# --- serve --------------------------------------------------------------------------------------


def test_serve_says_where_it_listens_and_where_it_forwards_to() -> None:
    with serving(*LISTEN, "--upstream", "http://127.0.0.1:9/") as (process, url, base):
        assert base == "http://127.0.0.1:9/v1"
        assert not url.endswith(":0")
        process.terminate()
        code, out, err = ended(process)
    assert (code, out) == (0, "")
    assert "Traceback" not in err


@pytest.mark.unmeasured
async def test_serve_forwards(upstream: Upstream) -> None:
    with serving(*LISTEN, "--upstream", f"{upstream.origin}/v1") as (_, url, _base):
        assert (await ask(url, "GET", "/v1/models")).json() == {"ok": True}


@pytest.mark.unmeasured
def test_serve_reads_file_environment_and_flags(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[server]\nlisten = "127.0.0.1:0"\n[upstream]\nurl = "http://file/v1"')
    with serving("--config", str(file)) as (_, _, base):
        assert base == "http://file/v1"
    environ = {"LIFECYCLE_PROXY_CONFIG": str(file), "LIFECYCLE_PROXY_UPSTREAM": "http://env/v1"}
    with serving(**environ) as (_, _, base):
        assert base == "http://env/v1"
    with serving("--upstream", "http://flag/v1", **environ) as (_, _, base):
        assert base == "http://flag/v1"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0(number: signal.Signals) -> None:
    with serving(*LISTEN) as (process, _, _):
        process.send_signal(number)
        code, _, err = ended(process)
    assert code == 0
    assert "Traceback" not in err


async def stuck(request: Request, wire: Wire) -> None:
    await wire.stream(tool_call())
    await wire.gone.wait()


async def test_a_signal_drains_open_streams(upstream: Upstream) -> None:
    upstream.script = stuck
    environ = {"LIFECYCLE_PROXY_SERVER__DRAIN_TIMEOUT_S": "0.2"}
    with serving(*LISTEN, "--upstream", upstream.origin, **environ) as (process, url, _):
        async with Client(url) as client:
            answer = await (await client.chat()).until(b"running")
            process.terminate()
            await answer.read()
        code, _, err = ended(process)
    assert [status for _, status, _ in lifecycle(answer.body)] == ["running", "completed"]
    assert payloads(answer.body)[-1]["error"]["code"] == "draining"
    assert answer.end == "cut"
    assert code == 0
    assert "Traceback" not in err


async def test_a_second_signal_ends_it_at_once(upstream: Upstream) -> None:
    upstream.script = stuck
    with serving(*LISTEN, "--upstream", upstream.origin) as (process, url, _):
        assert process.stderr is not None
        async with Client(url) as client:
            answer = await (await client.chat()).until(b"running")
            process.terminate()
            assert "stopping" in process.stderr.readline()
            process.terminate()
            await answer.read()
        code, _, err = ended(process)
    assert answer.end in ("cut", "reset")
    assert code == 0
    assert "Traceback" not in err


def test_a_taken_port_is_a_failure_at_run_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run("serve", "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert (done.returncode, done.stdout) == (1, "")
    assert "address already in use; end what listens there, or choose another" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (PermissionError(13, "Permission denied", "/a/b"), "/a/b: Permission denied; give this"),
        (PermissionError(13, "Permission denied", b"/a/b"), "/a/b: Permission denied; give this"),
        (FileNotFoundError(2, "no such file"), "no such file; make the folder, or"),
        (OSError(5, "Input/output error", "/a"), "/a: Input/output error"),
        (OSError("what the text says"), "what the text says"),
    ],
)
def test_a_failure_names_the_file_and_the_cure(raised: OSError, told: str) -> None:
    said = cli.described(raised)
    assert said.startswith(told)
    assert said == told or ";" in told


def test_wrong_settings_are_a_failure_of_usage(tmp_path: Path) -> None:
    for arguments, message in (
        (["--upstream", "nonsense"], '--upstream: upstream.url: "nonsense" is not a base URL'),
        (["--config", str(tmp_path / "none")], "No such file"),
        (["--listen", "nonsense"], '--listen: server.listen: "nonsense" is not HOST:PORT'),
    ):
        done = run_here("serve", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
        assert "Traceback" not in done.stderr


# --- the rest -----------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [(), ("serv",), ("serve", "--lisn"), ("check-config",)])
def test_wrong_usage_is_a_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: lifecycle-proxy" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["serve", "demo", "check-config"])
def test_help_names_the_commands_and_the_defaults(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["--help"], [command, "--help"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert caught.value.code == 0
        out = capsys.readouterr().out
        assert command in out
    if command == "serve":
        assert "127.0.0.1:8787" in out
        assert "http://127.0.0.1:11434/v1" in out


def test_check_config_looks_up_the_keys_that_it_names(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[upstream]\napi_key = "env:THE_KEY"\n')
    done = run_here("check-config", str(file), THE_KEY="sk-1")
    assert done.returncode == 0
    assert "(with upstream.api_key)" in done.stdout
    assert "sk-1" not in done.stdout
    assert "THE_KEY is not set" in run_here("check-config", str(file)).stderr


def test_the_version_is_printed() -> None:
    done = run("--version")
    assert done.returncode == 0
    assert re.fullmatch(r"lifecycle-proxy \d+\.\d+\S*\n", done.stdout)


def test_check_config_says_what_is_in_force(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        "[server]\nheartbeat_s = 5\napi_keys = ['sk-1', 'sk-2']\nlisten = '127.0.0.1:0'\n"
        "[lifecycle.emoji]\nx = 'y'\n[recording]\nmode = 'record'\npath = '/tmp/rec'\n"
    )
    done = run_here("check-config", str(file), LIFECYCLE_PROXY_UPSTREAM="http://h:1/v1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"{file}: ok\n"
        f"  settings   {file}, LIFECYCLE_PROXY_UPSTREAM\n"
        "  listen     http://127.0.0.1:0 (this machine only, 2 keys)\n"
        "  upstream   http://h:1/v1 (with the clients' own key)\n"
        "  events     dialect chunk, Open WebUI, LobeChat and old OpenAI SDKs are recognised\n"
        "  recording  prompts and answers are written to /tmp/rec\n"
        "  changed    server.heartbeat_s = 5\n"
        "             lifecycle.emoji = a table\n"
    )


def test_check_config_refuses_a_bad_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[upstream]\nconect_timeout_s = 5\n[server]\nworkers = 0\n")
    assert cli.main(["check-config", str(file)]) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err == (
        f"lifecycle-proxy: {file}: upstream.conect_timeout_s: "
        "unknown key (did you mean connect_timeout_s?) (line 2)\n"
        f"lifecycle-proxy: {file}: server.workers: "
        "0 is not a whole number from 1 to 1024 (line 4)\n"
    )


def test_check_config_looks_at_the_environment_as_serve_does(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("")
    done = run_here("check-config", str(file), LIFECYCLE_PROXY_WORKERS="1")
    assert done.returncode == 2
    assert done.stderr == (
        "lifecycle-proxy: environment LIFECYCLE_PROXY_WORKERS: no setting has this name "
        "(did you mean LIFECYCLE_PROXY_SERVER__WORKERS?)\n"
    )


def test_check_config_without_a_file_takes_that_of_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[server]\nworkers = 2\n")
    done = run_here("check-config", LIFECYCLE_PROXY_CONFIG=str(file))
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, f"{file}: ok")
    done = run_here("check-config")
    assert done.returncode == 2
    assert "FILE is missing: name the settings file, such as config.toml" in done.stderr


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "the command is missing, such as 'opencode acp'"),
        ("a 'b", "No closing quotation; quote it as in a shell, such as 'opencode acp'"),
        ("nosuchprog acp", 'upstream.agent: "nosuchprog" is not a program in PATH; install it'),
    ],
)
def test_an_agent_that_is_no_command_is_wrong_usage(command: str, message: str) -> None:
    done = run_here("serve", "--agent", command)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert message in done.stderr


def test_check_config_looks_for_the_program_of_an_agent(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[[upstreams]]\nname = "a"\nagent = ["nosuchprog", "acp"]\n')
    done = run_here("check-config", str(file))
    assert done.returncode == 2
    assert 'upstreams[0].agent: "nosuchprog" is not a program in PATH' in done.stderr


def test_check_config_of_a_missing_file_is_a_2(tmp_path: Path) -> None:
    done = run("check-config", str(tmp_path / "none.toml"))
    assert done.returncode == 2
    assert "none.toml: No such file" in done.stderr


@pytest.mark.parametrize("command", ["main", "supervised"])
def test_nothing_of_the_metrics_is_imported_before_the_workers_have_their_folder(
    command: str,
) -> None:
    """prometheus_client looks at the environment once, when it is imported."""
    assert "prometheus_client" not in modules_of(command)


def test_help_need_not_wait_for_what_serves() -> None:
    """The import of aiohttp takes longer than all else together."""
    assert "aiohttp" not in modules_of("main")


def modules_of(command: str) -> list[str]:
    """What is imported with a module of the command line."""
    code = f"import sys, lifecycle_proxy.cli.{command}; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return found.stdout.split()
