"""The health report as a page for people.

One document, without scripts and without anything to fetch: it opens also where
nothing else does. It is made anew for every request, and asks for itself again.
"""

from __future__ import annotations

import base64
import hashlib
import html
import math
import pkgutil
import string
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone

from .. import logs
from ..state import State
from .report import HISTORY, Event, Health, Sample

__all__ = ["HEADERS", "render"]

REFRESH = 5
"""Seconds. Less, and one cannot select a run id in peace."""

GAP = 15.0
"""Seconds without a sample that are a gap in a plot, rather than a slow moment."""

LONGEST = 240
"""Characters of a text that the page shows."""

LOWEST, DECADES = 1e-4, 6
"""Every plot goes from 0.1 ms to 100 s, so that its shape means the same always."""

PLOT_HEIGHT = 108


def _part(name: str) -> str:
    # Not by its path: the package may be in a zip file.
    data = pkgutil.get_data(__name__, name)
    assert data is not None
    return data.decode()


STYLE = _part("page.css")
DOCUMENT = string.Template(_part("page.html"))

_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

HEADERS = {
    "content-security-policy": (
        f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

# Told apart by their shapes, too: a disc, a triangle and an octagon.
_SIGNS = {
    "ready": '<circle cx="12" cy="12" r="10"/><path d="M7.5 12.5l3 3 6-7"/>',
    "not ready": '<path d="M12 2.5l10.5 19h-21zM12 9.5v5.5M12 18v.1"/>',
    "dead": '<path d="M8 2h8l6 6v8l-6 6H8l-6-6V8zM8.5 8.5l7 7M15.5 8.5l-7 7"/>',
}
_CLASSES = {"ready": "ready", "not ready": "unready", "dead": "dead"}

_SERIES: tuple[tuple[str, str, Callable[[Sample], float | None]], ...] = (
    ("round-trip", "Heartbeat round trip", lambda sample: sample.round_trip),
    ("runtime", "Runtime's loop lag", lambda sample: sample.runtime_lag),
    ("app", "App's loop lag", lambda sample: sample.app_lag),
)


def render(health: Health, *, now: float | None = None) -> str:
    """The page, as a whole HTML document.

    Args:
        health: What it tells.
        now: Unix time, if not the one by which ``health`` judges.
    """
    now = health.now() if now is None else now
    word, reasons = _verdict(health)
    if unheard := logs.disabled():
        reasons.append(f"Nothing is logged: {unheard}.")
    parts = [_header(word, reasons, _since(health, now))]
    if health.not_started is None:
        parts += [
            _facts(health.state, health.app_lag(), now),
            _plots(list(health.samples), list(health.events), now),
            _requests(health.state, now),
            _events(list(health.events), now),
        ]
    instance = _plain(health.facts.get("instance_id", ""))
    footer = _list((name, _text(value)) for name, value in health.facts.items())
    return DOCUMENT.substitute(
        refresh=REFRESH,
        title=f"{word} · Inngest Connect {instance}",
        style=STYLE,
        body="".join(parts),
        facts=footer,
        made_at=_time(now),
    )


def _verdict(health: Health) -> tuple[str, list[str]]:
    """The verdict in one word (or two), and its reasons."""
    ready, live = health.ready(), health.live()
    if not live.healthy:
        more = ["The traceback is in the app's log."] if health.crashed else []
        return "dead", [live.reason, "Only a restart mends this.", *more]
    if ready.healthy:
        return "ready", [ready.reason]
    if health.not_started is not None:
        return "not ready", [f"Not running: {health.not_started}"]
    return "not ready", [ready.reason, f"Live: {live.reason}."]


def _since(health: Health, now: float) -> str:
    """Since when the verdict is so, as far as the states tell."""
    state, events, samples = health.state, health.events, health.samples
    at: float | None = None
    if health.not_started is not None:
        return ""
    if health.crashed is None and (state.paused or not health.live().healthy):
        at = state.app_waiting_since
    elif health.crashed is None and state.connection == "ready":
        at = state.connected_at
        if not health.ready().healthy:
            at = state.heartbeat_answered_at or at
    elif events:
        at = events[-1].at
    elif samples:
        at = samples[0].at
        if now - at > HISTORY - GAP:
            return f"Since before {_time(at)}"
    return "" if at is None else f"Since {_time(at)}, for {_duration(now - at)}"


def _header(word: str, reasons: Sequence[str], since: str) -> str:
    first, *rest = reasons
    lines = [f'<p class="reason">{_text(first[:1].upper() + first[1:])}</p>']
    lines += [f"<p>{_text(line)}</p>" for line in rest]
    if since:
        lines.append(f'<p class="soft">{since}</p>')
    return (
        f'<header class="{_CLASSES[word]}">'
        f'<svg viewBox="0 0 24 24" aria-hidden="true">{_SIGNS[word]}</svg>'
        f"<div><h1>{word}</h1>{''.join(lines)}</div></header>\n"
    )


def _facts(state: State, app_lag: float, now: float) -> str:
    def ago(at: float | None) -> str:
        return "never" if at is None else f"{_duration(now - at)} ago"

    error = "none"
    if state.last_error is not None:
        error = _text(state.last_error)
        if state.last_error_at is not None:
            error += f" ({_time(state.last_error_at)}, {ago(state.last_error_at)})"
    up = None if state.connected_at is None else now - state.connected_at
    paused = " (paused)" if state.paused else ""
    cards = [
        _card(
            "Connection",
            ("State", _text(state.connection) + paused),
            ("Connection id", _code(state.connection_id)),
            ("Gateway group", _text(state.gateway_group or "-")),
            ("Connected for", _duration(up)),
            ("Reconnects", str(state.reconnects)),
            ("Lives in", f"a {_text(state.lives_in or 'place unknown')}"),
            ("Last error", error),
            ("Runtime reported", ago(state.at)),
            wide=True,
        ),
        _card(
            "Heartbeats",
            ("Interval", _duration(state.heartbeat_interval)),
            ("Last sent", ago(state.heartbeat_sent_at)),
            ("Last answered", ago(state.heartbeat_answered_at)),
            ("Round trip", _duration(state.round_trip)),
            ("Unanswered", str(state.heartbeats_unanswered)),
            ("Missed", _bad(state.heartbeats_missed)),
        ),
        _card(
            "Requests and leases",
            ("In flight", str(state.requests_in_flight)),
            ("Done", str(state.requests_done)),
            ("Failed", _bad(state.requests_failed)),
            ("Leases held", str(state.leases_held)),
            ("Leases extended", str(state.leases_extended)),
            ("Leases lost", _bad(state.leases_lost)),
        ),
        _card(
            "Replies and loops",
            ("Replies waiting", str(state.replies_waiting)),
            ("Replies flushed", str(state.replies_flushed)),
            ("Replies given up", _bad(state.replies_given_up)),
            ("Malformed messages", _bad(state.malformed)),
            ("Runtime's loop lag", _duration(state.runtime_lag)),
            ("App's loop lag", _duration(app_lag)),
        ),
    ]
    return f'<div class="facts">{"".join(cards)}</div>\n'


def _plots(samples: Sequence[Sample], events: Sequence[Event], now: float) -> str:
    start = now - HISTORY
    samples = [sample for sample in samples if start <= sample.at <= now]
    ticks = [
        (_percent(at - start), datetime.fromtimestamp(at, timezone.utc))
        for at in range(math.ceil(start / 120) * 120, math.ceil(now), 120)
    ]
    marks = "".join(
        f'<line class="event" x1="{x}" x2="{x}" y2="{PLOT_HEIGHT}">'
        f"<title>{_plain(event.what)}</title></line>"
        for event in events
        if start <= event.at <= now and (x := _percent(event.at - start))
    )
    grid = "".join(
        f'<line class="grid" x1="{x}" x2="{x}" y2="{PLOT_HEIGHT}"/>' for x, _ in ticks
    )
    for decade, label in enumerate(("1 ms", "10 ms", "100 ms", "1 s", "10 s"), 1):
        y = PLOT_HEIGHT - decade * PLOT_HEIGHT // DECADES
        grid += (
            f'<line class="grid" x2="100%" y1="{y}" y2="{y}"/>'
            f'<text x="-8" y="{y + 4}" text-anchor="end">{label}</text>'
        )
    grid += (
        f'<line class="grid" x2="100%" y1="{PLOT_HEIGHT}" y2="{PLOT_HEIGHT}"/>'
        # What is near the right edge would run into "now".
        + "".join(
            f'<text x="{x}" y="{PLOT_HEIGHT + 15}" text-anchor="middle">'
            f"{moment:%H:%M}</text>"
            for x, moment in ticks
            if float(x[:-1]) < 91
        )
        + f'<text x="100%" y="{PLOT_HEIGHT + 15}" text-anchor="end">now</text>'
    )
    panels = [
        _panel(name, title, [(s.at - start, value(s)) for s in samples], grid, marks)
        for name, title, value in _SERIES
    ]
    return (
        f"<section><h2>The last ten minutes</h2>{''.join(panels)}"
        '<p class="soft">The scales are logarithmic, from 0.1 ms to 100 s; what is '
        "beyond is drawn at the edge. Nothing was measured where there is no line. "
        "A dotted upright is an event.</p></section>\n"
    )


def _panel(
    name: str,
    title: str,
    points: Sequence[tuple[float, float | None]],
    grid: str,
    marks: str,
) -> str:
    values = [value for _, value in points if value is not None]
    summary = "nothing measured"
    if values:
        worst = _duration(max(values))
        summary = f"last {_duration(values[-1])} · worst {worst}"
    lines, areas = _paths(points)
    return (
        f"<figure><figcaption><b>{title}</b> · {summary}</figcaption>"
        f'<svg class="plot {name}" height="{PLOT_HEIGHT + 18}" role="img" '
        f'aria-label="{title}: {summary}">{grid}'
        f'<svg width="100%" height="{PLOT_HEIGHT}" preserveAspectRatio="none" '
        f'viewBox="0 0 {HISTORY * 10:.0f} {DECADES * 100}">'
        f'<path class="area" d="{areas}"/><path d="{lines}"/></svg>'
        f"{marks}</svg></figure>"
    )


def _paths(points: Iterable[tuple[float, float | None]]) -> tuple[str, str]:
    """The line through the points, and the area under it, both with gaps."""
    height, log10 = DECADES * 100, math.log10
    runs: list[list[tuple[int, int]]] = []
    before = -math.inf
    for at, value in points:
        if value is None:
            before = -math.inf
            continue
        if at - before > GAP:
            runs.append([])
        before = at
        decades = log10(value / LOWEST) if value > LOWEST else 0.0
        runs[-1].append((int(at * 10), height - int(min(decades, DECADES) * 100)))
    lines, areas = [], []
    for run in runs:
        line = " ".join([f"{x} {y}" for x, y in run])
        # A lone point has no length; its round cap needs a trace of one.
        lines.append(f"M{line}h1")
        areas.append(f"M{run[0][0]} {height}L{line}V{height}z")
    return "".join(lines), "".join(areas)


def _requests(state: State, now: float) -> str:
    if not state.in_flight:
        return _section("Requests in flight", '<p class="soft">None.</p>')
    rows = "".join(
        f"<tr><td>{_text(each.function_id)}</td><td>{_code(each.run_id)}</td>"
        f'<td class="age">{_duration(now - each.since)}</td></tr>'
        for each in state.in_flight
    )
    more = state.requests_in_flight - len(state.in_flight)
    return _section(
        f"Requests in flight: {state.requests_in_flight}, the oldest first",
        '<table><thead><tr><th>Function</th><th>Run id</th><th class="age">Age</th>'
        f"</tr></thead><tbody>{rows}</tbody></table>"
        + (f'<p class="soft">And {more} more, younger ones.</p>' if more > 0 else ""),
    )


def _events(events: Sequence[Event], now: float) -> str:
    items = "".join(
        f'<li><span>{_time(each.at)}</span><span class="soft">'
        f"{_duration(now - each.at)} ago</span><span>{_text(each.what)}</span></li>"
        for each in reversed(events)
    )
    body = f"<ol>{items}</ol>" if items else '<p class="soft">None yet.</p>'
    return _section("Last events, the newest first", body)


def _section(title: str, body: str, *, wide: bool = False) -> str:
    opening = '<section class="wide">' if wide else "<section>"
    return f"{opening}<h2>{title}</h2>{body}</section>\n"


def _card(title: str, *facts: tuple[str, str], wide: bool = False) -> str:
    return _section(title, _list(facts), wide=wide)


def _list(facts: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f"<dt>{_plain(name)}</dt><dd>{value}</dd>" for name, value in facts)
    return f"<dl>{rows}</dl>"


def _percent(seconds: float) -> str:
    return f"{seconds / HISTORY:.2%}"


def _bad(count: int) -> str:
    """A count that should be zero."""
    return f'<span class="bad">{count}</span>' if count else "0"


def _code(text: str | None) -> str:
    return "-" if text is None else f"<code>{_text(text)}</code>"


def _text(text: str) -> str:
    """A foreign text as HTML, kept from turning its surroundings around."""
    return f"<bdi>{_plain(text)}</bdi>"


def _plain(text: str) -> str:
    """A foreign text for an attribute: short, with what is invisible spelled out."""
    cut = text[:LONGEST]
    if not cut.isprintable():
        cut = "".join(c if c.isprintable() else _spell(c) for c in cut)
    rest = f"… ({len(text)} characters)" if len(text) > LONGEST else ""
    return html.escape(cut) + rest


def _spell(character: str) -> str:
    return " " if character.isspace() else f"\\u{ord(character):04x}"


def _time(at: float) -> str:
    """RFC 3339, with a space."""
    text = f"{datetime.fromtimestamp(at, timezone.utc):%Y-%m-%d %H:%M:%SZ}"
    return f'<time datetime="{text}">{text}</time>'


def _duration(seconds: float | None) -> str:
    """As people say it: ``3 min 12 s``."""
    if seconds is None:
        return "-"
    if seconds < 1:
        milliseconds = max(seconds, 0.0) * 1000
        return f"{milliseconds:.{1 if milliseconds < 9.95 else 0}f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, name, small, part in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {name}" + (f" {rest} {part}" if rest else "")
    return f"{whole} s"
