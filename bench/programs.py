"""What bench/run.py starts: relays, the floor, the load generator, a bad network."""
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DERPER_VERSION = "v1.102.5"
HOST = "bench.test"


class Failed(Exception):
    pass


class Setting:
    """Where the programs are, on which cores they run, and a directory for what they write."""

    def __init__(self, build, priority):
        self.build = build
        self.dir = tempfile.mkdtemp(prefix="derpmesh-bench-")
        self.port = 20000 + os.getpid() % 5000 * 2
        self.prefix = []
        if priority:  # each program has its core when it wants it, whatever else the machine does
            self.prefix = ["chrt", "-r", "5"]
            if subprocess.run(self.prefix + ["true"], stderr=subprocess.DEVNULL).returncode != 0:
                raise Failed("--priority needs root (chrt)")
        self.running = []
        self.write_files()

    def path(self, name):
        return os.path.join(self.dir, name)

    def write_files(self):
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                        "-days", "30", "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}", "-keyout",
                        self.path(f"{HOST}.key"), "-out", self.path(f"{HOST}.crt")],
                       check=True, stderr=subprocess.DEVNULL)
        with open(os.open(self.path("mesh.key"), os.O_CREAT | os.O_WRONLY, 0o600), "w") as f:
            f.write(os.urandom(32).hex() + "\n")

    def write_map(self, address):
        nodes = [(900, "one", self.port), (901, "two", self.port + 1)]
        regions = ",".join(
            f'"{region}": {{"RegionID": {region}, "RegionCode": "{name}", "RegionName": "{name}", "Nodes": ['
            f'{{"Name": "{name}", "RegionID": {region}, "HostName": "{HOST}", "IPv4": "{address}",'
            f' "DERPPort": {port}, "InsecureForTests": true}}]}}' for region, name, port in nodes)
        with open(self.path("map.json"), "w") as f:
            f.write('{"Regions": {' + regions + "}}")

    def spawn(self, argv, cores, log, netns=None, env=None):
        enter = ["nsenter", f"--net={netns}"] if netns else []
        with open(self.path(log), "w") as out:
            p = subprocess.Popen(enter + self.prefix + ["taskset", "-c", cores] + argv, stdout=out, stderr=out,
                                 env=env, start_new_session=True)
        p.log = self.path(log)
        self.running.append(p)
        return p

    def stop(self, *processes):
        for p in processes:
            p.send_signal(signal.SIGINT)
        for p in processes:
            try:
                p.wait(15)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
            self.running.remove(p)

    def stop_all(self):
        self.stop(*self.running)

    def clean(self):
        shutil.rmtree(self.dir)

    # ---- relays ----

    def derpmesh(self, name="one", plain=False, workers=1, cores="0", address="127.0.0.1", netns=None, mesh=False,
                 extra=()):
        self.write_map(address)
        port = self.port + (name == "two")
        state = self.path(f"state-{name}")
        os.makedirs(state, exist_ok=True)
        argv = [f"{self.build}/derpmesh", "serve", "--map", self.path("map.json"), "--node", name, "--state", state,
                "--listen", f"{address}:{port}", "--listen-http", "off", "--listen-stun", "off",
                "--tls", "off" if plain else "manual", "--cert-dir", self.dir, "--metrics", "off",
                "--admin", self.path(f"{name}.sock"), "--workers", str(workers), *extra]
        if mesh:
            argv += ["--mesh-key-file", self.path("mesh.key")]
        return self.started(self.spawn(argv, cores, f"{name}.log", netns), "serve public_key=")

    def mesh(self, cores=("0", "0")):
        pair = [self.derpmesh(name, cores=c, mesh=True) for name, c in zip(("one", "two"), cores)]
        self.started(pair[0], "mesh link up")
        return pair

    def derper(self, plain=False, cores="0", address="127.0.0.1", netns=None):
        argv = [derper_bin(), "-a", f"{address}:{self.port}", "-http-port", "-1", "-stun=false", "-hostname", HOST,
                "-certdir", self.dir, "-c", self.path("derper.json")]
        argv += ["-certmode", "manual"]
        return self.started(self.spawn(argv, cores, "derper.log", netns), "serving on|running")

    def floor(self, pairs=10, plain=False, cores="0", address="127.0.0.1", netns=None):
        argv = [f"{self.build}/bench/floor", "serve", "--addr", f"{address}:{self.port}", "--pairs", str(pairs)]
        p = self.spawn(argv + (["--plain"] if plain else []), cores, "floor.log", netns)
        time.sleep(0.3)
        return p

    def started(self, p, sign, limit=15):
        until = time.monotonic() + limit
        while time.monotonic() < until and p.poll() is None:
            with open(p.log) as f:
                if re.search(sign, f.read()):
                    time.sleep(0.2)
                    return p
            time.sleep(0.05)
        with open(p.log) as f:
            raise Failed(f"{shlex.join(p.args)} did not start:\n{f.read()}")

    # ---- the load generator ----

    def load(self, relays, *args, address="127.0.0.1", cores="1", netns=None, floor=False, mesh=False):
        """Runs it against what listens there.  Its line as a dictionary of numbers."""
        enter = ["nsenter", f"--net={netns}"] if netns else []
        argv = enter + self.prefix + ["taskset", "-c", cores, f"{self.build}/bench/load", "--addr",
                                      f"{address}:{self.port}", "--pid", ",".join(str(p.pid) for p in relays)]
        if floor:
            argv.append("--floor")
        if mesh:
            argv += ["--to", f"{address}:{self.port + 1}"]
        out = subprocess.run(argv + [str(a) for a in args], capture_output=True, text=True, timeout=300)
        if out.returncode != 0:
            raise Failed(f"{shlex.join(argv + [str(a) for a in args])}: {out.stderr}")
        return fields(out.stdout)

    def floor_login(self, n=1000):
        argv = self.prefix + ["taskset", "-c", "0", f"{self.build}/bench/floor", "login", str(n)]
        return fields(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)


