"""Mixes of sources: shares follow the weights, every example comes once in its epoch, and resuming is exact."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from expected_errors import refused
from test_loader import FAMILIES, assert_same, examples, png, settings, take

from data_pipelines.core.errors import ConfigError, DataError
from data_pipelines.loading.loader import mixed_iterator, training_iterator
from data_pipelines.loading.mixture import Part, Schedule, load_parts, mixed
from data_pipelines.loading.preprocess import Preprocessor
from data_pipelines.records import Region, VQAExample
from data_pipelines.text.tokenizer import Tokenizer, train_tokenizer
from rllava_jax.config import DataConfig, MixPart, PhantomConfig, PolicyConfig, RegionConfig

ANNEALED = ((0.0, 0.0), (0.8, 0.0), (1.0, 0.5))
SHOWN, HIDDEN = PolicyConfig(shown=1.0, wrong=0.0), PolicyConfig(shown=0.0)
IMAGE = png(0)


def part(name: str, size: int, *, policy: PolicyConfig = HIDDEN, **fields) -> Part:
    """So many questions, of two families in turn."""
    questions = [
        VQAExample(
            id=f"{name}/{i}",
            dataset=name,
            split="train",
            image=IMAGE,
            image_id=f"{name}{i}",
            question="what is the marked structure?",
            answer=f"liver {i}",
            family=("vqa", "identify")[i % 2],
            regions=(Region((0.25, 0.25, 0.5, 0.5), "liver"),),
        )
        for i in range(size)
    ]
    return Part(name, MixPart(**fields), policy, questions)


def drawn(schedule: Schedule, start: int = 0, end: int | None = None) -> list[int]:
    return [schedule[n][0] for n in range(start, len(schedule) if end is None else end)]


@pytest.fixture(scope="module")
def preprocessor(tmp_path_factory) -> Preprocessor:
    texts = ["answer en what is the marked structure?", "liver 0123456789"] * 5
    tokenizer: Tokenizer = train_tokenizer(texts, tmp_path_factory.mktemp("mix") / "small.model", vocab_size=320)
    return Preprocessor(28, 14, RegionConfig(encoders=("crop",), tokens=4, crop_size=28), settings(), tokenizer)


@pytest.fixture
def iterate(preprocessor):
    opened = []

    def make(parts, *, steps=30, batch_size=4, seed=0, host=0, hosts=1, data=None):
        iterator = mixed_iterator(
            parts,
            preprocessor,
            batch_size=batch_size,
            steps=steps,
            seed=seed,
            data=data or settings(),
            process_index=host,
            process_count=hosts,
        )
        opened.append(iterator)
        return iterator

    yield make
    for iterator in opened:
        iterator.close()


# Which part a draw comes from


@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (0.7, 0.2, 0.1), (1, 5, 1e-3, 2)])
def test_at_every_draw_each_part_has_its_share_so_far_within_a_few(weights):
    schedule = Schedule([part(str(n), 10, weight=w) for n, w in enumerate(weights)], steps=300, batch_size=10)
    counts = np.array([np.equal(drawn(schedule), n).cumsum() for n in range(len(weights))])
    expected = np.outer(np.array(weights) / sum(weights), np.arange(1, 3001))
    assert np.abs(counts - expected).max() < len(weights)


def test_a_part_of_a_few_hundredths_of_an_epoch_is_still_drawn_once():
    schedule = Schedule([part("a", 10, epochs=0.01), part("b", 10)], steps=10, batch_size=4)
    assert drawn(schedule).count(0) == 1


def test_a_low_temperature_favours_the_largest_part_and_does_not_overflow():
    schedule = Schedule([part("a", 100_000), part("b", 5)], steps=12, batch_size=4, temperature=0.01)
    assert drawn(schedule) == [0] * 48


def test_an_annealed_part_comes_late_and_as_its_weight_says():
    schedule = Schedule([part("a", 10), part("b", 10, anneal=ANNEALED)], steps=1000, batch_size=10)
    of_b = np.array(drawn(schedule))
    assert not of_b[:8000].any()
    for start in range(8000, 10000, 500):
        weight = 0.5 * (np.arange(start, start + 500) / 10000 - 0.8) / 0.2
        assert of_b[start : start + 500].sum() == pytest.approx((weight / (1 + weight)).sum(), abs=2)
    assert schedule.shares(0, 800) == {"a": 1.0, "b": 0.0}
    assert schedule.shares(990, 1000)["b"] == pytest.approx(1 / 3, abs=0.02)


def test_temperature_goes_from_sizes_to_equal_shares():
    parts = [part("large", 90), part("small", 10)]
    shares = [
        Schedule(parts, steps=100, batch_size=10, temperature=t).shares(0, 100)["small"] for t in (1.0, 2.0, 1e6, 0.0)
    ]
    assert shares == pytest.approx([0.1, 0.25, 0.5, 0.5], abs=0.002)


def test_a_part_ends_after_its_epochs_and_the_others_share_its_weight():
    parts = [part("a", 10, weight=2), part("b", 20), part("c", 8, weight=1, epochs=1.5)]
    schedule = Schedule(parts, steps=100, batch_size=4)
    ids = drawn(schedule)
    last = max(n for n, which in enumerate(ids) if which == 2)
    assert ids.count(2) == 12
    assert last == pytest.approx(48, abs=4)  # a quarter of the draws, until then
    after = Counter(ids[last + 1 :])
    assert after[0] == pytest.approx(2 * after[1], abs=4)


def test_a_mix_that_runs_dry_is_refused_with_the_step():
    parts = [part("a", 10, epochs=1), part("b", 6, epochs=1)]
    Schedule(parts, steps=4, batch_size=4)
    with refused(ConfigError, "config.conflict", "data.mix", "step 4 of 5"):
        Schedule(parts, steps=5, batch_size=4)
    with refused(ConfigError, "config.conflict", "data.mix", "step 3 of 10"):
        Schedule([part("a", 10, anneal=((0.0, 1.0), (0.3, 0.0), (0.6, 0.0), (0.7, 1.0)))], steps=10, batch_size=40)


def test_counts_and_numbers_agree_across_the_blocks_in_which_they_are_kept():
    schedule = Schedule([part("a", 7, weight=2), part("b", 5, anneal=ANNEALED)], steps=35000, batch_size=2)
    ids = np.array(drawn(schedule))
    for draw in (0, 1, 1023, 1024, 1025, 65535, 65536, 65537, 69999, 70000):
        counts = schedule.counts(draw).tolist()
        assert counts == [int((ids[:draw] == n).sum()) for n in (0, 1)]
        if draw < 70000:
            assert schedule[draw] == (ids[draw], counts[ids[draw]])


# Batches


def numbers(batches, column: str = "index") -> list[int]:
    return [int(n) for batch in batches for n in batch[column]]


def test_every_example_of_a_part_comes_once_in_each_of_its_epochs_in_a_new_order(iterate):
    parts = [part("a", 10, weight=2), part("b", 7), part("c", 6, anneal=((0.5, 0), (1, 3)))]
    seen = numbers(take(iterate(parts, steps=50), 50))
    start = 0
    for one in parts:
        size = len(one.examples)
        own = [n - start for n in seen if start <= n < start + size]
        epochs = [own[n : n + size] for n in range(0, len(own), size)]
        assert len(epochs) >= 2
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs[:-1])
        assert len(set(epochs[-1])) == len(epochs[-1])
        assert epochs[0] != epochs[1] or size <= 6
        start += size
    assert start == len(mixed(parts))


def test_families_within_a_part_come_by_their_weights(iterate):
    parts = [part("a", 10, families={"vqa": 3, "identify": 1}), part("b", 4)]
    seen = [n for n in numbers(take(iterate(parts, steps=20), 20)) if n < 10]
    families = Counter(("vqa", "identify")[n % 2] for n in seen)
    assert families == {"vqa": 30, "identify": 10}


@pytest.mark.slow
def test_hosts_share_each_batch_and_one_resumes_for_two(iterate):
    parts = [part("a", 9, weight=2), part("b", 5), part("c", 3, anneal=ANNEALED)]
    whole = take(iterate(parts), 30)
    for host in (0, 1):
        for batch, mine in zip(whole, take(iterate(parts, host=host, hosts=2), 30), strict=True):
            for name, rows in batch.items():
                assert np.array_equal(mine[name], rows[host::2]), name
    alone = iterate(parts)
    take(alone, 17)
    halves = []
    for host in (0, 1):
        half = iterate(parts, host=host, hosts=2)
        half.set_state(alone.get_state())
        halves.append(numbers(take(half, 13)))
    assert sorted(halves[0] + halves[1]) == sorted(numbers(whole[17:]))
    with_worker = iterate(parts, data=settings(workers=1))
    with_worker.set_state(alone.get_state())
    assert_same(take(with_worker, 2), whole[17:19])


def test_the_state_says_where_each_part_stands(iterate):
    parts = [part("a", 10, weight=2), part("b", 7)]
    iterator = iterate(parts)
    seen = numbers(take(iterator, 12))
    of_a, of_b = sum(n < 10 for n in seen), sum(n >= 10 for n in seen)
    assert iterator.get_state()["parts"] == {
        "a": {"epoch": of_a // 10, "example": of_a % 10},
        "b": {"epoch": of_b // 7, "example": of_b % 7},
    }
    assert iterator.shares(0, 12) == {"a": of_a / 48, "b": of_b / 48}


def test_a_finished_iterator_can_be_put_at_its_end(iterate):
    iterator = iterate([part("a", 10)], steps=3)
    iterator.set_state({**iterator.get_state(), "next_batch": 3})
    iterator.start_prefetch()
    with pytest.raises(StopIteration):
        next(iterator)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"weight": 2.0}, "examples"),
        ({"anneal": ANNEALED}, "examples"),
        ({"epochs": 9.0}, "examples"),
        ({"families": {"vqa": 1.0}}, "examples"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_position_in_another_mix_is_refused(iterate, changed, field):
    state = iterate([part("a", 10), part("b", 6)]).get_state()
    with pytest.raises(DataError, match=f"saved data position has {field} = "):
        iterate([part("a", 10), part("b", 6, **changed)]).set_state(state)
    with pytest.raises(DataError, match="saved data position has steps = "):
        iterate([part("a", 10), part("b", 6)], steps=31).set_state(state)
    iterate([part("a", 10), part("b", 6, root="moved")]).set_state(state)


def test_a_part_more_does_not_reorder_the_others(iterate):
    a, b = part("a", 10), part("b", 6)
    alone = numbers(take(iterate([a], steps=10), 10))
    beside = [n for n in numbers(take(iterate([a, b], steps=20), 20)) if n < 10]
    assert beside[:20] == alone[:20]


def test_each_part_has_its_own_region_policy(iterate):
    parts = [part("a", 8, policy=SHOWN), part("b", 8, policy=HIDDEN)]
    batches = take(iterate(parts, steps=8), 8)
    shown = {
        n: bool(valid[0]) for batch in batches for n, valid in zip(batch["index"], batch["region_valid"], strict=True)
    }
    assert shown == {n: n < 8 for n in range(16)}


def test_a_single_source_has_the_batches_it_had_before_there_were_mixes(preprocessor):
    iterator = training_iterator(examples(), preprocessor, families=FAMILIES, batch_size=4, seed=3, data=settings())
    before = [0, 10, 3, 18, 1, 15, 2, 19, 4, 13, 5, 17, 6, 12, 7, 19, 9, 11, 8, 17]
    assert numbers(take(iterator, 5)) == before
    iterator.close()


# Parts from the configuration

PHANTOM = PhantomConfig(train_images=4, validate_images=2, test_images=2, image_size=64)


def test_parts_are_loaded_as_configured_and_those_of_no_weight_are_left_out():
    data = DataConfig(
        phantom=PHANTOM,
        policy=SHOWN,
        mix={
            "asked": MixPart(families={"vqa": 1.0, "identify": 0.0}),
            "marked": MixPart(families={"identify": 1.0}, policy=HIDDEN, anneal=ANNEALED),
            "all": MixPart(split="validate"),
            "none": MixPart(weight=0.0),
        },
    )
    parts = load_parts(data, seed=0, max_regions=1)
    assert [one.name for one in parts] == ["asked", "marked", "all"]
    assert [one.policy for one in parts] == [SHOWN, HIDDEN, SHOWN]
    families = [{example.family for example in one.examples} for one in parts]
    assert families[:2] == [{"vqa"}, {"identify"}]
    assert {"vqa", "identify", "verify"} <= families[2]
    assert {example.split for example in parts[2].examples} == {"validate"}


def test_what_is_wrong_with_a_part_is_said_with_its_name():
    data = DataConfig(phantom=PHANTOM, mix={"captions": MixPart(families={"caption": 1.0})})
    with refused(ConfigError, "config.conflict", "data.mix.captions", "phantom train", "caption"):
        load_parts(data, seed=0, max_regions=1)
    data = replace(data, mix={"slake": MixPart(source="slake", root="nowhere/slake")})
    with refused(DataError, "file.missing", "data.mix.slake", "nowhere/slake"):
        load_parts(data, seed=0, max_regions=1)
