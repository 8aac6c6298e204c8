"""The model's arithmetic, and what follows from it, on numbers made up."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastload.meter import STAGES, Meter
from fastload.profile.advice import Advice, Tried
from fastload.profile.capacity import Capacity, Scaling, fit, steady_rates, thread_counts
from fastload.profile.ladder import Rung
from fastload.profile.measuring import Run
from fastload.profile.model import Model, model_of
from fastload.profile.suspects import Crowd, SlowShard
from fastload.profile.verdict import Trial, judge

shares = st.floats(0, 0.5)


def model(threads: int = 1, cpu_ms: float = 0.0, waiting_ms: float = 0.0, cores: int = 4, **stage_ms: float) -> Model:
    made = Model(
        rows=10,
        stage_ms={name: stage_ms.get(name, 0.0) for name in STAGES},
        cpu_ms=cpu_ms,
        batch_ms=1.0,
        waiting_ms=waiting_ms,
        threads=threads,
        cores=cores,
    )
    return replace(made, batch_ms=made.predict_ms())


@given(shares, st.floats(0, 0.05), st.floats(1, 1e6))
def test_the_fit_finds_the_law_that_made_the_numbers(contention: float, coherency: float, first: float) -> None:
    law, threads = Scaling(contention=contention, coherency=coherency), [1, 2, 4, 8, 16]
    found = fit(threads, [first * law.speedup(n) for n in threads])
    assert found.contention == pytest.approx(contention, abs=1e-6)
    assert found.coherency == pytest.approx(coherency, abs=1e-6)


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=5))
def test_a_fit_is_never_negative_and_one_thread_is_one(rates: list[float]) -> None:
    found = fit([1, 2, 4, 8, 16][: len(rates)], rates)
    assert found.contention >= 0
    assert found.coherency >= 0
    assert found.speedup(1) == 1


def test_two_numbers_of_threads_give_contention_alone() -> None:
    assert fit([1, 2], [100.0, 160.0]) == Scaling(contention=pytest.approx(0.25))
    assert fit([1], [100.0]) == Scaling()
    assert fit([1, 2], [100.0, 230.0]) == Scaling(), "better than linear is noise"
    assert fit([1, 2], [100.0, 60.0]) == Scaling(contention=1.0), "and so is worse than one thread"


def test_beyond_its_best_a_law_falls() -> None:
    law = Scaling(contention=0.1, coherency=0.01)
    assert law.best_threads == pytest.approx(90**0.5)
    assert law.speedup(8) < law.speedup(9) > law.speedup(12)


def test_a_machine_whose_speed_changes_from_round_to_round_gives_the_ratios_that_it_would_give_at_rest() -> None:
    rounds = [{n: speed * 100 * n / (1 + 0.1 * (n - 1)) for n in (1, 2, 4)} for speed in (1.0, 0.3, 0.6, 1.0, 0.4)]
    rounds[1][4] = 1e6  # something else altogether, once
    found = steady_rates(rounds)
    assert found == pytest.approx({1: 60, 2: 60 * 2 / 1.1, 4: 60 * 4 / 1.3})
    assert fit(tuple(found), tuple(found.values())).contention == pytest.approx(0.1)


def test_threads_are_tried_in_powers_of_two_up_to_the_cores() -> None:
    assert [thread_counts(n) for n in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]


def test_the_slower_side_is_what_a_batch_takes() -> None:
    one = model(threads=2, read=4, decode=36, assemble=1, augment=5, step=9)
    assert (one.threads_ms(), one.consumer_ms(), one.predict_ms()) == (20, 15, 20)
    assert one.predict_ms(4) == 15
    assert one.predict_ms(0) == 55
    assert one.rate(4) == pytest.approx(10 / 0.015)
    assert replace(one, cpu_ms=200).predict_ms(4) == 50, "four cores cannot do 200 ms of work in less"


def test_a_stage_takes_the_time_of_torchs_own_threads_along_when_it_goes() -> None:
    step = model(threads=8, cores=8, cpu_ms=4080, decode=80, step=500)  # of which 8 threads of torch do 4,000
    assert judge(step).loader_alone == pytest.approx(1000), "80 ms of decoding by 8 threads for 10 samples"
    assert step.changed({"decode": 0.5}).cpu_ms == 4040, "decoding takes none along"
    both = model(threads=8, cores=8, cpu_ms=1680, decode=80, augment=100, step=100)
    assert both.changed({"augment": 0.5}).cpu_ms == pytest.approx(1680 - 50 - 0.25 * 1400)


def test_threads_that_contend_bring_less() -> None:
    one = replace(model(threads=1, decode=40, step=1), scaling=Scaling(contention=0.5))
    assert one.threads_ms(2) == pytest.approx(30)
    two = replace(model(threads=2, decode=60, step=1), scaling=Scaling(contention=0.5))
    assert two.threads_ms(1) == pytest.approx(40), "what was measured with two threads is more than one would need"


@pytest.mark.parametrize("slow", ["read", "decode", "assemble", "copy", "augment", "step"])
@pytest.mark.parametrize("threads", [0, 1, 3])
def test_the_slow_stage_limits(slow: str, threads: int) -> None:
    verdict = judge(model(threads=threads, **{**dict.fromkeys(STAGES, 1.0), slow: 30.0}))
    assert verdict.limit == slow
    assert verdict.behind != slow
    expected = "your step limits: the loader keeps up" if slow == "step" else f"{slow} limits"
    assert verdict.sentence.startswith(expected)


def test_what_lies_behind_may_be_on_the_other_side() -> None:
    verdict = judge(model(threads=2, read=4, decode=36, augment=5, step=9, waiting_ms=11.0))
    assert (verdict.limit, verdict.behind) == ("decode", "step")
    assert verdict.waiting_share == pytest.approx(0.55)
    assert verdict.loader_alone == pytest.approx(verdict.predicted)


def test_more_threads_are_advised_up_to_what_the_step_can_take() -> None:
    (advice,) = judge(model(threads=1, cpu_ms=40, decode=40, step=12)).advice
    assert advice.change == "num_workers=4, from 1"
    assert advice.gain == pytest.approx(40 / 12)
    assert advice.samples_per_second == pytest.approx(10 / 0.012)
    assert advice.stage == "decode"


def test_stages_that_use_the_processors_get_no_more_threads_than_cores() -> None:
    assert judge(model(threads=4, cpu_ms=40, decode=40, cores=4)).advice == ()
    (advice,) = judge(model(threads=4, cpu_ms=1, decode=40, cores=4)).advice
    assert advice.change == "num_workers=16, from 4", "they wait for something else"


def test_no_threads_are_advised_for_what_they_cannot_make_faster() -> None:
    assert judge(model(threads=0, decode=40, cpu_ms=40), parallel=False).advice == ()
    assert judge(model(threads=0, decode=40, cpu_ms=40)).advice[0].change == "num_workers=4, from 0"


def test_idle_threads_are_given_back() -> None:
    (advice,) = judge(model(threads=8, decode=40, step=30)).advice
    assert (advice.change, advice.gain) == ("num_workers=2, from 8", 1.0)


def test_prefetching_is_advised_where_batches_are_late_and_threads_fast() -> None:
    verdict = judge(replace(model(threads=2, decode=20, step=20), batch_ms=25, waiting_ms=5), prefetch=2)
    (advice,) = [each for each in verdict.advice if each.gain > 1]
    assert advice.change == "prefetch_factor=4, from 2"
    assert advice.gain == pytest.approx(25 / 20)


def test_augmentation_goes_to_the_gpu_if_there_is_one() -> None:
    slow = model(threads=1, decode=10, augment=40, step=10)
    (there,) = judge(slow, gpu=True).advice
    assert (there.change, dict(there.setting), there.bound) == ('device="cuda"', {"device": "cuda"}, True)
    (advice,) = judge(slow, gpu=False).advice
    assert advice.change == "fewer or cheaper operations"
    assert advice.gain == pytest.approx(5)


def test_a_gpu_that_is_in_the_step_all_the_time_limits_whatever_the_consumer_was_held_up_in() -> None:
    """A step that is only queued takes no time of the host's until the queue is full: then what comes next does."""
    held_up = replace(model(read=1, decode=6, copy=1, augment=12, step=6), on_gpu_ms=19.0)
    found = judge(held_up, device="cuda", gpu=True)
    assert (found.limit, found.behind) == ("step", "augment")
    assert found.advice == ()
    assert found.predicted == pytest.approx(1e4 / 19)
    assert found.loader_alone == pytest.approx(1e4 / 13)
    waiting = replace(held_up, on_gpu_ms=10.0)
    found = judge(waiting, device="cuda", gpu=True)
    assert found.limit == "augment"
    assert found.advice[0].gain == pytest.approx(1.9), "no sooner than the GPU is done"
    assert judge(held_up, device="cuda", gpu=True, stepped=False).limit == "augment"


