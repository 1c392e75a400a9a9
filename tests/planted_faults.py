"""A command with every fault that the fuzzer looks for, by the first byte of its file."""

import sys
import time
from pathlib import Path

from fuzzing.targets import Target


def main(arguments):
    content = Path(arguments[0]).read_bytes()
    if content[:1] == b"r":
        print("error: in/file: is damaged; copy it again [file.damaged]", file=sys.stderr)
        return 2
    if content[:1] == b"u":
        print("error: in/file: ValueError('box') [file.damaged]", file=sys.stderr)
        return 2
    if content[:1] == b"t":
        raise KeyError("box")
    if content[:1] == b"h":
        time.sleep(60)
    if content[:1] == b"m":
        hoard = bytearray(300 << 20)
        hoard[::4096] = b"x" * len(hoard[::4096])
        time.sleep(60)
    if content[:1] == b"o":
        Path("in/../outside/private.png").read_bytes()
    print(content.decode())
    return 0


def same(damaged, undamaged):
    return "" if damaged.out == undamaged.out else "another answer"


def made(folder):
    (folder / "file").write_bytes(b"abc")


def targets():
    return [Target("planted", made, ("planted_faults", "in/file"), same)]
