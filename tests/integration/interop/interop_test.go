// Package interop puts real derpers and our nodes into one region: each sees the other's clients, our other regions are
// reached by the derper's clients, and nodes can be exchanged one by one.
package interop

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"

	"derpmesh/tests/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

const (
	derper   = harness.Derper
	derpmesh = harness.Derpmesh
	renamed  = harness.Renamed
)

// mixed is a region 900 of the given kinds, and a region 901 with one node of ours.
func mixed(t *testing.T, kinds ...harness.Kind) *harness.Cluster {
	t.Helper()
	return harness.New(t, harness.Spec{Kind: derpmesh, Kinds: append(kinds, derpmesh), Regions: []int{len(kinds), 1}})
}

// connect has one client at each node.
func connect(t *testing.T, c *harness.Cluster) (clients []*harness.Client) {
	t.Helper()
	for _, n := range c.Nodes {
		clients = append(clients, n.Connect(t, harness.Opts{}))
	}
	return clients
}

// arrives sends until the packet has come: announcements may still be on their way.
func arrives(t *testing.T, from, to *harness.Client, size int) {
	t.Helper()
	p := append([]byte(fmt.Sprintf("%s to %s ", from.Node.Name, to.Node.Name)), harness.Random(size)...)
	p = p[:min(len(p), derp.MaxPacketSize)]
	harness.Eventually(t, 20*time.Second, fmt.Sprintf("%d bytes from %s to %s", size, from.Node.Name, to.Node.Name), func() error {
		from.MustSend(t, to.Pub, p)
		time.Sleep(20 * time.Millisecond)
		if to.Packets(p) == 0 {
			return fmt.Errorf("not there: %s", to.Summary())
		}
		return nil
	})
}

// TestFrames: every pair of clients in a region of a derper and a node of ours, and of our other region, in all sizes.
func TestFrames(t *testing.T) {
	t.Parallel()
	c := mixed(t, derper, derpmesh)
	clients := connect(t, c)
	for _, from := range clients {
		for _, to := range clients {
			if from == to {
				continue
			}
			for _, size := range []int{0, 1400, 65536} {
				arrives(t, from, to, size)
			}
		}
	}
	for _, cl := range clients {
		if cl.AllGone() != 0 {
			t.Errorf("at %s: PeerGone out of nowhere: %s", cl.Node.Name, cl.Summary())
		}
	}
}

// TestUnderTheName: our program under the name derper meshes with derpers, and with nodes of ours as a derper does.
func TestUnderTheName(t *testing.T) {
	for _, kinds := range [][]harness.Kind{{derper, renamed}, {renamed, renamed}, {renamed, derpmesh}} {
		t.Run(fmt.Sprint(kinds), func(t *testing.T) {
			t.Parallel()
			c := harness.New(t, harness.Spec{Kind: kinds[1], Kinds: kinds, Regions: []int{2}})
			a, b := c.Nodes[0].Connect(t, harness.Opts{}), c.Nodes[1].Connect(t, harness.Opts{})
			arrives(t, a, b, 1400)
			arrives(t, b, a, 1400)
			a.Close()
			b.WaitGone(t, 20*time.Second, a.Pub, derp.PeerGoneReasonDisconnected)
		})
	}
}

// TestInOrder: numbered traffic of each to each, nothing lost, doubled or out of order.
func TestInOrder(t *testing.T) {
	t.Parallel()
	c := mixed(t, derper, derpmesh)
	tr := harness.NewTraffic()
	members := tr.Join(t, append(c.Nodes, c.Nodes...)...)
	// Derpers dial each other, and us, every 5 s until it works.
	warm := connect(t, c)
	for _, from := range warm {
		for _, to := range warm {
			if from != to {
				arrives(t, from, to, 1)
			}
		}
	}
	time.Sleep(harness.Scaled(time.Second))
	stop := tr.Run(t, 20*time.Millisecond, 400)
	time.Sleep(4 * time.Second)
	stop()
	for _, m := range members {
		if m.AllGone() != 0 {
			t.Errorf("at %s: PeerGone for a peer that was there all the time: %s", m.Node.Name, m.Summary())
		}
	}
}

