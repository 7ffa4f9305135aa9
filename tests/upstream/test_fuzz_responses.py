"""A short run of the fuzzer that reads hostile responses, with cases that are always the same."""

import subprocess
import sys
from pathlib import Path

import pytest

FUZZER = Path(__file__).parents[2] / "fuzz" / "fuzz_responses.py"


@pytest.mark.skipif(not FUZZER.exists(), reason="not in a source distribution")
def test_hostile_responses_are_read_as_h11_reads_them() -> None:
    command = [sys.executable, str(FUZZER), "--seed", "1", "--count", "300", "--seconds", "600"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "300 responses from --seed 1: all held" in done.stdout
