"""Secrets by reference: `env:NAME` or `file:PATH`, never in the configuration itself.

Owns where they are read and that nothing shows them: not `repr`, not an error, not a log line.
A text that is no reference is never repeated in a message, as it may be the secret itself.
"""

import os
import re
from pathlib import Path

from twin.errors import ConfigError

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PRINTABLE = re.compile(r"[!-~]+")
_LOOKS_SECRET = re.compile(
    r"\b(?:sk|pk|rk|gsk|hf|xai|tgp|ghp|key|twin)[-_][A-Za-z0-9_-]{8,}|\b[A-Za-z0-9_-]{40,}\b"
)
CURE = "Put it into an environment variable and write `env:NAME`, or into a file: `file:PATH`."


class Secret:
    """A secret with a label that may be shown."""

    __slots__ = ("_value", "label")

    def __init__(self, label: str, value: str) -> None:
        self.label = label
        """The reference, such as `env:ACCOUNT_A`."""
        self._value = value

    def reveal(self) -> str:
        """The secret. For the request alone."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({self.label})"

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled")


def resolve(reference: str, root: Path) -> Secret:
    """Reads it now; a relative file is found from `root`. Raises ConfigError with a cure."""
    kind, _, where = reference.partition(":")
    if kind == "env":
        value = _from_variable(where)
    elif kind == "file":
        value = _from_file(root / where, where)
    else:
        raise ConfigError(f"A secret stands in the configuration itself. {CURE}")
    if not _PRINTABLE.fullmatch(value):
        raise ConfigError(
            f"The secret in `{reference}` holds a blank, a line break or a character beyond ASCII. "
            "Write the secret alone, on one line."
        )
    return Secret(reference, value)


def is_reference(text: str) -> bool:
    return text.startswith(("env:", "file:"))


def resolve_header(text: str, root: Path) -> str:
    """A header's value: plain text, or a reference as above."""
    if is_reference(text):
        return resolve(text, root).reveal()
    if _LOOKS_SECRET.search(text):
        raise ConfigError(f"A header's value looks like a secret. {CURE}")
    return text


def _from_variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise ConfigError(
            "`env:` is not followed by a variable's name. Write `env:OPENAI_API_KEY`."
        )
    value = os.environ.get(name, "").strip()
    if not value:
        raise ConfigError(f"The environment variable {name} is missing or empty. Set it: "
                          f"`export {name}=...`.")  # fmt: skip
    return value


def _from_file(path: Path, where: str) -> str:
    try:
        value = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise ConfigError(f"`file:{where}` names no file. Create {path}, with the secret alone in "
                          "it.") from None  # fmt: skip
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"Cannot read {path}: {why}. Check its path and permissions.") from None
    if not value:
        raise ConfigError(f"{path} is empty. Write the secret into it.")
    return value
