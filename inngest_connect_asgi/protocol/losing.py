"""What it means that a link is lost, and when to make the next one."""

from __future__ import annotations

import logging
import random
from collections import Counter

from ..state import (
    API_REJECTED,
    API_UNREACHABLE,
    CLOSING,
    CONNECTION_LOST,
    HANDSHAKE_FAILED,
    HEARTBEAT_TIMEOUT,
)
from .actions import Abort
from .backoff import Backoff
from .link import Link, Phase
from .links import Links
from .telling import Telling

__all__ = ["GATEWAY_CLOSING", "Losing"]

# All in seconds.
RECONNECT_FIRST = 0.5
DRAIN_JITTER = 0.25
"""Spreads out the workers that one closing gateway sends away."""
STABLE_AFTER = 1.0
"""A link that lived this long is reopened at once when it is lost."""

# Close reasons that only a person can do something about (pkg/syscode).
HOPELESS = {
    "connect_authentication_failed": "the gateway rejected the session",
    "connect_worker_hello_invalid_payload": (
        "the gateway rejected this worker's configuration"
    ),
    "connect_too_many_apps_per_connection": (
        "there are more apps on this connection than the account allows"
    ),
    "connect_invalid_function_config": (
        "the gateway rejected the configuration of a function"
    ),
}
GATEWAY_CLOSING = "connect_gateway_closing"


class Losing:
    """Counts losses, and waits for longer the more there were.

    Args:
        cap: Seconds to wait at most.
    """

    def __init__(
        self, cap: float, telling: Telling, links: Links, rng: random.Random
    ) -> None:
        self.retry_at: float | None = None
        """When to make another attempt."""
        self.because = CONNECTION_LOST
        """Why the last connection that was live is to be replaced, or was."""
        self.excluded: set[str] = set()
        """Groups of gateways not to be sent to again."""
        self.failures_by: Counter[str] = Counter()
        self.last_error: str | None = None
        self.last_error_at: float | None = None
        self._telling = telling
        self._links = links
        self._random = rng
        self._backoff = Backoff(first=RECONNECT_FIRST, cap=cap, rng=rng)

    def gateway_closing(self, link: Link, now: float) -> None:
        """Move to another gateway, while this one lets us finish."""
        self._links.retire(link, now)
        self.because = CLOSING
        if link.gateway_group is not None:
            self.excluded.add(link.gateway_group)
        self._telling.log(
            logging.INFO,
            "The gateway is closing; moving to another one",
            now,
            connection_id=link.connection_id,
            gateway_group=link.gateway_group,
        )
        if self._links.attempt is None:
            stable = self._stable(link, now)
            jitter = self._random.uniform(0.0, DRAIN_JITTER)
            self.retry_at = now + (jitter if stable else self._backoff.fail())
        self._telling.touch(now, at_once=True)

    def fail(
        self, link: Link, reason: str, now: float, *, hopeless: bool = False
    ) -> None:
        """A link that was being made came to nothing."""
        self._telling.do(Abort(link.id))
        answered = link.phase is Phase.STARTING
        cause = API_REJECTED if answered else HANDSHAKE_FAILED
        self.lose(link, reason, now, cause, hopeless=hopeless)

    def lose(
        self,
        link: Link,
        reason: str,
        now: float,
        cause: str | None = None,
        *,
        hopeless: bool = False,
    ) -> None:
        """Forget a link, and see to another one."""
        was_live, was_closing = link is self._links.live, link.phase is Phase.CLOSING
        was_attempt = link is self._links.attempt
        self._links.forget(link, now)
        if was_closing or not (was_live or was_attempt):
            self._telling.touch(now)
            return
        cause = cause or _cause(link, reason)
        if was_live:
            self.because = cause
        else:
            self.failures_by[cause] += 1
        self.last_error = HOPELESS.get(reason, reason)
        self.last_error_at = now
        hopeless = hopeless or reason in HOPELESS
        if self._stable(link, now) and not hopeless:
            jitter = DRAIN_JITTER if reason == GATEWAY_CLOSING else 0.0
            delay = self._random.uniform(0.0, jitter)
        else:
            delay = self._backoff.fail(hopeless=hopeless)
        if link.gateway_group is None:
            # The start call itself failed: maybe no other gateway is left.
            self.excluded.clear()
        else:
            self.excluded.add(link.gateway_group)
        if self._links.attempt is None:
            # Counted from the start of the attempt, so that one which hung does
            # not add to the time a worker stays away from a server that is back.
            since = now if was_live else link.started_at
            self.retry_at = max(now, since + delay)
        if was_live:
            self._telling.log(
                logging.WARNING,
                f"Lost the connection to Inngest: {self.last_error}; reconnecting",
                now,
                connection_id=link.connection_id,
                gateway_group=link.gateway_group,
            )
        else:
            text = "Could not connect to Inngest; trying again"
            self._telling.error(text, self.last_error, now)
        self._telling.touch(now, at_once=True)

    def tick(self, link: Link, now: float) -> bool:
        """Lose a link whose present phase has taken too long; ``False`` then."""
        if link.deadline is None or link.deadline > now:
            return True
        self._telling.do(Abort(link.id))
        if link.phase is Phase.CLOSING:
            self._links.forget(link, now)
        else:
            self.lose(link, f"timed out while {link.phase.value}{link.via}", now)
        return False

    def die(self, link: Link, now: float) -> None:
        """Lose a link on which nobody answers."""
        self._telling.do(Abort(link.id))
        self.lose(link, "the gateway answered no heartbeat", now, HEARTBEAT_TIMEOUT)

    def _stable(self, link: Link, now: float) -> bool:
        """Whether to replace this link at once, not as one more failure."""
        if link.live_at is None or now - link.live_at < STABLE_AFTER:
            return False
        self._backoff.reset()
        return True


def _cause(link: Link, reason: str) -> str:
    """Why a link was lost, in one of a few words, for whoever counts."""
    if reason == GATEWAY_CLOSING:
        return CLOSING
    if link.phase is Phase.STARTING:
        return API_UNREACHABLE
    return HANDSHAKE_FAILED if link.connecting else CONNECTION_LOST
