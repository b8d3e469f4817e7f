from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from inngest_connect_asgi import logs


@pytest.fixture(autouse=True)
def restored_factory() -> Iterator[None]:
    before = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(before)


class Broken(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise OSError("no space left on device")


class BrokenFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        raise KeyError("tenant")


def test_an_attribute_that_the_apps_factory_sets_is_ours(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain = logging.getLogRecordFactory()

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = plain(*args, **kwargs)
        record.request_id = "-"
        return record

    logging.setLogRecordFactory(factory)
    error = ValueError("x")
    logs.emit(logging.ERROR, "told", error=error, extra={"request_id": "r"})
    (record,) = caplog.records
    assert (record.getMessage(), record.request_id) == ("told", "r")  # type: ignore[attr-defined]
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def raising(*args: Any, **kwargs: Any) -> logging.LogRecord:
    raise RuntimeError("no context")


def nothing(*args: Any, **kwargs: Any) -> Any:
    return None


@pytest.mark.parametrize("factory", [raising, nothing, lambda: None])
def test_a_factory_that_fails_is_done_without(
    factory: Any, caplog: pytest.LogCaptureFixture
) -> None:
    logging.setLogRecordFactory(factory)
    logs.emit(logging.ERROR, "told %s", extra={"run_id": "r", "message": "not this"})
    (record,) = caplog.records
    assert record.getMessage() == "told %s"


class Claimed(logging.LogRecord):
    @property
    def request_id(self) -> str:
        return "mine"


def timeless(*args: Any, **kwargs: Any) -> logging.LogRecord:
    record = logging.LogRecord(*args, **kwargs)
    record.created = None  # type: ignore[assignment]
    del record.relativeCreated
    return record


@pytest.mark.parametrize("factory", [Claimed, timeless])
def test_a_record_that_is_odd_is_told_all_the_same(
    factory: Any, caplog: pytest.LogCaptureFixture
) -> None:
    logging.setLogRecordFactory(factory)
    extra = {"request_id": "r", "run_id": "u"}
    logs.handle(logs.record(logging.ERROR, "told", extra=extra, at=1_000_000.25))
    (record,) = caplog.records
    assert isinstance(record, Claimed) == (factory is Claimed)
    assert (record.getMessage(), record.created) == ("told", 1_000_000.25)
    assert record.run_id == "u"  # type: ignore[attr-defined]


class Leaving(logging.Handler):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self._error = error

    def emit(self, record: logging.LogRecord) -> None:
        raise self._error


LEAVING = [
    SystemExit(3),
    asyncio.CancelledError("x"),
    GeneratorExit(),
    BaseException("x"),
]


@pytest.mark.parametrize("error", LEAVING, ids=repr)
@pytest.mark.parametrize("broken", ["handler", "factory"])
def test_nobody_leaves_by_way_of_a_log(
    broken: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    ended = threading.Event()
    writer = logs.Writer(ended.set)
    logger, handler = logging.getLogger(logs.LOGGER), Leaving(error)

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        raise error

    if broken == "handler":
        logger.addHandler(handler)
    else:
        logging.setLogRecordFactory(factory)
    try:
        logs.emit(logging.ERROR, "told")
        writer.put(logs.record(logging.ERROR, "written"))
        writer.put(logs.record(logging.ERROR, "behind", name="asyncio"))
        writer.close()
        assert ended.wait(10)
    finally:
        logger.removeHandler(handler)
    told = ["behind"] if broken == "handler" else ["told", "written", "behind"]
    assert [record.getMessage() for record in caplog.records] == told


@pytest.mark.parametrize("broken", ["handler", "filter", "level"])
def test_whoever_logs_does_not_suffer_for_it(
    broken: str,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logger = logging.getLogger(logs.LOGGER)
    handler, filter_ = Broken(), BrokenFilter()
    if broken == "handler":
        logger.addHandler(handler)
    elif broken == "filter":
        logger.addFilter(filter_)
    else:
        monkeypatch.setattr(logging.Logger, "isEnabledFor", raising)
    try:
        logs.emit(logging.ERROR, "told")
    finally:
        logger.removeHandler(handler)
        logger.removeFilter(filter_)
    monkeypatch.undo()
    if broken == "level":
        assert "told" in caplog.messages
    else:
        assert "Logging error" in capsys.readouterr().err


class Unsure(logging.Logger):
    def getEffectiveLevel(self) -> int:
        raise LookupError("no level")


@pytest.mark.parametrize("level", ["DEBUG", 20.5, None])
def test_a_level_that_is_none_is_that_of_warnings(level: Any) -> None:
    logger = logging.getLogger("inngest_connect_asgi.of-a-test")
    logger.setLevel(logging.DEBUG)
    assert logs.level(logger.name) == logging.DEBUG
    if level is None:
        logger.__class__ = Unsure
    else:
        # It is setLevel that takes a name.
        logger.level = level
    try:
        assert logs.level(logger.name) == logging.WARNING
    finally:
        logger.__class__ = logging.Logger
        logger.setLevel(logging.NOTSET)


def test_a_record_has_the_time_at_which_it_was_made() -> None:
    record = logs.record(logging.INFO, "told", at=1_000_000.25)
    assert (record.created, round(record.msecs)) == (1_000_000.25, 250)


def test_records_are_written_behind_a_handler_that_raises(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended = threading.Event()
    writer = logs.Writer(ended.set)
    filter_ = BrokenFilter()
    logger = logging.getLogger(logs.LOGGER)
    logger.addFilter(filter_)
    writer.put(logs.record(logging.ERROR, "lost"))
    writer.put(logs.record(logging.ERROR, "told", name="asyncio"))
    writer.close()
    assert ended.wait(10)
    logger.removeFilter(filter_)
    assert [record.getMessage() for record in caplog.records] == ["told"]
