"""``python -m inngest_connect_asgi``: what a probe and a person want to know."""

from __future__ import annotations

import sys

__all__ = ["main"]

USAGE = """\
usage: python -m inngest_connect_asgi healthcheck [URL]
       python -m inngest_connect_asgi doctor [URL]

healthcheck  Ask the app's health endpoint, print one line, exit with 0 or 1.
             URL is http://127.0.0.1:8000/healthz unless given.
doctor       Check what this machine's environment makes of Inngest, step by
             step, and exit with 0 or 1. Tells what the app itself reports, too,
             where it runs and answers at URL.
"""


def main(arguments: list[str]) -> int:
    # No argparse, and imports where they are needed: healthcheck runs every few
    # seconds, and must not cost more than it finds out.
    if not {"-h", "--help"}.isdisjoint(arguments):
        sys.stdout.write(USAGE)
        return 0
    if arguments[:1] == ["healthcheck"] and len(arguments) <= 2:
        from .commands import healthcheck

        return healthcheck.check(*arguments[1:])
    if arguments[:1] == ["doctor"] and len(arguments) <= 2:
        from .commands import doctor

        return doctor.check(*arguments[1:])
    sys.stderr.write(USAGE)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
