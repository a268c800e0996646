package faulttable

import (
	"fmt"
	"testing"
	"time"
)

// broken breaks the link of n1 and n3, looks how long the members there do not hear of each other, mends it, and looks that
// traffic is as before and nothing else has noticed.
func broken(t *testing.T, fault string, required time.Duration, cut, mend func(x *mesh)) {
	t.Parallel()
	x := five(t)
	in := x.between(0, 2)
	cut(x)
	time.Sleep(required + 2*time.Second)
	took := x.flows(t, 3*required+20*time.Second, in)
	within(t, fault, required, x.silence(in, true))
	t.Logf("flows %v later; elsewhere the longest silence was %v", took, x.silence(in, false))
	mend(x)
	x.tr.Mark()
	time.Sleep(8 * time.Second) // the direct way is taken again
	x.flows(t, 5*time.Second, everyone)
	row(fault+", mended again", "", x.silence(in, true).Round(time.Millisecond).String())
	x.WaitMesh(t)
	x.quiet(t, in)
}

// TestLinkReset: a firewall on the way answers the connection, and each new one, with a reset.
func TestLinkReset(t *testing.T) {
	broken(t, "link reset", 300*time.Millisecond, func(x *mesh) {
		// Resets themselves pass, or the two would hear nothing.
		const rest = "tcp flags & rst == 0 reject with tcp reset"
		x.Net.Rules(t, "n1", fmt.Sprintf("out ip daddr %s %s", x.Nodes[2].Addr, rest),
			fmt.Sprintf("in ip saddr %s %s", x.Nodes[2].Addr, rest))
	}, func(x *mesh) {
		if counter(t, x.Nodes[0], "mesh_links_closed") == 0 {
			t.Error("no link was closed: that was no reset")
		}
		x.Net.Rules(t, "n1")
	})
}

// TestLinkDead: nothing passes any more, and nobody says so.
func TestLinkDead(t *testing.T) {
	broken(t, "link silently dead", 2500*time.Millisecond, func(x *mesh) {
		x.Net.Do(t, "cut n1-n3")
	}, func(x *mesh) { healed(t, x) })
}

// TestLinkDeadOneWay: the same in one direction.
func TestLinkDeadOneWay(t *testing.T) {
	broken(t, "link dead one way", 2500*time.Millisecond, func(x *mesh) {
		x.Net.Do(t, "cut n1>n3")
	}, func(x *mesh) { healed(t, x) })
}

// healed ends the cuts, once something has been cut.
func healed(t *testing.T, x *mesh) {
	t.Helper()
	if x.Net.Stats(t, "n1", "n3").Cut == 0 {
		t.Error("nothing was cut: the ways did not use that link")
	}
	x.Net.Heal(t)
}
