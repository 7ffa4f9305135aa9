"""``/-/approvals/{token}``: a person allows what an agent asks for, or does not.

GET shows the page; Open WebUI draws it inside a message, in a sandboxed frame. POST decides: a
form of the page (``decision=once`` or ``deny``), or JSON of a program's. The token is all that is
needed: it is random, valid once and for a short time, and only the client that the prompt came from
gets it.
"""

import html
import math
from typing import Final

import orjson
from aiohttp import web

from lifecycle_proxy.exchange.client_scope import owner_of
from lifecycle_proxy.exchange.errors import ProxyError
from lifecycle_proxy.exchange.handler import ClientRequest
from lifecycle_proxy.exchange.routes import APPROVALS_PREFIX as PREFIX
from lifecycle_proxy.upstream.agents.approvals import Approval, Approvals

_MAX_BODY: Final = 4096
_DECISIONS: Final = {"once": True, "deny": False}
# No script, nothing of others; the form may only lead back here. Other pages may frame it: Open
# WebUI does, and without the token they have no address to frame.
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "base-uri 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_STYLE: Final = (
    "body{font:15px system-ui,sans-serif;margin:0;padding:14px;color:#222;background:#fff}"
    "pre{background:#f3f3f3;padding:8px;overflow:auto;max-height:180px;white-space:pre-wrap;"
    "word-break:break-word}button{font:inherit;padding:6px 14px;margin-right:8px;border-radius:6px;"
    "border:1px solid #888;background:#fff;cursor:pointer}.yes{background:#186a3b;color:#fff;"
    "border-color:#186a3b}@media(prefers-color-scheme:dark){body{background:#1b1b1b;color:#ddd}"
    "pre{background:#2b2b2b}button{background:#333;color:#ddd}}"
)


class ApprovalPages:
    """Handles requests for approvals.

    Args:
        approvals: those that are open.
    """

    def __init__(self, approvals: Approvals) -> None:
        self._approvals = approvals

    async def handle(self, request: ClientRequest, path: str) -> web.Response:
        """The page, or the answer to it.

        Args:
            request: the person's, or a program's.
            path: without the query.

        Raises:
            ProxyError: ``method_not_allowed``, ``not_found`` or ``bad_request``.
        """
        token = path.removeprefix(PREFIX)
        if request.method in ("GET", "HEAD"):
            approval = self._approvals.maybe_open(token)
            if approval is None:
                return _gone()
            # It says by itself that its time is over; so the buttons do not stay for ever.
            left_s = math.ceil(self._approvals.left_s(approval)) + 1
            return _page(_question(approval), refresh_s=left_s)
        if request.method != "POST":
            raise ProxyError("method_not_allowed", f"{PREFIX}TOKEN takes GET and POST")
        is_json, decision = await _decision(request)
        by = f"credential {owner_of(request.headers)[:12]} at {request.remote or 'unknown'}"
        is_done = self._approvals.decide(token, allowed=_DECISIONS[decision], by=by)
        if is_json:
            if not is_done:
                raise ProxyError(
                    "not_found", "no such request for an approval, or it has its answer"
                )
            return web.json_response({"decision": decision}, headers=_HEADERS)
        word = "Allowed once." if _DECISIONS[decision] else "Denied."
        return _page(f"<p>{word}</p>") if is_done else _gone()


async def _decision(request: ClientRequest) -> tuple[bool, str]:
    """Whether the request is a program's, and its decision.

    Raises:
        ProxyError: ``bad_request``.
    """
    data = bytearray()
    async for piece in request.content.iter_any():
        data += piece
        if len(data) > _MAX_BODY:
            raise ProxyError("bad_request", "the decision is too long")
    is_json = request.content_type == "application/json"
    decision: object = None
    if is_json:
        try:
            given = orjson.loads(bytes(data))
        except orjson.JSONDecodeError:
            given = None
        decision = given.get("decision") if isinstance(given, dict) else None
    else:
        key, _, value = data.decode("ascii", "replace").partition("=")
        decision = value if key == "decision" else None
    if not (isinstance(decision, str) and decision in _DECISIONS):
        known = " or ".join(_DECISIONS)
        raise ProxyError("bad_request", f"decision must be {known}", "decision")
    return is_json, decision


def _question(approval: Approval) -> str:
    tool, agent = html.escape(approval.tool), html.escape(approval.agent)
    what = html.escape(approval.arguments or approval.label)
    return (
        f"<p><b>{tool}</b> needs your permission ({agent}).</p><pre>{what}</pre>"
        '<form method="post"><button class="yes" name="decision" value="once">Allow once</button>'
        '<button name="decision" value="deny">Deny</button></form>'
    )


def _gone() -> web.Response:
    text = "<p>This request has its answer already, or its time is over. Nothing was changed.</p>"
    return _page(text, 404)


def _page(body: str, status: int = 200, refresh_s: int = 0) -> web.Response:
    refresh = f'<meta http-equiv="refresh" content="{refresh_s}">' if refresh_s else ""
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8">{refresh}<title>Approval</title>'
        '<meta name="viewport" content="width=device-width"><meta name="color-scheme" '
        f'content="light dark"><style>{_STYLE}</style><body>{body}</body></html>'
    )
    return web.Response(text=text, content_type="text/html", status=status, headers=_HEADERS)
