# SPDX-License-Identifier: Apache-2.0
"""Find out by trying which kernel features kmind can use on this machine.

Programs of a few instructions go through bpf(2), so that neither a compiler nor libbpf
is needed to find out. Nothing that a probe makes outlives it.
"""

import os
import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from kmind.bpf import _tries as tries
from kmind.bpf import machine as machine
from kmind.errors import KmindError, PrivilegeError

__all__ = ["TRACEPOINTS", "Probe", "State", "facts", "names", "probe", "probe_all"]

State = Literal["ok", "missing", "refused"]

TRACEPOINTS: Mapping[str, tuple[str, ...]] = {
    "readahead": (
        "page_cache_sync_ra",
        "page_cache_async_ra",
        "page_cache_ra_order",
        "page_cache_ra_unbounded",
    ),
    "filemap": (
        "mm_filemap_get_pages",
        "mm_filemap_fault",
        "mm_filemap_map_pages",
        "mm_filemap_add_to_page_cache",
        "mm_filemap_delete_from_page_cache",
    ),
    "block": ("block_rq_issue", "block_rq_complete"),
    "fuse": ("fuse_request_send", "fuse_request_end"),
    "writeback": ("writeback_dirty_folio", "writeback_written", "balance_dirty_pages"),
    "vmscan": (
        "mm_vmscan_direct_reclaim_begin",
        "mm_vmscan_direct_reclaim_end",
        "mm_vmscan_lru_shrink_inactive",
        "mm_vmscan_kswapd_wake",
    ),
    "oom": ("mark_victim", "oom_score_adj_update"),
    "sched": ("sched_switch", "sched_wakeup", "sched_process_exec", "sched_process_exit"),
    "tcp": ("tcp_retransmit_skb", "tcp_rcv_space_adjust", "tcp_destroy_sock"),
}
"""The tracepoints that kmind's agents hook, by group."""


@dataclass(frozen=True)
class Probe:
    """Result of one probe.

    ``state`` is "ok", "missing" (not there) or "refused" (there, but not for us). ``cause`` is the
    reason and the remedy; if ok, details or "". ``costs`` names the functions of kmind that are
    lost without it. No instance can run without a ``required`` one.
    """

    name: str
    state: State
    cause: str
    costs: str
    required: bool


@dataclass(frozen=True)
class _Try:
    run: Callable[[], str]
    costs: str
    required: bool = False


_NO_AGENTS = "no agent can run"
_NO_ARENA = (
    "little: agent and extension share an array map instead; a record costs slightly more to push, "
    "and on machines with more than 15 CPUs fewer wait for each"
)

