"""`stbuild push` to an object store: a local S3 server, and what it must never show."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from moto.server import ThreadedMotoServer

from stbuild.cli import cli
from stbuild.corpus.errors import (
    BadInputError,
    BadUsageError,
    ConflictError,
    IntegrityError,
    RemoteError,
)
from stbuild.publish.push.object_store import ObjectStore
from stbuild.publish.push.objects import send_folder
from stbuild.publish.push.options import PushOptions
from sttrain.stream.remote import open_location
from tests.trees import tree_digests

ROOT = Path(__file__).resolve().parents[2]
ARCHIVE = ROOT / "tests" / "archive" / "v1"
pytestmark = pytest.mark.filterwarnings(
    "ignore:datetime.datetime.utcnow:DeprecationWarning", "ignore::ResourceWarning"
)


@pytest.fixture(scope="module")
def server():
    """A local S3 server."""
    started = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    yield f"http://{host}:{port}"
    started.stop()


@pytest.fixture
def s3(server, monkeypatch):
    """A new bucket, and a client of it that is not ours."""
    import boto3

    told = {"AWS_ACCESS_KEY_ID": "canary", "AWS_SECRET_ACCESS_KEY": "canary",
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": server,
            "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": "*"}  # fmt: skip
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=server)
    for bucket in client.list_buckets()["Buckets"]:
        empty(client)
        client.delete_bucket(Bucket=bucket["Name"])
    client.create_bucket(Bucket="lab")
    return client


def held(client) -> dict[str, bytes]:
    """What a stranger finds in the bucket."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="lab")
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    return {key: client.get_object(Bucket="lab", Key=key)["Body"].read() for key in keys}


def digests(client, prefix: str) -> dict[str, str]:
    return {key.removeprefix(prefix): hashlib.sha256(raw).hexdigest()
            for key, raw in held(client).items()}  # fmt: skip


def empty(client) -> None:
    for key in held(client):
        client.delete_object(Bucket="lab", Key=key)


def stamps(client) -> dict[str, object]:
    found = client.list_objects_v2(Bucket="lab").get("Contents", [])
    return {item["Key"]: item["LastModified"] for item in found}


@pytest.mark.parametrize("kind", ["train", "grids"])
def test_a_folder_arrives_whole_and_is_not_sent_twice(s3, grids, kind):
    root = ARCHIVE / "train" if kind == "train" else grids
    sent = send_folder(root, "s3://lab/a/b/")
    assert digests(s3, "a/b/") == tree_digests(root)
    assert sent.count("sent")[0] == len(tree_digests(root))
    assert sent.is_public
    before = stamps(s3)
    again = send_folder(root, "s3://lab/a/b")
    assert again.count("there") == sent.count("sent")
    assert stamps(s3) == before


def test_the_mark_comes_last_and_only_after_all_was_read_back(s3, monkeypatch):
    order: list[tuple[str, str]] = []
    for name in ("put", "create", "digest"):
        real = getattr(ObjectStore, name)

        def noted(self, file, *, name=name, real=real):
            order.append((name, getattr(file, "path", file)))
            return real(self, file)

        monkeypatch.setattr(ObjectStore, name, noted)
    send_folder(ARCHIVE / "train", "s3://lab/c")
    assert order[-2:] == [("create", "corpus.json"), ("digest", "corpus.json")]
    put = {path for name, path in order if name == "put"}
    read = {path for name, path in order[:-2] if name == "digest"}
    assert put == read == set(tree_digests(ARCHIVE / "train")) - {"corpus.json"}


def test_an_interrupted_push_goes_on_and_mends_what_is_wrong_there(s3):
    send_folder(ARCHIVE / "train", "s3://lab/c")
    before = stamps(s3)
    s3.delete_object(Bucket="lab", Key="c/corpus.json")
    raw = held(s3)["c/genes.parquet"]
    s3.put_object(Bucket="lab", Key="c/genes.parquet", Body=raw[:-1] + b"?")
    s3.delete_object(Bucket="lab", Key="c/SHA256SUMS")
    again = send_folder(ARCHIVE / "train", "s3://lab/c")
    sent = {file.path for file in again.files if file.how == "sent"}
    assert sent == {"genes.parquet", "SHA256SUMS", "corpus.json"}
    assert digests(s3, "c/") == tree_digests(ARCHIVE / "train")
    kept = {key for key, stamp in stamps(s3).items() if stamp == before[key]}
    assert {key.removeprefix("c/") for key in before.keys() - kept} <= sent


def test_what_else_stands_there_is_never_written_over(s3):
    send_folder(ARCHIVE / "train", "s3://lab/c")
    before = held(s3)
    with pytest.raises(ConflictError, match=r"P55.*s3://lab/c"):
        send_folder(ARCHIVE / "eval", "s3://lab/c")
    s3.put_object(Bucket="lab", Key="d/notes.txt", Body=b"mine")
    with pytest.raises(
        ConflictError, match=r"1 objects that the folder does not hold: 'notes.txt'"
    ):
        send_folder(ARCHIVE / "train", "s3://lab/d")
    assert held(s3) == before | {"d/notes.txt": b"mine"}


