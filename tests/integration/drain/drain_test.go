// Package drain fills and drains nodes: clients of Tailscale's library go on to the next entry of their region, and who speaks
// to them from elsewhere hardly notices.
package drain

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/net/netmon"
	"tailscale.com/net/stun"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"derpmesh/tests/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// roamer is Tailscale's client with its region's entries in order; it reconnects as magicsock lets it.
type roamer struct {
	c   *derphttp.Client
	pub key.NodePublic

	mu         sync.Mutex
	last       time.Time     // when the last packet came
	gap        time.Duration // the longest time between two
	restarting int
	lost       int // connections that ended
}

func roam(t *testing.T, c *harness.Cluster, nodes ...*harness.Node) *roamer {
	t.Helper()
	region := &tailcfg.DERPRegion{RegionID: 900, RegionCode: "test"}
	for _, n := range nodes {
		region.Nodes = append(region.Nodes, n.DERPNode)
	}
	priv := key.NewNode()
	r := &roamer{pub: priv.Public()}
	r.c = derphttp.NewRegionClient(priv, func(string, ...any) {}, netmon.NewStatic(), func() *tailcfg.DERPRegion { return region })
	r.c.TLSConfig = &tls.Config{RootCAs: c.CA.Pool}
	r.c.NotePreferred(true)
	ctx, cancel := context.WithTimeout(t.Context(), harness.Scaled(10*time.Second))
	defer cancel()
	if err := r.c.Connect(ctx); err != nil {
		t.Fatalf("connect: %v", err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { close(done); r.c.Close() })
	go r.receive(done)
	return r
}

func (r *roamer) receive(done chan struct{}) {
	for {
		m, err := r.c.Recv()
		select {
		case <-done:
			return
		default:
		}
		r.mu.Lock()
		switch m := m.(type) {
		case derp.ReceivedPacket:
			if !r.last.IsZero() {
				r.gap = max(r.gap, time.Since(r.last))
			}
			r.last = time.Now()
		case derp.ServerRestartingMessage:
			if m.ReconnectIn >= 0 && m.TryFor > 0 {
				r.restarting++
			}
		}
		if err != nil {
			r.lost++
		}
		r.mu.Unlock()
		if err != nil {
			time.Sleep(50 * time.Millisecond) // magicsock backs off a little, too
		}
	}
}

// at names the node that the client is connected to.
func (r *roamer) at(nodes map[string]*harness.Node) string {
	if n := nodes[r.c.ServerPublicKey().String()]; n != nil {
		return n.Name
	}
	return "nowhere"
}

func byKey(t *testing.T, c *harness.Cluster) map[string]*harness.Node {
	t.Helper()
	m := map[string]*harness.Node{}
	for _, n := range c.Nodes {
		s, err := n.Status()
		if err != nil {
			t.Fatal(err)
		}
		m[s.PublicKey] = n
	}
	return m
}

// two nodes in region 900, one in region 901; args are the first one's.
func cluster(t *testing.T, args ...string) *harness.Cluster {
	t.Helper()
	c := harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: []int{2, 1}, NoStart: true})
	c.Nodes[0].Args = args
	c.StartAll(t)
	return c
}

