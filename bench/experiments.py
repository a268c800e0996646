"""What is measured: each experiment runs its subjects in turn and returns {subject: {key: number}}.

bench/run.py repeats them.  `short` keeps each to a second or two.
"""
import concurrent.futures

from programs import Wire

RATES = (10000, 20000, 40000)
CURVE = (10000, 20000, 40000, 60000, 100000, 150000, 200000, 300000, 400000)


def with_relay(s, start, measure):
    p = start()
    try:
        return measure([p])
    finally:
        s.stop(p)


def three(s, *args, pairs=10, plain=False):
    """The same load on derpmesh, derper and the floor."""
    args = ("--pairs", pairs, *args) + (("--plain",) if plain else ())
    return {
        "derpmesh": with_relay(s, lambda: s.derpmesh(plain=plain), lambda r: s.load(r, *args)),
        "derper": with_relay(s, s.derper, lambda r: s.load(r, *args)) if not plain else {},
        "floor": with_relay(s, lambda: s.floor(pairs, plain), lambda r: s.load(r, *args, floor=True)),
    }


def seconds(short):
    return ("--seconds", 1 if short else 3)


def saturated(s, short):
    """1. As fast as TCP takes it."""
    out = {}
    for name, args in (("1400", {}), ("200", {}), ("one pair", {"pairs": 1}), ("plain", {"plain": True})):
        if short and name in ("200", "plain"):
            continue
        size = ("--size", 200) if name == "200" else ()
        for who, got in three(s, *seconds(short), *size, **args).items():
            out[f"{who} {name}"] = got
    return out


def rates(s, short):
    """2. A packet at a time."""
    out = {}
    for rate in RATES[1:2] if short else RATES:
        for who, got in three(s, *seconds(short), "--rate", rate).items():
            out[f"{who} {rate}"] = got
    return out


def curve(s, short):
    """Goodput and latency over what is offered; 0: flat out."""
    out = {}
    for rate in (*CURVE, 0):
        for who, start in (("derpmesh", s.derpmesh), ("derper", s.derper)):
            out[f"{who} {rate}"] = with_relay(s, start, lambda r: s.load(r, "--seconds", 1.5, "--rate", rate))
    return out


def mesh(s, short):
    """3. Sender at one node, receiver at the other."""
    one = with_relay(s, s.derpmesh, lambda r: s.load(r, *seconds(short)))
    both = s.mesh()
    try:
        two = s.load(both, *seconds(short), mesh=True)
    finally:
        s.stop(*both)
    return {"one node": one, "two nodes": two}


def overload(s, short):
    """4. Senders push as hard as TCP lets them, receivers take what they can, or 10 MB/s."""
    out = {}
    for pairs in (1, 10, 100):
        out[f"{pairs} pairs"] = with_relay(s, s.derpmesh, lambda r: s.load(r, *seconds(short), "--pairs", pairs))
    paced = [with_relay(s, s.derpmesh, lambda r: s.load(r, *seconds(short), "--rate", rate)) for rate in (100000, 200000)]
    out["peak"] = max((*paced, out["10 pairs"]), key=lambda got: got["delivered_pps"])
    out["slow receivers"] = with_relay(s, s.derpmesh, lambda r: s.load(r, *seconds(short), "--slow", 10e6))
    polite = ("--beside", 10, "--beside-rate", 1000, *seconds(False))
    out["polite alone"] = with_relay(s, s.derpmesh, lambda r: s.load(r, *polite, "--rate", 1))
    out["polite beside"] = with_relay(s, s.derpmesh, lambda r: s.load(r, *polite))
    return out


def latency(s, short):
    """5. One packet alone (100/s), half and 90 % of what is delivered flat out."""
    out = {f"{who} alone": got for who, got in three(s, "--rate", 100, *seconds(False), pairs=1).items()}
    full = with_relay(s, s.derpmesh, lambda r: s.load(r, *seconds(short)))["delivered_pps"]
    for name, part in (("half", 0.5), ("90 %", 0.9)):
        for who, got in three(s, *seconds(short), "--rate", int(full * part)).items():
            out[f"{who} {name}"] = got
    return out


def idle(s, short):
    """6. Memory: clients that only stay, and after each has relayed 10 MB."""
    n = 200 if short else 1000
    out = {
        "derpmesh": with_relay(s, s.derpmesh, lambda r: s.load(r, "--idle", n, "--burst", 10 if not short else 2)),
        "derper": with_relay(s, s.derper, lambda r: s.load(r, "--idle", n)),
    }
    if not short:
        out["derpmesh 9000"] = with_relay(s, s.derpmesh, lambda r: s.load(r, "--idle", 9000, "--watch", 60))
    return out