def test_another_mark_that_appears_meanwhile_is_kept(s3, monkeypatch):
    real = ObjectStore.create

    def late(self, file):
        s3.put_object(Bucket="lab", Key="c/corpus.json", Body=b"{}")
        real(self, file)

    monkeypatch.setattr(ObjectStore, "create", late)
    with pytest.raises(IntegrityError, match=r"P58.*corpus.json"):
        send_folder(ARCHIVE / "train", "s3://lab/c")
    assert held(s3)["c/corpus.json"] == b"{}"


def test_bytes_that_change_on_their_way_are_found(s3, monkeypatch):
    real = ObjectStore.put

    def spoil(self, file):
        real(self, file)
        if file.path == "genes.parquet":
            s3.put_object(Bucket="lab", Key="c/genes.parquet", Body=b"x" * file.bytes)

    monkeypatch.setattr(ObjectStore, "put", spoil)
    with pytest.raises(IntegrityError, match=r"P58.*genes.parquet"):
        send_folder(ARCHIVE / "train", "s3://lab/c")
    assert "c/corpus.json" not in held(s3)


def test_a_dry_run_writes_nothing(s3):
    report = send_folder(ARCHIVE / "train", "s3://lab/c", dry_run=True)
    assert report.count("to send")[0] == len(tree_digests(ARCHIVE / "train"))
    assert not report.is_public
    assert held(s3) == {}


def test_unfinished_and_damaged_folders_are_refused_before_any_request(tmp_path):
    import shutil

    target, options = "s3://lab/c", PushOptions(endpoint="http://127.0.0.1:1")
    with pytest.raises(BadInputError, match=r"P51.*nothing finished"):
        send_folder(tmp_path, target, options=options)
    broken = shutil.copytree(ARCHIVE / "train", tmp_path / "broken")
    (broken / "genes.parquet").write_bytes(b"x")
    (broken / "stray.txt").write_bytes(b"x")
    with pytest.raises(IntegrityError, match=r"(?s)genes.parquet.*stray.txt.*listed nowhere"):
        send_folder(broken, target, options=options)


def test_failures_of_the_store_end_in_words(s3, monkeypatch):
    quick = PushOptions(attempts=2, wait=0.01)
    with pytest.raises(RemoteError, match=r"P53.*no such bucket"):
        send_folder(ARCHIVE / "train", "s3://nobucket/c", options=quick)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    away = PushOptions(attempts=2, wait=0.01, endpoint="http://127.0.0.1:1")
    with pytest.raises(RemoteError, match=r"P54.*2 attempts"):
        send_folder(ARCHIVE / "train", "s3://lab/c", options=away)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "s3://lab/x"], "P50.*no rename, lock or fsync"),
        (["-o", "x", "--push", "hf:our/toy"], "P50.*takes releases alone"),
    ],
)
def test_outputs_are_folders_and_only_stores_take_what_is_no_release(tmp_path, arguments, said):
    for command in ("compact", "shard"):
        with pytest.raises(BadUsageError, match=said):
            CliRunner().invoke(
                cli, [command, str(tmp_path), *arguments], catch_exceptions=False
            )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_the_commands_send_what_they_made_and_it_is_read_where_it_is(s3, slice_files, tmp_path):
    grids, train = str(tmp_path / "grids"), str(tmp_path / "train")
    done = CliRunner().invoke(
        cli, ["compact", *map(str, slice_files), "-o", grids, "--label", "label",
              "--pitch-um", "100", "--push", "s3://lab/grids"], catch_exceptions=False)  # fmt: skip
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(
        cli, ["shard", grids, "-o", train, "--window", "8", "--genes", "16", "--n-per-slice", "6",
              "--push", "s3://lab/train"], catch_exceptions=False)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "s3://lab/train" in done.stderr
    everything = digests(s3, "")
    for folder in ("grids", "train"):
        found = {f"{folder}/{p}": d for p, d in tree_digests(tmp_path / folder).items()}
        assert found.items() <= everything.items()
    far, near = open_location("s3://lab/train/"), open_location(train)
    assert far.document == near.document


@pytest.mark.parametrize(
    "n_kills", [pytest.param(1, id="1-kill"), pytest.param(8, marks=pytest.mark.slow, id="8-kills")]
)
def test_killed_anywhere_the_mark_means_whole(s3, server, n_kills):
    wanted = tree_digests(ARCHIVE / "train")
    rng = np.random.default_rng(3)
    command = [sys.executable, "-m", "stbuild", "push", str(ARCHIVE / "train"), "s3://lab/c", "-q"]
    told = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    killed = 0
    for n_objects in rng.integers(1, len(wanted) - 2, n_kills).tolist():
        empty(s3)
        child = subprocess.Popen(command, env=told, stdout=subprocess.DEVNULL)
        while child.poll() is None and len(stamps(s3)) < n_objects:
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        killed += child.wait() == -signal.SIGKILL
        found = digests(s3, "c/")
        assert "corpus.json" not in found or found == wanted
        subprocess.run(command, env=told, check=True)
        assert digests(s3, "c/") == wanted
    assert killed


@pytest.mark.slow
def test_two_pushes_at_once_end_whole(s3):
    failed: list[Exception] = []

    def push() -> None:
        try:
            send_folder(ARCHIVE / "train", "s3://lab/c")
        except Exception as error:  # noqa: BLE001 - told below
            failed.append(error)

    both = [threading.Thread(target=push) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert not failed
    assert digests(s3, "c/") == tree_digests(ARCHIVE / "train")
    assert json.loads(held(s3)["c/corpus.json"])["format"] == "stcorpus/corpus"
