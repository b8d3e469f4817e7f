"""Every example in the documentation runs, and every link in it leads somewhere."""

from __future__ import annotations

import configparser
import importlib
import importlib.metadata
import inspect
import json
import os
import pathlib
import pkgutil
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import types
from typing import Any

import fastapi
import httpx
import inngest
import pytest
import yaml
from starlette.applications import Starlette

import inngest_connect_asgi
from inngest_connect_asgi import InngestConnectMiddleware, connect_worker
from inngest_connect_asgi.health import endpoints
from inngest_connect_asgi.prometheus import ConnectMetrics
from inngest_connect_asgi.protocol.wire import connect as wire
from inngest_connect_asgi.testing import LocalGateway
from inngest_connect_asgi.worker import config

from . import phases
from .harness import closings
from .servers import Uvicorn, free_port

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md")])
DJANGO = DOCS / "django.md"
QUICK_START = DOCS / "index.md"
DEPLOYMENT = DOCS / "deployment.md"
FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]*)(#[^)\s]+)?\)")
PROBE_URL = "http://127.0.0.1:8081/healthz"
SHUTDOWN = config.DEFAULT_SHUTDOWN_TIMEOUT + 5
"""Seconds that a process must be given."""


def name_of(page: pathlib.Path) -> str:
    return page.name


def blocks(page: pathlib.Path, language: str) -> list[str]:
    found = FENCE.findall(page.read_text())
    return [textwrap.dedent(code) for _, name, code in found if name == language]


def names_a_reader_has() -> dict[str, Any]:
    """What the examples leave out: the reader's own app."""
    client = inngest.Inngest(app_id="shop", is_production=False, logger=None)
    billing = inngest.Inngest(app_id="billing", is_production=False, logger=None)

    def make(client: inngest.Inngest, fn_id: str) -> inngest.Function[Any]:
        async def function(ctx: inngest.Context) -> None:
            pass

        trigger = inngest.TriggerEvent(event=fn_id)
        return client.create_function(fn_id=fn_id, trigger=trigger)(function)

    return {
        "InngestConnectMiddleware": InngestConnectMiddleware,
        "client": client,
        "shop": client,
        "billing": billing,
        "fulfil_order": make(client, "fulfil-order"),
        "send_invoice": make(billing, "send-invoice"),
        "inngest": inngest,
        "connect_worker": connect_worker,
        "litestar_app": Starlette(),
        "quart_app": types.SimpleNamespace(asgi_app=Starlette()),
        "get_asgi_application": Starlette,
    }


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p not in (DJANGO, QUICK_START)], ids=name_of
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the SDK's serve
def test_python_examples_run(page: pathlib.Path) -> None:
    importlib.import_module("inngest.fast_api")
    importlib.import_module("inngest.django")
    if page.name == "migration.md" and importlib.metadata.version("django") < "5":
        pytest.skip("the SDK serves async functions only since Django 5")
    names = names_a_reader_has()
    for code in blocks(page, "python"):
        if is_test(code):
            continue
        names["app"] = fastapi.FastAPI()
        exec(compile(code, page.name, "exec"), names)
        app = names["app"]
        if isinstance(app, fastapi.FastAPI):
            # What is wrong with the options would only show at start-up.
            stack = app.build_middleware_stack()
            layer: Any = stack
            while layer is not None:
                if isinstance(layer, InngestConnectMiddleware):
                    assert layer._error is None
                layer = getattr(layer, "app", None)


def test_the_example_for_django_runs() -> None:
    """In a process of its own: Django is set up once and for all."""
    (code,) = blocks(DJANGO, "python")
    environ = {"PYTHONPATH": str(ROOT / "examples" / "django"), "INNGEST_DEV": "1"}
    subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environ}, check=True
    )