def test_the_steps_time_on_the_gpu_is_what_does_not_lie_between_steps() -> None:
    run = Run(stats=Meter().stats(), settled=Meter().stats(), wall_seconds=0.02, cpu_seconds=0.0, between_share=0.25)
    assert model_of(run, 1, Scaling()).on_gpu_ms == pytest.approx(15.0)
    assert model_of(replace(run, between_share=None), 1, Scaling()).on_gpu_ms == 0


@pytest.mark.parametrize(("queue_ms", "device_ms", "waits"), [(2.0, 2.02, True), (0.1, 2.0, False), (1.0, None, False)])
def test_work_that_is_done_as_soon_as_it_is_queued_waits_for_the_host(
    queue_ms: float, device_ms: float | None, waits: bool
) -> None:
    stage = Capacity(stage="augment", threads=(1,), rates=(1.0,), cpu_ms=1.0, queue_ms=queue_ms, device_ms=device_ms)
    assert stage.waits_for_host is waits


def test_trials_count_only_where_they_bring_something() -> None:
    trial = Trial(change="pack anew", why="tried", factor=0.5)
    gains = {a.change: a.gain for a in judge(model(threads=4, decode=80, cpu_ms=80), trials=[trial]).advice}
    assert gains == {"pack anew": pytest.approx(2)}
    assert judge(model(threads=1, decode=10, step=30), trials=[trial]).advice == ()


