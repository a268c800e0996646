// Package tailnet measures what two real clients of a real Headscale notice when a relay dies: ours, or a real derper in its
// place, with the map as it is, with cross-listed backups, and with `derpmesh follow`.
//
// Each relay, each client and Headscale have a network namespace of their own; the clients cannot reach each other directly.
// Client a has its home in region 900, b in 901.  Packets go both ways every 20 ms, beside a TCP transfer from a to b, while
// b's home dies and comes back.  Printed is the longest time without a packet, each way (docs/tailnet.md).
package tailnet

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/crc64"
	"io"
	"math/rand"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"derpmesh/tests/integration/harness"
)

var runs = flag.Int("runs", 1, "how often each case is measured")

var table struct {
	sync.Mutex
	rows map[string][]string
}

func TestMain(m *testing.M) {
	table.rows = map[string][]string{}
	harness.Then(func() {
		fmt.Println("| case | longest silence a to b, b to a | after the return a to b, b to a | carried by the dead node |")
		for _, name := range slices.Sorted(func(yield func(string) bool) {
			for k := range table.rows {
				if !yield(k) {
					return
				}
			}
		}) {
			for _, row := range table.rows[name] {
				fmt.Printf("| %s | %s |\n", name, row)
			}
		}
	})
	flag.Set("side-by-side", "3")
	harness.MainInNetwork(m)
}

const (
	every   = 20 * time.Millisecond
	between = 5 // ms, each way, between any two
)

type maps string

const (
	plain    maps = "plain map"
	crossed  maps = "cross-listed map"
	followed maps = "follow"
)

type fault string

const (
	killed fault = "killed"
	silent fault = "silent"
)

// tailnet is the network, its relays, Headscale and two clients.
type tailnet struct {
	c      *harness.Cluster
	hs     *harness.Headscale
	a, b   *harness.Tailscaled
	ip     [2]string
	dead   *harness.Node // b's home
	follow *harness.Proc
}

func export(t testing.TB, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(harness.Program(t, "DERPMESH_BIN"), append([]string{"map", "export", "--to", "headscale"}, args...)...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("map export %v: %v", args, err)
	}
	return out
}

// unshuffled is a base_domain by which Headscale leaves that many regions with two nodes each as they are.
func unshuffled(regions int) string {
	for i := 0; ; i++ {
		domain := fmt.Sprintf("tailnet%d.test", i)
		rnd := rand.New(rand.NewSource(0))
		rnd.Seed(int64(crc64.Checksum([]byte(domain), crc64.MakeTable(crc64.ISO))))
		swapped := false
		for range regions {
			rnd.Shuffle(2, func(i, j int) { swapped = swapped || i != j })
		}
		if !swapped {
			return domain
		}
	}
}

func begin(t *testing.T, kind harness.Kind, m maps) *tailnet {
	t.Helper()
	spec := harness.Spec{Kind: kind, Regions: []int{1, 1, 1}, Cert: harness.CertPin, Namespaces: true, NoStart: true}
	if kind == harness.Derper {
		spec.Kinds = []harness.Kind{kind, kind, kind} // they mesh inside a region only
	}
	x := &tailnet{c: harness.New(t, spec)}
	n := x.c.Net
	for _, name := range []string{"hs", "a", "b"} {
		n.Add(t, name)
		n.Run(t, name, "ip", "route", "add", "default", "dev", "wire0")
	}
	n.Do(t, "delay *-* %d", between)
	n.Do(t, "cut a-b")
	for _, node := range x.c.Nodes {
		node.Start(t)
	}
	for _, node := range x.c.Nodes {
		node.WaitReady(t)
	}
	if kind == harness.Derpmesh {
		x.c.WaitMesh(t)
	}
	x.dead = x.c.Nodes[1]
	hs := harness.HeadscaleSpec{Spot: harness.Spot{Net: n, Name: "hs"}}
	switch m {
	case plain:
		hs.Map = export(t, x.c.MapFile)
	case crossed:
		hs.Map, hs.Domain = export(t, "--backup", "1", x.c.MapFile), unshuffled(3)
	case followed:
		hs.Map, hs.AutoUpdate = export(t, x.c.MapFile), "2s"
	}
	x.hs = harness.StartHeadscale(t, hs)
	if m == followed {
		line := n.Enter("hs", harness.Program(t, "DERPMESH_BIN"), "follow", "--map", x.c.MapFile, "--headscale", x.hs.MapFile)
		x.follow = harness.Run(t, x.hs.Dir, line[0], line[1:]...)
	}
	x.a = harness.StartTailscaled(t, harness.Spot{Net: n, Name: "a"})
	x.b = harness.StartTailscaled(t, harness.Spot{Net: n, Name: "b"})
	x.a.Up(t, x.hs, "a")
	x.b.Up(t, x.hs, "b")
	for _, r := range x.a.DERPMap(t).Regions {
		if r.Nodes[0].STUNPort < 0 {
			t.Fatalf("Headscale put a backup first in region %d", r.RegionID)
		}
	}
	x.a.Home(t, 900)
	x.b.Home(t, 901)
	x.ip = [2]string{x.a.Status(t).Self.TailscaleIPs[0], x.b.Status(t).Self.TailscaleIPs[0]}
	knows(t, x.a, "r901")
	knows(t, x.b, "r900")
	return x
}

