"""What users may rely on: a name is added or lost here on purpose only."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

PUBLIC = {
    "inngest_connect_asgi": [
        "ConfigurationError",
        "ConnectError",
        "InngestConnectMiddleware",
        "StartupError",
        "Worker",
        "connect_worker",
    ],
    "inngest_connect_asgi.context": [
        "CURRENT",
        "Run",
        "RunContextFilter",
        "run_context",
    ],
    "inngest_connect_asgi.prometheus": ["ConnectMetrics", "register", "scrape"],
    "inngest_connect_asgi.testing": [
        "Connection",
        "Delivery",
        "Faults",
        "Function",
        "LocalGateway",
        "Run",
        "Seen",
        "Step",
    ],
}


@pytest.mark.parametrize("module", PUBLIC)
def test_the_names_of_a_module(module: str) -> None:
    assert sorted(importlib.import_module(module).__all__) == PUBLIC[module]


def test_protobuf_is_not_needed() -> None:
    code = """
        import sys
        sys.modules["google.protobuf"] = None
        import inngest_connect_asgi.commands.doctor
        import inngest_connect_asgi.isolation.child
        import inngest_connect_asgi.testing
    """
    code = "\n".join(map(str.strip, code.splitlines()))
    subprocess.run([sys.executable, "-c", code], check=True)
