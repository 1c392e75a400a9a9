"""JSON as data sets publish it, and what no later stage could compute with."""

import pytest
from expected_errors import refused

from data_pipelines.core.errors import DataError
from data_pipelines.core.json_files import parse_json, read_json


def test_a_byte_order_mark_is_passed_over(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(str(path)) == {"a": 1}


@pytest.mark.parametrize(
    ("content", "code", "named"),
    [
        ("[" * 100_000, "file.malformed", "nested"),
        ('{"a": ' + "9" * 301 + "}", "data.invalid-value", "301 digits"),
        ('{"a": "\\udc00"}', "data.invalid-value", "\\ud800"),
        ("{", "file.malformed", "JSON"),
    ],
)
def test_what_cannot_be_computed_with_is_refused_in_one_line(tmp_path, content, code, named):
    path = tmp_path / "a.json"
    path.write_text(content)
    with refused(DataError, code, f"{path}: ", named):
        read_json(str(path))


def test_a_whole_character_in_two_escapes_is_one():
    assert parse_json('"\\ud83d\\ude00"', "here", remedy="") == "\U0001f600"


def test_a_number_of_300_digits_is_read():
    assert parse_json("1" * 300, "here", remedy="") == int("1" * 300)


def test_a_field_that_stands_twice_is_an_error_where_that_is_asked_for():
    assert parse_json('{"a": 1, "a": 2}', "here", remedy="") == {"a": 2}
    with refused(DataError, "data.duplicate-field", "here: ", "'a'"):
        parse_json('{"b": {"a": 1, "c": 0, "a": 2}}', "here", remedy="", unique_keys=True)


def test_a_missing_file_has_its_own_remedy(tmp_path):
    with refused(DataError, "file.missing", "look there"):
        read_json(str(tmp_path / "none"), remedy="look there")
