"""A model's config.pbtxt: its values by protobuf, and where each of its settings is written.

Settings that our messages do not have are taken out before protobuf reads the text; the list of all
that is written is what they are told by.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf import text_format

from gslice.core.errors import ConfigError
from gslice.protos import message, pool

_BYTES_MAX = 1 << 20
_TOKEN = re.compile(
    r"""(?P<blank>\s+|\#[^\n]*)
    |(?P<text>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
    |(?P<word>[A-Za-z0-9_.+/-]+)
    |(?P<mark>.)""",
    re.VERBOSE,
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|\[.+\]")
_CLOSING = {"{": "}", "<": ">"}
_QUOTES = ('"', "'")


class _Wrong(ValueError):
    """What is wrong with a text, and where."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


class _Token(NamedTuple):
    """A word, a text in quotes or a mark; empty: the end."""

    text: str
    line: int
    start: int
    end: int


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
        scan = _Scan(text)
        text_format.Parse(scan.readable(), config)
        return ConfigText(config, tuple(scan.settings))
    except _Wrong as error:
        raise ConfigError(f"{path}:{error.line}: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}:1: not UTF-8 text") from error
    except text_format.ParseError as error:
        reason = re.sub(r"^[0-9]+:[0-9]+ : ", "", str(error).partition("\n")[0])
        raise ConfigError(f"{path}:{error.GetLine() or 1}: {reason}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}:1: nested too deeply") from error


def is_read(path: str) -> bool:
    """Whether a setting is one that our messages have."""
    here = pool().FindMessageTypeByName("inference.ModelConfig")
    for name in path.split("."):
        field = here.fields_by_name.get(name) if here is not None else None
        if field is None:
            return False
        here = field.message_type
    return True


class _Scan:
    """All that a text says, and the text less what is not read.

    Protobuf's own way to pass over fields that it does not know takes not all that it takes of
    those that it knows.

    Args:
        text: Of a config.pbtxt.

    Raises:
        _Wrong: it is none.
    """

    def __init__(self, text: str) -> None:
        self.settings: list[Setting] = []
        self._text = text
        self._tokens: list[_Token] = []
        self._unread: list[tuple[int, int]] = []
        self._at = 0
        line = 1
        for match in _TOKEN.finditer(text):
            if match.lastgroup != "blank":
                self._tokens.append(_Token(match[0], line, *match.span()))
            line += match[0].count("\n")
        self._tokens.append(_Token("", line, len(text), len(text)))
        self._message((), "")

    def readable(self) -> str:
        """The text with blanks in place of what is not read, so that lines stay as they are."""
        parts, at = [], 0
        for start, end in sorted(self._unread):
            if start >= at:  # else it is within one that is gone
                parts += [self._text[at:start], re.sub(r"[^\n]", " ", self._text[start:end])]
                at = end
        return "".join([*parts, self._text[at:]])

    def _message(self, prefix: tuple[str, ...], end: str) -> None:
        while (token := self._next(end)).text != end:
            if token.text in (",", ";"):
                continue
            name = self._extension() if token.text == "[" else token.text
            if not _NAME.fullmatch(name):
                raise _Wrong(token.line, f"{name!r} stands where a name belongs")
            self._field((*prefix, name), token)

    def _field(self, path: tuple[str, ...], first: _Token) -> None:
        written, place = ".".join(path), len(self.settings)
        self.settings.append(Setting(written, first.line))
        self._skip(":")
        if self._peek() in _CLOSING or self._peek() == "[":
            self._inside(path)
        else:
            self.settings[place] = Setting(written, first.line, self._scalar())
        self._skip(",", ";")
        if not is_read(written):
            self._unread.append((first.start, self._tokens[self._at - 1].end))

    def _inside(self, path: tuple[str, ...]) -> None:
        mark = self._next().text
        if mark in _CLOSING:
            self._message(path, _CLOSING[mark])
            return
        while (token := self._next()).text != "]":
            if token.text in _CLOSING:
                self._message(path, _CLOSING[token.text])

    def _scalar(self) -> str:
        token = self._next()
        value = token.text
        if value in ("]", "}", ">", ",", ";", ":"):
            raise _Wrong(token.line, f"{value!r} stands where a value belongs")
        while value[0] in _QUOTES and self._peek()[:1] in _QUOTES:
            value = value[:-1] + self._next().text[1:]  # texts side by side are one
        return value

    def _extension(self) -> str:
        """`[a.b]`, which names a field, too."""
        name = "["
        while name[-1] != "]":
            name += self._next().text
        return name

    def _peek(self) -> str:
        return self._tokens[self._at].text

    def _next(self, end: str = "}") -> _Token:
        """The next token; that of the end only where the text may end."""
        token = self._tokens[self._at]
        if not token.text and end:
            raise _Wrong(token.line, "the text ends in the middle")
        self._at += 1
        return token

    def _skip(self, *marks: str) -> None:
        if self._peek() in marks:
            self._at += 1
