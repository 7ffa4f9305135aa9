"""The agent of ``demo --agent``: a script that speaks ACP, with one tool that needs a permission.

    python -m lifecycle_proxy.cli.demo_agent PACE

It says what the demo's backend says, then wants to send a mail, and waits until it may.
"""

import json
import queue
import re
import sys
import threading
from typing import Any, Final

from lifecycle_proxy.cli.demo_upstream import ANSWER, SCRIPT, Tool, maybe_task

_Json = dict[str, Any]
_MAIL: Final = Tool("send_mail", {"to": "14 guests", "text": "See you on Saturday!"}, 1.0, "sent")
_WORD_S: Final = 0.06
_CAPABILITIES: Final = {"loadSession": True}
_OPTIONS: Final = (
    {"optionId": "once", "kind": "allow_once", "name": "Allow once"},
    {"optionId": "never", "kind": "reject_once", "name": "Deny"},
)


class StoppedError(Exception):
    """The prompt was cancelled."""


class DemoAgent:
    """One session.

    Args:
        pace: all pauses are multiplied by this.
    """

    def __init__(self, pace: float) -> None:
        self._pace = pace
        self._messages: queue.Queue[_Json | None] = queue.Queue()
        self._session = ""
        self._calls = 0

    def run(self) -> None:
        """Serve until the input ends."""
        threading.Thread(target=self._read, daemon=True).start()
        while (message := self._messages.get()) is not None:
            params, result = message.get("params", {}), None
            match message.get("method"):
                case "initialize":
                    info = {"name": "demo-agent", "version": "1"}
                    result = {"protocolVersion": 1, "agentInfo": info}
                    result["agentCapabilities"] = _CAPABILITIES
                case "session/new":
                    self._session = "demo"
                    result = {"sessionId": self._session}
                case "session/load":
                    self._session, result = params["sessionId"], {}
                case "session/prompt":
                    result = {"stopReason": self._prompt(params)}
                case _:
                    continue
            self._send({"id": message.get("id"), "result": result})

    def _read(self) -> None:
        for line in sys.stdin:
            self._messages.put(json.loads(line))
        self._messages.put(None)

    def _prompt(self, params: _Json) -> str:
        text = "\n".join(part.get("text", "") for part in params["prompt"])
        try:
            if (task := maybe_task([("user", text)])) is not None:
                self._say(task)
                return "end_turn"
            for step in SCRIPT[:-1]:
                if isinstance(step, str):
                    self._say(step)
                else:
                    self._run(step)
            self._say(f"{ANSWER} I will write to them. ")
            self._say("They know." if self._mail() else "Then nobody is written to.")
        except StoppedError:
            return "cancelled"
        return "end_turn"

    def _say(self, text: str) -> None:
        for word in re.findall(r"\s*\S+\s*", text):
            self._wait(_WORD_S)
            self._update("agent_message_chunk", content={"type": "text", "text": word})

    def _run(self, tools: tuple[Tool, ...]) -> None:
        """Tools that run at the same time."""
        begun = [(self._begin(tool), tool) for tool in tools]
        passed = 0.0
        for call_id, tool in sorted(begun, key=lambda one: one[1].run_s):
            self._wait(tool.run_s - passed)
            passed = tool.run_s
            self._end(call_id, tool.result, failed=tool.failed)

    def _mail(self) -> bool:
        call_id = self._begin(_MAIL)
        call = {"toolCallId": call_id, "name": _MAIL.name, "title": _MAIL.name}
        params = {"sessionId": self._session, "toolCall": call, "options": list(_OPTIONS)}
        request = f"may-{call_id}"
        self._send({"id": request, "method": "session/request_permission", "params": params})
        outcome = self._answer(request).get("result", {}).get("outcome", {})
        is_allowed: bool = outcome.get("optionId") == "once"
        if is_allowed:
            self._wait(_MAIL.run_s)
        self._end(call_id, _MAIL.result if is_allowed else "not allowed", failed=not is_allowed)
        return is_allowed

    def _begin(self, tool: Tool) -> str:
        self._calls += 1
        call_id = f"call_{self._calls}"
        fields = {"name": tool.name, "title": tool.name, "rawInput": dict(tool.arguments)}
        self._update("tool_call", toolCallId=call_id, status="in_progress", **fields)
        return call_id

    def _end(self, call_id: str, result: str, *, failed: bool) -> None:
        status = "failed" if failed else "completed"
        self._update("tool_call_update", toolCallId=call_id, status=status, rawOutput=result)

    def _answer(self, request: str) -> _Json:
        """The client's answer to a request.

        Raises:
            StoppedError: the prompt was cancelled.
        """
        while True:
            message = self._messages.get()
            if message is None or message.get("method") == "session/cancel":
                raise StoppedError
            if message.get("id") == request:
                return message

    def _wait(self, seconds: float) -> None:
        """Pretend to work.

        Raises:
            StoppedError: the prompt was cancelled.
        """
        try:
            message = self._messages.get(timeout=seconds * self._pace)
        except queue.Empty:
            return
        if message is None or message.get("method") == "session/cancel":
            raise StoppedError

    def _update(self, what: str, **fields: Any) -> None:
        update = {"sessionUpdate": what, **fields}
        params = {"sessionId": self._session, "update": update}
        self._send({"method": "session/update", "params": params})

    def _send(self, message: _Json) -> None:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    DemoAgent(float(sys.argv[1])).run()
