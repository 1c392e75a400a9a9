"""Batches: deterministic, resumable, split among hosts without changing, and checked before work starts."""

import dataclasses
import io
import logging

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest
from expected_errors import refused
from PIL import Image

from data_pipelines.core.errors import ConfigError, DataError
from data_pipelines.loading.checks import check_lengths, verify_images
from data_pipelines.loading.evaluation_batches import evaluation_batches, requests_under
from data_pipelines.loading.loader import examples_per_epoch, training_iterator
from data_pipelines.loading.preprocess import Preprocessor
from data_pipelines.records import Region, VQAExample
from data_pipelines.text.tokenizer import Tokenizer, train_tokenizer
from rllava_jax.config import AugmentConfig, DataConfig, PolicyConfig, RegionConfig

FAMILIES = {"vqa": 0.5, "identify": 0.25, "verify": 0.25}
COUNTS = {"vqa": 10, "identify": 7, "verify": 3}


def png(seed: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


IMAGES = [png(seed) for seed in range(5)]


def examples() -> list[VQAExample]:
    return [
        VQAExample(
            id=f"toy/{family}/{i}",
            dataset="toy",
            split="train",
            image=IMAGES[i % 5],
            image_id=f"image{i % 5}",
            question="what is the marked structure?",
            answer=f"liver {i}",
            family=family,
            regions=(Region((0.25, 0.25, 0.5, 0.5), "liver"),),
        )
        for family, count in COUNTS.items()
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    texts = ["answer en what is the marked structure?", "liver 123"] * 5
    return train_tokenizer(texts, tmp_path_factory.mktemp("loader") / "small.model", vocab_size=320)


def settings(**changes) -> DataConfig:
    fields = {
        "families": FAMILIES,
        "threads": 2,
        "policy": PolicyConfig(shown=0.5, wrong=0.3),
        "augment": AugmentConfig(crop=0.3, box_jitter=0.1, brightness=0.1),
    }
    return DataConfig(**{**fields, **changes})


@pytest.fixture
def preprocessor(tokenizer) -> Preprocessor:
    regions = RegionConfig(encoders=("crop", "overlay"), tokens=4, crop_size=28)
    return Preprocessor(28, 14, regions, settings(), tokenizer)


@pytest.fixture
def iterate(preprocessor):
    opened = []

    def make(batch_size=4, *, seed=0, families=FAMILIES, data=None, host=0, hosts=1, given=None):
        iterator = training_iterator(
            given or examples(),
            preprocessor,
            families=families,
            batch_size=batch_size,
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


def take(iterator, count: int) -> list[dict[str, np.ndarray]]:
    return [next(iterator) for _ in range(count)]


def assert_same(one, other) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert np.array_equal(a[name], b[name]), name


def test_batches_are_stacked_arrays_with_the_number_of_each_example(iterate):
    batch = next(iterate(4))
    assert batch["image"].shape == (4, 28, 28, 3)
    assert batch["region_pixels"].shape == (4, 1, 28, 28, 3)
    assert batch["index"].dtype == np.int64
    assert batch["index"].shape == (4,)


def test_index_names_the_example_whose_answer_is_learnt(iterate, tokenizer):
    all_examples = examples()
    for batch in take(iterate(), 3):
        for row, index in enumerate(batch["index"]):
            learnt = batch["text"][row][batch["mask_loss"][row] == 1]
            assert tokenizer.decode(learnt) == all_examples[index].answer


def test_same_seed_gives_the_same_batches_and_another_seed_others(iterate):
    first, again, other = take(iterate(), 6), take(iterate(), 6), take(iterate(seed=1), 6)
    assert_same(first, again)
    assert [b["index"].tolist() for b in first] != [b["index"].tolist() for b in other]


def test_neither_threads_nor_prefetch_change_the_batches(iterate):
    inline = take(iterate(data=settings(threads=0)), 5)
    assert_same(inline, take(iterate(data=settings(threads=3, prefetch=4)), 5))


def test_families_come_by_weight_and_every_example_once_per_pass(iterate):
    drawn = np.concatenate([b["index"] for b in take(iterate(4), 20)])
    families = [examples()[i].family for i in drawn]
    assert {f: families.count(f) for f in FAMILIES} == {"vqa": 40, "identify": 20, "verify": 20}
    vqa = [int(i) for i, f in zip(drawn, families, strict=True) if f == "vqa"]
    passes = [vqa[n : n + 10] for n in range(0, 40, 10)]
    assert all(sorted(p) == list(range(10)) for p in passes)
    assert len({tuple(p) for p in passes}) == 4


def test_an_example_is_drawn_differently_each_time(iterate):
    only = [examples()[0]]
    batch = next(iterate(8, families={"vqa": 1.0}, given=only))
    assert len({row.tobytes() for row in batch["image"]}) == 8


def test_family_of_no_weight_is_left_out(iterate):
    batches = take(iterate(families={"vqa": 1.0, "identify": 0.0}), 8)
    assert {examples()[i].family for b in batches for i in b["index"]} == {"vqa"}


@pytest.mark.parametrize("stop", [0, 1, 5])
def test_resumed_iterator_goes_on_exactly(iterate, stop):
    whole = take(iterate(), stop + 4)
    interrupted = iterate()
    take(interrupted, stop)
    state = interrupted.get_state()
    resumed = iterate()
    resumed.set_state(state)
    assert_same(take(resumed, 4), whole[stop:])


def test_prefetched_batches_are_not_counted_as_seen(iterate):
    iterator = iterate(data=settings(prefetch=8))
    iterator.start_prefetch()
    take(iterator, 1)
    assert iterator.get_state()["next_batch"] == 1


def test_iterator_can_go_back(iterate):
    iterator = iterate()
    start = iterator.get_state()
    first = take(iterator, 3)
    iterator.set_state(start)
    assert_same(take(iterator, 3), first)


@pytest.mark.slow
def test_worker_process_gives_the_same_batches_and_resumes_exactly(iterate):
    whole = take(iterate(), 6)
    with_worker = iterate(data=settings(workers=1))
    assert_same(take(with_worker, 3), whole[:3])
    state = with_worker.get_state()
    with_worker.close()
    resumed = iterate(data=settings(workers=1))
    resumed.set_state(state)
    assert_same(take(resumed, 2), whole[3:5])
    # The place is the same whatever the number of workers.
    without = iterate()
    without.set_state(resumed.get_state())
    assert_same(take(without, 1), whole[5:])


def test_hosts_share_each_global_batch(iterate):
    whole = take(iterate(4), 4)
    parts = [take(iterate(4, host=host, hosts=2), 4) for host in range(2)]
    for step, batch in enumerate(whole):
        for host in range(2):
            for name, rows in batch.items():
                assert np.array_equal(parts[host][step][name], rows[host::2]), name


def test_resuming_on_more_hosts_goes_on_with_the_next_global_batch(iterate):
    whole = take(iterate(4), 4)
    alone = iterate(4)
    take(alone, 3)
    for host in range(2):
        part = iterate(4, host=host, hosts=2)
        part.set_state(alone.get_state())
        assert np.array_equal(next(part)["index"], whole[3]["index"][host::2])


@pytest.mark.parametrize(
    ("change", "name"),
    [({"seed": 1}, "seed"), ({"batch_size": 8}, "batch_size"), ({"given": examples()[:-1]}, "examples")],
)
def test_place_in_other_data_is_refused(iterate, change, name):
    with pytest.raises(DataError, match=f"saved data position has {name} = "):
        iterate(**change).set_state(iterate().get_state())


def test_grains_checkpoint_holds_the_place(iterate, tmp_path):
    iterator = iterate()
    take(iterator, 2)
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(0, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(iterator)))
        manager.wait_until_finished()
        expected = take(iterator, 2)
        restored = iterate()
        manager.restore(0, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(restored)))
    assert_same(take(restored, 2), expected)


@pytest.mark.parametrize(
    ("families", "code", "named"),
    [
        ({"vqa": 1.0, "choose": 1.0}, "config.conflict", "data.families['choose'] = 1.0"),
    ],
)
def test_impossible_mixture_is_named(iterate, families, code, named):
    with refused(ConfigError, code, named):
        iterate(families=families)


def test_batch_that_does_not_divide_among_hosts_is_refused(iterate):
    with refused(ConfigError, "config.conflict", "train.batch_size = 5", "2"):
        iterate(5, hosts=2)


def test_epoch_counts_the_examples_of_weighted_families():
    assert examples_per_epoch(examples(), FAMILIES) == 20
    assert examples_per_epoch(examples(), {"vqa": 0.1, "verify": 5.0, "identify": 0.0}) == 13


def test_evaluation_asks_every_example_once_in_order_and_fills_the_last_batch(preprocessor):
    batches = list(evaluation_batches(requests_under(examples(), "right", ("shifted",)), preprocessor, 8))
    assert [len(rows) for _, rows in batches] == [8, 8, 4]
    assert [one.example.id for _, rows in batches for one in rows] == [e.id for e in examples()]
    last = batches[-1][0]
    assert last["image"].shape == (8, 28, 28, 3)
    assert (last["text"][4:] == last["text"][3]).all()


def test_evaluation_conditions_show_what_they_say(preprocessor):
    def first(condition):
        batch, rows = next(evaluation_batches(requests_under(examples(), condition, ("shifted",)), preprocessor, 4))
        return batch, rows[0].shown.kind

    right, kind = first("right")
    assert kind == "right"
    assert right["regions"][0, 0].tolist() == [0.25, 0.25, 0.5, 0.5]
    none, kind = first("none")
    assert kind == "none"
    assert not none["region_valid"].any()
    wrong, kind = first("wrong")
    assert kind == "wrong:shifted"
    assert wrong["regions"][0, 0].tolist() != right["regions"][0, 0].tolist()
    blank, _ = first("blank")
    assert np.array_equal(blank["regions"], right["regions"])
    assert (blank["region_pixels"] == 127).all()


def test_evaluation_is_the_same_every_time_and_shared_among_hosts(preprocessor):
    requests = requests_under(examples(), "wrong", ("shifted", "random"))

    def run(**hosts):
        return list(evaluation_batches(requests, preprocessor, 8, **hosts))

    whole = run()
    assert_same([b for b, _ in whole], [b for b, _ in run()])
    parts = [run(process_index=host, process_count=2) for host in range(2)]
    for step, (batch, rows) in enumerate(whole):
        for host in range(2):
            assert np.array_equal(parts[host][step][0]["image"], batch["image"][host::2])
            assert [one.example.id for one in parts[host][step][1]] == [one.example.id for one in rows[host::2]]


def test_evaluation_of_nothing_is_no_batch(preprocessor):
    assert list(evaluation_batches([], preprocessor, 4)) == []


def corrupted() -> list[VQAExample]:
    bad = examples()
    for i, e in enumerate(bad):
        if e.image_id == "image2":
            bad[i] = dataclasses.replace(e, image=IMAGES[2][:100])
    return bad


def test_readable_images_all_stay(preprocessor):
    assert verify_images(examples(), preprocessor, allowed=0) == examples()


def test_corrupt_image_stops_the_run_before_it_starts(preprocessor):
    with pytest.raises(DataError, match=r"1 unreadable images, data\.corrupt_images_allowed = 0: image2: ") as caught:
        verify_images(corrupted(), preprocessor, allowed=0)
    assert "\n" not in str(caught.value)


def test_allowed_corrupt_image_is_skipped_counted_and_listed(preprocessor, caplog):
    with caplog.at_level(logging.WARNING):
        kept = verify_images(corrupted(), preprocessor, allowed=1)
    assert [e.id for e in kept] == [e.id for e in examples() if e.image_id != "image2"]
    assert "skipped 1 unreadable images, and with them 4 of 20 examples: image2" in caplog.text


def test_long_examples_are_found_before_the_run_starts(preprocessor):
    all_examples = examples()
    check_lengths(all_examples, preprocessor)
    all_examples[3] = dataclasses.replace(all_examples[3], answer="liver " * 60)
    with pytest.raises(DataError, match=r"1 examples do not fit .*: toy/vqa/3 \((\d+) tokens\); raise it to \1"):
        check_lengths(all_examples, preprocessor)
    assert check_lengths(all_examples, preprocessor, answers=False) == all_examples


def test_allowed_long_examples_are_left_out_counted_and_listed(preprocessor, caplog):
    all_examples = examples()
    all_examples[3] = dataclasses.replace(all_examples[3], answer="liver " * 60)
    with caplog.at_level(logging.WARNING):
        kept = check_lengths(all_examples, preprocessor, allowed=1)
    assert kept == all_examples[:3] + all_examples[4:]
    assert "left out 1 of 20 examples, longer than 40 tokens: toy/vqa/3 (" in caplog.text
    all_examples[4] = all_examples[3]
    with pytest.raises(DataError, match=r"2 examples do not fit .*long_examples_allowed \(now 1\)"):
        check_lengths(all_examples, preprocessor, allowed=1)