def test_the_worker_that_is_started_by_hand_runs(
    gateway: LocalGateway, tmp_path: pathlib.Path
) -> None:
    examples = blocks(ROOT / "docs" / "servers.md", "python")
    (code,) = [example for example in examples if "add_signal_handler" in example]
    port = free_port()
    assert '":8081"' in code
    script = tmp_path / "script.py"
    script.write_text(
        "from app import client, fulfil_order\n"
        + code.replace(":8081", f"127.0.0.1:{port}")
        + "asyncio.run(main())\n"
    )
    path = str(ROOT / "examples" / "fastapi")
    environ = {**os.environ, **gateway.environ, "PYTHONPATH": path}
    with subprocess.Popen([sys.executable, script], env=environ) as process:
        gateway.wait_for_worker()
        answer = httpx.get(f"http://127.0.0.1:{port}/healthz/live")
        process.send_signal(signal.SIGTERM)
    assert answer.status_code == 200
    assert process.returncode == 0
    assert closings(gateway)[-1].reason == "WORKER_SHUTDOWN"


def is_test(code: str) -> bool:
    return "def test_" in code


@pytest.mark.parametrize("project", ["fastapi", "django"])
def test_the_tests_among_the_examples_pass(
    project: str, tmp_path: pathlib.Path
) -> None:
    for page in PAGES:
        for number, code in enumerate(filter(is_test, blocks(page, "python"))):
            if ("django" in code) == (project == "django"):
                name = f"test_{page.stem.lower()}_{number}.py"
                (tmp_path / name).write_text(code)
    assert list(tmp_path.iterdir())
    ini = ROOT / "examples" / project / "pytest.ini"
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", ini, tmp_path],
        env={**os.environ, "PYTHONPATH": str(ini.parent)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_json_examples_parse(page: pathlib.Path) -> None:
    for code in blocks(page, "json"):
        json.loads(code)


def test_the_quick_start_runs(tmp_path: pathlib.Path, gateway: LocalGateway) -> None:
    (code,) = blocks(QUICK_START, "python")
    (tmp_path / "app.py").write_text(code)
    (curl,) = (c for c in blocks(QUICK_START, "sh") if c.startswith("curl"))
    _, url, _, event = shlex.split(curl)
    with Uvicorn(gateway.environ, "--app-dir", str(tmp_path), app="app:app"):
        gateway.wait_for_worker()
        path = url.removeprefix("http://127.0.0.1:8288")
        answer = httpx.post(gateway.origin + path, content=event)
        run = gateway.wait_for_run(answer.json()["ids"][0])
    assert run.output == "charged for teapot"


@pytest.mark.parametrize("page", [DOCS / "health.md", DEPLOYMENT], ids=name_of)
def test_the_kubernetes_examples_ask_what_there_is(page: pathlib.Path) -> None:
    (code,) = (c for c in blocks(page, "yaml") if "kind: Deployment" in c)
    deployment = yaml.safe_load(code)
    assert (
        deployment["spec"]["selector"]["matchLabels"]
        == (deployment["spec"]["template"]["metadata"]["labels"])
    )
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    probe = container["livenessProbe"]["httpGet"]
    assert probe["path"] in endpoints.paths(config.DEFAULT_HEALTH_PATH)
    (example,) = blocks(DOCS / "health.md", "python")
    assert f'probe=":{ports[probe["port"]]}"' in example
    assert pod["terminationGracePeriodSeconds"] >= SHUTDOWN


def test_the_compose_example_waits_for_the_worker() -> None:
    (code,) = (c for c in blocks(DEPLOYMENT, "yaml") if "services:" in c)
    (service,) = yaml.safe_load(code)["services"].values()
    assert int(service["stop_grace_period"].removesuffix("s")) >= SHUTDOWN


def test_the_dockerfile_runs_without_a_shell() -> None:
    (code,) = blocks(DEPLOYMENT, "dockerfile")
    lines = code.replace("\\\n", " ").splitlines()
    instructions = [line.partition(" ")[::2] for line in lines]
    names = [name for name, _ in instructions]
    assert names[0] == "FROM"
    assert set(names) <= {
        *("FROM", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "HEALTHCHECK", "CMD")
    }
    arguments = dict(instructions)
    server = json.loads(arguments["CMD"])
    assert server[server.index("--port") + 1] == arguments["EXPOSE"]
    check = json.loads(arguments["HEALTHCHECK"].partition("CMD ")[2])
    assert check[:3] == ["python", "-m", "inngest_connect_asgi"]
    assert check[4] == f"{PROBE_URL}/live"


def test_the_ecs_example_waits_for_the_worker() -> None:
    (code,) = blocks(DEPLOYMENT, "json")
    (container,) = json.loads(code)["containerDefinitions"]
    assert 120 >= container["stopTimeout"] >= SHUTDOWN
    command = container["healthCheck"]["command"]
    assert command[:4] == ["CMD", "python", "-m", "inngest_connect_asgi"]
    assert command[5] == f"{PROBE_URL}/live"


def test_the_fly_example_waits_for_the_worker() -> None:
    (code,) = blocks(DEPLOYMENT, "toml")
    app = tomllib.loads(code)
    assert app["kill_signal"] == "SIGTERM"
    assert app["kill_timeout"] >= SHUTDOWN
    assert app["http_service"]["auto_stop_machines"] == "off"
    check = app["checks"]["worker"]
    assert f"http://127.0.0.1:{check['port']}{check['path']}" == f"{PROBE_URL}/live"


def test_the_systemd_example_waits_for_the_worker() -> None:
    (code,) = blocks(DEPLOYMENT, "ini")
    unit = configparser.RawConfigParser()
    unit.read_string(code)
    assert unit.sections() == ["Unit", "Service", "Install"]
    assert float(unit["Service"]["TimeoutStopSec"]) >= SHUTDOWN
    # An absolute path, and no shell.
    assert unit["Service"]["ExecStart"].startswith("/")


def test_the_option_of_the_plugin_is_one(pytestconfig: pytest.Config) -> None:
    (code,) = blocks(DOCS / "testing.md", "toml")
    for name in tomllib.loads(code)["tool"]["pytest"]["ini_options"]:
        assert pytestconfig.getini(name) is False


def test_the_table_and_the_alerts_name_the_metrics_there_are() -> None:
    page = ROOT / "docs" / "observability.md"
    names = set(re.findall(r"^\| `(inngest_connect_\w+)`", page.read_text(), re.M))
    registry = ConnectMetrics().registry
    assert names == {
        family.name + ("_total" if family.type == "counter" else "")
        for family in registry.collect()
    }
    (code,) = blocks(page, "yaml")
    for rule in yaml.safe_load(code)["groups"][0]["rules"]:
        (name,) = re.findall(r"inngest_connect_\w+", rule["expr"])
        assert name in names


def test_the_logging_example_configures_logging() -> None:
    (code,) = (
        code
        for code in blocks(ROOT / "docs" / "observability.md", "python")
        if code.startswith("LOGGING")
    )
    code += textwrap.dedent(
        """
        import logging.config
        logging.config.dictConfig(LOGGING)
        logging.getLogger("shop").info("hello")
        """
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert result.stderr == "INFO run=None shop: hello\n"


def test_the_docker_example_runs() -> None:
    (code,) = blocks(ROOT / "docs" / "health.md", "dockerfile")
    instruction, _, command = code.replace("\\\n", " ").partition("CMD ")
    assert instruction.startswith("HEALTHCHECK ")
    python, *arguments = json.loads(command)
    assert python == "python"
    result = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=30
    )
    # There is no worker at that address, and it says so.
    assert result.returncode == 1
    assert result.stdout.startswith("unhealthy: ")


def anchors(page: pathlib.Path) -> set[str]:
    """Those that GitHub, and the site, make of a page's headings."""
    headings = HEADING.findall(FENCE.sub("", page.read_text()))
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {"#" + each.replace(" ", "-") for each in words}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: pathlib.Path) -> None:
    for target, anchor in LINK.findall(page.read_text()):
        if "://" in target:
            continue
        path = page.parent / target if target else page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path), target + anchor


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_files_that_are_named_are_there(page: pathlib.Path) -> None:
    # Those of docs/ are linked.
    for folder in ("tests", "scripts", "benchmarks", "examples"):
        named = rf"`({folder}/[\w./-]+?)(?: [^`]*)?`"
        for path in re.findall(named, page.read_text()):
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "options.md"], ids=name_of)
def test_every_option_is_documented(page: pathlib.Path) -> None:
    text = page.read_text()
    parameters = inspect.signature(InngestConnectMiddleware).parameters
    for name in list(parameters)[1:]:
        assert f"`{name}`" in text, name


