"""Tables, plots and verdicts of what bench/run.py measured."""
import os
import re
import statistics
import subprocess

# experiment: columns, each (heading, key, factor)
CPU_GB = ("CPU s/GB", "cpu_s_per_gb", 1)
CPU_PACKET = ("CPU µs/packet", "cpu_us_per_packet", 1)
DELIVERED = ("delivered/s", "delivered_pps", 1)
LOST = ("lost %", "loss_pct", 1)
P50, P99 = ("p50 ms", "p50_us", 1e-3), ("p99 ms", "p99_us", 1e-3)
B50, B99 = ("polite p50 ms", "beside_p50_us", 1e-3), ("polite p99 ms", "beside_p99_us", 1e-3)
B_LOST = ("polite lost %", "beside_loss_pct", 1)
GENERATOR = ("generator's CPU %", "own_cpu_pct", 1)
COLUMNS = {
    "saturated": (CPU_GB, CPU_PACKET, DELIVERED, LOST, GENERATOR),
    "rates": (CPU_PACKET, P50, P99, LOST, ("wake-ups/packet", "switches_per_packet", 1), GENERATOR),
    "curve": (DELIVERED, LOST, P50, P99, CPU_GB),
    "mesh": (CPU_GB, DELIVERED, LOST, P50, P99),
    "overload": (DELIVERED, LOST, CPU_GB, P50, P99, B_LOST, B50, B99),
    "latency": (("offered/s", "offered_pps", 1), P50, P99, LOST, GENERATOR),
    "idle": (("KiB/client", "rss_kb_per_client", 1), ("at the end of a burst", "burst_rss_kb_per_client", 1),
             ("10 s later", "after_rss_kb_per_client", 1), ("CPU %", "idle_cpu_pct", 1)),
    "logins": (("CPU µs/login", "cpu_us_per_login", 1), ("resumed", "resumed", 1), ("handshake µs", "handshake_us", 1),
               ("resumed µs", "resumed_us", 1), ("NaCl µs", "box_us", 1), ("over TCP, with NaCl µs", "tcp_login_us", 1)),
    "herd": (("in", "in", 1), ("failed", "failed", 1), ("all in after s", "seconds", 1), ("longest s", "longest_s", 1), P50, P99, LOST),
    "workers": (CPU_GB, DELIVERED, LOST, ("wake-ups/packet", "switches_per_packet", 1)),
    "slow_path": (DELIVERED, P50, ("small p50 ms", "beside_p50_us", 1e-3), ("small p99 ms", "beside_p99_us", 1e-3),
                  ("small lost %", "beside_loss_pct", 1)),
    "long_path": (DELIVERED, LOST, P50, P99),
}

LONG_PATHS = [f"{ms} ms, loss {loss:.2%}, {cc}" for ms in (100, 200) for loss in (0, 0.0001) for cc in ("cubic", "bbr")]