# Program and attach types that are only loaded are BPF_PROG_TYPE_* and BPF_CGROUP_*.
_TRIES: Mapping[str, _Try] = {
    "root": _Try(machine.root, "agents, knobs, restore: only the simulator is left", True),
    "capabilities": _Try(machine.capabilities, _NO_AGENTS, True),
    "sandbox_capabilities": _Try(
        machine.sandbox_capabilities, "extensions: no tuning; recording works", True
    ),
    "time_namespace": _Try(machine.time_namespace, _NO_AGENTS, True),
    "pid_namespace": _Try(
        machine.pid_namespace,
        "processes outside it: files that they hold open keep the old readahead, their user ids "
        "may be an extension's too",
    ),
    "libbpf": _Try(machine.libbpf, _NO_AGENTS, True),
    "btf": _Try(machine.btf, _NO_AGENTS, True),
    "lockdown": _Try(
        machine.lockdown, "agents that read kernel memory, the readahead tuner among them"
    ),
    "bpffs": _Try(
        partial(machine.mounted, "bpf", "/sys/fs/bpf"),
        "agents and counters that outlive the process that loaded them",
    ),
    "tracefs": _Try(
        partial(machine.mounted, "tracefs", "/sys/kernel/tracing"), "classic tracepoint programs"
    ),
    "cgroup2": _Try(
        partial(machine.mounted, "cgroup2", "/sys/fs/cgroup"),
        "the sysctl gate (sysctls are only read back); tuning of sockets",
    ),
    "cgroup_controllers": _Try(
        machine.cgroup_controllers,
        "limits of an extension's CPU time, memory or processes; it is watched, not bounded",
    ),
    "landlock": _Try(
        machine.landlock, "the second fence around an extension's files; seccomp still holds"
    ),
    "array_mmap": _Try(
        tries.array_mmap, "memory that agent and extension share: no agent can run", True
    ),
    "arena": _Try(tries.arena, _NO_ARENA),
    "arena_atomics": _Try(tries.arena_atomics, _NO_ARENA),
    "ringbuf": _Try(tries.ringbuf, "doorbell and approved actions: no agent can run", True),
    "syscall": _Try(tries.syscall, "starting and commanding agents: no agent can run", True),
    "bpf_timer": _Try(tries.bpf_timer, "watchdog and admission when idle: no agent can run", True),
    "tp_btf": _Try(tries.tp_btf, "the hooks of agents: no agent can run", True),
    "raw_tp": _Try(tries.raw_tp, "hooks on tracepoints that have no types"),
    "tracepoint": _Try(tries.tracepoint, "hooks on classic tracepoints"),
    "perf_event": _Try(tries.perf_event, "sampling agents"),
    "iter_task": _Try(partial(tries.iterator, "task"), "accounts of processes in bpffs"),
    "iter_task_file": _Try(partial(tries.iterator, "task_file"), "finding who has a file open"),
    "iter_map_elem": _Try(
        tries.map_iterator, "accounts that cat shows: /sys/fs/bpf/kmind/stats and instances/NAME"
    ),
    "sockops": _Try(partial(tries.loads, 13, 3), "tuning of TCP connections"),
    "cgroup_sysctl": _Try(partial(tries.loads, 23, 18), "the gate: sysctls are only read back"),
    "cgroup_sockopt": _Try(partial(tries.loads, 25, 22), "the gate that guards socket options"),
    "fentry": _Try(
        tries.fentry,
        "hooks at functions where a tracepoint is missing: readahead before Linux 6.11",
    ),
    "lsm": _Try(
        tries.lsm,
        "the gate for files in /sys: they are read back, and yielded to other writers",
    ),
    "struct_ops": _Try(tries.struct_ops, "congestion controls and schedulers as modules"),
    "kprobe": _Try(tries.kprobe, "nothing that kmind uses"),
    "pidfd_getfd": _Try(machine.pidfd_getfd, "changing the sockets of a running process"),
    **{
        f"tp_{group}": _Try(partial(machine.tracepoints, members), costs)
        for (group, members), costs in zip(
            TRACEPOINTS.items(),
            (
                "nothing where fentry works; elsewhere some features of the readahead tuner",
                "nothing where fentry works; elsewhere the readahead tuner",
                "device features of the readahead tuner; block tuners",
                "accounts of block drivers, and the watch over requests that they leave unanswered",
                "writeback tuners",
                "memory tuners; the memory guard of tuners",
                "the guard against running out of memory",
                "scheduling features",
                "network tuners",
            ),
            strict=True,
        )
    },
    "clang": _Try(machine.clang, "building modules from source; built ones run without"),
    "bpftool": _Try(machine.bpftool, "nothing; it helps people to inspect programs"),
}


def names() -> tuple[str, ...]:
    """The names of all probes, in order."""
    return tuple(_TRIES)


def probe(name: str) -> Probe:
    """Try one thing. Never raises, but for a name that is none: KeyError."""
    attempt = _TRIES[name]
    state: State = "ok"
    try:
        cause = attempt.run()
    except PrivilegeError as error:
        state, cause = "refused", str(error)
    except (KmindError, OSError) as error:
        state, cause = "missing", str(error)
    return Probe(name, state, cause, attempt.costs, attempt.required)


def probe_all() -> list[Probe]:
    """Try everything, in order. Takes about a second."""
    return [probe(name) for name in _TRIES]


def facts() -> dict[str, str | int]:
    """Return basic facts: kernel release, machine, number of CPUs, memlock limit in bytes."""
    system = os.uname()
    return {
        "kernel": system.release,
        "machine": system.machine,
        "cpus": os.cpu_count() or 1,
        "memlock_bytes": resource.getrlimit(resource.RLIMIT_MEMLOCK)[0],
    }