def test_every_public_name_is_in_the_api_reference() -> None:
    text = (DOCS / "api.md").read_text()
    listed = set(re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE))
    for name in listed:
        pkgutil.resolve_name(name)
    for package in (inngest_connect_asgi, inngest_connect_asgi.testing):
        names = {f"{package.__name__}.{name}" for name in package.__all__}
        assert names <= listed, names - listed


def test_every_module_is_in_the_architecture() -> None:
    text = (DOCS / "architecture.md").read_text()
    package = ROOT / "inngest_connect_asgi"
    for module in package.rglob("*.py"):
        folder = module.relative_to(package).parts[0]
        if folder in ("testing", "django") or "wire" in module.parts:
            continue
        if module.name != "__init__.py":
            assert f"`{module.name}`" in text, module


def test_the_floors_are_those_that_are_checked() -> None:
    text = (DOCS / "architecture.md").read_text()
    rows = re.findall(r"^\| (\d) \| ([^|]+) \|", text, re.M)
    floors: dict[str, set[str]] = {}
    for floor, cell in rows:
        names = {n.removesuffix("/") for n in re.findall(r"`([\w/.]+)`", cell)}
        floors.setdefault(floor, set()).update(n.removesuffix(".py") for n in names)
    del floors["1"]  # the modules at the top
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = project["tool"]["importlinter"]["contracts"]
    layers = [set(re.findall(r"\w+", layer)) for layer in contract["layers"]]
    assert layers[:-1] == [floors[floor] for floor in sorted(floors, reverse=True)]