# What is asked: (text, experiment, ratio of one round, limit, limit of --check or None); a ratio is (subject, key) over
# (subject, key) or over a number.
DEMANDS = (
    ("CPU per GB, to the floor", "saturated", ("derpmesh 1400", "cpu_s_per_gb"), ("floor 1400", "cpu_s_per_gb"), 1.25, None),
    ("CPU per GB, one pair, to the floor", "saturated", ("derpmesh one pair", "cpu_s_per_gb"), ("floor one pair", "cpu_s_per_gb"), 1.25, None),
    ("CPU per packet of 200 bytes, to the floor", "saturated", ("derpmesh 200", "cpu_us_per_packet"),
     ("floor 200", "cpu_us_per_packet"), 1.35, None),
    ("CPU per GB in plain TCP, to the floor", "saturated", ("derpmesh plain", "cpu_s_per_gb"),
     ("floor plain", "cpu_s_per_gb"), 2.3, None),
    ("CPU per packet at 10,000/s, to the floor", "rates", ("derpmesh 10000", "cpu_us_per_packet"),
     ("floor 10000", "cpu_us_per_packet"), 1.15, None),
    ("CPU per packet at 20,000/s, to the floor", "rates", ("derpmesh 20000", "cpu_us_per_packet"), ("floor 20000", "cpu_us_per_packet"), 1.15, None),
    ("CPU per packet at 40,000/s, to the floor", "rates", ("derpmesh 40000", "cpu_us_per_packet"), ("floor 40000", "cpu_us_per_packet"), 1.15, None),
    ("CPU per packet at 10,000/s, to derper", "rates", ("derpmesh 10000", "cpu_us_per_packet"),
     ("derper 10000", "cpu_us_per_packet"), 0.8, None),
    ("CPU per packet at 20,000/s, to derper", "rates", ("derpmesh 20000", "cpu_us_per_packet"), ("derper 20000", "cpu_us_per_packet"), 0.8, None),
    ("CPU per packet at 40,000/s, to derper", "rates", ("derpmesh 40000", "cpu_us_per_packet"), ("derper 40000", "cpu_us_per_packet"), 0.8, None),
    ("p99 at 20,000/s, to derper", "rates", ("derpmesh 20000", "p99_us"), ("derper 20000", "p99_us"), 0.3, None),
    ("two nodes together, to one", "mesh", ("two nodes", "cpu_s_per_gb"), ("one node", "cpu_s_per_gb"), 1.8, None),
    ("goodput flat out, to the most at any rate", "overload", ("10 pairs", "delivered_pps"), ("peak", "delivered_pps"), -0.9,
     -0.8),
    ("goodput, 1 pair flat out, to 10", "overload", ("1 pairs", "delivered_pps"), ("10 pairs", "delivered_pps"), -0.9, None),
    ("goodput, 100 pairs flat out, to 10", "overload", ("100 pairs", "delivered_pps"), ("10 pairs", "delivered_pps"), -0.8,
     -0.4),
    ("polite packets lost beside flooding, %", "overload", ("polite beside", "beside_loss_pct"), 1, 1, 5),
    ("memory of an idle client, KiB", "idle", ("derpmesh", "rss_kb_per_client"), 1, 18, 20),
    ("memory of a client 10 s after a burst, KiB", "idle", ("derpmesh", "after_rss_kb_per_client"), 1, 18, 40),
    ("CPU with 9,000 idle clients, %", "idle", ("derpmesh 9000", "idle_cpu_pct"), 1, 0.6, None),
    ("CPU per login, to handshake and NaCl in memory", "logins", ("derpmesh", "cpu_us_per_login"), ("floor", "login_us"), 1.3,
     None),
    ("CPU per login, to handshake over TCP and NaCl", "logins", ("derpmesh", "cpu_us_per_login"),
     ("floor", "tcp_login_us"), 1.3, None),
    ("CPU per login, to derper's", "logins", ("derpmesh", "cpu_us_per_login"), ("derper", "cpu_us_per_login"), 1, None),
    ("p99 of established clients beside 10,000 logins, to alone", "herd", ("derpmesh p99", "to_alone"), 1, 5, None),
    ("small packets beside a bulk flow on 10 Mbit/s, p50 to derper's", "slow_path", ("derpmesh", "beside_p50_us"),
     ("derper", "beside_p50_us"), 1, None),
    *((f"one flow over {path}, to a bare TCP relay", "long_path", (f"derpmesh {path}", "delivered_pps"),
       (f"plain floor {path}", "delivered_pps"), -0.8, None) for path in LONG_PATHS),
    ("two workers' CPU per GB, to one's", "workers", ("two workers", "cpu_s_per_gb"), ("one worker", "cpu_s_per_gb"), 1.35,
     None),
)


def spread(values, factor=1):
    """min / median / max of what was measured, in three digits."""
    values = sorted(v * factor for v in values)
    if not values:
        return ""
    low, mid, high = values[0], statistics.median(values), values[-1]
    return digits(mid) if len(values) == 1 else f"{digits(low)} / **{digits(mid)}** / {digits(high)}"


def digits(v):
    if v >= 1000:
        return f"{v:,.0f}"
    return f"{v:.0f}" if v >= 100 else f"{v:.3g}"


def subjects(rounds):
    return list(dict.fromkeys(s for r in rounds for s in r))


def table(name, rounds):
    columns = [c for c in COLUMNS[name] if any(c[1] in got for r in rounds for got in r.values())]
    lines = ["| " + " | ".join([name.replace("_", " ")] + [c[0] for c in columns]) + " |",
             "|---" * (len(columns) + 1) + "|"]
    for who in subjects(rounds):
        cells = [spread([r[who][key] for r in rounds if key in r.get(who, {})], factor) for _, key, factor in columns]
        if any(cells):
            lines.append("| " + " | ".join([who] + cells) + " |")
    verdicts = [verdict(d, rounds) for d in DEMANDS if d[1] == name]
    return "\n".join(lines + [""] + [f"* {v}" for v in verdicts if v]) + "\n"


