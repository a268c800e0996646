package compose

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"derpmesh/tests/integration/harness"
)

// world is three VPSes.  The map lists a and b by their addresses, with certificates of their own making, and c by a DNS name, with
// one of an authority.
type world struct {
	regions []int // of the three
	ca      *harness.CA
	a, b, c *host
	hosts   []*host
	pins    map[string]string // by node
	keys    []key.NodePrivate
	clients []*client
	derpMap *tailcfg.DERPMap
}

const (
	nameOfC = "relay-c.test"
	tiny    = `    networks:
      default: {}
      internet:
        ipv4_address: %s
%s`
	smallVolume = `volumes:
  state:
    driver: local
    driver_opts:
      type: tmpfs
      device: tmpfs
      o: size=512k,uid=65532,gid=65532,mode=0700
`
)

// newWorld prepares them, each in its region.  small: c's volume is in memory, and goes with its container.
func newWorld(t *testing.T, small bool, regions ...int) *world {
	makeInternet(t)
	w := &world{regions: regions, ca: harness.NewCA(t), pins: map[string]string{}}
	meshKey := []byte(harness.NewMeshKey() + "\n")
	for i, name := range []string{"fra-1", "hkg-1", "sfo-1"} {
		h := &host{name: name, number: i + 1, file: filepath.Join(deploy(t), "compose.yaml"), dir: t.TempDir()}
		volume := ""
		if i == 2 && small {
			volume = smallVolume
		}
		h.services = fmt.Sprintf(tiny, h.addr(), volume)
		w.hosts = append(w.hosts, h)
		h.prepare(t, "DERPMESH_ADMISSION=/etc/derpmesh/allow.txt", "DERPMESH_CERT_DIR="+map[bool]string{true: "/etc/derpmesh/certs"}[i == 2])
		h.give(t, "mesh.key", meshKey)
		h.give(t, "ca.pem", w.ca.PEM)
		// As on a VPS, where the address of the map is not the container's.  And with one node a region clients can only wait for it.
		h.give(t, "derpmesh.yaml", []byte("listen: 0.0.0.0:443\nlisten_stun: 0.0.0.0:3478\ndrain_timeout: 2s\n"))
	}
	w.a, w.b, w.c = w.hosts[0], w.hosts[1], w.hosts[2]
	w.certify(t, time.Now().AddDate(1, 0, 0))
	for range 3 * len(w.hosts) {
		w.keys = append(w.keys, key.NewNode())
	}
	w.allow(t)
	w.giveMap(t)
	return w
}

// certify gives c a certificate until then.
func (w *world) certify(t testing.TB, until time.Time) {
	t.Helper()
	pair := w.ca.Issue(t, nameOfC, until)
	w.c.give(t, "certs/"+nameOfC+".key", pair.KeyPEM)
	w.c.give(t, "certs/"+nameOfC+".crt", pair.CertPEM)
}

// allow puts the clients' keys, and these, into every VPS's allow file.
func (w *world) allow(t testing.TB, more ...string) {
	t.Helper()
	var b bytes.Buffer
	for _, k := range w.keys {
		text, err := k.Public().MarshalText()
		must(t, err)
		fmt.Fprintf(&b, "%s\n", text)
	}
	b.WriteString(strings.Join(more, "\n") + "\n")
	for _, h := range w.hosts {
		h.give(t, "allow.txt", b.Bytes())
	}
}

// giveMap writes the derpMap with the pins that are known.
func (w *world) giveMap(t testing.TB) {
	t.Helper()
	w.derpMap = &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{}}
	for i, h := range w.hosts {
		id := w.regions[i]
		n := &tailcfg.DERPNode{Name: h.name, RegionID: id, HostName: h.addr(), IPv4: h.addr(), IPv6: "none", CertName: w.pins[h.name]}
		if h == w.c {
			n.HostName = nameOfC
		}
		code, _, _ := strings.Cut(h.name, "-")
		if w.derpMap.Regions[id] == nil {
			w.derpMap.Regions[id] = &tailcfg.DERPRegion{RegionID: id, RegionCode: code, RegionName: code}
		}
		w.derpMap.Regions[id].Nodes = append(w.derpMap.Regions[id].Nodes, n)
	}
	text, err := json.MarshalIndent(w.derpMap, "", "  ")
	must(t, err)
	for _, h := range w.hosts {
		h.give(t, "derpmap.json", text)
	}
}

func (w *world) connect(t *testing.T) {
	for i, k := range w.keys {
		w.clients = append(w.clients, newClient(t, k, w.derpMap.Regions[w.regions[i%len(w.hosts)]], w.ca.Pool))
	}
	waitLogins(t, 30*time.Second, map[*client]int{}, w.clients)
}

