"""Files damaged by a single bit, and checkpoints as they were before their files had checksums."""

import json

SUMS = "SHA256SUMS"


def flip(path, *, at=0.5, bit=0):
    """Changes one bit of a file, `at` of its length."""
    content = bytearray(path.read_bytes())
    content[min(int(at * len(content)), len(content) - 1)] ^= 1 << bit
    path.write_bytes(content)


def files_of(folder):
    """Every file below a folder that is not empty, by its path in it."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size)
    return [path.relative_to(folder).as_posix() for path in found]


def made_old(checkpoint):
    """Takes what was added to checkpoints since out of one: the sums of its assets and of its calibration."""
    (checkpoint / "assets" / SUMS).unlink()
    record = checkpoint / "_CHECKPOINT_METADATA"
    record.write_text(record.read_text().replace('AssetsHandler/2"', 'AssetsHandler"'))
    calibration = checkpoint / "assets" / "calibration.json"
    if calibration.exists():
        fields = json.loads(calibration.read_text())
        del fields["sha256"]
        calibration.write_text(json.dumps(fields))
