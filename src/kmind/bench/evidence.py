# SPDX-License-Identifier: Apache-2.0
"""Measure how often experiments keep what they should, and what they should not.

The simulated part runs whole experiments on made-up noise, family by family: without an effect
(A/A), with a planted gain of 5%, and with a planted loss of 5%. Seeds are fixed. Shares stand
beside their 95% interval (Wilson 1927).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from kmind.bench._adversary import run_adversary
from kmind.bench._noise import FAMILIES, SIGMA, Family, Floats
from kmind.bench._options import DIR
from kmind.bench._real import LOADS, real_aa
from kmind.bench._results import Share, describe_machine
from kmind.bench._rivals import mixture_t_keeps, peeking_t_keeps
from kmind.command import Flag, Option
from kmind.errors import NotSupportedError, PrivilegeError, UsageError
from kmind.evidence import Design, Experiment
from kmind.workloads.disk import DEFAULT_DIR

__all__ = ["OPTIONS", "SCHEMA", "run_evidence_bench"]

OPTIONS: tuple[Option | Flag, ...] = (
    DIR,
    Flag("adversary", "only 200 simulated hours of hostile extensions"),
    Option(
        "real",
        "with --adversary: attack for this time on the real kernel instead",
        float,
        metavar="SECONDS",
    ),
)
"""Options of its own, besides --quick and --json."""

SCHEMA = "kmind.bench.evidence/1"

_GAIN, _LOSS = 1.05, 0.95
# Noise of a pair, and seconds that an experiment may take.
_NOISES = ((0.02, 60), (0.05, 60), (0.1, 60), (0.2, 60), (0.1, 15), (0.1, 240))
_GROSS = (1.5, 3.0, 10.0)
_LEVEL = 1000.0
_SEED = 2026  # first used for what is published; strengths and rules were chosen with others


def run_evidence_bench(
    *,
    quick: bool = False,
    dir: Path = DEFAULT_DIR,
    adversary: bool = False,
    real: float | None = None,
) -> dict[str, Any]:
    """Simulate and measure; the object that ``kmind bench evidence --json`` prints.

    With ``adversary`` hostile extensions attack instead: simulated, or for ``real`` seconds on the
    real kernel (`kmind.bench._adversary`).

    ``aa_runs`` counts simulated and real runs, ``aa_runs_real`` the real ones, which need root;
    ``real_lacks`` says why there are none. ``dir`` keeps the files that they read.
    """
    if adversary:
        return run_adversary(hours=4.0 if quick else 200.0, real_s=real, dir=dir)
    if real is not None:
        raise UsageError("--real is of the adversary", hint="add --adversary")
    runs = 40 if quick else 400
    result: dict[str, Any] = {"schema": SCHEMA, "quick": quick, "machine": describe_machine()}
    measured, lacks = _real(dir, quick=quick)
    families, courses, rivals = [], [], []
    for number, (name, family) in enumerate(FAMILIES.items()):
        series = [_series(family, number, run) for run in range(3 * runs)]
        aa = [_run(one, 1.0, (number, run)) for run, one in enumerate(series[:runs])]
        up = [_run(one, _GAIN, (number, run)) for run, one in enumerate(series[runs : 2 * runs])]
        down = [_run(one, _LOSS, (number, run)) for run, one in enumerate(series[2 * runs :])]
        families.append(_family(name, aa, up, down))
        courses.append(_course(name, aa, up, down))
        rivals.append({"name": name} | _rivals(series[:runs], series[runs : 2 * runs]))
    result |= _total("aa_false_keep", families, runs, extra=measured)
    result |= {"aa_runs": runs * len(families) + len(measured), "aa_runs_real": len(measured)}
    result |= {"real_lacks": lacks, "real": [_real_row(n, one) for n, one in enumerate(measured)]}
    if measured:
        result |= _share("aa_false_keep_real", measured).as_json()
    result |= _total("gain_kept", families, runs) | _total("loss_kept", families, runs)
    result |= {"families": families, "courses": courses, "rivals": rivals}
    result["noise"] = [
        _at_noise(number, sigma, seconds, runs // 2)
        for number, (sigma, seconds) in enumerate(_NOISES)
    ]
    result["gross"] = [_gross(effect, runs // 4) for effect in _GROSS]
    return result


def _real(dir: Path, *, quick: bool) -> tuple[list[Experiment], str]:
    # A/A experiments on the real kernel, or why there are none.
    try:
        return real_aa(4 if quick else 40, dir), ""
    except (PrivilegeError, NotSupportedError) as error:
        return [], str(error)


def _real_row(number: int, experiment: Experiment) -> dict[str, Any]:
    sigma = experiment.noise.sigma
    return {
        "load": LOADS[number % len(LOADS)],
        "outcome": experiment.outcome,
        "sigma": None if sigma is None else round(sigma, 3),
        "detectable": _round(experiment.detectable),
        "pairs": experiment.pairs,
        "seconds": round(_duration(experiment), 1),
    }


def _series(family: Family, number: int, run: int) -> Floats:
    blocks: Floats = _LEVEL * np.exp(
        family(np.random.default_rng((_SEED, number, run)), Design().max_blocks)
    )
    return blocks


def _run(
    blocks: Floats, effect: float, seed: tuple[int, int], design: Design | None = None
) -> Experiment:
    # From nothing: the first blocks are A/A, and count towards the time.
    rng = np.random.default_rng((_SEED + 1, *seed))
    experiment = Experiment(design or Design(), rng)
    for value in blocks.tolist():
        experiment.learn_one(value * effect if experiment.arm == "candidate" else value)
        if experiment.outcome is not None:
            return experiment
    raise AssertionError("an experiment outlived its time")


def _share(name: str, experiments: Iterable[Experiment], outcome: str = "gain") -> Share:
    outcomes = [experiment.outcome for experiment in experiments]
    return Share(name, outcomes.count(outcome), len(outcomes))  # type: ignore[arg-type]


def _seconds(experiments: Iterable[Experiment]) -> float:
    return round(float(np.median([_duration(one) for one in experiments])), 1)


def _duration(experiment: Experiment) -> float:
    return len(experiment.blocks) * experiment.design.period_s


def _family(
    name: str, aa: list[Experiment], up: list[Experiment], down: list[Experiment]
) -> dict[str, Any]:
    sigmas = [experiment.noise.sigma or math.nan for experiment in aa]
    said = [experiment.detectable for experiment in aa]
    row: dict[str, Any] = {"name": name}
    row |= {"sigma": round(float(np.median(sigmas)), 3), "detectable": _round(np.median(said))}
    for share in (
        _share("aa_false_keep", aa),
        _share("gain_kept", up),
        _share("loss_kept", down),
    ):
        row |= share.as_json()
    return row


def _course(
    name: str, aa: list[Experiment], up: list[Experiment], down: list[Experiment]
) -> dict[str, Any]:
    # Durations in seconds (medians), and the number ended by a guard.
    kept = [experiment for experiment in up if experiment.outcome == "gain"]
    row: dict[str, Any] = {"name": name}
    row |= _share("aborted", [*aa, *up, *down], "aborted").as_json()
    row |= {"aa_s": _seconds(aa), "gain_s": _seconds(kept) if kept else None}
    return row | {"loss_s": _seconds(down)}


def _total(
    name: str, families: list[dict[str, Any]], runs: int, extra: Iterable[Experiment] = ()
) -> dict[str, float]:
    more = _share(name, extra)
    count = more.count + sum(round(row[name] * runs) for row in families)
    return Share(name, count, more.of + runs * len(families)).as_json()


def _rivals(aa: list[Floats], up: list[Floats]) -> dict[str, float]:
    # The arms take turns, as without a coin; the whole time is used.
    level = Design().keep_level

    def pairs(blocks: Floats) -> Floats:
        skip = Design().calibration
        differences: Floats = np.diff(np.log(blocks[skip:]).reshape(-1, 2), axis=1)[:, 0]
        return differences

    null = [pairs(blocks) for blocks in aa]
    gain = [pairs(blocks) + math.log(_GAIN) for blocks in up]
    row: dict[str, float] = {}
    for name, keeps in (
        ("peeking_false_keep", [peeking_t_keeps(one) for one in null]),
        ("mixture_t_false_keep", [mixture_t_keeps(one, level) for one in null]),
        ("mixture_t_gain_kept", [mixture_t_keeps(one, level) for one in gain]),
    ):
        row[name] = round(sum(keeps) / len(keeps), 4)
    return row


def _at_noise(number: int, sigma: float, seconds: float, runs: int) -> dict[str, Any]:
    # Each run plants the gain that it said beforehand it could find.
    design = Design(max_s=seconds)
    said, found = [], []
    for run in range(runs):
        rng = np.random.default_rng((_SEED + 2, number, run))
        blocks = _LEVEL * np.exp(FAMILIES["normal"](rng, design.max_blocks) * sigma / SIGMA)
        said.append(_run(blocks, 1.0, (number, run), design).detectable)
        found.append(_run(blocks, said[-1], (number, run), design))
    row = {"sigma": sigma, "max_s": seconds, "detectable": _round(np.median(said))}
    return row | _share("found", found).as_json()


def _gross(effect: float, runs: int) -> dict[str, Any]:
    # Of normal noise; a loss of the same size is cut by the guard on the outcome.
    gains, cuts = [], []
    for run in range(runs):
        blocks = _series(FAMILIES["normal"], 99, run)
        gains.append(_run(blocks, effect, (99, run)))
        cuts.append(_run(blocks, 1 / effect, (99, run)))
    row = {"effect": effect, **_share("kept", gains).as_json()}
    row["pairs"] = float(np.median([gain.pairs for gain in gains]))
    row["pairs_most"] = max(gain.pairs for gain in gains)
    row["loss_kept"] = _share("", cuts).value
    row["loss_candidate_blocks"] = max(
        [arm for arm, _ in cut.blocks].count("candidate") for cut in cuts
    )
    return row


def _round(ratio: Any) -> float | None:
    return round(float(ratio), 3) if math.isfinite(ratio) else None
