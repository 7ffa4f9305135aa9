"""Files with certificates, as settings name them."""

from pathlib import Path
from typing import Final

_TLS: Final = {
    "KEY_VALUES_MISMATCH": "the key does not belong to the certificate",
    "NO_CERTIFICATE": "there is no certificate in it",
    "PEM": "not a PEM file with a certificate, and its key where tls_key names none",
}


def unusable(error: Exception, *files: str) -> str:
    """Which file cannot be used, and why. OpenSSL names neither.

    Args:
        error: of the ``ssl`` module.
        files: those that it was about; empty ones are left out.
    """
    for file in filter(None, files):
        try:
            Path(file).read_bytes()
        except OSError as problem:
            return f"cannot be used: {file}: {problem.strerror or problem}"
    reason = str(getattr(error, "reason", None) or error)
    why = next((text for word, text in _TLS.items() if word in reason), reason)
    return f"cannot be used: {', '.join(filter(None, files))}: {why}"