def test_a_trial_of_reading_changes_reading_and_may_be_a_bound() -> None:
    trial = Trial(change="lanes=4", why="worked out", factor=0.25, stage="read", bound=True)
    (advice,) = judge(model(threads=4, read=80, cpu_ms=80), trials=[trial]).advice
    assert (advice.stage, advice.bound, advice.gain) == ("read", True, pytest.approx(4))


WARM = Rung(source="files in the page cache", adds="read and check", batch_ms=10, cost_ms=1)
COLD = Rung(source="files on disk", adds="storage", batch_ms=30, cost_ms=20)


def test_what_the_first_epoch_costs_is_said_and_no_advice_where_later_ones_find_the_data_in_memory() -> None:
    verdict = judge(model(threads=1, decode=4, step=10), rungs=[WARM, COLD])
    assert verdict.advice == ()
    assert verdict.first_epoch == "A first epoch costs +20.0 ms a batch: its files come from the disk."
    little = judge(model(threads=1, decode=4, step=10), rungs=[WARM, replace(COLD, cost_ms=1)])
    assert (little.first_epoch, little.cold_ms) == ("", 1)
    assert judge(model(threads=1, decode=4, step=10), rungs=[WARM]).cold_ms is None


def test_data_larger_than_memory_wants_a_faster_disk_unless_something_else_limits_then_too() -> None:
    (advice,) = judge(model(threads=1, decode=4, step=10), rungs=[WARM, COLD], fits=False).advice
    assert advice.change.startswith("a faster disk")
    assert advice.gain == pytest.approx(3)
    assert judge(model(threads=1, decode=1, step=100), rungs=[WARM, COLD], fits=False).advice == ()
    assert judge(model(threads=1, decode=4, step=10), rungs=[replace(COLD, cost_ms=1)], fits=False).advice == ()


def test_figures_rest_on_what_was_measured() -> None:
    slower = model(threads=1, decode=20, step=1, cpu_ms=20)
    verdict = judge(replace(slower, batch_ms=22))
    (advice,) = verdict.advice
    assert advice.samples_per_second == pytest.approx(advice.gain * verdict.samples_per_second)
    assert verdict.loader_alone == pytest.approx(verdict.samples_per_second)
    assert verdict.doubt == ""
    assert verdict.model_error == pytest.approx(0.1)


def test_where_model_and_measurement_disagree_no_gains_are_told() -> None:
    slow = model(threads=1, decode=20, step=1, cpu_ms=20)
    doubt = judge(replace(slow, batch_ms=40)).doubt
    assert doubt.startswith("The model is +100% off what was measured: the machine was too busy to tell")
    again = judge(replace(slow, batch_ms=20), rungs=[replace(WARM, batch_ms=15)]).doubt
    assert again.startswith("A batch took × 0.75 as long when the loader ran again: the machine was too busy")
    late = judge(replace(model(threads=2, decode=20, step=20), batch_ms=25, waiting_ms=5))
    assert late.doubt == "", "batches that come late are what prefetching is advised for"


