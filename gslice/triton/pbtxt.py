"""A model's config.pbtxt: its values by protobuf, and where each of its settings is written.

Settings that our messages do not have are passed over by protobuf; the list of all that is written
is what they are told by.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from gslice.core.errors import ConfigError
from gslice.protos import message

_BYTES_MAX = 1 << 20
_TOKEN = re.compile(
    r"""(?P<blank>\s+|\#[^\n]*)
    |(?P<text>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
    |(?P<word>[A-Za-z0-9_.+/-]+)
    |(?P<mark>.)""",
    re.VERBOSE,
)
_CLOSING = {"{": "}", "<": ">"}


@dataclass(frozen=True)
class Setting:
    """A setting as it is written.

    Attributes:
        path: Names from the top, such as `input.reshape.shape`.
        line: Counted from 1.
        value: Its text, if it is one word or one text; quotes and all.
    """

    path: str
    line: int
    value: str = ""


@dataclass(frozen=True)
class ConfigText:
    """What a config.pbtxt says.

    Attributes:
        config: An `inference.ModelConfig`.
        settings: All that is written, in its order, what is inside of a setting right after it.
    """

    config: Any
    settings: tuple[Setting, ...] = ()

    def line_of(self, path: str, value: str = "") -> int:
        """The first line with a setting, or with a setting of that value; 1: it is not there."""
        for setting in self.settings:
            if setting.path == path and (not value or setting.value[1:-1] == value):
                return setting.line
        return 1


def read_config(path: Path) -> ConfigText:
    """Reads a config.pbtxt; without one nothing is said.

    Raises:
        ConfigError: it is none; the message names the line.
    """
    config = message("inference.ModelConfig")()
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return ConfigText(config)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if len(data) > _BYTES_MAX:
        raise ConfigError(f"{path}: {len(data)} bytes are too many for a config.pbtxt")
    try:
        text = data.decode()
        text_format.Parse(text, config, allow_unknown_field=True)
        return ConfigText(config, tuple(_Scan(text).message((), "")))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}:1: not UTF-8 text") from error
    except text_format.ParseError as error:
        reason = re.sub(r"^[0-9]+:[0-9]+ : ", "", str(error).partition("\n")[0])
        raise ConfigError(f"{path}:{error.GetLine() or 1}: {reason}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}:1: nested too deeply") from error


class _Scan:
    """The names of a text that protobuf has accepted, so that little can be wrong with it."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, int]] = []
        line = 1
        for match in _TOKEN.finditer(text):
            if match.lastgroup != "blank":
                self._tokens.append((match[0], line))
            line += match[0].count("\n")
        self._tokens.append(("", line))
        self._at = 0

    def message(self, prefix: tuple[str, ...], end: str) -> Iterator[Setting]:
        """What is written up to a closing mark."""
        while (token := self._next())[0] not in (end, ""):
            if token[0] in ",;":
                continue
            name, line = self._extension() if token[0] == "[" else token[0], token[1]
            self._skip(":")
            path = (*prefix, name)
            written = ".".join(path)
            mark = self._peek()
            if mark in _CLOSING or mark == "[":
                yield Setting(written, line)
                yield from self._inside(path)
            else:
                yield Setting(written, line, self._scalar())

    def _inside(self, path: tuple[str, ...]) -> Iterator[Setting]:
        mark = self._next()[0]
        if mark in _CLOSING:
            yield from self.message(path, _CLOSING[mark])
            return
        while self._peek() not in ("]", ""):
            if self._peek() in _CLOSING:
                yield from self.message(path, _CLOSING[self._next()[0]])
            else:
                self._next()
        self._next()

    def _scalar(self) -> str:
        value = self._next()[0]
        if value == "-":
            return value + self._next()[0]
        while value[:1] in "\"'" and self._peek()[:1] in ('"', "'"):  # texts side by side are one
            value = value[:-1] + self._next()[0][1:]
        return value

    def _extension(self) -> str:
        """`[a.b]`, which names a field, too."""
        name = "["
        while self._peek() != "":
            name += self._next()[0]
            if name[-1] == "]":
                break
        return name

    def _peek(self) -> str:
        return self._tokens[self._at][0]

    def _next(self) -> tuple[str, int]:
        token = self._tokens[self._at]
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return token

    def _skip(self, mark: str) -> None:
        if self._peek() == mark:
            self._next()
