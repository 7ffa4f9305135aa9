"""The examples for Compose and Kubernetes: read, checked by the proxy itself, and run as processes.

No container runs here. What a container would get (variables, commands, probes, ports) is taken
from the files and given to real processes.
"""

import asyncio
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Hashable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from lifecycle_proxy.config.model import Server

from tests.commands import LISTEN, environment, run, run_here, serving
from tests.fakes import DONE, Request, Upstream, Wire, ask, chat, lifecycle, text, tool_call
from tests.redis_server import RedisServer, redis_server

__all__ = ("redis_server",)

_EXAMPLES: Final = Path(__file__).parents[1] / "examples"
_DOCKERFILE: Final = (_EXAMPLES.parent / "Dockerfile").read_text("utf-8")
_GIVEN: Final = {"REDIS_PASSWORD": "a" * 48, "TOKEN_KEY": "b" * 64, "UPSTREAM_KEY": "c" * 20}
_PORT: Final = 8787
_KEY: Final = "Authorization: Bearer sk-1"
Tree = dict[str, Any]


class _Strict(yaml.SafeLoader):
    """A key that is there twice is a mistake, which YAML's readers forgive."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(set(keys)) == len(keys), f"a key is there twice: {keys}"
        return super().construct_mapping(node, deep)


def documents(name: str) -> list[Tree]:
    return list(yaml.load_all((_EXAMPLES / name).read_text("utf-8"), _Strict))


def interpolated(value: Any, given: dict[str, str]) -> Any:
    """As Compose does it: ``${NAME:-default}``, ``${NAME:?}``, ``$$``."""
    if isinstance(value, dict):
        return {key: interpolated(one, given) for key, one in value.items()}
    if isinstance(value, list):
        return [interpolated(one, given) for one in value]
    if not isinstance(value, str):
        return value

    def of(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        name, sign, rest = found[1], found[2], found[3]
        assert sign != ":?" or name in given, f"{name} must be set"
        return given.get(name, rest or "")

    return re.sub(r"\$\$|\$\{(\w+)(?:(:[-?])([^}]*))?\}", of, value)


def services(name: str, **given: str) -> Tree:
    (tree,) = documents(name)
    found: Tree = interpolated(tree, given)["services"]
    return found


def kubernetes() -> dict[tuple[str, str], Tree]:
    both = [*documents("kubernetes.yaml"), *documents("kubernetes-redis.yaml")]
    return {(one["kind"], one["metadata"]["name"]): one for one in both}


def container(deployment: Tree) -> Tree:
    (found,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(found)


def expanded(variables: list[Tree], secrets: Tree) -> dict[str, str]:
    """A container's variables, in their order, as the kubelet gives them."""
    found: dict[str, str] = {}
    for one in variables:
        if "valueFrom" in one:
            ref = one["valueFrom"]["secretKeyRef"]
            found[one["name"]] = secrets[ref["name"]][ref["key"]]
        else:
            known = dict(found)
            value = re.sub(r"\$\((\w+)\)", lambda name, of=known: of[name[1]], one["value"])  # type: ignore[misc]
            found[one["name"]] = value
    return found


def secrets_in(name: str) -> Tree:
    """What the commands at the top of a file create."""
    head = re.sub(r"\\\n#", " ", (_EXAMPLES / name).read_text("utf-8").partition("apiVersion")[0])
    found = re.findall(r"create secret generic (\S+)(.*)", head)
    values = {
        "password": "REDIS_PASSWORD",
        "token-key": "TOKEN_KEY",
        "upstream-key": "UPSTREAM_KEY",
    }
    return {
        secret: {key: _GIVEN[values[key]] for key in re.findall(r"--from-literal=([\w-]+)=", rest)}
        for secret, rest in found
    }


def patch() -> Tree:
    """What the head of ``kubernetes-redis.yaml`` adds to the deployment."""
    text_ = (_EXAMPLES / "kubernetes-redis.yaml").read_text("utf-8")
    lines = text_.partition("<<'PATCH'\n")[2].partition("#   PATCH")[0].splitlines()
    return dict(yaml.load("\n".join(line[4:] for line in lines), _Strict))


def variables() -> dict[str, dict[str, str]]:
    """The environment of each example's proxy."""
    deployment = kubernetes()["Deployment", "lifecycle-proxy"]
    own = container(deployment)["env"]
    (patched,) = patch()["spec"]["template"]["spec"]["containers"]
    assert patched["name"] == container(deployment)["name"]
    secrets = {**secrets_in("kubernetes.yaml"), **secrets_in("kubernetes-redis.yaml")}
    return {
        "compose.yaml": services("compose.yaml")["lifecycle-proxy"]["environment"],
        "compose-replicas.yaml": services("compose-replicas.yaml", **_GIVEN)["lifecycle-proxy"][
            "environment"
        ],
        "kubernetes.yaml": expanded(own, secrets),
        "kubernetes-redis.yaml": expanded([*own, *patched["env"]], secrets),
    }


