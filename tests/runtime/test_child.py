# SPDX-License-Identifier: Apache-2.0
"""The extension's process holds nothing: seen from outside, and tried from inside."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Bench

pytestmark = pytest.mark.kernel("libbpf", "btf", "arena", "bpf_timer", "tp_btf", "tp_filemap")

PRISONER = '''
import ctypes, importlib, os, resource, signal, socket
from kmind.extension import Extension


class Sample(Extension):
    """Tries what it must not be able to do, and logs how each try ends."""

    def start(self):
        libc = ctypes.CDLL(None, use_errno=True)

        def call(name, *args):
            ctypes.set_errno(0)
            if getattr(libc, name)(*args) < 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

        tries = {
            "read_shadow": lambda: open("/etc/shadow"),
            "read_anything": lambda: open("/proc/self/status"),
            "list_root": lambda: os.listdir("/root"),
            "write_file": lambda: open("/tmp/kmind-escape", "w"),
            "write_knob": lambda: open("/proc/sys/vm/swappiness", "w"),
            "bpf": lambda: call("syscall", 321, 0, ctypes.create_string_buffer(128), 128),
            "socket": lambda: socket.socket(),
            "fork": lambda: os._exit(0) if os.fork() == 0 else None,
            "become_root": lambda: os.setuid(0),
            "signal_parent": lambda: os.kill(os.getppid(), 0),
            "signal_init": lambda: os.kill(1, 0),
            "raise_limit": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
            "mount": lambda: call("mount", b"none", b"/mnt", b"tmpfs", 0, None),
            "new_namespace": lambda: call("unshare", 0x10000000),
            "io_uring": lambda: call("syscall", 425, 1, ctypes.create_string_buffer(128)),
            "ptrace_parent": lambda: call("ptrace", 16, os.getppid(), 0, 0),
            "import_late": lambda: importlib.import_module("wave"),
        }
        for name, attempt in tries.items():
            try:
                attempt()
            except (OSError, ValueError, ImportError) as error:
                self.context.log(f"refused {name}: {error}")
            else:
                self.context.log(f"SUCCEEDED {name}")
        self.context.log(f"folder {os.getcwd()}")
        self.context.log(f"environment {sorted(os.environ)}")
'''


def test_seen_from_outside(bench: "Bench") -> None:
    bench.start("observe")
    assert bench.instance
    process = Path(f"/proc/{bench.instance.extension_pid}")
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    uids = status["Uid"].split()
    assert len(set(uids)) == 1
    assert 61184 <= int(uids[0]) <= 65519
    assert status["Gid"].split() == uids
    assert status["Groups"].split() == []
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert int(status["Umask"], 8) == 0o777
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    open_files = {int(entry.name): str(entry.readlink()) for entry in (process / "fd").iterdir()}
    assert open_files.pop(0) == "/dev/null"
    assert open_files[1] == open_files[2]
    log, doorbell = sorted(set(open_files.values()), reverse=True)
    assert log.startswith("pipe:")
    assert doorbell == "anon_inode:bpf-map"
    assert len(open_files) == 3
    assert os.getsid(bench.instance.extension_pid) == bench.instance.extension_pid


def test_tried_from_inside(bench: "Bench") -> None:
    bench.start("observe", extension=PRISONER)
    bench.run_until(lambda: any("environment" in e["message"] for e in bench.of("log")))
    lines = [e["message"] for e in bench.of("log") if e["source"] == "extension"]
    assert not [line for line in lines if line.startswith("SUCCEEDED")]
    assert len([line for line in lines if line.startswith("refused")]) == 17
    late = next(line for line in lines if "import_late" in line)
    assert "wave cannot be imported any more: privileges are dropped" in late
    assert "add it to imports of [extension] in module.toml" in late
    assert "folder /" in lines
    assert "environment []" in lines


def test_two_instances_have_two_users(bench: "Bench") -> None:
    from kmind.runtime.sandbox import free_uid

    bench.start("observe")
    assert bench.instance
    mine = int(bench.of("start")[0]["extension"]["uid"])
    assert free_uid(f"{bench.instance.name}/{os.getpid()}") != mine


def test_named_import_that_is_absent(bench: "Bench") -> None:
    import sample_module

    from kmind.errors import KmindError

    manifest = sample_module.MANIFEST.replace("imports = []", 'imports = ["no_such_package"]')
    original = sample_module.MANIFEST
    sample_module.make_module.__defaults__ = (sample_module.RECOMMENDER, manifest)
    try:
        with pytest.raises(KmindError, match="could not be set up"):
            bench.start("observe")
    finally:
        sample_module.make_module.__defaults__ = (sample_module.RECOMMENDER, original)
    log = " ".join(event["message"] for event in bench.of("log"))
    assert "extension.imports: no_such_package cannot be imported" in log
