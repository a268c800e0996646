// Package mesh shows what clients of different nodes see of each other.  Derpers that are meshed with each other
// serve as the reference where the mesh of stock derpers can do the same.
package mesh

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"

	"derpmesh/tests/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

func cluster(t *testing.T, k harness.Kind, regions ...int) *harness.Cluster {
	t.Helper()
	return harness.New(t, harness.Spec{Kind: k, Regions: regions})
}

// TestAcross sends packets of all sizes both ways between two regions, for each way in which nodes and clients
// can trust a node's certificate, and for clients of TLS 1.2 and 1.3.
func TestAcross(t *testing.T) {
	across := func(t *testing.T, k harness.Kind, cert harness.CertKind) {
		c := harness.New(t, harness.Spec{Kind: k, Regions: []int{1, 1}, Cert: cert})
		a := c.Nodes[0].Connect(t, harness.Opts{MaxTLS: tls.VersionTLS12})
		b := c.Nodes[1].Connect(t, harness.Opts{Home: true})
		c.WaitRoutes(t, a, b)
		for _, size := range []int{0, 1, 1400, 65536} {
			there, back := harness.Random(size), harness.Random(size)
			a.MustSend(t, b.Pub, there)
			b.WaitPacket(t, a.Pub, there)
			b.MustSend(t, a.Pub, back)
			a.WaitPacket(t, b.Pub, back)
		}
		if a.AllGone()+b.AllGone() != 0 {
			t.Errorf("PeerGone out of nowhere: %s / %s", a.Summary(), b.Summary())
		}
	}
	t.Run("ca", func(t *testing.T) {
		harness.Each(t, func(t *testing.T, k harness.Kind) { across(t, k, harness.CertCA) })
	})
	for _, cert := range []harness.CertKind{harness.CertPin, harness.CertMade, harness.CertInsecure} {
		t.Run(string(cert), func(t *testing.T) { // derpers cannot dial each other so
			t.Parallel()
			across(t, harness.Derpmesh, cert)
		})
	}
}

// TestSameRegion: two nodes of one region, the case that stock derpers were made for.
func TestSameRegion(t *testing.T) {
	harness.Each(t, func(t *testing.T, k harness.Kind) {
		c := cluster(t, k, 2)
		a, b := c.Nodes[0].Connect(t, harness.Opts{}), c.Nodes[1].Connect(t, harness.Opts{})
		c.WaitRoutes(t, a, b)
	})
}

// TestFirstPacket: 100 ms after a login a single packet from elsewhere arrives, as derpprobe expects.
func TestFirstPacket(t *testing.T) {
	harness.Each(t, func(t *testing.T, k harness.Kind) {
		c := cluster(t, k, 1, 1)
		for i := range 20 {
			from, to := c.Nodes[i%2], c.Nodes[1-i%2]
			// Both are new, and the receiver logs in last.
			a := from.Connect(t, harness.Opts{})
			b := to.Connect(t, harness.Opts{})
			time.Sleep(harness.Scaled(100 * time.Millisecond))
			p := []byte(fmt.Sprintf("the only packet %d", i))
			a.MustSend(t, b.Pub, p)
			b.WaitPacket(t, a.Pub, p)
			a.Close()
			b.Close()
		}
	})
}

// TestReplyAtOnce: whoever was reached can answer at once, even if it logged in a moment ago.
func TestReplyAtOnce(t *testing.T) {
	harness.Each(t, func(t *testing.T, k harness.Kind) {
		c := cluster(t, k, 1, 1)
		b := c.Nodes[1].Connect(t, harness.Opts{})
		for i := range 10 {
			a := c.Nodes[0].Connect(t, harness.Opts{})
			time.Sleep(harness.Scaled(100 * time.Millisecond))
			ask, answer := []byte(fmt.Sprintf("ask %d", i)), []byte(fmt.Sprintf("answer %d", i))
			a.MustSend(t, b.Pub, ask)
			b.WaitPacket(t, a.Pub, ask)
			b.MustSend(t, a.Pub, answer)
			a.WaitPacket(t, b.Pub, answer)
			a.Close()
		}
	})
}

