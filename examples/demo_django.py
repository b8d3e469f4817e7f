"""The Django shop under uvicorn, beside LocalGateway: what happens, as it happens.

``scripts/demo django`` runs it. It takes a few seconds, and stops by itself.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tempfile

import httpx
from server import say, serving

from inngest_connect_asgi.testing import LocalGateway

EXAMPLE = pathlib.Path(__file__).parent / "django"


def manage(*arguments: str, **environ: str) -> None:
    say(f"manage.py {' '.join(arguments)}")
    subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=EXAMPLE,
        env={**os.environ, **environ},
        check=True,
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as directory, LocalGateway() as gateway:
        environ = {**gateway.environ, "SHOP_DATABASE": f"{directory}/shop.sqlite3"}
        manage("check", **environ)
        manage("migrate", "--verbosity=0", **environ)

        say("\nThe shop under uvicorn")
        with serving("project.asgi:application", EXAMPLE, **environ) as url:
            connection = gateway.wait_for_worker(timeout=30)
            say(f"  connected as {connection.instance_id}")

            say(f"\nPOST {url}/orders: a function whose steps write to the database")
            order = {"item": "teapot", "price": "19.50"}
            answer = httpx.post(f"{url}/orders", json=order).json()
            run = gateway.wait_for_run(answer["event_ids"][0], 30)
            for step in run.steps.values():
                say(f"  step {step.name}: {step.data!r}")
            if run.status != "completed":
                raise SystemExit(f"the run failed: {run.error}")

            show = f"{url}/orders/{answer['order_id']}"
            say(f"\nGET {show}\n  {httpx.get(show).json()}")

            say("\nAn async function that asks the ORM")
            run = gateway.wait_for_run(gateway.send("shop/count.requested"), 30)
            say(f"  run {run.status}; output: {run.output!r}")

            say("\nSIGTERM")
        gateway.wait_until(lambda: connection.closed_at)
        say(f"  connection closed: {connection.close_reason}")


if __name__ == "__main__":
    main()