// of are the clients whose home is that VPS; before counts the logins of all.
func (w *world) of(h *host) (its []*client) {
	for _, c := range w.clients {
		if c.region.RegionID == 899+h.number {
			its = append(its, c)
		}
	}
	return its
}

func (w *world) before() map[*client]int {
	m := map[*client]int{}
	for _, c := range w.clients {
		m[c] = c.times()
	}
	return m
}

// returned waits until the clients of h are back, and everyone reaches everyone; nobody else had to log in again.
func (w *world) returned(t *testing.T, h *host, before map[*client]int, since time.Time) {
	t.Helper()
	waitLogins(t, 60*time.Second, before, w.of(h))
	back := time.Since(since)
	for _, o := range w.hosts {
		o.waitLinks(t, len(w.hosts)-1)
	}
	linked := time.Since(since)
	pairs, sent := everyPair(t, w.clients)
	t.Logf("| %s: its %d clients are back after %v, all links after %v; %d pairs, %d packets sent", t.Name(), len(w.of(h)),
		back.Round(100*time.Millisecond), linked.Round(100*time.Millisecond), pairs, sent)
	for _, c := range w.clients {
		if c.region.RegionID != 899+h.number && c.times() != before[c] {
			t.Errorf("a client of region %d had to log in again", c.region.RegionID)
		}
	}
}

// Three VPSes from nothing, as docs/operate.md says it, and what then happens to them.
func TestThreeHosts(t *testing.T) {
	w := newWorld(t, true, 900, 901, 902)
	t.Run("Start", func(t *testing.T) { testStart(t, w) })
	if t.Failed() {
		return
	}
	w.connect(t)
	t.Run("Packets", func(t *testing.T) {
		pairs, sent := everyPair(t, w.clients)
		t.Logf("| %d clients of three regions: %d pairs, %d packets sent", len(w.clients), pairs, sent)
	})
	t.Run("Strangers", func(t *testing.T) { testStrangers(t, w) })
	t.Run("Recreate", func(t *testing.T) { testRecreate(t, w) })
	t.Run("Kill", func(t *testing.T) { testKill(t, w) })
	t.Run("Crash", func(t *testing.T) { testCrash(t, w) })
	t.Run("Disconnect", func(t *testing.T) { testDisconnect(t, w) })
	t.Run("Tailnet", func(t *testing.T) { testTailnet(t, w) })
	t.Run("BrokenTLS", func(t *testing.T) { testBrokenTLS(t, w) })
	t.Run("FullDisk", func(t *testing.T) { testFullDisk(t, w) })
}

// Unhealthy while clients would be refused, healthy once the pins are in the map that all have read; the file was replaced, so
// this also shows that a reload sees the new one.
func testStart(t *testing.T, w *world) {
	for _, h := range w.hosts {
		h.up(t)
	}
	for _, h := range []*host{w.a, w.b} {
		if said := h.waitHealth(t, "unhealthy"); !strings.Contains(said, "the map has no pin for it") {
			t.Errorf("%s is unhealthy, and says %q", h.name, said)
		}
		w.pins[h.name] = h.mustStatus(t).Certificate.Pin
	}
	w.c.waitHealth(t, "healthy")
	w.giveMap(t)
	for _, h := range w.hosts {
		h.must(t, "kill", "-s", "HUP", "derpmesh")
	}
	for _, h := range w.hosts {
		h.waitHealth(t, "healthy")
		h.waitLinks(t, 2)
		if strings.Contains(strings.Join(h.mustStatus(t).Problems, "\n"), "anyone") {
			t.Errorf("%s is open", h.name)
		}
	}
}

// The health check gets in though it is nobody's key; others do not.
func testStrangers(t *testing.T, w *world) {
	for _, h := range w.hosts {
		out, err := docker("exec", h.id(t), "derpmesh", "probe", "--map", "/etc/derpmesh/derpmap.json", "--from", h.name, "--to", h.name)
		if err == nil || !strings.Contains(out, "the login was refused") {
			t.Errorf("%s lets strangers in: %v: %s", h.name, err, out)
		}
	}
}

// A container made anew is the same node.
func testRecreate(t *testing.T, w *world) {
	old, id := w.a.mustStatus(t), w.a.id(t)
	before, since := w.before(), time.Now()
	w.a.up(t, "--force-recreate")
	if w.a.id(t) == id {
		t.Fatal("the container is the same")
	}
	w.a.waitHealth(t, "healthy")
	s := w.a.mustStatus(t)
	if s.PublicKey != old.PublicKey || s.Certificate.Pin != old.Certificate.Pin {
		t.Errorf("the node has become another one: %s %s, then %s %s", old.PublicKey, old.Certificate.Pin, s.PublicKey, s.Certificate.Pin)
	}
	w.returned(t, w.a, before, since)
}

