// Package faults ends nodes, adds them and takes them away, and looks at the clients of the others.
package faults

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"

	"derpmesh/tests/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

func cluster(t *testing.T, nodes int) *harness.Cluster {
	t.Helper()
	return harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: slices.Repeat([]int{1}, nodes)})
}

// TestKill: kill -9 of one node of three, and its restart.  The clients of the others notice nothing of each
// other; the killed node's client comes back and is reached again, before it was ever called gone.
func TestKill(t *testing.T) {
	t.Parallel()
	c := cluster(t, 3)
	n1, n2, n3 := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	stop := harness.Flow(t, n1, n2)
	p1, p2 := n1.Connect(t, harness.Opts{Home: true}), n2.Connect(t, harness.Opts{Home: true})
	priv := key.NewNode()
	lone := n3.Connect(t, harness.Opts{Key: priv, Home: true})
	c.WaitRoutes(t, p1, p2, lone)
	for round := range 3 {
		n3.Kill(t)
		killed := time.Now()
		if _, ok := lone.Wait(5*time.Second, func(e harness.Event) bool { _, ok := e.Msg.(harness.Closed); return ok }); !ok {
			t.Fatal("the client of the killed node did not notice")
		}
		// Packets for it are dropped now; nothing else happens.
		p1.MustSend(t, priv.Public(), []byte("into the void"))
		time.Sleep(500 * time.Millisecond)
		n3.Start(t)
		n3.WaitReady(t)
		lone = n3.Connect(t, harness.Opts{Key: priv, Home: true})
		c.WaitRoutes(t, p1, p2, lone)
		took := time.Since(killed)
		t.Logf("round %d: reached again %v after the kill", round, took.Round(time.Millisecond))
		if gone := p1.Gone(priv.Public()) + p2.Gone(priv.Public()); gone != 0 && took < 8*time.Second {
			t.Errorf("round %d: called gone though it was back in %v: %s / %s", round, took, p1.Summary(), p2.Summary())
		}
		c.WaitMesh(t)
	}
	stop()
}

// TestKillForGood: the node stays away.  A client of it that goes to another node is reached there at once, and is
// not called gone.
func TestKillForGood(t *testing.T) {
	t.Parallel()
	c := cluster(t, 3)
	n1, n2, n3 := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	stop := harness.Flow(t, n1, n2)
	peer := n1.Connect(t, harness.Opts{})
	moverKey := key.NewNode()
	mover := n3.Connect(t, harness.Opts{Key: moverKey})
	c.WaitRoutes(t, peer, mover)

	n3.Kill(t)
	mover = n2.Connect(t, harness.Opts{Key: moverKey})
	time.Sleep(harness.Scaled(100 * time.Millisecond))
	hello := []byte("found at its new place")
	peer.MustSend(t, moverKey.Public(), hello)
	mover.WaitPacket(t, peer.Pub, hello)
	back := []byte("and answers from there")
	mover.MustSend(t, peer.Pub, back)
	peer.WaitPacket(t, moverKey.Public(), back)
	time.Sleep(12 * time.Second)
	if peer.AllGone() != 0 {
		t.Errorf("called gone though it has only moved: %s", peer.Summary())
	}
	stop()
}

// TestGoneWithItsNode: a client that does not come back after its node is stopped, killed or taken out of the map is
// called gone to whom heard from it, once, and to no one else.
func TestGoneWithItsNode(t *testing.T) {
	for _, tc := range []struct {
		name  string
		end   func(t *testing.T, c *harness.Cluster, n *harness.Node)
		limit time.Duration
	}{
		{"stopped", func(t *testing.T, c *harness.Cluster, n *harness.Node) { n.Stop(t) }, 10 * time.Second},
		// An unreachable node may only be cut off: its clients count as gone after 10 s, and some jitter.
		{"killed", func(t *testing.T, c *harness.Cluster, n *harness.Node) { n.Kill(t) }, 30 * time.Second},
		{"taken away", func(t *testing.T, c *harness.Cluster, n *harness.Node) {
			c.RemoveNode(n)
			c.WriteMap(t)
			c.Hup(t)
		}, 30 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := cluster(t, 3)
			heard, stranger := c.Nodes[0].Connect(t, harness.Opts{}), c.Nodes[1].Connect(t, harness.Opts{})
			lost := c.Nodes[2].Connect(t, harness.Opts{})
			c.WaitRoutes(t, heard, lost)
			c.WaitRoutes(t, heard, stranger)
			tc.end(t, c, c.Nodes[2])
			heard.WaitGone(t, tc.limit, lost.Pub, derp.PeerGoneReasonDisconnected)
			time.Sleep(2 * time.Second)
			if heard.AllGone() != 1 || stranger.AllGone() != 0 {
				t.Errorf("one PeerGone at the one that heard from it expected: %s / %s", heard.Summary(), stranger.Summary())
			}
			lost.Close()
		})
	}
}