// TestGone: whoever leaves, on whichever side, is told to those that heard from it, once, and to nobody else; and who comes
// back on the other side is not called gone.
func TestGone(t *testing.T) {
	t.Parallel()
	c := mixed(t, derper, derpmesh)
	stay := connect(t, c)
	for i, n := range c.Nodes {
		leaver, mover := n.Connect(t, harness.Opts{}), n.Connect(t, harness.Opts{})
		for _, s := range stay {
			arrives(t, leaver, s, 1)
			arrives(t, mover, s, 1)
		}
		leaver.Close()
		moved := c.Nodes[(i+1)%len(c.Nodes)].Connect(t, harness.Opts{Key: mover.Key})
		// A derper calls its client gone at once unless it knows of the new place already.
		time.Sleep(harness.Scaled(500 * time.Millisecond))
		mover.Close()
		for _, s := range stay {
			arrives(t, s, moved, 1)
			s.WaitGone(t, 20*time.Second, leaver.Pub, derp.PeerGoneReasonDisconnected)
		}
		time.Sleep(4 * time.Second)
		for _, s := range stay {
			if s.Gone(leaver.Pub) != 1 || s.Gone(moved.Pub) != 0 {
				t.Errorf("%s left %s: at %s one PeerGone expected, none for the mover: %s", leaver.Pub.ShortString(),
					n.Name, s.Node.Name, s.Summary())
			}
		}
		moved.Close()
	}
}

// TestKillAndReturn: the derper or our node dies and comes back; its clients' new connections are reached then from
// everywhere, and the others are never called gone.
func TestKillAndReturn(t *testing.T) {
	for i, name := range []string{"derper", "ours"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := mixed(t, derper, derpmesh)
			clients := connect(t, c)
			for _, from := range clients {
				for _, to := range clients {
					if from != to {
						arrives(t, from, to, 1)
					}
				}
			}
			c.Nodes[i].Kill(t)
			rest := append(append([]*harness.Client(nil), clients[:i]...), clients[i+1:]...)
			if i == 0 { // a derper alone does not reach region 901
				arrives(t, rest[0], rest[1], 1)
			}
			time.Sleep(time.Second)
			c.Nodes[i].Start(t)
			c.Nodes[i].WaitReady(t)
			back := c.Nodes[i].Connect(t, harness.Opts{Key: clients[i].Key})
			for _, cl := range rest {
				arrives(t, cl, back, 1)
				arrives(t, back, cl, 1)
			}
		})
	}
}

