#!/usr/bin/env python3
"""fuzz.py: runs every property test in turn with many cases, until MINUTES (or HOURS) are over; each gets the same share of the time.

Every round has new random seeds. Tests of large cases run a part of the number asked for, which is the one counted. MEMORY_GB (8) limits each test's address space, FOCUS picks tests by a part of their name. Ends with
the cases that ran per test, what failed with the smallest input that fails, and 'N passed, N failed'."""

import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
MINUTES = float(os.environ.get("MINUTES", 0)) + 60 * float(os.environ.get("HOURS", 0)) or 10.0
MEMORY = int(float(os.environ.get("MEMORY_GB", 8)) * (1 << 30))
FOCUS = os.environ.get("FOCUS", "")
CARGO = os.environ.get("CARGO", "cargo").split()
FIRST = 64  # cases of a test's first run, from which later ones are guessed
CASES_MAX = 10_000_000  # of one run; a test that counts its cases itself would otherwise be asked for ever more


def property_tests():
    """Names of functions that proptest runs, by the crate they stand in."""
    found = {}
    for manifest in sorted(ROOT.glob("src/*/Cargo.toml")):
        names = set()
        for file in manifest.parent.rglob("*.rs"):
            text = file.read_text()
            # Arguments of the macro are patterns `in` strategies; the rest drive a runner by hand.
            names |= set(re.findall(r"\bfn (\w+)\(\s*[\w(][\w, ()]*\s+in\b", text)) if "proptest!" in text else set()
            for part in re.split(r"#\[test\]", text)[1:]:
                name = re.match(r"\s*fn (\w+)\(\)", part)
                if name and "TestRunner::new" in part.split("\n}\n")[0]:
                    names.add(name[1])
        if names:
            found[manifest.parent.name] = names
    return found


def executables(crates):
    """Test programs of the crates: (crate, path, the folder that they run in)."""
    command = CARGO + ["test", "--no-run", "--message-format=json"] + [word for crate in crates for word in ("-p", crate)]
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    for line in built.stdout.splitlines():
        message = json.loads(line) if line.startswith("{") else {}
        if message.get("executable") and message["profile"]["test"]:
            folder = ROOT / "src" / pathlib.Path(message["manifest_path"]).parent.name
            # A build in a container or namespace may know the tree by another name.
            path = message["executable"]
            own = ROOT / path[path.rindex("/target/") + 1 :] if "/target/" in path else ROOT
            yield folder.name, str(own) if own.is_file() else path, folder


def limit():
    os.nice(19)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def run(program, folder, name, cases):
    """Runs a test with so many cases: whether it passed, what it printed, how long it took."""
    begin = time.monotonic()
    environment = {**os.environ, "PROPTEST_CASES": str(cases), "RUST_BACKTRACE": "0"}
    command = [program, "--exact", name, "--nocapture"]
    try:
        done = subprocess.run(command, cwd=folder, env=environment, preexec_fn=limit, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=max(600, 60 * MINUTES))
        ok, text = done.returncode == 0 and b"1 passed" in done.stdout, done.stdout.decode(errors="replace")
    except subprocess.TimeoutExpired:
        ok, text = False, "it did not end in time"
    return ok, text, time.monotonic() - begin


def main():
    wanted, tests = property_tests(), []
    for crate, program, folder in executables(sorted(wanted)):
        listed = subprocess.run([program, "--list", "--format", "terse"], cwd=folder, stdout=subprocess.PIPE, text=True, check=False).stdout
        for line in listed.splitlines():
            name = line.removesuffix(": test")
            if name != line and name.rsplit("::", 1)[-1] in wanted[crate] and FOCUS in f"{crate}::{name}":
                tests.append((crate, program, folder, name))
    print(f"{len(tests)} property tests, {MINUTES:g} minutes", flush=True)
    failed, total = [], 0
    end = time.monotonic() + 60 * MINUTES
    for at, (crate, program, folder, name) in enumerate(tests):
        until = time.monotonic() + (end - time.monotonic()) / (len(tests) - at)
        cases, seen, result = FIRST, 0, True
        while result:
            result, text, took = run(program, folder, name, cases)
            left = until - time.monotonic()
            if not result:
                failed.append(f"{crate}::{name}")
                print(text[-4000:])
                break
            seen += cases
            rate = cases / max(took, 0.001)
            cases = int(min(rate * left * 0.8, 20 * cases, CASES_MAX))
            if left <= 0 or cases < 1:
                break
        total += seen
        print(f"{'ok  ' if result else 'FAIL'} {seen:>9} cases  {crate}::{name}", flush=True)
    print(f"{total} cases")
    for name in failed:
        print("failed:", name)
    print(f"{len(tests) - len(failed)} passed, {len(failed)} failed", flush=True)
    sys.exit(1 if failed or not tests else 0)


if __name__ == "__main__":
    main()