// TestPeerGone: who leaves is told to those who have heard from it, on whatever node, and to no one else.
func TestPeerGone(t *testing.T) {
	harness.Each(t, func(t *testing.T, k harness.Kind) {
		c := cluster(t, k, 1, 1, 1)
		leaver := c.Nodes[0].Connect(t, harness.Opts{})
		var heard, others []*harness.Client
		for _, n := range c.Nodes {
			heard = append(heard, n.Connect(t, harness.Opts{}))
			others = append(others, n.Connect(t, harness.Opts{}), n.Connect(t, harness.Opts{}))
		}
		everyone := append(append([]*harness.Client{leaver}, heard...), others[0], others[2], others[4])
		for _, cl := range heard {
			c.WaitRoutes(t, leaver, cl)
		}
		// Some of the others speak to the leaver, and to those that heard from it.
		for _, cl := range []*harness.Client{others[0], others[2], others[4]} {
			p := []byte("to the leaver from " + cl.Pub.String())
			cl.MustSend(t, leaver.Pub, p)
			leaver.WaitPacket(t, cl.Pub, p)
			for _, h := range heard {
				cl.MustSend(t, h.Pub, p)
				h.WaitPacket(t, cl.Pub, p)
			}
		}
		for _, cl := range everyone {
			if cl.AllGone() != 0 {
				t.Errorf("PeerGone before anyone left: %s", cl.Summary())
			}
		}
		leaver.Close()
		for _, h := range heard {
			h.WaitGone(t, 10*time.Second, leaver.Pub, derp.PeerGoneReasonDisconnected)
		}
		time.Sleep(5 * time.Second)
		for _, h := range heard {
			if h.Gone(leaver.Pub) != 1 || h.AllGone() != 1 {
				t.Errorf("at %s one PeerGone expected: %s", h.Node.Name, h.Summary())
			}
		}
		for _, o := range others {
			if o.AllGone() != 0 {
				t.Errorf("at %s: PeerGone for one that never sent anything here: %s", o.Node.Name, o.Summary())
			}
		}
		c.WaitRoutes(t, heard...)
	})
}

// TestMove: a client that goes to another region, new connection first, is reached there and is never gone.
func TestMove(t *testing.T) {
	harness.Each(t, func(t *testing.T, k harness.Kind) {
		c := cluster(t, k, 1, 1, 1)
		priv := key.NewNode()
		mover := c.Nodes[0].Connect(t, harness.Opts{Key: priv, Home: true})
		var peers []*harness.Client
		for _, n := range c.Nodes {
			peers = append(peers, n.Connect(t, harness.Opts{Home: true}))
		}
		for _, p := range peers {
			c.WaitRoutes(t, mover, p)
		}
		for round, to := range []*harness.Node{c.Nodes[1], c.Nodes[2], c.Nodes[0]} {
			old := mover
			mover = to.Connect(t, harness.Opts{Key: priv, Home: true})
			time.Sleep(300 * time.Millisecond) // as a client does, which first sees that the new one works
			old.NotePreferred(false)
			old.Close()
			time.Sleep(harness.Scaled(500 * time.Millisecond))
			for _, p := range peers {
				there := []byte(fmt.Sprintf("round %d to the mover from %s", round, p.Node.Name))
				p.MustSend(t, mover.Pub, there)
				mover.WaitPacket(t, p.Pub, there)
				back := []byte(fmt.Sprintf("round %d from the mover to %s", round, p.Node.Name))
				mover.MustSend(t, p.Pub, back)
				p.WaitPacket(t, mover.Pub, back)
			}
		}
		time.Sleep(6 * time.Second)
		for _, p := range peers {
			if k == harness.Derper {
				break // PeerGone is sent by the node that is left, to its own clients
			}
			if p.AllGone() != 0 {
				t.Errorf("at %s: PeerGone though the peer only moved: %s", p.Node.Name, p.Summary())
			}
		}
	})
}