// TestWrongKey: a login with another mesh key than the derpers' is closed and counted, with the right one a peer may watch,
// and without any a client is a client; the derper whose key differs is left alone, with a reason in the log.
func TestWrongKey(t *testing.T) {
	t.Parallel()
	c := mixed(t, derpmesh)
	n := c.Nodes[0]
	right, err := os.ReadFile(c.DerperKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.TryConnect(t, harness.Opts{MeshKey: harness.NewMeshKey()}); err == nil {
		t.Error("a login with a wrong mesh key is admitted")
	}
	s, err := n.Status()
	if err != nil || s.Traffic["refused_derper_key"] != 1 {
		t.Errorf("refused_derper_key is %d: %v", s.Traffic["refused_derper_key"], err)
	}
	w := watch(t, n, strings.TrimSpace(string(right)))
	one := n.Connect(t, harness.Opts{})
	w.present(t, one.Pub)
	s, err = n.Status()
	if err != nil || s.Traffic["watchers"] != 1 || s.Clients.Keys != 1 {
		t.Errorf("watchers %d, clients %d: %v", s.Traffic["watchers"], s.Clients.Keys, err)
	}
}

// TestWatcher: what a mesh peer is told and may do, message by message.
func TestWatcher(t *testing.T) {
	t.Parallel()
	c := mixed(t, derpmesh)
	right, err := os.ReadFile(c.DerperKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	before, beyond := c.Nodes[0].Connect(t, harness.Opts{}), c.Nodes[1].Connect(t, harness.Opts{})
	arrives(t, before, beyond, 1)
	w := watch(t, c.Nodes[0], strings.TrimSpace(string(right)))
	w.present(t, before.Pub)
	w.present(t, beyond.Pub)
	after := c.Nodes[0].Connect(t, harness.Opts{})
	m := w.present(t, after.Pub)
	if m.Flags&derp.PeerPresentIsRegular == 0 || m.Flags&derp.PeerPresentIsMeshPeer != 0 {
		t.Errorf("flags %v", m.Flags)
	}
	src := key.NewNode().Public()
	for _, to := range []*harness.Client{before, after, beyond} {
		p := []byte("forwarded to " + to.Pub.String())
		if err := w.ForwardPacket(src, to.Pub, p); err != nil {
			t.Fatal(err)
		}
		to.WaitPacket(t, src, p)
	}
	beyond.Close()
	after.Close()
	w.gone(t, beyond.Pub)
	w.gone(t, after.Pub)
	if err := w.ClosePeer(before.Pub); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, 10*time.Second, "closed by the mesh peer", func() error {
		if before.Lost() == nil {
			return fmt.Errorf("still connected")
		}
		return nil
	})
	w.gone(t, before.Pub)
	// A client may not do any of this.
	other := c.Nodes[0].Connect(t, harness.Opts{})
	other.ClosePeer(src)
	harness.Eventually(t, 10*time.Second, "closed for a frame that is not a client's", func() error {
		if other.Lost() == nil {
			return fmt.Errorf("still connected")
		}
		return nil
	})
}

// watcher is Tailscale's client as mesh peer.
type watcher struct {
	*harness.Client
}

func watch(t *testing.T, n *harness.Node, meshKey string) watcher {
	t.Helper()
	return watcher{n.Connect(t, harness.Opts{MeshKey: meshKey, Watch: true})}
}

func (w watcher) present(t *testing.T, k key.NodePublic) (m derp.PeerPresentMessage) {
	t.Helper()
	_, ok := w.Wait(10*time.Second, func(e harness.Event) bool {
		p, is := e.Msg.(derp.PeerPresentMessage)
		if is && p.Key == k {
			m = p
		}
		return is && p.Key == k
	})
	if !ok {
		t.Fatalf("%v was not told to be there: %s", k.ShortString(), w.Summary())
	}
	return m
}

func (w watcher) gone(t *testing.T, k key.NodePublic) {
	t.Helper()
	w.WaitGone(t, 20*time.Second, k, derp.PeerGoneReasonDisconnected)
	if w.Gone(k) != 1 {
		t.Errorf("PeerGone %d times: %s", w.Gone(k), w.Summary())
	}
}

// TestMigration: three derpers are replaced one after the other under their names, keys and addresses, while clients that
// reconnect as Tailscale's do talk to each other; each pair that is connected reaches each other soon after each step.
func TestMigration(t *testing.T) {
	t.Parallel()
	c := mixed(t, derper, derper, derper)
	var keys []key.NodePrivate
	clients := connect(t, c)
	for _, cl := range clients {
		keys = append(keys, cl.Key)
	}
	everyone := func(step string) {
		t.Helper()
		for _, from := range clients {
			for _, to := range clients {
				// Derpers alone do not reach our other region.
				alone := c.Nodes[0].Kind == derper && (from.Node.RegionID != to.Node.RegionID)
				if from != to && !alone {
					arrives(t, from, to, 1)
				}
			}
		}
		t.Log(step)
	}
	everyone("three derpers")
	for i := range 3 {
		n := c.Nodes[i]
		ctx, cancel := context.WithCancel(t.Context())
		lost := steady(t, ctx, clients, i)
		n.Replace(t, derpmesh)
		clients[i] = n.Connect(t, harness.Opts{Key: keys[i]})
		everyone(fmt.Sprintf("%d of ours", i+1))
		cancel()
		if n := <-lost; n != 0 {
			t.Errorf("step %d: %d packets between clients of the other nodes were lost", i+1, n)
		}
	}
	for _, n := range c.Nodes {
		harness.Eventually(t, 30*time.Second, n.Name+": all are of the mesh", func() error {
			s, err := n.Status()
			if err != nil {
				return err
			}
			for _, p := range s.Mesh.Peers {
				if p.State != "up" || p.Derper {
					return fmt.Errorf("%s is %s, derper %v: %s", p.Name, p.State, p.Derper, p.Error)
				}
			}
			return nil
		})
	}
}

// steady sends between all clients of nodes that stay, but for those of region 901 while they may not be reached yet, and tells
// how many packets did not come.
func steady(t *testing.T, ctx context.Context, clients []*harness.Client, but int) <-chan int {
	type pair struct{ from, to *harness.Client }
	var pairs []pair
	for i, a := range clients {
		for j, b := range clients {
			if i != j && i != but && j != but && a.Node.RegionID == b.Node.RegionID {
				pairs = append(pairs, pair{a, b})
			}
		}
	}
	lost := make(chan int, 1)
	go func() {
		sent := 0
		prefix := []byte(fmt.Sprintf("steady %d ", but))
		for ctx.Err() == nil {
			for _, p := range pairs {
				if p.from.Send(p.to.Pub, fmt.Appendf(bytes.Clone(prefix), "%s %s %d", p.from.Pub.ShortString(), p.to.Pub.ShortString(), sent)) == nil {
					sent++
				}
			}
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(harness.Scaled(time.Second))
		got := 0
		for i, cl := range clients {
			if i == but {
				continue
			}
			for _, e := range cl.Events() {
				if p, ok := e.Msg.(derp.ReceivedPacket); ok && bytes.HasPrefix(p.Data, prefix) {
					got++
				}
			}
		}
		t.Logf("steady: %d sent, %d came", sent, got)
		lost <- sent - got
	}()
	return lost
}
