"""Few shapes of batches, and each used by enough of them."""

import pytest

from data_pipelines.loading.evaluation_batches import FEWEST_BATCHES, batch_shapes, length_for, text_lengths


@pytest.mark.parametrize(
    ("longest", "lengths"), [(40, (16, 32, 40)), (32, (8, 16, 24, 32)), (64, (16, 32, 48, 64)), (7, (7,)), (9, (8, 9))]
)
def test_there_are_at_most_four_lengths(longest, lengths):
    assert text_lengths(longest) == lengths


@pytest.mark.parametrize(("tokens", "length"), [(1, 16), (16, 16), (17, 32), (33, 40), (40, 40)])
def test_a_prompt_takes_the_shortest_that_holds_it(tokens, length):
    assert length_for(tokens, 40) == length


def lengths(tokens, batch_size):
    shapes = batch_shapes(tokens, [1] * len(tokens), batch_size, longest=40, slots=2)
    assert all(shape.slots == 2 for shape in shapes)
    return [shape.length for shape in shapes]


def test_a_batch_takes_the_length_of_its_longest_prompt():
    assert lengths([3, 3, 3, 20], 2) == [32, 32]  # one batch each: too few for a program of their own
    many = [3, 5] * FEWEST_BATCHES + [3, 20] * FEWEST_BATCHES
    assert lengths(many, 2) == [16] * FEWEST_BATCHES + [32] * FEWEST_BATCHES


def test_a_length_that_few_batches_need_is_left_out_and_no_batch_is_too_short():
    assert lengths([3] * 10 + [20] * 3 + [36] * 2, 1) == [16] * 10 + [40] * 5
    assert lengths([3] * 5 + [20] * 5 + [36] * 1, 1) == [32] * 10 + [40]


def test_the_longest_length_is_not_used_where_nothing_needs_it():
    assert lengths([3, 4, 5], 1) == [16] * 3
    assert lengths([], 4) == []


def slots(regions, batch_size):
    return [shape.slots for shape in batch_shapes([3] * len(regions), regions, batch_size, longest=40, slots=2)]


def test_batches_that_show_no_region_have_no_slots_and_others_all():
    assert slots([0] * 16 + [0, 1, 2, 2], 2) == [0] * 8 + [2, 2]
    assert slots([0] * 16, 2) == [0] * 8


def test_few_batches_without_a_region_are_worth_no_program():
    assert slots([0] * 14 + [1, 1], 2) == [2] * 8
    assert slots([0] * 14, 2) == [2] * 7
