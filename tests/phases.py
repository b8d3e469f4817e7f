"""The picture of a connection's phases in docs/architecture.md, made of the table.

python -m tests.phases --write
"""

from __future__ import annotations

import pathlib
import re
import sys

from inngest_connect_asgi.protocol.link import TRANSITIONS

__all__ = ["BEGIN", "END", "PAGE", "picture"]

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "architecture.md"
BEGIN = "<!-- begin: python -m tests.phases -->"
END = "<!-- end: python -m tests.phases -->"


def picture() -> str:
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> starting"]
    for phase, events in TRANSITIONS.items():
        for event, following in events.items():
            lines.append(f"    {phase.value} --> {following.value}: {event}")
    lines += ["    closing --> [*]: it is closed", "```"]
    return "\n".join(lines)


def main() -> None:
    block = f"{BEGIN}\n\n{picture()}\n\n{END}"
    if "--write" in sys.argv:
        pattern = f"{re.escape(BEGIN)}.*{re.escape(END)}"
        text = re.sub(pattern, lambda _: block, PAGE.read_text(), flags=re.DOTALL)
        PAGE.write_text(text)
    else:
        print(block)


if __name__ == "__main__":
    main()