@pytest.mark.parametrize("name", variables())
def test_the_proxy_takes_the_variables(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty.toml").write_text("")
    environ = {"LIFECYCLE_PROXY_LISTEN": f"0.0.0.0:{_PORT}", **variables()[name]}
    done = run_here("check-config", str(tmp_path / "empty.toml"), **environ)
    assert done.returncode == 0, done.stderr
    assert not [one for one in _GIVEN.values() if one in done.stdout + done.stderr]
    own = [key for key in environ if key.startswith("LIFECYCLE_PROXY_")]
    assert len(own) > 2
    wrong = run_here(
        "check-config", str(tmp_path / "empty.toml"), **environ, LIFECYCLE_PROXY_OWN="1"
    )
    assert wrong.returncode == 2  # so a key with a slip would have been found


def test_ports_names_and_times() -> None:
    assert f"LIFECYCLE_PROXY_LISTEN=0.0.0.0:{_PORT}" in _DOCKERFILE
    drain_s = Server().drain_timeout_s
    for name in ("compose.yaml", "compose-replicas.yaml"):
        own = services(name, **_GIVEN)["lifecycle-proxy"]
        assert all(
            one.endswith(f":{_PORT}") and one.startswith("127.0.0.1:") for one in own["ports"]
        )
        assert int(own["stop_grace_period"].removesuffix("s")) > drain_s
    found = kubernetes()
    for (kind, name), one in found.items():
        if kind != "Deployment":
            continue
        pod, spec = one["spec"]["template"]["spec"], container(one)
        ports = {port.get("name"): port["containerPort"] for port in spec["ports"]}
        assert set(ports.values()) == ({6379} if name.endswith("redis") else {_PORT})
        labels = one["spec"]["template"]["metadata"]["labels"]
        service = found["Service", name]["spec"]
        assert service["selector"].items() <= labels.items()
        assert one["spec"]["selector"]["matchLabels"].items() <= labels.items()
        for port in service["ports"]:
            assert ports.get(port.get("targetPort"), port["port"]) == port["port"]
        mounts = {mount["name"] for mount in spec.get("volumeMounts", ())}
        assert mounts == {volume["name"] for volume in pod.get("volumes", ())}
    proxy = found["Deployment", "lifecycle-proxy"]["spec"]["template"]
    allowed = found["NetworkPolicy", "lifecycle-proxy-redis"]["spec"]["ingress"][0]["from"][0]
    assert allowed["podSelector"]["matchLabels"].items() <= proxy["metadata"]["labels"].items()
    stop = container(found["Deployment", "lifecycle-proxy"])["lifecycle"]["preStop"]["exec"][
        "command"
    ]
    (seconds,) = re.findall(r"sleep\((\d+)\)", stop[-1])
    assert proxy["spec"]["terminationGracePeriodSeconds"] > drain_s + int(seconds)


def test_the_other_tools_take_the_files(tmp_path: Path) -> None:
    """Compose and kubectl, as far as they do without a daemon and a cluster."""
    compose = next(
        (one for one in (["docker", "compose"], ["docker-compose"]) if _works(one)), None
    )
    for name in ("compose.yaml", "compose-replicas.yaml") if compose else ():
        command = [*(compose or ()), "-f", str(_EXAMPLES / name), "config", "--quiet"]
        done = subprocess.run(command, env=environment(**_GIVEN), capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
    if shutil.which("kubectl") is None:
        if compose is None:
            pytest.skip("neither Compose nor kubectl is installed")
        return
    deployment, change = tmp_path / "deployment.yaml", tmp_path / "patch.yaml"
    deployment.write_text(yaml.safe_dump(kubernetes()["Deployment", "lifecycle-proxy"]))
    change.write_text(yaml.safe_dump(patch()))
    files = ("-f", str(deployment), "--patch-file", str(change))
    done = subprocess.run(
        ["kubectl", "patch", "--local", *files, "-o", "yaml"], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    names = [one["name"] for one in container(yaml.safe_load(done.stdout))["env"]]
    both = variables()
    assert set(names) == both["kubernetes-redis.yaml"].keys()
    # $(NAME) means a variable that stands before: kubectl puts those of the patch first.
    assert names.index("REDIS_PASSWORD") < names.index("STORE")


def _works(command: list[str]) -> bool:
    if shutil.which(command[0]) is None:
        return False
    done = subprocess.run([*command, "version"], capture_output=True, check=False)
    return done.returncode == 0


# --- run ------------------------------------------------------------------------------------------


async def agent(_: Request, wire: Wire) -> None:
    await wire.stream(tool_call(), text("one"), DONE, b"")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("name", ["compose-replicas.yaml", "kubernetes-redis.yaml"])
async def test_two_replicas_on_the_redis_of_an_example(
    name: str, stack: ExitStack, upstream: Upstream, redis_server: RedisServer
) -> None:
    if name.startswith("compose"):
        own = services(name, **_GIVEN)
        command, count = own["redis"]["command"][-1], own["lifecycle-proxy"]["deploy"]["replicas"]
    else:
        found = kubernetes()
        command = container(found["Deployment", "lifecycle-proxy-redis"])["args"][0]
        count = found["Deployment", "lifecycle-proxy"]["spec"]["replicas"]
    command = command.replace("$REDIS_PASSWORD", _GIVEN["REDIS_PASSWORD"])
    words = shlex.split(command)
    assert words[:2] == ["exec", "redis-server"]
    redis_server.arguments = tuple(words[2:])
    await redis_server.start()
    environ = dict(variables()[name])
    environ["STORE"] = re.sub(r"@[\w-]+:6379", f"@127.0.0.1:{redis_server.port}", environ["STORE"])
    environ["LIFECYCLE_PROXY_UPSTREAM"] = f"{upstream.origin}/v1"
    assert count == 2
    upstream.script = agent
    one, two = (stack.enter_context(serving(*LISTEN, **environ))[1] for _ in range(count))
    first = await chat(one, _KEY)
    assert lifecycle(first.body)[0] == ("call_1", "running", None)
    stream_id, told = first.headers["X-Stream-Id"], b""
    async with asyncio.timeout(30):
        while b"stream.done" not in told:  # it may not be there at once
            told = (await ask(two, "GET", f"/-/streams/{stream_id}/events", _KEY)).body
            await asyncio.sleep(0.05)
    token = await ask(one, "POST", f"/-/streams/{stream_id}/token", _KEY)
    assert (await ask(two, "GET", token.json()["url"])).body == told  # they sign alike


async def test_probes_and_health_checks(stack: ExitStack, upstream: Upstream) -> None:
    upstream.script = agent
    process, url, _ = stack.enter_context(
        serving(*LISTEN, LIFECYCLE_PROXY_UPSTREAM=f"{upstream.origin}/v1")
    )
    own = container(kubernetes()["Deployment", "lifecycle-proxy"])
    paths = [own[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe")]
    annotations = kubernetes()["Deployment", "lifecycle-proxy"]["spec"]["template"]["metadata"]
    paths.append(annotations["annotations"]["prometheus.io/path"])
    assert [(await ask(url, "GET", path)).status for path in paths] == [200, 200, 200]
    named = [one.get("name") for one in own["ports"]]
    assert {own[probe]["httpGet"]["port"] for probe in ("livenessProbe", "readinessProbe")} <= {
        *named
    }
    check = services("compose.yaml")["lifecycle-proxy"]["healthcheck"]["test"]
    in_image = re.findall(r'CMD \["python", "-c", "(.*)"\]', _DOCKERFILE)
    port = url.rpartition(":")[2]
    for script in (check[-1], *in_image):
        here = [sys.executable, "-c", script.replace(str(_PORT), port)]
        done = await asyncio.to_thread(subprocess.run, here, check=False)
        assert done.returncode == 0
    process.terminate()
    process.wait(30)
    done = await asyncio.to_thread(subprocess.run, here, stderr=subprocess.DEVNULL, check=False)
    assert done.returncode != 0
    stop = own["lifecycle"]["preStop"]["exec"]["command"]
    compile(stop[-1].replace("sleep(5)", "sleep(0)"), "preStop", "exec")


def test_the_command_of_the_demo() -> None:
    """``compose.yaml`` starts it unless it is told something else."""
    words = shlex.split(services("compose.yaml")["lifecycle-proxy"]["command"])
    assert words[:2] == ["demo", "--agent"]
    assert words[-2:] == ["--listen", f"0.0.0.0:{_PORT}"]
    assert run(*words[:-2], "--listen", "127.0.0.1:0", "--once").returncode == 0
    assert services("compose.yaml", PROXY_COMMAND="serve")["lifecycle-proxy"]["command"] == "serve"