// docker kill: nobody brings it back, the others go on; then it is started again.
func testKill(t *testing.T, w *world) {
	id := w.b.id(t)
	before, since := w.before(), time.Now()
	mustDocker(t, "kill", id)
	var others []*client
	for _, h := range []*host{w.a, w.c} {
		others = append(others, w.of(h)...)
	}
	everyPair(t, others)
	mustDocker(t, "start", id)
	w.returned(t, w.b, before, since)
	w.b.waitHealth(t, "healthy")
}

// The program dies by itself: the engine starts it again.
func testCrash(t *testing.T, w *world) {
	pid, err := strconv.Atoi(mustDocker(t, "inspect", "-f", "{{.State.Pid}}", w.b.id(t)))
	must(t, err)
	before, since := w.before(), time.Now()
	must(t, syscall.Kill(pid, syscall.SIGKILL))
	w.returned(t, w.b, before, since)
	if n := mustDocker(t, "inspect", "-f", "{{.RestartCount}}", w.b.id(t)); n == "0" {
		t.Error("the engine has not started it again")
	}
}

// The VPS loses the network, and gets it back.
func testDisconnect(t *testing.T, w *world) {
	id := w.b.id(t)
	mustDocker(t, "network", "disconnect", internet, id)
	w.a.waitLinks(t, 1)
	before, since := w.before(), time.Now()
	mustDocker(t, "network", "connect", "--ip", w.b.addr(), internet, id)
	for _, h := range w.hosts {
		h.waitLinks(t, 2)
	}
	linked := time.Since(since)
	pairs, sent := everyPair(t, w.clients)
	again := 0
	for _, c := range w.of(w.b) {
		again += min(1, c.times()-before[c])
	}
	t.Logf("| %s: all links after %v; %d of %d clients logged in again, %d pairs, %d packets sent", t.Name(),
		linked.Round(100*time.Millisecond), again, len(w.of(w.b)), pairs, sent)
	w.b.waitHealth(t, "healthy")
}

// The certificate ends and nobody has renewed it; then somebody does.
func testBrokenTLS(t *testing.T, w *world) {
	w.certify(t, time.Now().Add(10*time.Second))
	harness.Eventually(t, 30*time.Second, "the short certificate is served", func() error {
		out, err := docker("logs", "--tail", "20", w.c.id(t))
		if err == nil && !strings.Contains(out, "taken over without a reload") {
			logs, _ := exec.Command("docker", "logs", "--tail", "20", w.c.id(t)).CombinedOutput()
			if !bytes.Contains(logs, []byte("taken over without a reload")) {
				err = errors.New("not taken over yet")
			}
		}
		return err
	})
	if said := w.c.waitHealth(t, "unhealthy"); !strings.Contains(said, "expired") {
		t.Errorf("it is unhealthy, and says %q", said)
	}
	since := time.Now()
	w.certify(t, time.Now().AddDate(1, 0, 0))
	said := w.c.waitHealth(t, "healthy")
	t.Logf("| %s: healthy %v after the renewal: %s", t.Name(), time.Since(since).Round(100*time.Millisecond), strings.TrimSpace(said[strings.LastIndex(strings.TrimSpace(said), "\n")+1:]))
	everyPair(t, w.clients)
}

// Nothing can be written any more: who is there stays, who comes is served, the map is read again.
func testFullDisk(t *testing.T, w *world) {
	before := w.before()
	out, err := docker("exec", w.c.id(t), "sh", "-c", "cat /dev/zero >/var/lib/derpmesh/fill")
	if err == nil {
		t.Fatalf("the disk is not full: %s", out)
	}
	w.c.must(t, "kill", "-s", "HUP", "derpmesh")
	c := newClient(t, w.keys[2], w.derpMap.Regions[902], w.ca.Pool) // one more connection
	waitLogins(t, 30*time.Second, map[*client]int{}, []*client{c})
	c.Close()
	everyPair(t, w.clients)
	w.c.waitHealth(t, "healthy")
	w.c.waitLinks(t, 2)
	for c, n := range w.before() {
		if n != before[c] {
			t.Errorf("a client of region %d had to log in again", c.region.RegionID)
		}
	}
	mustDocker(t, "exec", w.c.id(t), "rm", "/var/lib/derpmesh/fill")

	// A node that cannot keep its key does not begin: it would be another one after each start.
	logs, err := exec.Command("docker", "run", "--rm", "--tmpfs", "/var/lib/derpmesh:size=4k,uid=65532,mode=0700", "-v",
		w.a.conf()+":/etc/derpmesh:ro", "-e", "DERPMESH_NODE="+w.a.name, "--network", "none", os.Getenv("DERPMESH_IMAGE")).CombinedOutput()
	if err == nil || !bytes.Contains(logs, []byte("/var/lib/derpmesh")) || !bytes.Contains(bytes.ToLower(logs), []byte("no space left")) {
		t.Errorf("a node without room for its key: %v: %s", err, logs)
	}
}
