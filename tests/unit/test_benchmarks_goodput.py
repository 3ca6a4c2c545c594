"""The simulation of `benchmarks.goodput` against formulas, and its books."""

import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.cores import ROOT
from benchmarks.goodput import crowd, edf, published, queues, shares, tables, turns
from benchmarks.goodput.policies.common import Fixed
from benchmarks.goodput.policies.gslice2020 import gslice2020
from benchmarks.goodput.policies.oracle import STEPS, capacities, even, most
from benchmarks.goodput.policies.slo import slo
from benchmarks.goodput.report import figures
from benchmarks.goodput.scene import Grant
from benchmarks.goodput.simulate import LOOK_US, PREPARE_US, Run, run, setting
from benchmarks.goodput.state import (
    ANSWERED,
    ARRIVED,
    EXPIRED,
    LATE,
    QUEUE_MAX,
    SHED,
    Server,
    fresh,
    with_servers,
)
from benchmarks.goodput.traffic import CELL_US, MMPP, POISSON, arrivals_us
from benchmarks.goodput.workloads import Asked, Workload, workloads

SERVICE_US = 1000.0
LONG_US = 1e12
PLACES = round(100 / tables.STEP_PERCENT) + 1
ADVANCES = {
    "shares": shares.advance,
    "edf": edf.advance,
    "turns": turns.advance,
    "crowd": crowd.advance,
}


def queue(arrivals, *, functions=1, rows_max=1, noise=0.0, slo_us=1e9, expire_us=1e9, device=None):
    """Functions on one device whose batches take `SERVICE_US`, or that by share with `device`."""
    time_us = np.full(PLACES, SERVICE_US)
    if device == "divisible":
        time_us = SERVICE_US * (PLACES - 1) / np.maximum(np.arange(PLACES), 1)
    state = fresh(
        [np.asarray(times, float) for times in arrivals],
        np.full(functions, slo_us),
        np.full(functions, expire_us),
        [np.tile(time_us, (tables.ROWS_MAX + 1, 1))] * functions,
        np.zeros((functions, functions)),
        devices=1,
        windows=1,
        window_us=1.0,
        noise=noise,
    )
    state.limits[:, 0] = rows_max
    servers = [Server(i, 0, 100.0, PLACES - 1, rows_max) for i in range(functions)]
    return with_servers(state, servers, 0.0)


def poisson(rate_per_us, count, seed=0):
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate_per_us, count))


def mean_us(state):
    return state.batches[:, 3].sum() / state.counts[..., ANSWERED].sum()


# ---- formulas --------------------------------------------------------------------------------


