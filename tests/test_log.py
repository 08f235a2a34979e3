"""Logs: one line per event, hostile text kept inside its field, repeated warnings kept back and counted."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from collector.log import (
    SAMPLE_INTERVAL_SECONDS,
    SAMPLED_KEYS,
    LibraryFilter,
    Log,
    LogSettings,
    TextFormatter,
    get_log,
    setup,
)


@pytest.fixture(autouse=True)
def _keep_logging() -> Iterator[None]:
    """Put the standard library's loggers back as they were."""
    root, ours = logging.getLogger(), logging.getLogger("vmflow")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], level, our_level = before
    root.setLevel(level)
    ours.setLevel(our_level)
    logging.captureWarnings(False)


def written(settings: LogSettings) -> io.StringIO:
    stream = io.StringIO()
    setup(settings, stream)
    return stream


def without_time(text: str) -> list[str]:
    lines = text.splitlines()
    stamps = [re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ", line) for line in lines]
    assert all(stamps)
    return [line.split(" ", 1)[1] for line in lines]


def test_text_is_a_sentence_and_fields() -> None:
    stream = written(LogSettings())

    get_log("listen").info("listening", address="127.0.0.1:6343", octets=5, note="two words", empty="")
    get_log("listen").debug("not shown")

    assert without_time(stream.getvalue()) == [
        'INFO listen: listening address=127.0.0.1:6343 octets=5 note="two words" empty=""'
    ]


def test_text_from_the_network_breaks_no_line_and_imitates_no_field() -> None:
    stream = written(LogSettings())

    get_log("store").warning("bad name", name='x\n2026 INFO a: b level=1 "\x1b[31m\u2028')
    logging.getLogger("other").error("one\ntwo \x1b[31m")

    assert without_time(stream.getvalue()) == [
        'WARNING store: bad name name="x\\n2026 INFO a: b level=1 \\"\\u001b[31m\\u2028"',
        "ERROR other: one\\ntwo \\x1b[31m",
    ]


def test_json_is_one_object_a_line_and_fields_cannot_replace_its_own() -> None:
    stream = written(LogSettings(format="json", level="debug"))

    get_log("store").debug("insert", rows=3, level="mine", path=object)
    try:
        raise LookupError("a defect\nin two lines")
    except LookupError:
        get_log("store").exception("insert failed")

    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first.pop("time").endswith("Z")
    assert first == {"level": "debug", "component": "store", "event": "insert", "rows": 3, "path": str(object)}
    assert (second["level"], second["event"]) == ("error", "insert failed")
    assert "LookupError: a defect" in second["exception"]


def test_an_exception_is_written_with_its_trace() -> None:
    stream = written(LogSettings())
    try:
        raise LookupError("a defect")
    except LookupError:
        get_log("decode").exception("decoding failed", batch=7)

    assert "ERROR decode: decoding failed batch=7\n  Traceback" in stream.getvalue()
    assert stream.getvalue().endswith("\n  LookupError: a defect\n")


def test_a_trace_that_quotes_the_network_writes_no_line_of_the_log() -> None:
    stream = written(LogSettings())
    try:
        raise LookupError("x\n2026-01-31T12:00:00.123Z INFO run: all is well \x1b[2J\u202e")
    except LookupError:
        get_log("decode").exception("decoding failed")

    lines = stream.getvalue().splitlines()
    assert len([line for line in lines if line.startswith("2")]) == 1
    assert lines[-1] == "  2026-01-31T12:00:00.123Z INFO run: all is well \\x1b[2J\\u202e"


def test_libraries_are_heard_from_warnings_on() -> None:
    stream = written(LogSettings(level="info"))
    logging.getLogger("library").info("chatter")
    logging.getLogger("library").warning("trouble %d", 3)

    assert without_time(stream.getvalue()) == ["WARNING library: trouble 3"]


def test_the_level_error_silences_our_warnings_too() -> None:
    stream = written(LogSettings(level="error"))
    get_log("a").warning("no")
    logging.getLogger("library").warning("no")
    get_log("a").error("yes")

    assert without_time(stream.getvalue()) == ["ERROR a: yes"]


class FakeTime:
    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_a_repeated_warning_is_written_once_an_interval_with_the_number_kept_back() -> None:
    stream = written(LogSettings())
    clock = FakeTime()
    log = get_log("listen", clock)

    assert [log.sampled("cut", key="a", interval_seconds=10, octets=n) for n in range(3)] == [True, False, False]
    assert log.sampled("cut", key="b", interval_seconds=10)
    clock.seconds += 10
    assert log.sampled("cut", key="a", interval_seconds=10)
    clock.seconds += 10
    assert log.sampled("cut", key="a", interval_seconds=10)

    assert without_time(stream.getvalue()) == [
        "WARNING listen: cut key=a octets=0",
        "WARNING listen: cut key=b",
        "WARNING listen: cut key=a kept_back=2",
        "WARNING listen: cut key=a",
    ]


def test_however_many_keys_come_the_lines_are_bounded() -> None:
    stream = written(LogSettings())
    log = Log(logging.getLogger("vmflow.flood"), FakeTime())

    for number in range(10 * SAMPLED_KEYS):
        log.sampled("cut", key=number)

    assert len(stream.getvalue().splitlines()) == SAMPLED_KEYS + 1


def test_unknown_settings_are_errors() -> None:
    with pytest.raises(ValidationError):
        LogSettings.model_validate({"level": "loud"})
    with pytest.raises(ValidationError):
        LogSettings.model_validate({"colour": True})


def test_an_exception_is_written_once_an_interval_for_each_place_that_raises() -> None:
    stream = written(LogSettings())
    clock = FakeTime()
    log = get_log("web", clock)

    def fail(number: int) -> None:
        try:
            if number % 2:
                raise LookupError(number)
            raise LookupError(number)
        except LookupError:
            log.exception("a request failed")

    for number in range(100):
        fail(number)
    clock.seconds += SAMPLE_INTERVAL_SECONDS
    fail(0)

    lines = stream.getvalue().splitlines()
    assert len([line for line in lines if line.strip().startswith("Traceback")]) == 3
    assert without_time("\n".join(line for line in lines if " web: " in line)) == [
        "ERROR web: a request failed",
        "ERROR web: a request failed",
        "ERROR web: a request failed kept_back=49",
    ]


def test_warnings_of_libraries_are_sampled_by_their_place_whatever_they_say() -> None:
    stream = io.StringIO()
    clock = FakeTime()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter())
    handler.addFilter(LibraryFilter(clock))
    logging.getLogger().handlers[:] = [handler]
    library = logging.getLogger("library")

    for round_ in range(2):
        for number in range(100):
            library.warning(f"invalid request {number}")
            library.warning("another place %d", number)
        clock.seconds += SAMPLE_INTERVAL_SECONDS * (1 - round_)
    get_log("ours").warning("as often as it is called")
    get_log("ours").warning("as often as it is called")

    assert without_time(stream.getvalue()) == [
        "WARNING library: invalid request 0",
        "WARNING library: another place 0",
        "WARNING library: invalid request 0 kept_back=99",
        "WARNING library: another place 0 kept_back=99",
        "WARNING ours: as often as it is called",
        "WARNING ours: as often as it is called",
    ]


def test_setup_samples_libraries() -> None:
    stream = written(LogSettings())
    for number in range(10):
        logging.getLogger("library").error("line %d", number)

    assert without_time(stream.getvalue()) == ["ERROR library: line 0"]


def test_causes_that_are_over_make_room_for_new_ones() -> None:
    stream = written(LogSettings())
    clock = FakeTime()
    log = get_log("flood", clock)
    for number in range(2 * SAMPLED_KEYS):
        log.sampled("cut", key=number)
    clock.seconds += SAMPLE_INTERVAL_SECONDS
    stream.truncate(0)

    assert log.sampled("cut", key="new")
    assert without_time(stream.getvalue().strip("\0")) == ["WARNING flood: cut key=new"]