// talk sends to each of them from the client, until the test ends.
func talk(t *testing.T, from *harness.Client, to []*roamer) {
	ctx, done := t.Context(), make(chan struct{})
	t.Cleanup(func() { <-done })
	go func() {
		defer close(done)
		for i := 0; ctx.Err() == nil; i++ {
			for _, r := range to {
				if from.Send(r.pub, fmt.Appendf(nil, "packet %d", i)) != nil {
					return
				}
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
}

// dials says whether TCP connects, and whether STUN is answered.
func dials(n *harness.Node) (tcp bool, stunned bool) {
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(n.Addr, fmt.Sprint(n.DERPPort)), 2*time.Second)
	if err == nil {
		conn.Close()
	}
	u, uerr := net.Dial("udp", net.JoinHostPort(n.Addr, fmt.Sprint(n.STUNPort)))
	if uerr != nil {
		return err == nil, false
	}
	defer u.Close()
	u.Write(stun.Request(stun.NewTxID()))
	u.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	_, uerr = u.Read(make([]byte, 200))
	return err == nil, uerr == nil
}

func wantGate(t *testing.T, n *harness.Node, gate string, open bool) {
	t.Helper()
	harness.Eventually(t, 10*time.Second, n.Name+" "+gate, func() error {
		s, err := n.Status()
		if err != nil {
			return err
		}
		tcp, stunned := dials(n)
		if s.Gate != gate || tcp != open || stunned != open {
			return fmt.Errorf("gate %s, TCP %v, STUN %v", s.Gate, tcp, stunned)
		}
		return nil
	})
}

func wantAt(t *testing.T, nodes map[string]*harness.Node, name string, roamers ...*roamer) {
	t.Helper()
	harness.Eventually(t, 20*time.Second, "clients at "+name, func() error {
		for _, r := range roamers {
			if at := r.at(nodes); at != name {
				return fmt.Errorf("%v is at %s", r.pub.ShortString(), at)
			}
		}
		return nil
	})
}

func admin(t *testing.T, n *harness.Node, command string) {
	t.Helper()
	out, err := exec.Command(os.Getenv("DERPMESH_BIN"), command, "--admin", n.Admin).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
	t.Logf("%s", strings.TrimSpace(string(out)))
}

// quiet fails if one of them heard nothing for long.
func quiet(t *testing.T, limit time.Duration, roamers []*roamer) {
	t.Helper()
	var longest time.Duration
	for _, r := range roamers {
		r.mu.Lock()
		longest = max(longest, r.gap, time.Since(r.last))
		r.mu.Unlock()
	}
	t.Logf("longest silence %v", longest.Round(time.Millisecond))
	if longest > harness.Scaled(limit) {
		t.Errorf("silent for %v, more than %v", longest, harness.Scaled(limit))
	}
}

// TestDrain: clients are told, go on to the next entry in batches, and are reached all the time; links stay, and come back by
// the draining node's own dialling; undrain opens the node.
func TestDrain(t *testing.T) {
	t.Parallel()
	c := cluster(t, "--drain-timeout", "6s")
	nodes := byKey(t, c)
	var clients []*roamer
	for range 20 {
		clients = append(clients, roam(t, c, c.Nodes[0], c.Nodes[1]))
	}
	wantAt(t, nodes, "n1", clients...)
	far := c.Nodes[2].Connect(t, harness.Opts{})
	talk(t, far, clients)
	time.Sleep(time.Second)
	admin(t, c.Nodes[0], "drain")
	wantGate(t, c.Nodes[0], "draining", false)
	time.Sleep(2 * time.Second)
	left := 0
	for _, r := range clients {
		if r.at(nodes) == "n1" {
			left++
		}
	}
	t.Logf("%d of %d left after some seconds", left, len(clients))
	wantAt(t, nodes, "n2", clients...)
	quiet(t, 5*time.Second, clients)
	for _, r := range clients {
		r.mu.Lock()
		if r.restarting != 1 || r.lost == 0 {
			t.Errorf("Restarting %d times, lost its connection %d times", r.restarting, r.lost)
		}
		r.mu.Unlock()
	}
	s, err := c.Nodes[0].Status()
	if err != nil || s.Clients.Connections != 0 || len(s.Problems) == 0 {
		t.Errorf("%d clients left, problems %s: %v", s.Clients.Connections, s.Problems, err)
	}
	c.WaitMesh(t)
	// A peer that is new cannot dial the node that drains: that one does it.
	c.Nodes[2].Kill(t)
	c.Nodes[2].Start(t)
	c.Nodes[2].WaitReady(t)
	c.WaitMesh(t)
	wantGate(t, c.Nodes[0], "draining", false)
	admin(t, c.Nodes[0], "undrain")
	wantGate(t, c.Nodes[0], "open", true)
	wantAt(t, nodes, "n1", roam(t, c, c.Nodes[0], c.Nodes[1]))
}

// TestUndrainInTheMiddle: those that have not left yet stay.
func TestUndrainInTheMiddle(t *testing.T) {
	t.Parallel()
	c := cluster(t, "--drain-timeout", "60s")
	nodes := byKey(t, c)
	var clients []*roamer
	for range 30 {
		clients = append(clients, roam(t, c, c.Nodes[0], c.Nodes[1]))
	}
	wantAt(t, nodes, "n1", clients...)
	admin(t, c.Nodes[0], "drain")
	stayed := func() (n int) {
		for _, r := range clients {
			r.mu.Lock()
			if r.lost == 0 {
				n++
			}
			r.mu.Unlock()
		}
		return n
	}
	harness.Eventually(t, 50*time.Second, "the first leave", func() error {
		if stayed() == len(clients) {
			return errors.New("all are still there")
		}
		return nil
	})
	admin(t, c.Nodes[0], "undrain")
	wantGate(t, c.Nodes[0], "open", true)
	n := stayed()
	time.Sleep(5 * time.Second)
	if n == 0 || stayed() != n {
		t.Errorf("%d stayed when it was over, %d some seconds later", n, stayed())
	}
}

// TestTerm: SIGTERM drains and then stops, in order and before its time is up; a second one does not wait.
func TestTerm(t *testing.T) {
	t.Parallel()
	c := cluster(t, "--drain-timeout", "5s")
	nodes := byKey(t, c)
	var clients []*roamer
	for range 20 {
		clients = append(clients, roam(t, c, c.Nodes[0], c.Nodes[1]))
	}
	talk(t, c.Nodes[2].Connect(t, harness.Opts{}), clients)
	time.Sleep(time.Second)
	c.Nodes[0].Stop(t)
	wantAt(t, nodes, "n2", clients...)
	quiet(t, 5*time.Second, clients)

	c.Nodes[0].Args = []string{"--drain-timeout", "10m"}
	c.Nodes[0].Start(t)
	c.Nodes[0].WaitReady(t)
	roam(t, c, c.Nodes[0])
	harness.Eventually(t, 10*time.Second, "a client of n1", func() error {
		s, err := c.Nodes[0].Status()
		if err == nil && s.Clients.Connections != 1 {
			err = fmt.Errorf("%d connections", s.Clients.Connections)
		}
		return err
	})
	if err := syscall.Kill(c.Nodes[0].PID(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	wantGate(t, c.Nodes[0], "draining", false)
	c.Nodes[0].Stop(t) // sends another one
}

// TestFull: at max_clients the next one goes on to the other node, and comes again when a tenth has left.
func TestFull(t *testing.T) {
	t.Parallel()
	c := cluster(t, "--max-clients", "10")
	nodes := byKey(t, c)
	var clients []*roamer
	for range 10 {
		clients = append(clients, roam(t, c, c.Nodes[0], c.Nodes[1]))
	}
	wantAt(t, nodes, "n1", clients...)
	wantGate(t, c.Nodes[0], "full", false)
	next := roam(t, c, c.Nodes[0], c.Nodes[1])
	wantAt(t, nodes, "n2", next)
	talk(t, c.Nodes[2].Connect(t, harness.Opts{}), append(clients, next))
	c.WaitMesh(t)
	time.Sleep(time.Second)
	quiet(t, 3*time.Second, append(clients, next))
	clients[0].c.Close()
	wantGate(t, c.Nodes[0], "open", true)
	wantAt(t, nodes, "n1", roam(t, c, c.Nodes[0], c.Nodes[1]))
	for _, r := range clients[1:] {
		if r.lost != 0 {
			t.Error("a client lost its connection")
		}
	}
}
