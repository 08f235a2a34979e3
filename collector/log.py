"""Logs: one line per event, a short sentence and fields, through the standard library's `logging`.

    log = get_log("listen")
    log.info("listening", address="127.0.0.1:6343", receive_buffer_bytes=8388608)
    log.sampled("a datagram was cut", key=address, octets=70000)

A line is text for a terminal (`time level component: event key=value …`) or one JSON object.  What comes from the
network is quoted, so that it can neither break a line nor imitate a field.  What an outsider can cause is logged only
with `sampled`; the metrics count each datagram.  Exceptions and the warnings of libraries are sampled by their place in
the source, so that no request, however often it is sent, fills the log.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal, TextIO

from pydantic import BaseModel

from schemas.text import visible

ROOT = "vmflow"
SAMPLE_INTERVAL_SECONDS = 60.0
"""One line per minute and cause reports that something is wrong; the metrics show how much."""
SAMPLED_KEYS = 256
"""Most causes distinguished at a time.  Others share one line per event: a key may come from the network."""

Severity = Literal["info", "warning", "error"]

_FIELDS = "vmflow_fields"
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/%@+[]")


class LogSettings(BaseModel, frozen=True, extra="forbid"):
    """How the service logs."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"  # text: the first reader is a person; collectors of logs want json


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.123Z INFO listen: listening address=127.0.0.1:6343`"""

    def format(self, record: logging.LogRecord) -> str:
        """Write the record as one line, an exception's trace after it."""
        parts = [_time(record), record.levelname, f"{_component(record)}:", visible(record.getMessage())]
        parts += [f"{key}={_quoted(value)}" for key, value in _fields(record).items()]
        line = " ".join(parts)
        if record.exc_info:
            # Indented, so that an error that quotes the network cannot write a line that looks like one of the log.
            trace = self.formatException(record.exc_info).split("\n")
            line = "\n".join([line, *(f"  {visible(part)}" for part in trace)])
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object: `time`, `level`, `component`, `event`, the fields, and `exception` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the record as one line of JSON."""
        entry: dict[str, object] = dict(_fields(record))
        entry |= {
            "time": _time(record),
            "level": record.levelname.lower(),
            "component": _component(record),
            "event": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=True)


class Sampler:
    """The choice of which of many lines are written: the first of an interval for each cause.  Bounded, and
    thread-safe."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._causes: dict[tuple[Hashable, Hashable], tuple[float, int]] = {}
        """Cause → when its line may be written again, and how many were suppressed since the last."""

    def due(self, event: Hashable, key: Hashable, interval_seconds: float = SAMPLE_INTERVAL_SECONDS) -> int | None:
        """Return how many lines of this cause were suppressed since the last one; None if this one is to be suppressed,
        too."""
        now = self._clock()
        with self._lock:
            cause = (event, key)
            if cause not in self._causes and len(self._causes) >= SAMPLED_KEYS:
                self._causes = {one: state for one, state in self._causes.items() if now < state[0]}
                if len(self._causes) >= SAMPLED_KEYS:
                    cause = (event, _FIELDS)
                if cause not in self._causes and len(self._causes) >= 2 * SAMPLED_KEYS:
                    return None  # events are constants in the source: there are not this many
            due, kept_back = self._causes.get(cause, (now, 0))
            if now < due:
                self._causes[cause] = (due, kept_back + 1)
                return None
            self._causes[cause] = (now + interval_seconds, 0)
            return kept_back


class LibraryFilter(logging.Filter):
    """The filter that samples what libraries log at level warning or above: a place in their source is a cause,
    whatever its text."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._sampler = Sampler(clock)

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write a record; a written one states how many like it were suppressed."""
        if record.levelno < logging.WARNING or record.name.startswith(f"{ROOT}."):
            return True
        trace = record.exc_info[2] if record.exc_info else None
        place: Hashable = (record.pathname, record.lineno)
        if record.name == "py.warnings":  # all from one place: the text begins with the warning's own place
            place = record.getMessage().partition(" ")[0]
        kept_back = self._sampler.due(record.name, (place, _place(trace)))
        if kept_back:
            setattr(record, _FIELDS, {"kept_back": kept_back})
        return kept_back is not None


class Log:
    """The log of one component.  `clock` returns monotonic seconds, for sampling."""

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._sampler = Sampler(clock)

    def debug(self, event: str, **fields: object) -> None:
        """Log what only a developer needs to see."""
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Log a change of state that the operator expects."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Log what the operator should repair."""
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Log what made something fail."""
        self._write(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: object) -> None:
        """Log the exception being handled, with its trace: once an interval for each place that raises."""
        kind, _, trace = sys.exc_info()
        kept_back = self._sampler.due(event, (kind, _place(trace)))
        if kept_back is not None:
            self._write(logging.ERROR, event, fields | _suppressed(kept_back), with_exception=True)

    def sampled(
        self,
        event: str,
        key: Hashable = None,
        interval_seconds: float = SAMPLE_INTERVAL_SECONDS,
        severity: Severity = "warning",
        **fields: object,
    ) -> bool:
        """Log at most once per `interval_seconds` for this event and `key`; state how many were suppressed.

        Returns whether a line was written.
        """
        kept_back = self._sampler.due(event, key, interval_seconds)
        if kept_back is None:
            return False
        if key is not None:
            fields = {"key": key, **fields}
        self._write(logging.getLevelNamesMapping()[severity.upper()], event, fields | _suppressed(kept_back))
        return True

    def _write(self, level: int, event: str, fields: Mapping[str, object], with_exception: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", event, extra={_FIELDS: fields}, exc_info=with_exception, stacklevel=3)


def _suppressed(kept_back: int) -> dict[str, object]:
    return {"kept_back": kept_back} if kept_back else {}


def _place(trace: TracebackType | None) -> tuple[str, int] | None:
    """Return the file and line that raised."""
    if trace is None:
        return None
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename, trace.tb_lineno


def get_log(component: str, clock: Callable[[], float] = time.monotonic) -> Log:
    """Return the log of a component, named after its folder or file."""
    return Log(logging.getLogger(f"{ROOT}.{component}"), clock)


def setup(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Send all logs, including those of libraries, to `stream` (standard error) as `settings` say; a second call
    replaces the first.

    Libraries log at level `warning` or above only, unless the level set is `debug`.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.addFilter(LibraryFilter())
    handler.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter())
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level if level <= logging.DEBUG else max(level, logging.WARNING))
    logging.getLogger(ROOT).setLevel(level)
    logging.captureWarnings(True)


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    fields: Mapping[str, object] = getattr(record, _FIELDS, {})
    return fields


def _component(record: logging.LogRecord) -> str:
    return record.name.removeprefix(f"{ROOT}.")


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _quoted(value: object) -> str:
    text = str(value)
    return text if text and _PLAIN.issuperset(text) else json.dumps(text)