// TestAddAndTakeAway: a node comes into the map and goes again.  The clients of the others notice nothing of it
// but that they can reach its clients, and then no longer.
func TestAddAndTakeAway(t *testing.T) {
	t.Parallel()
	c := cluster(t, 2)
	n1, n2 := c.Nodes[0], c.Nodes[1]
	stop := harness.Flow(t, n1, n2)
	p1, p2 := n1.Connect(t, harness.Opts{}), n2.Connect(t, harness.Opts{})
	c.WaitRoutes(t, p1, p2)

	n3 := c.AddNode(t, 902)
	c.WriteMap(t)
	c.Hup(t)
	n3.Start(t)
	n3.WaitReady(t)
	c.WaitMesh(t)
	p3 := n3.Connect(t, harness.Opts{})
	time.Sleep(harness.Scaled(100 * time.Millisecond))
	for _, p := range []*harness.Client{p1, p2} {
		there, back := []byte("welcome "+p.Node.Name), []byte("thanks "+p.Node.Name)
		p.MustSend(t, p3.Pub, there)
		p3.WaitPacket(t, p.Pub, there)
		p3.MustSend(t, p.Pub, back)
		p.WaitPacket(t, p3.Pub, back)
	}

	c.RemoveNode(n3)
	c.WriteMap(t)
	c.Hup(t)
	c.WaitMesh(t) // no one else is a peer now
	// Nothing goes there any more, though the program still runs.
	harness.Eventually(t, 10*time.Second, "the node that was taken away is cut off", func() error {
		p := []byte(fmt.Sprintf("still there? %d", time.Now().UnixNano()))
		p1.MustSend(t, p3.Pub, p)
		time.Sleep(200 * time.Millisecond)
		if p3.Packets(p) != 0 {
			return errors.New("a packet still arrived")
		}
		return nil
	})
	p3.Close()
	n3.Stop(t)
	c.WaitRoutes(t, p1, p2)
	stop()
}

// TestRollingRestart: each node in turn is stopped in order and started again; what does not pass it goes on.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	c := cluster(t, 3)
	for i, n := range c.Nodes {
		stop := harness.Flow(t, c.Nodes[(i+1)%3], c.Nodes[(i+2)%3])
		n.Stop(t)
		n.Start(t)
		n.WaitReady(t)
		c.WaitMesh(t)
		stop()
		a, b := n.Connect(t, harness.Opts{}), c.Nodes[(i+1)%3].Connect(t, harness.Opts{})
		c.WaitRoutes(t, a, b)
		a.Close()
		b.Close()
	}
}

// TestStopInOrder: a node that is stopped closes its clients and ends, and the others go on.
func TestStopInOrder(t *testing.T) {
	t.Parallel()
	c := cluster(t, 2)
	here, there := c.Nodes[0].Connect(t, harness.Opts{}), c.Nodes[1].Connect(t, harness.Opts{})
	c.WaitRoutes(t, here, there)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Nodes[1].Stop(t)
	}()
	if _, ok := there.Wait(30*time.Second, func(e harness.Event) bool { _, ok := e.Msg.(harness.Closed); return ok }); !ok {
		t.Error("the client of the stopped node was not closed")
	}
	<-done
	here.Alive(t)
}

// TestAllAtOnce: all nodes are killed and start again together.
func TestAllAtOnce(t *testing.T) {
	t.Parallel()
	c := cluster(t, 3)
	for _, n := range c.Nodes {
		n.Kill(t)
	}
	start := time.Now()
	for _, n := range c.Nodes {
		n.Start(t)
	}
	for _, n := range c.Nodes {
		n.WaitReady(t)
	}
	c.WaitMesh(t)
	t.Logf("linked again after %v", time.Since(start).Round(time.Millisecond))
	a, b, d := c.Nodes[0].Connect(t, harness.Opts{}), c.Nodes[1].Connect(t, harness.Opts{}), c.Nodes[2].Connect(t, harness.Opts{})
	c.WaitRoutes(t, a, b, d)
}
