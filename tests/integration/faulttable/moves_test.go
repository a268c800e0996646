package faulttable

import (
	"testing"
	"time"

	"derpmesh/tests/integration/harness"
)

// TestClientMoves: a client's way to its node is dead, its old connection half-open; it logs in elsewhere.
func TestClientMoves(t *testing.T) {
	for _, tc := range []struct {
		name string
		to   int // index of the node
	}{{"to another region", 2}, {"to the other node of the region", 1}, {"to the same node", 0}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: []int{2, 2, 1}, Namespaces: true})
			c.Net.Add(t, "wifi")
			c.Net.Add(t, "phone")
			// The second one stays on the node that is left.
			x := start(t, c, append([]*harness.Node{c.Nodes[0]}, c.Nodes...)...)
			mover, in := x.m[0], x.at(0)
			old := mover.Client
			mover.Reconnect(t, c.Nodes[0], harness.Opts{From: "wifi", Home: true})
			old.Close()
			time.Sleep(time.Second)
			x.flows(t, 10*time.Second, everyone)
			c.Net.Do(t, "cut wifi-*")
			time.Sleep(500 * time.Millisecond)
			mover.Client.Close() // which nobody hears; but nothing waits for the full buffer of its socket any more
			mover.Reconnect(t, c.Nodes[tc.to], harness.Opts{From: "phone", Home: true})
			began := time.Now()
			x.flows(t, 30*time.Second, in)
			within(t, "client moves "+tc.name+", old TCP half-dead", 3*time.Second, time.Since(began))
			time.Sleep(4 * time.Second)
			for _, m := range x.m[1:] {
				if n := m.Gone(mover.Key()); n != 0 {
					t.Errorf("at %s the mover was called gone %d times", m.Node.Name, n)
				}
			}
			x.flows(t, 5*time.Second, everyone)
			x.quiet(t, in)
		})
	}
}
