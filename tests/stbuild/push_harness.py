"""Push releases in processes that may be killed; run as a program, one line of JSON per push.

The libraries are loaded once; each push runs in a child of its own, whose number is printed
before it begins.
"""

import json
import os
import sys
import time
import traceback
from pathlib import Path

import huggingface_hub.hf_api

from stbuild.publish.push.hub_client import require_hub
from stbuild.publish.push.options import PushOptions
from stbuild.publish.push.rest import Rest
from stbuild.publish.push.run import push_release
from stbuild.publish.push.zenodo import push_zenodo

LOADED = (huggingface_hub.hf_api, require_hub, Rest, push_zenodo)


def no_wait(_seconds: float) -> None:
    """Return at once: the waits of the hub's own client have no option."""


def push(told: dict[str, str]) -> int:
    time.sleep = no_wait  # type: ignore[assignment]
    options = PushOptions(
        attempts=2, wait=0.01, timeout=20, endpoint=told["endpoint"], replace=True
    )  # fmt: skip
    try:
        push_release(Path(told["release"]), told["target"], confirm=True, options=options)
    except BaseException:  # noqa: BLE001 - the child must not go on as its parent
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    for line in sys.stdin:
        begin, ready = os.pipe()
        child = os.fork()
        if child == 0:
            os.read(begin, 1)
            os._exit(push(json.loads(line)))
        print(child, flush=True)  # noqa: T201 - read by the test
        sys.stdin.readline()  # the test knows whom to kill
        os.write(ready, b"!")
        os.close(ready)
        os.close(begin)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