def test_a_run_whose_files_came_from_the_disk_is_not_taken_for_one_on_a_busy_machine() -> None:
    cold = model(threads=1, read=28, decode=4, step=1)  # as it ran first; WARM is the same from memory
    found = judge(cold, rungs=[WARM, COLD])
    assert found.doubt.startswith(
        "The files came from the disk in the run that was judged: when the loader ran again, from memory, a batch took "
        "× 0.31 as long. "
    )
    assert "cat SHARDS" in found.doubt
    assert "busy" not in found.doubt
    assert judge(replace(cold, batch_ms=45), rungs=[WARM, COLD]).doubt.startswith("The files came"), "whatever is off"
    assert "too busy" in judge(cold, rungs=[replace(WARM, batch_ms=20), COLD]).doubt, "neither as cold nor as warm"
    assert "too busy" in judge(cold, rungs=[WARM, replace(COLD, batch_ms=11, cost_ms=1)]).doubt, "the disk is fast"
    assert judge(replace(cold, batch_ms=34), rungs=[replace(WARM, batch_ms=33)]).doubt == ""


def test_gains_are_bounds_where_other_programs_take_the_processors() -> None:
    def advised(queued_ms: float, cpu_ms: float = 2.0) -> bool:
        busy = replace(model(threads=1, decode=40, step=8, cores=2, cpu_ms=cpu_ms), queued_ms=queued_ms)
        (more,) = (each for each in judge(busy).advice if "num_workers" in each.setting)
        return more.bound

    assert not advised(1.0)
    assert advised(4.0), "of 10 ms a batch, and the wait may be hidden by 40 now"
    slow = replace(model(threads=2, decode=70, step=1, cores=2, cpu_ms=70), queued_ms=30.0)
    trial = Trial(change="smaller", why="", factor=0.5)
    assert not judge(slow, trials=[trial]).advice[0].bound, "its threads wait for each other"


def test_what_comes_next_is_what_would_limit_without_what_limits_now() -> None:
    verdict = judge(model(threads=1, read=10, decode=40, augment=6, step=7))
    assert (verdict.limit, verdict.behind) == ("decode", "step"), "threads would need 10 ms then, the consumer 13"


def slow_shard(share: float, excess: float) -> SlowShard:
    return SlowShard(
        name="a.tar", milliseconds=12.0, others_ms=1.0, share=share, excess={"read": 0.0, "decode": excess}
    )


def test_a_slow_shard_is_behind_a_limit_of_the_threads_and_its_advice_takes_its_excess_away() -> None:
    slow = slow_shard(0.5, 0.4)
    verdict = judge(model(threads=1, decode=40.0, step=5.0), shards=[slow])
    assert (verdict.limit, verdict.cause) == ("decode", "slow shard")
    assert verdict.why == "a.tar takes 12 times as long as others, 50% of reading and decoding"
    advice = next(each for each in verdict.advice if "a.tar" in each.change)
    assert (advice.gain, advice.stage) == (pytest.approx(1 / 0.6), "decode")
    assert "a.tar (and 1 more) takes 12 times" in judge(model(decode=40.0), shards=[slow, slow]).why
    stepping = judge(model(threads=1, decode=4.0, step=50.0), shards=[slow])
    assert (stepping.limit, stepping.cause) == ("step", ""), "it does no harm there"


def test_a_crowd_is_behind_a_limit_and_takes_the_place_of_advice_on_threads() -> None:
    crowd = Crowd(stage="decode", threads=2, gain=2.0)
    verdict = judge(model(threads=3, decode=90.0, step=5.0), crowd=crowd)
    assert (verdict.cause, verdict.why) == ("too many threads", "3 threads do less than 2")
    (advice,) = verdict.advice
    assert (advice.change, dict(advice.setting)) == ("num_workers=2, from 3", {"num_workers": 2})
    assert advice.gain == pytest.approx(2.0)


def test_copies_want_fewer_bytes_and_nobody_knows_how_many() -> None:
    verdict = judge(model(threads=1, decode=1.0, step=5.0, copy=15.0))
    (advice,) = verdict.advice
    assert verdict.limit == "copy"
    assert (advice.gain, advice.bound) == (pytest.approx(4.0), True)


def test_assembling_wants_larger_batches_and_sizes_of_what_comes_as_lists() -> None:
    slow = model(threads=1, decode=1.0, step=5.0, assemble=15.0)
    gains = {each.change: each.gain for each in judge(slow).advice}
    assert gains == {"batch_size=20, from 10": pytest.approx(2), "batch_size=40, from 10": pytest.approx(4)}
    assert [each.change for each in judge(slow, samples=30).advice] == ["batch_size=20, from 10"]
    ragged = judge(slow, ragged=["tokens"]).advice
    assert all(each.bound for each in ragged)
    assert next(each for each in ragged if not each.setting).change == "a declared size for tokens, in place of lists"