// TestTwoPlaces: one key at two nodes is reached as long as one connection is left, and gone after the last.
func TestTwoPlaces(t *testing.T) {
	harness.Each(t, func(t *testing.T, k harness.Kind) {
		c := cluster(t, k, 1, 1, 1)
		priv := key.NewNode()
		peer := c.Nodes[2].Connect(t, harness.Opts{})
		one := c.Nodes[0].Connect(t, harness.Opts{Key: priv})
		c.WaitRoutes(t, peer, one)
		two := c.Nodes[1].Connect(t, harness.Opts{Key: priv})
		reached := func(where ...*harness.Client) {
			t.Helper()
			time.Sleep(harness.Scaled(300 * time.Millisecond))
			p := harness.Random(200)
			peer.MustSend(t, priv.Public(), p)
			harness.Eventually(t, 10*time.Second, "exactly one copy", func() error {
				n := 0
				for _, cl := range where {
					n += cl.Packets(p)
				}
				if n != 1 {
					return fmt.Errorf("%d copies", n)
				}
				return nil
			})
		}
		reached(one, two)
		// Who sits on the same node is served there.
		near := c.Nodes[1].Connect(t, harness.Opts{})
		p := harness.Random(100)
		near.MustSend(t, priv.Public(), p)
		two.WaitPacket(t, near.Pub, p)

		two.Close()
		reached(one)
		two = c.Nodes[1].Connect(t, harness.Opts{Key: priv})
		time.Sleep(harness.Scaled(300 * time.Millisecond))
		one.Close()
		reached(two)
		if k == harness.Derpmesh && peer.AllGone() != 0 {
			t.Errorf("PeerGone while a connection was left: %s", peer.Summary())
		}
		before := peer.AllGone()
		two.Close()
		harness.Eventually(t, 10*time.Second, "PeerGone after the last", func() error {
			if peer.AllGone() == before {
				return fmt.Errorf("none yet")
			}
			return nil
		})
	})
}

// TestTwoConnectionsFar: two connections with one key on one node, seen from another.
func TestTwoConnectionsFar(t *testing.T) {
	harness.Each(t, func(t *testing.T, k harness.Kind) {
		c := cluster(t, k, 1, 1)
		priv := key.NewNode()
		peer := c.Nodes[1].Connect(t, harness.Opts{})
		first := c.Nodes[0].Connect(t, harness.Opts{Key: priv})
		c.WaitRoutes(t, peer, first)
		second := c.Nodes[0].Connect(t, harness.Opts{Key: priv})
		expect := func(at, not *harness.Client) {
			t.Helper()
			time.Sleep(harness.Scaled(200 * time.Millisecond)) // to change the active one may take a moment
			p := harness.Random(100)
			peer.MustSend(t, priv.Public(), p)
			at.WaitPacket(t, peer.Pub, p)
			if not.Packets(p) != 0 {
				t.Error("the other connection got it too")
			}
		}
		expect(second, first)
		first.Alive(t)
		expect(first, second)
		first.Close()
		time.Sleep(harness.Scaled(300 * time.Millisecond))
		expect(second, first)
		time.Sleep(2 * time.Second)
		if peer.AllGone() != 0 {
			t.Errorf("PeerGone while a connection was left: %s", peer.Summary())
		}
		second.Close()
		peer.WaitGone(t, 10*time.Second, priv.Public(), derp.PeerGoneReasonDisconnected)
	})
}

// TestNotHere: no node knows the key, so disco packets are answered; a key on another node is known.
func TestNotHere(t *testing.T) {
	harness.Each(t, func(t *testing.T, k harness.Kind) {
		c := cluster(t, k, 1, 1)
		a, b := c.Nodes[0].Connect(t, harness.Opts{}), c.Nodes[1].Connect(t, harness.Opts{})
		c.WaitRoutes(t, a, b)
		p := harness.Disco(200)
		a.MustSend(t, b.Pub, p)
		b.WaitPacket(t, a.Pub, p)
		unknown := key.NewNode().Public()
		a.MustSend(t, unknown, harness.Random(200))
		a.MustSend(t, unknown, harness.Disco(200))
		a.WaitGone(t, 5*time.Second, unknown, derp.PeerGoneReasonNotHere)
		if a.AllGone() != 1 || b.AllGone() != 0 {
			t.Errorf("one PeerGone at the sender expected: %s / %s", a.Summary(), b.Summary())
		}
	})
}