def test_the_picture_of_the_phases_is_that_of_the_table() -> None:
    assert f"{phases.BEGIN}\n\n{phases.picture()}\n\n{phases.END}" in (
        phases.PAGE.read_text()
    )


def test_every_kind_of_frame_is_in_the_protocol() -> None:
    text = (DOCS / "protocol.md").read_text()
    for kind in wire.Kind:
        assert f"| {kind.value} | `{kind.name}` |" in text, kind


def test_the_commands_of_the_readme_exist() -> None:
    for name in ("demo", "test"):
        assert f"scripts/{name}\n" in (ROOT / "README.md").read_text()
        assert os.access(ROOT / "scripts" / name, os.X_OK)


def test_the_example_runs_a_function(gateway: LocalGateway) -> None:
    arguments = ("--app-dir", "examples/fastapi")
    with Uvicorn(gateway.environ, *arguments, app="app:app") as server:
        gateway.wait_for_worker()
        answer = server.post("/orders", json={"item": "teapot", "price": 20})
        run = gateway.wait_for_run(answer.json()["event_ids"][0])
        assert run.status == "completed"
        assert list(run.steps) == ["charge-card", "send-receipt"]


def test_the_example_takes_what_the_cloud_wants() -> None:
    """With keys and no INNGEST_DEV, as against Inngest Cloud."""
    key = "signkey-test-" + "ab" * 16
    with LocalGateway(signing_keys=(key,)) as gateway:
        arguments = ("--app-dir", "examples/fastapi")
        with Uvicorn(gateway.environ, *arguments, app="app:app"):
            gateway.wait_for_worker()


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "fastapi",
            [
                "step send-receipt: 'sent a receipt: charged 19.5 for teapot'",
                "run completed",
                "heartbeat",
                "closed: WORKER_SHUTDOWN",
                "s  native code, auto, the first time",
                "the connection has moved to a process",
                "s  native code, auto, again",
                "s  native code, process",
            ],
        ),
        (
            "django",
            [
                "no issues",
                "step ship: 'shipped'",
                "{'item': 'teapot', 'status': 'shipped'}",
                "{'orders': 1, 'shipped': 1}",
                "closed: WORKER_SHUTDOWN",
            ],
        ),
    ],
)
def test_the_demo(name: str, lines: list[str], tmp_path: pathlib.Path) -> None:
    demo = subprocess.run(
        [sys.executable, ROOT / "examples" / f"demo_{name}.py"],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=tmp_path,
    )
    assert demo.returncode == 0, demo.stderr
    for line in lines:
        assert line in demo.stdout