def fields(line):
    return {k: float(v) for k, v in (pair.split("=") for pair in line.split())}


def derper_bin():
    there = os.environ.get("DERPER_BIN")
    if there:
        return there
    tools = os.path.join(ROOT, "build", "tools")
    path = os.path.join(tools, "derper")
    if not os.path.exists(path):
        subprocess.run(["go", "install", f"tailscale.com/cmd/derper@{DERPER_VERSION}"], check=True,
                       env={**os.environ, "GOBIN": tools})
    return path


class Wire:
    """tests/tools/wire with two ports: the relay's and the clients' namespace."""

    RELAY, CLIENTS = "198.18.7.1", "198.18.7.2"

    def __init__(self, build):
        self.p = subprocess.Popen([f"{build}/tests/tools/wire", f"relay={self.RELAY}", f"clients={self.CLIENTS}"],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.netns = {}
        for _ in range(2):
            line = self.p.stdout.readline().split()
            if not line or line[0] != "port":
                raise Failed(f"the wire did not start (it needs root): {' '.join(line)}")
            self.netns[line[1]] = line[2]
        self.p.stdout.readline()  # ok realtime

    def say(self, command):
        self.p.stdin.write(command + "\n")
        self.p.stdin.flush()
        answer = self.p.stdout.readline()
        if not answer.startswith("ok"):
            raise Failed(f"wire: {command}: {answer}")

    def congestion(self, port, name):
        """By the route: the sysctl of a namespace takes only what the whole machine allows."""
        ip = ["nsenter", f"--net={self.netns[port]}", "ip", "route"]
        routes = subprocess.run(ip + ["show"], check=True, capture_output=True, text=True).stdout.splitlines()
        for route in filter(str.strip, routes):
            subprocess.run(ip + ["change", *route.split(), "congctl", name], check=True)

    def close(self):
        self.p.stdin.close()
        self.p.wait()
