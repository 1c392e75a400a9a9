"""The fuzzer finds every kind of fault, and a short run of it finds none in the commands."""

import contextlib
import itertools
import json
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import fuzz
import planted_faults
from fuzzing.cases import ACCEPTED, FAULTS, HANG, MEMORY, REFUSED, TRACEBACK, UNCLEAR, WRONG_SUCCESS, Worker, draw
from fuzzing.limits import Limits, rows
from fuzzing.mutations import MUTATIONS
from fuzzing.targets import answer_targets, data_targets, own_data


@pytest.fixture
def worker(tmp_path):
    return Worker(planted_faults.targets(), tmp_path, seed=0)


@pytest.fixture
def damaged(worker, monkeypatch):
    """The row of a case whose file is damaged into the given bytes."""

    def run(content):
        monkeypatch.setattr("fuzzing.cases.chosen", lambda data, rng: "given")
        monkeypatch.setitem(MUTATIONS, "given", lambda data, rng: content)
        return worker.run(0, worker.prepared(0))

    return run


@pytest.mark.parametrize(
    ("content", "outcome", "said"),
    [
        (b"abc", ACCEPTED, ""),
        (b"r", REFUSED, ""),
        (b"u", UNCLEAR, "error: in/file: ValueError('box') [file.damaged]"),
        (b"t", TRACEBACK, "KeyError: 'box'"),
        (b"x", WRONG_SUCCESS, "another answer"),
        (b"o", WRONG_SUCCESS, "read in/../outside/private.png"),
    ],
)
def test_what_came_out_is_told_apart(damaged, content, outcome, said):
    row = damaged(content)
    assert (row.outcome, row.said) == (outcome, said)
    assert row.code == ("file.damaged" if outcome in (REFUSED, UNCLEAR) else "")


@pytest.mark.slow
def test_what_takes_too_long_or_too_much_is_ended_and_the_next_case_runs(tmp_path, monkeypatch):
    wanted = {}
    for case in itertools.count():
        first = draw(planted_faults.targets(), made(tmp_path), 0, case).content[:1]
        wanted.setdefault({b"h": HANG, b"m": MEMORY}.get(first), case)
        if len(wanted) == 3:
            break
    for outcome in (HANG, MEMORY):
        found = rows(planted_faults.targets, tmp_path, seed=0, first=wanted[outcome], limits=Limits(3, 100 << 20))
        with contextlib.closing(found):
            row, after = next(found), next(found)
        assert (row.outcome, row.case) == (outcome, wanted[outcome])
        assert after.case == row.case + 1
        assert after.outcome != TRACEBACK or "planted" not in after.said


def made(scratch):
    folder = scratch / "undamaged" / "planted" / "in"
    if not folder.exists():
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"abc")
    return scratch / "undamaged"


def test_a_case_is_a_function_of_its_seed_and_number(tmp_path):
    inputs = made(tmp_path)
    cases = [draw(planted_faults.targets(), inputs, seed, case).content for seed in (0, 1) for case in range(40)]
    again = [draw(planted_faults.targets(), inputs, seed, case).content for seed in (0, 1) for case in range(40)]
    assert cases == again
    assert cases[:40] != cases[40:]


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_changes_every_kind_of_file(tmp_path, name):
    own_data(tmp_path)
    for file in (path for path in tmp_path.iterdir() if path.is_file()):
        content = file.read_bytes()
        assert any(MUTATIONS[name](content, random.Random(seed)) != content for seed in range(9)), file.name
        assert MUTATIONS[name](b"", random.Random(0)) is not None


@pytest.mark.slow
def test_a_stopped_run_goes_on_behind_its_last_row(tmp_path, capsys):
    lines = tmp_path / "rows.jsonl"
    arguments = ["--only", "score references", "--rows", str(lines)]
    assert fuzz.main([*arguments, "--cases", "2"]) == 0
    assert fuzz.main([*arguments, "--cases", "4"]) == 0
    assert [json.loads(line)["case"] for line in lines.read_text().splitlines()] == [0, 1, 2, 3]
    with pytest.raises(SystemExit, match="has rows of seed 0"):
        fuzz.main([*arguments, "--seed", "1"])


def without_a_run():
    return [*data_targets(), *answer_targets()]


@pytest.mark.slow
def test_a_short_run_finds_no_fault(tmp_path):
    with contextlib.closing(rows(without_a_run, tmp_path, seed=1, first=0, limits=Limits(60))) as found:
        faults = [row.as_json() for row in itertools.islice(found, 60) if row.outcome in FAULTS]
    assert not faults