// knows waits until a client has been told of the other's home.
func knows(t *testing.T, d *harness.Tailscaled, home string) {
	t.Helper()
	harness.Eventually(t, 30*time.Second, "the other's home is known", func() error {
		for _, p := range d.Status(t).Peer {
			if p.Relay == home {
				return nil
			}
		}
		return errors.New("not yet")
	})
}

// way is the packets of one direction.
type way struct {
	mu   sync.Mutex
	came []time.Time
}

// silence is the longest time without a packet that touches the time between from and to.
func (w *way) silence(from, to time.Time) (longest time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	last := from
	for _, at := range w.came {
		if at.Before(from) {
			last = at
			continue
		}
		if at.After(to) {
			break
		}
		longest = max(longest, at.Sub(last))
		last = at
	}
	return max(longest, to.Sub(last))
}

// lastAt is when the last packet came.
func (w *way) lastAt() (at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.came) > 0 {
		at = w.came[len(w.came)-1]
	}
	return at
}

// send sends from one client to the other until the test ends, and waits for the first packet.
func (x *tailnet) send(t *testing.T, sock [2]net.PacketConn, from int) *way {
	t.Helper()
	w := &way{}
	done := make(chan struct{})
	t.Cleanup(func() { close(done) })
	go func() {
		buf := make([]byte, 2000)
		for {
			if _, _, err := sock[1-from].ReadFrom(buf); errors.Is(err, net.ErrClosed) {
				return
			} else if err == nil {
				w.mu.Lock()
				w.came = append(w.came, time.Now())
				w.mu.Unlock()
			}
		}
	}()
	go func() {
		to := &net.UDPAddr{IP: net.ParseIP(x.ip[1-from]), Port: 7000}
		tick := time.NewTicker(every)
		defer tick.Stop()
		var b [200]byte
		for n := uint64(0); ; n++ {
			select {
			case <-done:
				return
			case <-tick.C:
				binary.BigEndian.PutUint64(b[:], n)
				sock[from].WriteTo(b[:], to)
			}
		}
	}()
	harness.Eventually(t, 40*time.Second, fmt.Sprintf("packets from client %d", from), func() error {
		if w.lastAt().IsZero() {
			return errors.New("none")
		}
		return nil
	})
	return w
}

// traffic begins with a's packets: a then has a connection to b's home, and b answers where it heard a.  Both at the same
// moment would also make WireGuard's two handshakes collide, each time anew.
func (x *tailnet) traffic(t *testing.T) (ab, ba *way) {
	t.Helper()
	sock := [2]net.PacketConn{
		x.c.Net.ListenPacket(t, "a", x.ip[0]+":7000"),
		x.c.Net.ListenPacket(t, "b", x.ip[1]+":7000"),
	}
	ab = x.send(t, sock, 0)
	return ab, x.send(t, sock, 1)
}

// transfer sends numbered bytes from a to b, paced, until stop; stop waits for all of them and compares.
func (x *tailnet) transfer(t *testing.T) (stop func()) {
	t.Helper()
	l := x.c.Net.Listen(t, "b", "tcp", x.ip[1]+":7001")
	ctx, cancel := context.WithTimeout(context.Background(), harness.Scaled(20*time.Second))
	defer cancel()
	out, err := x.c.Net.Dial(ctx, "a", "tcp", x.ip[1]+":7001")
	if err != nil {
		t.Fatalf("TCP from a to b: %v", err)
	}
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan []byte, 1)
	go func() {
		h := sha256.New()
		if _, err := io.Copy(h, in); err != nil {
			h.Write([]byte(err.Error()))
		}
		in.Close()
		got <- h.Sum(nil)
	}()
	quit, sent := make(chan struct{}), make(chan []byte, 1)
	go func() {
		h := sha256.New()
		piece := harness.Random(4000)
		for n := uint64(0); ; n++ {
			select {
			case <-quit:
				out.Close()
				sent <- h.Sum(nil)
				return
			case <-time.After(20 * time.Millisecond):
			}
			binary.BigEndian.PutUint64(piece, n)
			h.Write(piece)
			if _, err := out.Write(piece); err != nil {
				t.Errorf("TCP from a to b: %v", err)
				<-quit
				sent <- nil
				return
			}
		}
	}()
	return func() {
		close(quit)
		want := <-sent
		select {
		case have := <-got:
			if want != nil && !bytes.Equal(want, have) {
				t.Error("TCP from a to b: other bytes came than were sent, or not all")
			}
		case <-time.After(harness.Scaled(60 * time.Second)):
			t.Error("TCP from a to b: it does not complete")
		}
	}
}

