# SPDX-License-Identifier: Apache-2.0
"""An extension that attacks, in the way that its parameter names. It is run by test_attacks.py.

It behaves until its first window, so that it is loaded, and then never again. All that it
can reach of the daemon and of other instances is what the sandbox leaves: the arena.
"""

import ctypes
import mmap
import os
import random
import signal
import socket
import threading
import time

import numpy as np

from kmind.abi import layout
from kmind.extension import Extension


class Hostile(Extension):
    """One attack."""

    def start(self):
        self.array = self.context._outlets.port._words
        while isinstance(self.array.base, np.ndarray):
            self.array = self.array.base
        self.arena = self.array.view(np.uint8)
        self.header = self.arena[: layout.HEADER.itemsize].view(layout.HEADER)
        self.geometry = self.header["geometry"][0].copy()
        self.port = self.context._outlets.port
        (self.info,) = self.context.knobs.values()
        self.random = random.Random(7)

    def on_windows(self, windows):
        # An exception would end the process: each attack deals with its own.
        getattr(self, self.context.params["attack"])()

    # The arena

    def scribble(self):
        """Random bytes over everything, again and again, and indices that nearly make sense."""
        bytes_ = np.random.default_rng(7)
        rings = int(self.geometry["rings"])
        count = int(self.geometry["nr_cpus"]) + 1
        tails = self.arena[rings:][: count * layout.RING.itemsize].view(layout.RING)["tail"]
        while True:
            head = int(self.header["cq_head"][0])
            self.arena[:] = bytes_.integers(0, 256, len(self.arena), np.uint8)
            for _ in range(8):
                near = head + self.random.randrange(70)
                self.header["cq_tail"] = near % (1 << 32)
                tails[:] = bytes_.integers(0, 1 << 32, len(tails), np.uint32)
                self.header["heartbeat"] += 1
                time.sleep(0.005)

    def forge(self):
        """Records that no kernel made, heads and counts that are not so, and a mode of one's own.

        The recommendation that follows is judged by the mode that the kernel knows.
        """
        records = self.arena[int(self.geometry["sq"]) :].view(layout.RECORD)
        records["kind"] = layout.KIND["APPLIED"]
        records["subject"], records["value"] = 1, 1 << 63
        records["commit"] = np.arange(1, len(records) + 1)
        start, count = int(self.geometry["rings"]), int(self.geometry["nr_cpus"]) + 1
        rings = self.arena[start:][: count * layout.RING.itemsize].view(layout.RING)
        while True:
            rings["dropped"], rings["seq"], rings["head"] = 1 << 60, 1 << 30, 1 << 30
            self.header["mode"] = layout.MODE["AUTO"]
            self.header["agent_ns"] = 1 << 63
            self.header["heartbeat"] += 1
            self.recommend(1024)
            time.sleep(0.05)

    # Recommendations

    def recommend(self, value, **changed):
        words = {"knob": self.info.id, "target": self.info.target_id} | changed
        self.port.answers()
        self.header["heartbeat"] += 1
        return self.port.submit(
            words["knob"], words["target"], value, type=words.get("type", 1),
            expires_ns=time.monotonic_ns() + 10**9, hold_ms=words.get("hold_ms", 3_600_000),
            note=b'{"reason": "It is an attack.", "evidence": {}}',
        )  # fmt: skip

    def replay(self):
        """One that is good, then others under its id."""
        if self.port._id == 0:
            self.recommend(512)
            return
        for _ in range(5):
            self.port._id -= 1
            self.recommend(1024)
            time.sleep(0.01)

    def trespass(self):
        """Knobs and targets of others: the neighbour's, the system's."""
        own = self.info.target_id
        for target in (self.context.params["target"], 0, own, own + 1):
            for knob in range(60):
                if (knob, target) != (self.info.id, own):
                    self.recommend(128, knob=knob, target=target)
                    time.sleep(0.005)

    def forbidden(self):
        """Values that policy, kernel or type forbid."""
        info = self.info
        for value in (-1, info.minimum - 4, info.maximum + 4, 1 << 62, -(1 << 62), 513, 257):
            self.recommend(value)
            time.sleep(0.01)
        self.recommend(512, type=2)

    def flood(self):
        """The queue full at all times, with tails that are far too high in between."""
        turn = 0
        while True:
            for _ in range(layout.LIMIT["CQ_SLOTS"]):
                turn += 1
                self.recommend(512 if turn % 2 else 1024)
            self.header["heartbeat"] += 1
            time.sleep(0.003)
            if turn % 100 == 0:
                self.header["cq_tail"] += 1 << 31
                time.sleep(0.003)
                self.port._tail = int(self.header["cq_head"][0])
                self.port._open.clear()

    def sysctl(self):
        """A sysctl: through its file, beyond its bounds, and to and fro without end."""
        path = "/proc/sys/" + self.info.name.replace(".", "/", 1)
        self.report("sysctl", int(self.fails(lambda: os.open(path, os.O_WRONLY))), 1)
        while True:
            self.recommend(7)
            for value in (self.info.minimum - 1, self.info.maximum + 1, 1 << 40, -(1 << 62)):
                self.recommend(value)
            self.recommend(8, hold_ms=(1 << 32) - 1)
            self.recommend(8)
            time.sleep(0.02)

    # The process

    def fork(self):
        """Processes and threads, as many as can be had."""
        refused = 0
        for _ in range(200):
            refused += self.fails(os.fork)
            refused += self.fails(threading.Thread(target=time.sleep, args=(60,)).start)
        self.report("fork", refused, 400)

    def memory(self):
        """More and more of it: shared, which no limit of the process counts, else private."""
        taken = []
        kind = mmap.MAP_SHARED
        while True:
            try:
                block = mmap.mmap(-1, 1 << 20, mmap.MAP_ANONYMOUS | kind)
            except OSError:
                if kind == mmap.MAP_PRIVATE:
                    raise
                kind = mmap.MAP_PRIVATE
                continue
            block[:: mmap.PAGESIZE] = b"x" * (len(block) // mmap.PAGESIZE)
            taken.append(block)
            self.header["heartbeat"] += 1

    def stall(self):
        """No sign of life, with a knob in hand."""
        if self.port._id == 0:
            self.recommend(512)
            return
        while True:
            pass

    def burn(self):
        """All CPU time that can be had, heart beating."""
        if self.port._id == 0:
            self.recommend(512)
            return
        while True:
            self.header["heartbeat"] += 1

    def reach(self):
        """Files, sockets, processes and system calls that are none of its business."""
        libc = ctypes.CDLL(None, use_errno=True)

        def call(number, *arguments):
            if libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)) < 0:
                raise OSError(ctypes.get_errno(), "refused")

        tries = [
            *(lambda path=path: os.open(path, os.O_RDONLY) for path in
              ("/etc/passwd", "/proc/self/mem", "/sys/fs/bpf/kmind/stats", "/run/kmind")),
            lambda: os.open(f"/sys/block/{self.context.target}/queue/read_ahead_kb", os.O_WRONLY),
            lambda: os.open("/tmp/hostile", os.O_WRONLY | os.O_CREAT),
            *(lambda kind=kind: socket.socket(kind, socket.SOCK_STREAM) for kind in
              (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK)),
            lambda: os.kill(os.getppid(), signal.SIGTERM),
            lambda: os.kill(-1, signal.SIGKILL),
            lambda: os.execv("/bin/true", ["true"]),
            lambda: os.setuid(0),
            lambda: os.memfd_create("hostile"),
            *(lambda number=number: call(number, 0, 0, 0, 0) for number in
              # x86-64: ptrace, mount, bpf, unshare, perf_event_open, init_module, io_uring_setup
              (101, 165, 321, 272, 298, 175, 425)),
        ]  # fmt: skip
        refused = sum(self.fails(each) for each in tries)
        self.report("reach", refused, len(tries))

    def deaf(self):
        """Hears no signal and no word, and goes on for ever, a knob in hand."""
        if self.port._id == 0:
            self.recommend(512)
            return
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            self.fails(lambda number=number: signal.signal(number, signal.SIG_IGN))
        self.context.log("deaf now")
        while True:
            self.header["heartbeat"] += 1

    def die(self):
        """Leave without a word, with a lease and an hour of hold, once a file is not needed."""
        if self.port._id == 0:
            self.recommend(512)
        elif time.monotonic() > self.context.params["at"]:
            os._exit(0)

    def fails(self, call):
        try:
            call()
        except (OSError, RuntimeError, ValueError):
            return True
        return False

    def report(self, what, refused, tried):
        if not hasattr(self, "told"):
            self.told = True
            self.context.log(f"{what}: {refused} of {tried} refused")
