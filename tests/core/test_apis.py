"""What hangs on an API, and that nothing else is asked for by name."""

import ast
from pathlib import Path

import lifecycle_proxy
import pytest
from lifecycle_proxy.core.apis import APIS, CHAT, Api
from lifecycle_proxy.core.counts import Counts
from lifecycle_proxy.core.dialects import DIALECTS
from lifecycle_proxy.core.events import Envelope, ToolRunning

from tests.core import DONE

ROOT = Path(lifecycle_proxy.__file__).parent


def test_each_is_found_by_its_name() -> None:
    assert [*APIS] == ["chat", "responses", "messages"]
    assert all(api.name == name for name, api in APIS.items())


@pytest.mark.parametrize("api", APIS.values(), ids=APIS)
def test_each_has_all_that_a_stream_needs(api: Api) -> None:
    assert api.observer(Counts()).skim(DONE) is False
    event, envelope = ToolRunning("a", 0, "f", "l", "x"), Envelope(f"{api.id_prefix}1", 1, "m")
    for dialect in DIALECTS.values():
        frame = api.writer(dialect).write(event, envelope)
        assert frame.endswith(b"\n\n") or dialect.is_silent


def test_only_chat_completions_have_what_needs_a_choice_and_a_next_request() -> None:
    assert [api for api in APIS.values() if api.spans_requests] == [CHAT]
    assert [api for api in APIS.values() if api.merges_rounds] == [CHAT]


def compared(node: ast.AST) -> set[object]:
    """The constants that something is compared with, one by one or as members of a tuple."""
    operands: list[ast.expr] = []
    if isinstance(node, ast.Compare):
        operands = [node.left, *node.comparators]
    elif isinstance(node, ast.MatchValue):
        operands = [node.value]
    flat = [e for o in operands for e in (o.elts if isinstance(o, ast.Tuple | ast.Set) else [o])]
    return {operand.value for operand in flat if isinstance(operand, ast.Constant)}


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    "path", [*ROOT.rglob("*.py")], ids=lambda path: str(path.relative_to(ROOT))
)
def test_no_module_compares_an_api_by_name(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        assert compared(node).isdisjoint(APIS), f"{path}: {ast.unparse(node)}"
