"""Writes down what an agent and its client say to each other: ``python tee.py LOG COMMAND...``.

One JSON object a line: ``dir`` (``out``: to the agent, ``in``: from it) and ``msg``.
"""

import contextlib
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

_LOCK = threading.Lock()


def _copy(source: IO[bytes], target: IO[bytes], way: str, log: Path) -> None:
    for line in source:
        # Written down first: the answer to it must not come before it.
        with contextlib.suppress(ValueError), _LOCK, log.open("a", encoding="utf-8") as file:
            entry = {"dir": way, "msg": json.loads(line)}
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        target.write(line)
        target.flush()
    target.close()


def main(log: Path, command: list[str]) -> int:
    """Run the command until it ends."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as agent:
        assert agent.stdin is not None
        assert agent.stdout is not None
        ways = (sys.stdin.buffer, agent.stdin, "out", log)
        threading.Thread(target=_copy, args=ways, daemon=True).start()
        _copy(agent.stdout, sys.stdout.buffer, "in", log)
        return agent.wait()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
