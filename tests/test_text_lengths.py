"""Few text lengths, and each used by enough batches."""

import pytest

from data_pipelines.text_lengths import FEWEST_BATCHES, batch_lengths, length_for, text_lengths


@pytest.mark.parametrize(
    ("longest", "lengths"), [(40, (16, 32, 40)), (32, (8, 16, 24, 32)), (64, (16, 32, 48, 64)), (7, (7,)), (9, (8, 9))]
)
def test_there_are_at_most_four(longest, lengths):
    assert text_lengths(longest) == lengths


@pytest.mark.parametrize(("tokens", "length"), [(1, 16), (16, 16), (17, 32), (33, 40), (40, 40)])
def test_a_prompt_takes_the_shortest_that_holds_it(tokens, length):
    assert length_for(tokens, 40) == length


def test_a_batch_takes_that_of_its_longest_prompt():
    assert batch_lengths([3, 3, 3, 20], 2, 40) == [32, 32]  # one batch each: too few for a program of their own
    many = [3, 5] * FEWEST_BATCHES + [3, 20] * FEWEST_BATCHES
    assert batch_lengths(many, 2, 40) == [16] * FEWEST_BATCHES + [32] * FEWEST_BATCHES


def test_a_length_that_few_batches_need_is_left_out_and_no_batch_is_too_short():
    tokens = [3] * 10 + [20] * 3 + [36] * 2
    assert batch_lengths(tokens, 1, 40) == [16] * 10 + [40] * 5
    tokens = [3] * 5 + [20] * 5 + [36] * 1
    assert batch_lengths(tokens, 1, 40) == [32] * 10 + [40]


def test_the_longest_length_is_not_used_where_nothing_needs_it():
    assert batch_lengths([3, 4, 5], 1, 40) == [16] * 3
    assert batch_lengths([], 4, 40) == []
