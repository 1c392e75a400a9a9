import logging

from data_pipelines.sources.split_builder import LeftOut


def test_entries_are_counted_by_reason_and_named_once_in_order(caplog):
    left_out = LeftOut()
    for reason, name in [("no answer", "q2"), ("no image", "b.jpg"), ("no answer", "q1"), ("no image", "b.jpg")]:
        left_out.add(reason, name)
    with caplog.at_level(logging.WARNING):
        assert left_out.reported("set train") == {"no answer": ["q2", "q1"], "no image": ["b.jpg"]}
    assert [record.getMessage() for record in caplog.records] == [
        "set train: left out 2 (no answer): q2, q1",
        "set train: left out 2 (no image): b.jpg",
    ]


def test_the_log_names_ten_and_what_is_returned_all(caplog):
    left_out = LeftOut()
    for number in range(12):
        left_out.add("no answer", f"q{number}")
    with caplog.at_level(logging.WARNING):
        assert len(left_out.reported("set train")["no answer"]) == 12
    assert caplog.text.strip().endswith("q8, q9 and 2 more")


def test_nothing_left_out_is_no_warning(caplog):
    assert LeftOut().reported("set train") == {}
    assert not caplog.records