# ---- demands ----

def ratios(demand, rounds):
    _, _, (who, key), over, _, _ = demand
    out = []
    for r in rounds:
        above = r.get(who, {}).get(key)
        below = r.get(over[0], {}).get(over[1]) if isinstance(over, tuple) else over
        if above is not None and below:
            out.append(above / below)
    return out


def met(value, limit):
    """A negative limit is a least."""
    return value >= -limit if limit < 0 else value <= limit


def verdict(demand, rounds):
    values = ratios(demand, rounds)
    if not values:
        return ""
    limit = demand[4]
    mid = statistics.median(values)
    sign = "≥" if limit < 0 else "≤"
    return f"{demand[0]}: {spread(values)} ({sign} {abs(limit):g}: {'yes' if met(mid, limit) else 'no'})"


def check(results):
    """The few ratios that hold on any machine, with wide margins: one round has to show them, since what else a machine
    does can spoil a round."""
    wrong = []
    for demand in DEMANDS:
        values = ratios(demand, results.get(demand[1], []))
        if demand[5] is not None and demand[1] in results:
            if not any(met(value, demand[5]) for value in values):
                wrong.append(f"{demand[0]}: {spread(values)}, limit {abs(demand[5]):g}")
    wrong += check_derper(results) + check_right(results)
    return wrong


def check_derper(results):
    """CPU per GB flat out is less than a third of derper's best at any rate."""
    wrong = []
    for full, paced in zip(results.get("saturated", []), results.get("rates", [])):
        best = min(got["cpu_s_per_gb"] for r in (full, paced) for who, got in r.items()
                   if who.startswith("derper ") and "cpu_s_per_gb" in got)
        ours = full["derpmesh 1400"]["cpu_s_per_gb"]
        print(f"CPU per GB flat out: {ours:.2f} s, {ours / best:.2f} of derper's best ({best:.1f} s)")
        if ours > best / 3:
            wrong.append(f"CPU per GB {ours:.2f} s is more than a third of derper's best ({best:.2f})")
    return wrong


def check_right(results):
    """No packet altered, repeated, out of order or for another; no connection lost."""
    return [f"{name}, {who}: {key}={got[key]:.0f}" for name, rounds in results.items() for r in rounds
            for who, got in r.items() for key in ("wrong", "closed")
            if who.startswith(("derpmesh", "one node", "two nodes", "polite")) and got.get(key)]


# ---- docs/performance.md ----

def write(docs, results):
    """Replaces what stands between `<!-- NAME -->` and `<!-- end -->`."""
    path = os.path.join(docs, "performance.md")
    with open(path) as f:
        text = f.read()
    for name, rounds in results.items():
        new = f"<!-- {name} -->\n{table(name, rounds)}<!-- end -->"
        text, n = re.subn(rf"<!-- {name} -->\n.*?<!-- end -->", lambda _: new, text, flags=re.S)
        if n != 1:
            print(f"docs/performance.md has no place for {name}")
    with open(path, "w") as f:
        f.write(text)
    if "curve" in results:
        plot(docs, results["curve"])


def plot(docs, rounds):
    for what, key, factor, label, log in (("goodput", "delivered_pps", 1e-3, "delivered, 1,000 packets/s", ""),
                                          ("p99", "p99_us", 1e-3, "p99, ms", "set logscale y\n")):
        blocks = []
        for who in ("derpmesh", "derper"):
            points = [(statistics.median(r[f"{who} {x}"]["offered_pps"] for r in rounds) / 1e3,
                       statistics.median(r[f"{who} {x}"].get(key, 0) for r in rounds) * factor)
                      for x in sorted({int(s.split()[1]) for s in rounds[0]}, key=lambda x: x or 1 << 30)]
            blocks.append(f"${who} << E\n" + "".join(f"{x} {y}\n" for x, y in sorted(points) if y > 0) + "E\n")
        script = ("set terminal svg size 640,400 background 'white'\n"
                  f"set output '{docs}/performance-{what}.svg'\nset key top left\nset grid\n{log}set logscale x\n"
                  f"set xlabel 'offered, 1,000 packets/s'\nset ylabel '{label}'\n" + "".join(blocks) +
                  "plot $derpmesh with linespoints title 'derpmesh', $derper with linespoints title 'derper'\n")
        subprocess.run(["gnuplot"], input=script, text=True, check=True)