def test_bounds_come_after_what_is_predicted() -> None:
    trial = Trial(change="pack anew", why="tried", factor=0.5)
    shards = [slow_shard(0.5, 0.5)]
    verdict = judge(model(threads=0, decode=20, assemble=40), trials=[trial], shards=shards, parallel=False)
    bounds = [each.bound for each in verdict.advice]
    assert bounds == sorted(bounds)
    assert {True, False} == set(bounds)
    assert verdict.advice[-1].gain > verdict.advice[0].gain or verdict.advice[-2].gain > verdict.advice[0].gain


def test_a_loaders_own_number_of_threads_is_tried_and_one_fewer() -> None:
    assert thread_counts(8) == [1, 2, 4, 8]
    assert thread_counts(2, 6) == [1, 2, 5, 6]
    assert thread_counts(2, 1) == [1, 2]


def test_threads_that_only_had_no_processor_do_not_wait_for_something_else() -> None:
    waiting = model(threads=1, decode=40.0, step=1.0, cpu_ms=5.0, cores=2)
    assert waiting.queued_share == 0
    many = judge(waiting).advice[0].setting["num_workers"]
    starved = judge(replace(waiting, queued_ms=33.0)).advice[0].setting["num_workers"]
    assert (many > 2, starved) == (True, 2)


def test_without_a_step_none_limits_and_none_comes_next() -> None:
    fast = model(threads=2, read=0.8, decode=2.0, plan=0.5, step=4.0)
    found = judge(fast, stepped=False)
    assert (found.limit, found.behind) == ("decode", "plan")
    assert (judge(fast).limit, judge(fast).behind) == ("step", "decode")
    idle = judge(model(threads=1, step=1.0), stepped=False)
    assert "step" not in (idle.limit, idle.behind)


def test_larger_batches_alone_are_tried_without_the_step() -> None:
    advice = Advice(change="", why="", gain=2.0, samples_per_second=1.0, stage="decode", bound=True)
    threads = Tried(advice=replace(advice, setting={"num_workers": 2}), now=1.0, came=2.0)
    assert not threads.alone, "a bound or not"
    assert Tried(advice=replace(advice, setting={"batch_size": 2}), now=1.0, came=2.0).alone


CALM = Rung(source="decoded batches in memory", adds="copy and augment", batch_ms=9, cost_ms=3, beside_ms=21)
PYTHON = model(threads=1, decode=28, augment=9, step=12, assemble=8, cpu_ms=28, cores=2)


def test_stages_that_wait_for_the_interpreter_are_not_taken_for_slow() -> None:
    assert judge(PYTHON).limit == "step", "as it looks"
    verdict = judge(PYTHON, rungs=[CALM])
    assert (verdict.limit, verdict.cause) == ("decode", "interpreter")
    assert "take 21.0 ms a batch beside it, and 9.0 alone" in verdict.sentence
    (advice,) = (each for each in verdict.advice if "interpreter" in each.change)
    assert (advice.bound, advice.setting, advice.stage) == (True, {}, "decode")
    assert advice.gain == pytest.approx(29 / ((28 + 9) / 2))


@pytest.mark.parametrize(
    "other",
    [
        replace(PYTHON, cpu_ms=50.0),  # on two processors at the same time
        replace(PYTHON, cores=1),
        model(threads=0, decode=28, augment=9, step=12, cpu_ms=28, cores=2),
        model(threads=1, decode=8, augment=9, step=12, assemble=8, cpu_ms=28, cores=2),  # it limits all the same
        replace(PYTHON, queued_ms=20.0),  # other programs have the processors
    ],
)
def test_what_else_may_slow_the_consumer_is_not_the_interpreter(other: Model) -> None:
    assert judge(other, rungs=[CALM]).cause == ""
    assert judge(PYTHON, rungs=[replace(CALM, batch_ms=20)]).cause == "", "a difference as small as noise"
    assert judge(PYTHON, rungs=[replace(CALM, beside_ms=None)]).cause == "", "nobody knows"
    assert judge(PYTHON, rungs=[replace(CALM, beside_ms=9.5)]).cause == "", "these batches are cheap in any case"


def test_more_threads_than_help_are_named_before_the_interpreter() -> None:
    crowd = Crowd(stage="decode", threads=1, gain=1.5)
    assert judge(
        replace(PYTHON, threads=2, stage_ms={**PYTHON.stage_ms, "decode": 56}), rungs=[CALM], crowd=crowd
    ).cause == ("too many threads")