def test_what_the_gateway_does_as_the_server_is_tested() -> None:
    """Each row of the table names a source file of the server, and tests of ours."""
    page = (DOCS / "testing.md").read_text()
    rows = re.findall(r"^\| [^|]+\| ([^|]+)\| `([^|`]+)` \| ([^|]+) \|$", page, re.M)
    assert len(rows) > 20
    tests = (ROOT / "tests/scenarios/test_strict_gateway.py").read_text()
    defined = set(re.findall(r"^def (test_\w+)", tests, re.M))
    named: set[str] = set()
    for since, source, names in rows:
        assert re.match(r"\d+\.\d+\.\d+", since), since
        assert re.fullmatch(r"pkg/[\w/]+\.(go|lua)", source), source
        found = re.findall(r"`(test_\w+)`", names)
        assert found, names
        named.update(found)
    assert named <= defined, named - defined
    # And what is tested there is in the table.
    assert defined - named <= {
        "test_a_heartbeat_tells_the_router_that_the_gateway_drains",
        "test_a_late_reply_answers_the_next_attempt_under_the_same_id",
        "test_a_worker_that_does_not_introduce_itself_is_refused",
    }


def test_a_dead_link_and_what_is_fetched_from_elsewhere_fail_the_site(
    tmp_path: pathlib.Path,
) -> None:
    page = tmp_path / "guide" / "index.html"
    page.parent.mkdir()
    style = tmp_path / "site.css"
    (tmp_path / "index.html").write_text('<h1 id="top"></h1>')
    style.write_text("body { background: url(picture.png) }")
    links = '<a href="../#top">a</a> <a href="../README.md">the readme</a>'
    page.write_text(links)
    assert docs_site(tmp_path) == []
    assert "the readme" in page.read_text()
    assert "README" not in page.read_text()
    page.write_text(links)
    assert docs_site(tmp_path, "https://code.test") == []
    assert "https://code.test/blob/main/README.md" in page.read_text()

    page.write_text(
        '<a href="../gone/">a</a> <a href="../#bottom">b</a>'
        '<script src="//cdn.test/x.js"></script>'
    )
    style.write_text("@import 'https://fonts.test/f.css'")
    assert docs_site(tmp_path) == [
        "guide/index.html fetches //cdn.test/x.js",
        "guide/index.html: ../#bottom has no such anchor",
        "guide/index.html: ../gone/ leads nowhere",
        "site.css fetches https://fonts.test/f.css",
    ]


def docs_site(site: pathlib.Path, *arguments: str) -> list[str]:
    command = [sys.executable, "scripts/docs_site.py", str(site), *arguments]
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    problems = done.stderr.splitlines()
    assert done.returncode == (1 if problems else 0)
    return problems
