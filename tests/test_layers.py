"""The layer rule, read from the imports: stream -> model <- trainer, deploy on top, Faust in stream alone."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "model": {"model"},
    "stream": {"model", "stream"},
    "trainer": {"model", "trainer"},
    "deploy": {"model", "stream", "trainer", "deploy"},
}
LIBRARIES_OF_MODEL = {"torch", "numpy", "numba", "llvmlite", "msgspec", "safetensors", "fsspec", "pyarrow"}
FAUST = {"faust", "mode"}

# Runs in a process of its own: imports every module named on the command line and reports what it did on the way.
# What a library does while it is itself being imported is its own affair, so the search for our frame ends there. So
# are the switches that a library looks up by name, but not reading all variables, as settings do when they are made.
WATCH_IMPORTS = """
import importlib, json, os, sys

root = os.path.join(os.getcwd(), "")
offences = []

PASSED_THROUGH = ("<string>", "<frozen os>", "<frozen _collections_abc>")

def note(what, only_caller=False):
    frame = sys._getframe(1)
    while frame and "importlib" not in (name := frame.f_code.co_filename):
        if name.startswith(root) and "site-packages" not in name:
            offences.append(f"{name[len(root):]}:{frame.f_lineno} {what}")
            return
        if only_caller and name not in PASSED_THROUGH:
            return
        frame = frame.f_back

def audit(event, arguments):
    if event.startswith("socket."):
        note(event)

class WatchedEnvironment(type(os.environ)):
    def __getitem__(self, key):
        note(f"reads the environment: {key}", only_caller=True)
        return super().__getitem__(key)
    def __iter__(self):
        note("reads the environment")
        return super().__iter__()

environ = os.environ
os.environ = WatchedEnvironment(
    environ._data, environ.encodekey, environ.decodekey, environ.encodevalue, environ.decodevalue
)
sys.addaudithook(audit)
for module in sys.argv[1:]:
    importlib.import_module(module)
sys.__stdout__.write("\\n" + json.dumps(offences))
"""


def modules() -> list[Path]:
    """All but the programs that the worker is measured against, which run in an environment of their own."""
    paths = (path for package in MAY_IMPORT for path in (REPOSITORY / package).rglob("*.py"))
    return sorted(path for path in paths if "peers" not in path.parts)


def dotted(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> set[str]:
    """Return the top-level names that a module imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            names.add(node.module or "")
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_module_imports_only_its_own_layer_and_those_below(path: Path) -> None:
    package = path.relative_to(REPOSITORY).parts[0]
    assert imported(path) & MAY_IMPORT.keys() <= MAY_IMPORT[package]


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_only_stream_imports_faust(path: Path) -> None:
    if path.relative_to(REPOSITORY).parts[0] != "stream":
        assert not imported(path) & FAUST


def test_model_imports_only_its_few_libraries() -> None:
    found = set().union(*(imported(path) for path in (REPOSITORY / "model").rglob("*.py")))
    assert found - set(sys.stdlib_module_names) - {"model"} <= LIBRARIES_OF_MODEL


def watch_imports(*names: str, folder: Path = REPOSITORY) -> tuple[str, list[str]]:
    """Import modules in a process of their own; return what they printed and their offences."""
    done = subprocess.run(
        [sys.executable, "-c", WATCH_IMPORTS, *names],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    printed, _, report = done.stdout.rpartition("\n")
    return printed + done.stderr, json.loads(report)


def test_importing_any_module_opens_no_socket_reads_no_environment_and_prints_nothing() -> None:
    printed, offences = watch_imports(*(dotted(path) for path in modules() if path.stem != "__main__"))
    assert offences == []
    assert printed == ""


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("os.environ['HOME']", "reads the environment: HOME"),
        ("os.getenv('HOME')", "reads the environment: HOME"),
        ("os.environ.get('HOME')", "reads the environment: HOME"),
        ("'HOME' in os.environ", "reads the environment: HOME"),
        ("dict(os.environ)", "reads the environment"),
        ("type('Settings', (pydantic_settings.BaseSettings,), {})()", "reads the environment"),
        ("socket.create_server(('127.0.0.1', 0)).close()", "socket.bind"),
    ],
)
def test_the_watch_notices_an_offence_in_one_of_our_modules(tmp_path: Path, line: str, found: str) -> None:
    (tmp_path / "offender.py").write_text(f"import os, socket, pydantic_settings\n{line}\nprint('loud')\n")
    printed, offences = watch_imports("offender", folder=tmp_path)
    assert printed.strip() == "loud"
    assert any(offence == f"offender.py:2 {found}" for offence in offences)
