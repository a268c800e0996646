// Package interop puts real derpers and our nodes into one region: each sees the other's clients, our other regions are
// reached by the derper's clients, and nodes can be exchanged one by one.
package interop

import (
	"fmt"
	"testing"
	"time"

	"tailscale.com/derp"

	"derpmesh/tests/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

const (
	derper   = harness.Derper
	derpmesh = harness.Derpmesh
)

// mixed is a region 900 of the given kinds, and a region 901 with one node of ours.
func mixed(t *testing.T, kinds ...harness.Kind) *harness.Cluster {
	t.Helper()
	return harness.New(t, harness.Spec{Kind: derpmesh, Kinds: append(kinds, derpmesh), Regions: []int{len(kinds), 1}})
}

// TestToDerper: clients of the derper are reached from our node beside it and from our other region.
func TestToDerper(t *testing.T) {
	t.Parallel()
	c := mixed(t, derper, derpmesh)
	there := c.Nodes[0].Connect(t, harness.Opts{})
	for _, n := range c.Nodes[1:] {
		cl := n.Connect(t, harness.Opts{})
		for _, size := range []int{0, 1, 1400, 65536} {
			arrives(t, cl, there, size)
		}
	}
}

// arrives sends until the packet has come: announcements may still be on their way.
func arrives(t *testing.T, from, to *harness.Client, size int) {
	t.Helper()
	p := append([]byte(fmt.Sprintf("%s to %s ", from.Node.Name, to.Node.Name)), harness.Random(size)...)
	p = p[:min(len(p), derp.MaxPacketSize)]
	harness.Eventually(t, 15*time.Second, fmt.Sprintf("%d bytes from %s to %s", size, from.Node.Name, to.Node.Name), func() error {
		from.MustSend(t, to.Pub, p)
		time.Sleep(20 * time.Millisecond)
		if to.Packets(p) == 0 {
			return fmt.Errorf("not there: %s", to.Summary())
		}
		return nil
	})
}
