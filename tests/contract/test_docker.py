"""The images, the Makefile, continuous integration and the README install in the same way.

No container engine is needed: the files are read.
"""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clusters import free_port, kill
from tests.trees import tree_digests

ROOT = Path(__file__).resolve().parents[2]
INSTALL = "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e '.[all]'"
"""The one line that a person types."""
IMAGES = {"build": ("stbuild", {"build", "plots"}), "train": ("sttrain", {"train", "plots"})}


def instructions(name: str) -> list[str]:
    """Return the instructions of a Dockerfile, comments and continuation lines resolved."""
    text = (ROOT / f"docker/{name}.Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", text))
    return [line.strip() for line in text.splitlines() if line.strip()]


def extras_of(command: str) -> set[str]:
    found = re.search(r"'\.\[([a-z0-9,]+)\]'", command)
    assert found, f"no extras in: {command}"
    return set(found.group(1).split(","))


def without_extras(command: str) -> str:
    return re.sub(r"(-e )?'\.\[[a-z0-9,]+\]'", "'.'", command)


def test_the_makefile_runs_the_line_of_the_readme():
    made = subprocess.run(
        ["make", "--dry-run", "--always-make", "venv", "VENV=.venv", "PYTHON=python3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "VENV"))},
        check=True,
    )
    assert INSTALL in made.stdout.splitlines()


def test_the_readme_shows_the_line():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    if "pip install" not in readme:
        pytest.skip("README.md has no install section yet")
    assert INSTALL in readme.splitlines()


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_installs_in_the_same_way(name: str):
    command, extras = IMAGES[name]
    lines = instructions(name)
    (install,) = [line for line in lines if "pip install" in line]
    assert without_extras(install) == f"RUN {without_extras(INSTALL)}"
    assert extras_of(install) == extras
    assert f'ENTRYPOINT ["{command}"]' in lines


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_pinned_and_does_not_run_as_root(name: str):
    lines = instructions(name)
    assert lines[0] == "FROM python:3.11-slim"
    users = [line for line in lines if line.startswith("USER ")]
    assert users
    assert users[-1] not in {"USER root", "USER 0"}
    assert lines.index(users[-1]) < lines.index(
        next(x for x in lines if x.startswith("ENTRYPOINT"))
    )
    text = " ".join(lines)
    assert "ADD " not in text
    assert "curl" not in text
    assert "--trusted-host" not in text


@pytest.mark.parametrize("name", IMAGES)
def test_what_an_image_copies_exists_and_is_in_its_context(name: str):
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[0] == "*"
    copied = [part for line in instructions(name) if line.startswith("COPY ") for part in
              line.split()[1:-1]]  # fmt: skip
    assert {"pyproject.toml", "constraints.txt", "stbuild", "sttrain"} <= set(copied)
    for path in copied:
        assert (ROOT / path).exists(), path
        assert f"!{path}" in ignored, path


def test_compose_publishes_on_loopback_only_and_uses_the_image():
    yaml = pytest.importorskip("yaml")
    compose = yaml.safe_load((ROOT / "docker/compose.yaml").read_text(encoding="utf-8"))
    services = compose["services"]
    assert set(services) == {"scheduler", "worker", "build"}
    for service in services.values():
        assert service["build"]["dockerfile"] == "docker/build.Dockerfile"
        assert service["volumes"] == ["../data:/data"]
        assert service["cap_drop"] == ["ALL"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        assert "network_mode" not in service
        assert not service.get("privileged")
    assert "tcp://scheduler:8786" in services["worker"]["command"]


@pytest.mark.dist
def test_the_commands_of_compose_build_what_a_loop_builds(slice_files, tmp_path):
    """Scheduler, worker and build as in the file, on loopback and a folder instead of a volume."""
    yaml = pytest.importorskip("yaml")
    services = yaml.safe_load((ROOT / "docker/compose.yaml").read_text("utf-8"))["services"]
    port = str(free_port())
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    started = []

    def words(name):
        line = [*services[name]["entrypoint"], *services[name]["command"]]
        assert line[0] == "dask"
        line = [word.replace("tcp://scheduler", "tcp://127.0.0.1") for word in line]
        line = ["127.0.0.1" if word == "0.0.0.0" else word for word in line]
        line = [port if word == "8786" else word.replace(":8786", f":{port}") for word in line]
        extra = ["--host", "127.0.0.1"] if name == "worker" else []
        return [sys.executable, "-m", "dask", *line[1:], *extra]

    build = [sys.executable, "-m", "stbuild", "compact", *map(str, slice_files), "--label", "label"]
    try:
        for name in ("scheduler", "worker"):
            with (tmp_path / f"{name}.log").open("wb") as log:
                started.append(
                    subprocess.Popen(
                        words(name), cwd=tmp_path, env=environment, stdout=log, stderr=log,
                        start_new_session=True,
                    )
                )  # fmt: skip
        for flags in ([], ["--scheduler", f"tcp://127.0.0.1:{port}"]):
            done = subprocess.run(
                [*build, "-o", str(tmp_path / f"out{len(flags)}"), *flags],
                env=environment, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
    finally:
        for process in started:
            kill(process)
    assert tree_digests(tmp_path / "out2") == tree_digests(tmp_path / "out0")


def test_constraints_are_exact_and_bring_no_cuda():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9.]*", pin) for pin in pins)
    assert "torch==2.13.0" in pins
    assert not [pin for pin in pins if re.search(r"nvidia|cuda|triton|stcorpus", pin)]


def test_every_dependency_is_pinned():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    parts = extras_of(optional["all"][0].replace("stcorpus", "'.").replace("]", "]'"))
    wanted = project["dependencies"] + [item for part in parts for item in optional[part]]
    names = {re.split(r"[<>=!~\[ ]", item)[0].lower().replace("_", "-") for item in wanted}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    assert names <= pinned, sorted(names - pinned)


def test_continuous_integration_runs_make_test_and_installs_nothing_itself():
    path = ROOT / ".ci/run"
    assert path.stat().st_mode & stat.S_IXUSR
    lines = [
        line
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip() and not line.startswith("#")
    ]
    assert lines[0] == "set -euo pipefail"
    assert lines[-1] == "exec make test </dev/null"
    assert len(lines) == 3


def test_no_host_or_machine_path_is_in_the_files_around_the_code():
    files = ["Makefile", "constraints.txt", ".ci/run", "sample/demo.sh", "docker/compose.yaml"]
    files += [f"docker/{name}.Dockerfile" for name in IMAGES]
    for name in files:
        text = (ROOT / name).read_text(encoding="utf-8")
        found = re.findall(r"https?://\S+|file://\S+|/(?:home|root|work)/\S*|index-url", text)
        assert not found, f"{name}: {found}"
