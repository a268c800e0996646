#!/usr/bin/env python3
"""Measures derpmesh beside Tailscale's derper and the floor (the least that a relay can cost), in one run.

usage: bench/run.py [--short] [--rounds N] [--only NAME,...] [--priority] [--write] [--check]

  --short      seconds instead of minutes: what the test stage runs
  --rounds N   each experiment so often, its subjects in turn; tables show minimum, median, maximum  [3; short: 2]
  --only NAME  of bench/experiments.py; may be a list with commas
  --priority   all at real-time priority (chrt; needs root): for a machine that does something else too
  --write      put tables and plots into docs/performance.md
  --check      exit 1 if a ratio is far from what it should be

The relay runs on core 0, the load generator on core 1.  Only ratios within one run mean anything on another machine.
  BUILD_DIR    where derpmesh, load, floor and wire were built   [build/release]
  DERPER_BIN   a derper; else build/tools/derper, built by go install if it is not there
"""
import argparse
import os
import sys
import time

import experiments
import report
from programs import ROOT, Failed, Setting


def arguments():
    p = argparse.ArgumentParser(usage=__doc__.split("usage: ", 1)[1])
    p.add_argument("--short", action="store_true")
    p.add_argument("--rounds", type=int)
    p.add_argument("--only", default="")
    p.add_argument("--priority", action="store_true")
    p.add_argument("--write", action="store_true")
    p.add_argument("--check", action="store_true")
    return p.parse_args()


def measure(setting, names, rounds, short):
    """{experiment: [what it returned, round by round]}"""
    results = {}
    for i in range(rounds):
        for name in names:
            begin = time.monotonic()
            results.setdefault(name, []).append(experiments.ALL[name](setting, short))
            print(f"# round {i + 1}, {name}: {time.monotonic() - begin:.0f} s, load average {os.getloadavg()[0]:.1f}",
                  file=sys.stderr, flush=True)
    return results


def main():
    args = arguments()
    names = args.only.split(",") if args.only else experiments.SHORT if args.short else list(experiments.ALL)
    unknown = set(names) - set(experiments.ALL)
    if unknown:
        raise Failed(f"no experiment {', '.join(sorted(unknown))}; there are: {', '.join(experiments.ALL)}")
    setting = Setting(os.environ.get("BUILD_DIR", os.path.join(ROOT, "build", "release")), args.priority)
    try:
        results = measure(setting, names, args.rounds or (2 if args.short else 3), args.short)
    finally:
        setting.stop_all()
        setting.clean()
    for name in names:
        print(report.table(name, results[name]))
    if args.write:
        report.write(os.path.join(ROOT, "docs"), results)
    wrong = report.check(results) if args.check else []
    for line in wrong:
        print(f"FAILED: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as e:
        sys.exit(f"bench: {e}")