// carried counts what went through the node that is to die, in both directions of the clients' traffic.
func (x *tailnet) carried(t *testing.T) uint64 {
	t.Helper()
	in := x.c.Net.Stats(t, "a", x.dead.Name).Sent + x.c.Net.Stats(t, "b", x.dead.Name).Sent
	out := x.c.Net.Stats(t, x.dead.Name, "a").Sent + x.c.Net.Stats(t, x.dead.Name, "b").Sent
	return min(in, out)
}

func (x *tailnet) strike(t *testing.T, f fault) {
	t.Helper()
	if f == killed {
		x.dead.Kill(t)
		return
	}
	x.c.Net.Do(t, "cut %s-*", x.dead.Name)
}

func (x *tailnet) heal(t *testing.T, f fault) {
	t.Helper()
	if f == killed {
		x.dead.Start(t)
		return
	}
	x.c.Net.Do(t, "heal %s-*", x.dead.Name)
}

// outcome is what one run measured.
type outcome struct {
	down, back [2]time.Duration // the longest silence a to b, b to a: while the node is dead, and after its return
	carried    uint64           // packets each way, in the two seconds before the fault, by the node that died
}

// settle waits until the traffic has been whole for 3 s after a moment, but not longer than limit.
func settle(limit time.Duration, ways ...*way) {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		whole := true
		for _, w := range ways {
			whole = whole && w.silence(time.Now().Add(-3*time.Second), time.Now()) < 500*time.Millisecond
		}
		if whole {
			return
		}
	}
}

func run(t *testing.T, kind harness.Kind, m maps, f fault) (o outcome) {
	x := begin(t, kind, m)
	ab, ba := x.traffic(t)
	stop := x.transfer(t)
	time.Sleep(3 * time.Second)
	before := x.carried(t)
	time.Sleep(2 * time.Second)
	o.carried = x.carried(t) - before
	start := time.Now()
	x.strike(t, f)
	time.Sleep(12 * time.Second) // the third region's netchecks too: silences come late, and twice
	settle(140*time.Second, ab, ba)
	returned := time.Now()
	o.down = [2]time.Duration{ab.silence(start, returned), ba.silence(start, returned)}
	x.heal(t, f)
	time.Sleep(15 * time.Second)
	settle(60*time.Second, ab, ba)
	o.back = [2]time.Duration{ab.silence(returned, time.Now()), ba.silence(returned, time.Now())}
	stop()
	if m == followed {
		x.followed(t)
	}
	return o
}

// followed looks whether the map went there and back.
func (x *tailnet) followed(t *testing.T) {
	t.Helper()
	log, err := os.ReadFile(x.follow.Log())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"n2 of region 901 is dead", "region=901 lists node=n1", "n2 of region 901 is back"} {
		if !strings.Contains(string(log), want) {
			t.Errorf("follow does not say %q:\n%s", want, log)
		}
	}
	harness.Eventually(t, 30*time.Second, "the map ends as it began", func() error {
		for id, r := range x.a.DERPMap(t).Regions {
			if len(r.Nodes) != 1 || r.Nodes[0].HostName != x.c.Nodes[id-900].HostName {
				return fmt.Errorf("region %d lists %v", id, r.Nodes)
			}
		}
		return nil
	})
}

// measured runs a case and prints it; most is what a run may take at all, on a busy machine too.
func measured(t *testing.T, kind harness.Kind, m maps, f fault, most time.Duration) {
	name := fmt.Sprintf("%s, %s, %s", f, m, kind)
	for i := range *runs {
		t.Run(fmt.Sprintf("%s %d", name, i+1), func(t *testing.T) {
			t.Parallel()
			o := run(t, kind, m, f)
			table.Lock()
			table.rows[name] = append(table.rows[name], fmt.Sprintf("%.1f s, %.1f s | %.1f s, %.1f s | %d packets/s",
				o.down[0].Seconds(), o.down[1].Seconds(), o.back[0].Seconds(), o.back[1].Seconds(), o.carried/2))
			table.Unlock()
			// b's home carries what a sends, 50 packets and 50 pieces of TCP a second: else it is not missed.
			if o.carried < 100 {
				t.Errorf("the node that died carried %d packets in the 2 s before: nothing was measured", o.carried)
			}
			if worst := max(o.down[0], o.down[1]); kind == harness.Derpmesh && most > 0 && worst > harness.Scaled(most) {
				t.Errorf("silent for %v", worst)
			}
		})
	}
}

// TestRelayDies is the short form: what the product promises, and derper beside it.
func TestRelayDies(t *testing.T) {
	measured(t, harness.Derpmesh, followed, silent, 15*time.Second)
	measured(t, harness.Derpmesh, crossed, killed, 5*time.Second)
	measured(t, harness.Derper, crossed, killed, 0)
}

// TestRelayDiesEachWay is the rest of the table.
func TestRelayDiesEachWay(t *testing.T) {
	harness.SkipUnlessLong(t)
	for _, f := range []fault{killed, silent} {
		for _, m := range []maps{plain, crossed} {
			for _, k := range []harness.Kind{harness.Derper, harness.Derpmesh} {
				if m != crossed || f != killed { // which the short form measures
					measured(t, k, m, f, 0)
				}
			}
		}
	}
	measured(t, harness.Derpmesh, followed, killed, 0)
}
