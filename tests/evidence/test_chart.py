# SPDX-License-Identifier: Apache-2.0
"""The chart of a stored experiment: it fits, says the verdict, and shows each block."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmind.errors import UsageError
from kmind.evidence import Design, Experiment
from kmind.evidence.chart import render_experiment


def stored(effect, *, sigma=0.05, seed=0, gap=-1, **design):
    rng = np.random.default_rng(seed)
    experiment = Experiment(Design(**design), rng)
    while experiment.outcome is None:
        value = (
            1000 * math.exp(rng.normal(0, sigma)) * (effect if experiment.arm == "candidate" else 1)
        )
        experiment.learn_one(None if len(experiment.blocks) == gap else value)
    return json.loads(json.dumps(experiment.to_dict()))


def test_it_says_what_came_out_and_what_was_said_beforehand():
    one = stored(1.5)
    text = render_experiment(one, width=200, unit="pages/s")
    assert text.startswith(f"gain: {one['reason']}\n")
    assert f"gains of {100 * (one['detectable'] - 1):.2g}% and more are detected" in text
    assert "blocks, pages/s:" in text
    assert "pair 3" in text
    assert f"pair {one['interval']['pairs']}" in text


def plot_of_blocks(text):
    """The rows of the upper plot, from the top."""
    lines = text.splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("blocks")) + 1
    return lines[first : first + 9]


def test_a_block_has_a_mark_of_its_arm():
    one = stored(1.5, sigma=0.01, gap=9)
    plot = "".join(plot_of_blocks(render_experiment(one)))
    arms = [arm for arm, value in one["blocks"][one["calibration"] :] if value is not None]
    assert plot.count("●") == arms.count("candidate")
    assert plot.count("○") == arms.count("incumbent")
    assert plot.count("·") == one["calibration"]
    assert plot.count("?") == 1


def test_the_better_arm_stands_above():
    plot = plot_of_blocks(render_experiment(stored(1.5, sigma=0.01)))
    rows = {mark: [row for row, line in enumerate(plot) if mark in line] for mark in "●○"}
    assert max(rows["●"]) < min(rows["○"])


def test_many_blocks_share_columns():
    text = render_experiment(stored(1, max_s=120), width=50)
    assert "◐" in "".join(plot_of_blocks(text))


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from([1, 1.1, 0.9, 40, 0.1, 0.0]),
    st.integers(20, 200),
    st.booleans(),
    st.integers(0, 30),
)
def test_it_fits(effect, width, ascii, gap):
    text = render_experiment(stored(effect, gap=gap), width=width, ascii=ascii)
    assert all(len(line) <= max(width, 40) for line in text.splitlines())
    assert text.isascii() or not ascii


def test_one_that_has_not_begun_or_ended_has_a_chart_too():
    experiment = Experiment(Design(), np.random.default_rng(0))
    text = render_experiment(experiment.to_dict())
    assert "no verdict: it has not ended yet" in text
    assert "the noise was not known before" in text
    experiment.learn_one(5.0)
    assert "blocks" in render_experiment(experiment.to_dict())


@pytest.mark.parametrize("wrong", [{}, {"design": 5}, {**stored(3), "blocks": 7}])
def test_what_is_no_experiment_is_refused(wrong):
    with pytest.raises(UsageError, match="not a stored experiment"):
        render_experiment(wrong)