@pytest.mark.parametrize("utilisation", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("service", ADVANCES)
def test_one_server_waits_as_in_m_d_1(service, utilisation):
    state = queue([poisson(utilisation / SERVICE_US, 100_000)])
    ADVANCES[service](state, 0.0, LONG_US)
    expected_us = SERVICE_US * (1 + utilisation / (2 * (1 - utilisation)))
    assert mean_us(state) == pytest.approx(expected_us, rel=0.04)


@pytest.mark.parametrize("service", ADVANCES)
def test_noisy_batches_wait_as_pollaczek_and_khinchine_say(service):
    sigma, utilisation = 0.8, 0.6
    mean = SERVICE_US * np.exp(sigma**2 / 2)
    state = queue([poisson(utilisation / mean, 300_000)], noise=sigma)
    queues.seed(1)
    ADVANCES[service](state, 0.0, LONG_US)
    expected_us = mean * (1 + utilisation * np.exp(sigma**2) / (2 * (1 - utilisation)))
    assert mean_us(state) == pytest.approx(expected_us, rel=0.06)


def test_a_crowd_on_a_divisible_device_is_processor_sharing():
    utilisation, functions = 0.6, 20
    rate = utilisation / SERVICE_US / functions
    arrivals = [poisson(rate, 3000, seed) for seed in range(functions)]
    state = queue(arrivals, functions=functions, device="divisible")
    crowd.advance(state, 0.0, LONG_US)
    assert mean_us(state) == pytest.approx(SERVICE_US / (1 - utilisation), rel=0.1)


def test_turns_go_round():
    """Everybody is always waiting: each gets a third, whoever asks most."""
    arrivals = [np.linspace(0, 1, count) for count in (200, 100, 50)]
    state = queue(arrivals, functions=3)
    turns.advance(state, 0.0, 90.5 * SERVICE_US)
    assert state.batches[:, 0] == pytest.approx([31, 30, 30], abs=1)


def over_committed(arrivals, *, shares_percent, slos_us):
    """Functions on one device that take turns; batches take `SERVICE_US`."""
    state = queue(arrivals, functions=len(arrivals))
    state.slo_us[:] = slos_us
    state.share[:] = shares_percent
    state.at_once[:] = 100.0
    edf.advance(state, 0.0, LONG_US)
    return state.begun_us.tolist()


def test_turns_are_taken_by_deadline_and_nobody_passes_the_head():
    # The wide one is due first of those that wait, so the narrow one waits although it would fit.
    begun = over_committed([[0.0], [1.0], [2.0]], shares_percent=[60, 60, 30], slos_us=[9, 10, 50])
    assert begun == [0.0, SERVICE_US, SERVICE_US]
    begun = over_committed([[0.0], [1.0], [2.0]], shares_percent=[60, 60, 30], slos_us=[9, 50, 10])
    assert begun == [0.0, SERVICE_US, 2.0]


def test_what_runs_at_once_never_passes_the_limit():
    rng = np.random.default_rng(2)
    state = queue([poisson(2e-4, 3_000, seed) for seed in range(4)], functions=4)
    state.share[:] = [60, 50, 40, 20]
    state.at_once[:] = 100.0
    now_us, running = 0.0, []
    while now_us < 3e6:
        until_us = now_us + rng.exponential(SERVICE_US / 3)
        edf.advance(state, now_us, until_us)
        now_us = until_us
        running.append(state.share[state.free_us > now_us].sum())
    assert max(running) == 100
    assert len(set(running)) > 6


def test_without_turns_it_is_service_by_shares():
    answers = []
    for advance in (edf.advance, shares.advance):
        state = queue([poisson(3e-4, 2_000, seed) for seed in range(3)], functions=3, rows_max=4)
        advance(state, 0.0, LONG_US)
        answers.append(state.batches.tolist())
    assert answers[0] == answers[1]


def test_batches_fill_up_to_their_limit_and_wait_for_their_delay():
    state = queue([[0.0, 10.0, 20.0, 30.0, 5000.0]], rows_max=3)
    shares.advance(state, 0.0, LONG_US)
    assert state.sizes[0, :4].tolist() == [0, 2, 0, 1]  # 1, then 3 that waited, then 1
    delayed = queue([[0.0, 10.0, 20.0, 30.0, 5000.0]], rows_max=3)
    delayed.limits[0, 1] = 100.0
    shares.advance(delayed, 0.0, LONG_US)
    assert delayed.sizes[0, :4].tolist() == [0, 2, 0, 1]  # 3 at 20 us, then 1, then 1
    assert delayed.batches[0, 3] == (1020 + 1010 + 1000) + 1990 + 1100


def test_neighbours_slow_down_who_begins_beside_them():
    state = queue([[0.0], [10.0]], functions=2)
    state.coupling[1, 0] = 0.002  # for each percent
    shares.advance(state, 0.0, LONG_US)
    assert state.batches[:, 2].tolist() == [SERVICE_US, SERVICE_US * 1.2]


# ---- books -----------------------------------------------------------------------------------


def test_who_would_be_late_is_turned_away_at_once():
    state = queue([np.arange(1000.0)], rows_max=4, slo_us=3 * SERVICE_US)
    state.limits[0, 2] = 3 * SERVICE_US
    state.estimate_us[0] = SERVICE_US
    shares.advance(state, 0.0, LONG_US)
    counts = state.counts[0, 0]
    assert counts[LATE] == 0
    assert counts[ANSWERED] == 1000 - counts[SHED] == 1 + 4 + 4


def test_a_queue_has_its_places_and_clients_give_up():
    state = queue([np.arange(1000.0)], expire_us=10 * SERVICE_US)
    shares.advance(state, 0.0, LONG_US)
    counts = state.counts[0, 0]
    assert counts[SHED] == 1000 - 1 - QUEUE_MAX
    assert counts[ANSWERED] == pytest.approx(11, abs=1)
    assert counts[EXPIRED] == 1000 - counts[SHED] - counts[ANSWERED]


def crowded(load=1.0, seconds=8.0, bursts=MMPP):
    asked = (Asked("a", "resnet50", 25, 900 * load), Asked("b", "vgg19", 30, 500 * load))
    return Workload("crowded", "overload", "A100", 1, asked, seconds, bursts, ((0.0, 1.0),))


@pytest.mark.parametrize("load", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("service", ADVANCES)
def test_every_request_has_one_end(service, load):
    given = setting(crowded(load), seed=1)
    plan = {"a": [Grant("sim:0", 50.0, 8)], "b": [Grant("sim:0", 50.0, 4)]}
    ran = run(given, lambda _: Fixed("fixed", service, plan))
    counts = ran.counts.sum(axis=0)
    assert counts[:, ARRIVED].tolist() == [len(times) for times in given.arrivals]
    assert (counts[:, ARRIVED] == counts[:, [ANSWERED, SHED, EXPIRED]].sum(axis=1)).all()
    assert ran.busy_us.sum() <= (8.0 + 2) * 1e6


@pytest.mark.parametrize("make", [slo, gslice2020])
def test_a_seed_decides_everything(make):
    first, again, other = (run(setting(crowded(), seed), make) for seed in (1, 1, 2))
    assert (first.counts == again.counts).all()
    assert first.resizes == again.resizes
    assert (first.counts != other.counts).any()


class Grows:
    """Changes one share after a second."""

    name, service, prepared_us, looks = "grows", "shares", None, 4

    def start(self):
        return {"a": [Grant("sim:0", 20.0, 8)], "b": [Grant("sim:0", 50.0, 4)]}

    def decide(self, seen):
        self.seen = seen
        return {"a": [Grant("sim:0", 50.0, 8)]}


def test_a_share_changes_once_when_it_is_prepared():
    policy = Grows()
    ran = run(setting(crowded(bursts=POISSON), seed=1), lambda _: policy)
    assert ran.resizes == 1
    assert policy.seen.granted["a"][0].share_percent == 50.0
    late = ran.counts[:, 0, LATE] + ran.counts[:, 0, SHED]
    before, after = round((1e6 + PREPARE_US) / LOOK_US), round(6e6 / LOOK_US)
    assert late[:before].sum() > 100
    assert late[after:].sum() < 20


def test_a_plan_that_gives_away_too_much_is_refused():
    plan = {"a": [Grant("sim:0", 60.0, 8)], "b": [Grant("sim:0", 50.0, 4)]}
    with pytest.raises(ValueError, match="110 % of sim:0"):
        run(setting(crowded(), seed=1), lambda _: Fixed("fixed", "shares", plan))


def test_what_nobody_could_know_is_told_apart():
    workload = Workload("once", "dynamic", "V100", 1, (Asked("a", "vgg19", 40, 100),), 60)
    arrived = np.full(240, 25)
    arrived[100:120] = arrived[160:180] = 100  # two bursts of five seconds
    counts = np.zeros((240, 1, 5), np.int64)
    counts[:, 0, ARRIVED] = arrived
    counts[:, 0, ANSWERED] = np.where(arrived == 100, 90, 25)
    told = figures(workload, Run(counts, np.zeros((240, 1)), 0, 0.0, 60.0))
    requests = arrived[40:].sum()
    assert told["violation_pct"] == pytest.approx(100 * 400 / requests)
    assert told["unforeseen_violation_pct"] == pytest.approx(100 * 150 / requests)


def test_figures_leave_warm_ups_out():
    workload = crowded(0.3)
    plan = {"a": [Grant("sim:0", 50.0, 8)], "b": [Grant("sim:0", 50.0, 4)]}
    given = setting(workload, seed=1)
    ran = run(given, lambda _: Fixed("fixed", "shares", plan))
    told = figures(workload, ran)
    assert told["requests"] == sum(int((times >= 1e6).sum()) for times in given.arrivals)
    assert told["goodput_rps"] * 7 == pytest.approx(
        told["requests"] * (1 - told["violation_pct"] / 100)
    )


# ---- tables, traffic, oracle -----------------------------------------------------------------


@pytest.mark.parametrize("model", published.V100)
def test_the_fitted_form_meets_what_was_measured(model):
    k1, k2, k3, k5, k4 = tables.v100_form(model)
    for rows, line in zip(published.V100_ROWS, published.V100[model].batch_ms, strict=True):
        for share, ms in zip(published.V100_SHARES_PERCENT, line, strict=True):
            form_ms = (k1 * rows**2 + k2 * rows + k3) / (share + k4) + k5
            assert form_ms == pytest.approx(ms, rel=0.07)


TABLES = [("A100", model) for model in published.A100_MS]
TABLES += [("V100", model) for model in published.V100]


@pytest.mark.parametrize(("gpu", "model"), TABLES)
def test_more_rows_take_longer_and_more_share_hardly_ever_does(gpu, model):
    table = tables.table_us(gpu, model)[1:, 1:]
    assert (np.diff(table, axis=0) >= -0.04 * table[:-1]).all()
    assert (np.diff(table, axis=1) <= 0.06 * table[:, :-1]).all()


def test_interpolation_goes_through_the_points():
    table = tables.table_us("A100", "vgg19")
    for rows, line in zip(published.A100_ROWS, published.A100_MS["vgg19"], strict=True):
        for share, ms in zip(published.A100_SHARES_PERCENT, line, strict=True):
            assert table[rows, tables.index(share)] == pytest.approx(1e3 * ms)


@pytest.mark.parametrize("bursts", [POISSON, MMPP])
def test_bursts_keep_the_mean_rate_and_widen_the_counts(bursts):
    cells = round(2000e6 / CELL_US)
    times = arrivals_us(np.full(cells, 100.0), bursts, np.random.default_rng(0))
    seconds = np.histogram(times, np.arange(0, 2001) * 1e6)[0]
    assert seconds.mean() == pytest.approx(100, rel=0.03)
    dispersion = seconds.var() / seconds.mean()
    assert dispersion == pytest.approx(1, rel=0.1) if bursts is POISSON else dispersion > 3


def test_dynamic_programming_beats_every_other_division():
    rng = np.random.default_rng(0)
    able = np.cumsum(rng.random((3, STEPS + 1)), axis=1)
    able[:, 0] = 0
    rates = np.array([4.0, 9.0, 20.0])
    steps = most(able, rates)
    served = np.minimum(able[range(3), steps], rates).sum()
    others = [
        np.minimum([able[0, i], able[1, j], able[2, STEPS - i - j]], rates).sum()
        for i in range(1, STEPS - 1)
        for j in range(1, STEPS - i)
    ]
    assert steps.sum() <= STEPS
    assert served == pytest.approx(max(others))


def test_even_division_gives_everybody_the_same_room():
    able = np.outer([100.0, 200.0], np.arange(STEPS + 1))
    assert even(able, np.array([1000.0, 2000.0])).tolist() == [20, 20]
    assert even(able, np.array([3000.0, 3000.0])) is None


def test_more_share_serves_more():
    rates, batches = capacities("A100", "vgg19", 30e3, 0.002)
    assert (np.diff(rates) >= 0).all()
    assert rates[-1] > 500
    assert batches[-1] > batches[4]


def test_workloads_have_what_the_benchmark_needs():
    named = workloads()
    assert len(named["twelve"].functions) == 12
    assert len(named["hour"].functions) == 60
    assert named["hour"].devices == 8
    requests = sum(named["hour"].rates_per_s(f).sum() for f in named["hour"].functions)
    assert requests * CELL_US / 1e6 > 20e6


def test_every_output_says_that_it_is_a_simulation(tmp_path):
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "benchmarks.goodput", "--quick", "--json", str(out)]
    command += ["--workloads", "pair", "--policies", "slo", "equal", "oracle"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    written = json.loads(out.read_text())
    assert "simulation" in shown
    assert "simulation" in written["question"]
    assert written["settings"]["mode"] == "simulation"
    rows = {row["policy"]: row for row in written["rows"]}
    assert {row["mode"] for row in rows.values()} == {"simulation"}
    assert rows["oracle"]["oracle_ratio"] == 1.0
    assert rows["equal"]["goodput_rps"] > 0
    assert written["command"].startswith("python -m benchmarks.goodput --quick")
