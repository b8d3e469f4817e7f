"""The two signing keys, and which of them the API takes."""

from __future__ import annotations

from ..configuration import Configuration

__all__ = ["Keys"]


class Keys:
    """One signing key and its fallback, as while one replaces the other."""

    def __init__(self, configuration: Configuration) -> None:
        self._key = configuration.signing_key
        self._fallback = configuration.signing_key_fallback
        self.current = self._key

    def switch(self, rejected: str | None) -> bool:
        """Use the key that was not rejected; say whether there is one."""
        other = self._fallback if rejected == self._key else self._key
        if rejected is None or other is None or other == rejected:
            return False
        self.current = other
        return True