// TestTooLongAcross: what is too long ends the sender's connection and no link.
func TestTooLongAcross(t *testing.T) {
	harness.Each(t, func(t *testing.T, k harness.Kind) {
		c := cluster(t, k, 1, 1)
		a, b := c.Nodes[0].Connect(t, harness.Opts{}), c.Nodes[1].Connect(t, harness.Opts{})
		c.WaitRoutes(t, a, b)
		r := c.Nodes[0].Login(t)
		r.SendPacket(t, b.Pub, harness.Random(65537))
		if got := r.Outcome(); got != "closed" {
			t.Errorf("the sender's connection is %s", got)
		}
		full := harness.Random(65536)
		a.MustSend(t, b.Pub, full)
		b.WaitPacket(t, a.Pub, full)
		for _, e := range b.Events() {
			if p, ok := e.Msg.(derp.ReceivedPacket); ok && bytes.Equal(p.Source.AppendTo(nil), r.Pub.AppendTo(nil)) {
				t.Errorf("%d bytes of the over-long packet arrived", len(p.Data))
			}
		}
	})
}

// TestEveryPair: 200 clients at three nodes, each sends three packets to each other one.
func TestEveryPair(t *testing.T) {
	const clients, each, rounds = 200, 3, 4
	harness.EachInTurn(t, func(t *testing.T, k harness.Kind) {
		c := cluster(t, k, 1, 1, 1)
		nodes := make([]*harness.Node, clients)
		for i := range nodes {
			nodes[i] = c.Nodes[i%len(c.Nodes)]
		}
		tr := harness.NewTraffic()
		members := tr.Join(t, nodes...)
		// The announcements are out when the last client is known everywhere.
		if k == harness.Derper {
			time.Sleep(time.Second)
		} else {
			harness.Eventually(t, 10*time.Second, "all keys known", func() error { return known(c, clients) })
		}
		start := time.Now()
		// In each round everyone sends to another one, so each has at most rounds*each packets waiting: derper's
		// queues hold 32.
		sizes := []int{20, 300, 1400}
		for r := 1; r < clients; r += rounds {
			for s := r; s < min(r+rounds, clients); s++ {
				for i, m := range members {
					for p := range each {
						if err := m.SendTo(members[(i+s)%clients], sizes[p]); err != nil {
							t.Fatalf("client %d: %v", i, err)
						}
					}
				}
			}
			limit := time.Now().Add(harness.Scaled(15 * time.Second))
			for tr.Received() < tr.Sent() && time.Now().Before(limit) && len(tr.Faults()) == 0 {
				time.Sleep(time.Millisecond)
			}
			if tr.Received() < tr.Sent() {
				break // Settle tells what is missing
			}
		}
		tr.Settle(t)
		if want := clients * (clients - 1) * each; tr.Received() != want {
			t.Errorf("%d packets arrived, want %d", tr.Received(), want)
		}
		t.Logf("%d packets in %v", tr.Received(), time.Since(start).Round(time.Millisecond))
	})
}

// known says whether the nodes together know of this many keys, each of all of them.
func known(c *harness.Cluster, clients int) error {
	for _, n := range c.Nodes {
		s, err := n.Status()
		if err != nil {
			return err
		}
		if got := s.Clients.Keys + s.Mesh.RemoteKeys; got != clients {
			return fmt.Errorf("%s knows %d keys here and %d elsewhere, want %d in all", n.Name, s.Clients.Keys, s.Mesh.RemoteKeys, clients)
		}
	}
	return nil
}