def logins(s, short):
    """7. One after the other, without and with tickets."""
    n = 300 if short else 1000
    bare = s.floor_login(200 if short else 1000)
    tcp = with_relay(s, lambda: s.floor((n + 20) // 2), lambda r: s.load(r, "--floor", "--idle", n))
    bare["tcp_login_us"] = tcp["cpu_us_per_login"] + bare["box_us"]
    out = {"floor": bare}
    for who, start in (("derpmesh", s.derpmesh), ("derper", s.derper)):
        out[who] = with_relay(s, start, lambda r: s.load(r, "--idle", n))
        out[f"{who} tickets"] = with_relay(s, start, lambda r: s.load(r, "--idle", n, "--resume"))
    return out


def herd(s, short):
    """7. Thousands of logins at once, and 1,000 packets/s of clients that are in already."""
    n = 500 if short else 10000
    raised = ("--login-limit", "20000", "--login-limit-ip", "2000")
    out = {}
    for who, start in (("derpmesh", lambda: s.derpmesh(extra=raised)), ("derper", s.derper)):
        p = start()
        try:
            alone = s.load([p], "--rate", 1000, *seconds(short))
            with concurrent.futures.ThreadPoolExecutor() as pool:
                logins = pool.submit(s.load, [p], "--herd", n)
                beside = s.load([p], "--rate", 1000, "--warm", 0.3, "--seconds", 0.5 if short else 8)
                logins = logins.result()
        finally:
            s.stop(p)
        out[f"{who} alone"] = alone
        out[f"{who}, {n} logins"] = {**logins, "p50_us": beside["p50_us"], "p99_us": beside["p99_us"],
                                     "loss_pct": beside["loss_pct"]}
        out[f"{who} p99"] = {"to_alone": beside["p99_us"] / alone["p99_us"]}
    return out


def workers(s, short):
    """8. Half of the pairs cross between two workers."""
    one = with_relay(s, s.derpmesh, lambda r: s.load(r, *seconds(short)))
    two = with_relay(s, lambda: s.derpmesh(workers=2, cores="0-1"), lambda r: s.load(r, *seconds(short)))
    return {"one worker": one, "two workers": two}


def on_wire(s, conditions, start, args, floor=False, congestion=None):
    wire = Wire(s.build)
    try:
        for c in conditions:
            wire.say(c)
        for port in ("relay", "clients"):
            if congestion:
                wire.congestion(port, congestion)
        p = start(address=wire.RELAY, netns=wire.netns["relay"])
        try:
            return s.load([p], *args, address=wire.RELAY, netns=wire.netns["clients"], floor=floor)
        finally:
            s.stop(p)
    finally:
        wire.close()


def slow_path(s, short):
    """5. 10 Mbit/s to the receiver: small packets beside a bulk flow to it."""
    conditions = ["delay relay-clients 10", "rate relay>clients 10000000 65536"]
    args = ("--pairs", 1, "--beside", 1, "--beside-same", "--beside-rate", 100, "--warm", 3, "--seconds", 6)
    return {
        "derpmesh": on_wire(s, conditions, s.derpmesh, args),
        "derper": on_wire(s, conditions, s.derper, args),
    }


def long_path(s, short):
    """9. One flow over 100 and 200 ms, beside a relay that only passes TCP on."""
    out = {}
    for ms in (100, 200):
        for loss in (0, 0.0001):
            for cc in ("cubic", "bbr"):
                conditions = [f"delay relay-clients {ms / 2}", "rate relay-clients 100000000 1250000",
                              f"loss relay-clients {loss}"]
                args = ("--pairs", 1, "--warm", 6, "--seconds", 8)
                key = f"{ms} ms, loss {loss:.2%}, {cc}"
                out[f"derpmesh {key}"] = on_wire(s, conditions, s.derpmesh, args, congestion=cc)
                out[f"plain floor {key}"] = on_wire(s, conditions, lambda **a: s.floor(1, True, **a),
                                                    (*args, "--plain"), floor=True, congestion=cc)
    return out


ALL = {f.__name__: f for f in (saturated, rates, curve, mesh, overload, latency, idle, logins, herd, workers, slow_path,
                               long_path)}
SHORT = ("saturated", "rates", "overload", "idle", "logins", "mesh")

