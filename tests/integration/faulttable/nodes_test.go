package faulttable

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"derpmesh/tests/integration/harness"
)

// TestNodeKilled: kill -9 of n3.  Its client goes to the other node of the region, later n3 comes back.
func TestNodeKilled(t *testing.T) {
	t.Parallel()
	x := five(t)
	dead, in := x.Nodes[2], x.at(2)
	x.Nodes[2].Kill(t)
	killed := time.Now()
	for _, n := range x.Nodes {
		if n == dead {
			continue
		}
		harness.Eventually(t, 10*time.Second, n.Name+" sends nothing to the dead node", func() error {
			if s, err := n.Peer(dead); err != nil || s == "up" {
				return fmt.Errorf("link %q, %v", s, err)
			}
			return nil
		})
	}
	within(t, "kill -9 of a node: nothing is sent there any more", time.Second, time.Since(killed))

	x.m[2].Reconnect(t, x.Nodes[3], harness.Opts{Home: true})
	within(t, "kill -9 of a node: its client elsewhere is reached", 300*time.Millisecond, x.flows(t, 10*time.Second, in))
	dead.Start(t)
	dead.WaitReady(t)
	x.WaitMesh(t)
	time.Sleep(2 * time.Second)
	for _, m := range x.m {
		if n := m.AllGone(); n != 0 {
			t.Errorf("at %s: %d called gone, though all are there", m.Node.Name, n)
		}
	}
	x.quiet(t, in)
}

// TestNodeCutOff: no packet reaches n5 or leaves it for 8 s.  Nobody there is called gone before it is back.
func TestNodeCutOff(t *testing.T) {
	t.Parallel()
	x := five(t)
	in := x.at(4)
	x.Net.Do(t, "cut n5-*")
	time.Sleep(8 * time.Second)
	x.Net.Heal(t)
	took := x.flows(t, 60*time.Second, in)
	within(t, "node cut off for 8 s: packets again after", 5*time.Second, took)
	x.WaitMesh(t)
	gone := 0
	for _, m := range x.m {
		gone += m.AllGone()
	}
	row("node cut off for 8 s: called gone", "0", fmt.Sprint(gone))
	if gone != 0 {
		t.Errorf("%d PeerGones for clients of a node that came back", gone)
	}
	x.quiet(t, in)
}

// TestNodeStopped: a node does not run for 8 s (SIGSTOP), its connections stay.
func TestNodeStopped(t *testing.T) {
	t.Parallel()
	x := five(t)
	in := x.at(2)
	x.Nodes[2].Signal(t, syscall.SIGSTOP)
	time.Sleep(8 * time.Second)
	x.Nodes[2].Signal(t, syscall.SIGCONT)
	within(t, "node stopped for 8 s (SIGSTOP): packets again after", 2500*time.Millisecond, x.flows(t, 60*time.Second, in))
	x.WaitMesh(t)
	gone := 0
	for _, m := range x.m {
		gone += m.AllGone()
	}
	row("node stopped for 8 s (SIGSTOP): called gone", "0", fmt.Sprint(gone))
	if gone != 0 {
		t.Errorf("%d PeerGones for clients of a node that goes on", gone)
	}
	x.quiet(t, in)
}

// reconnect brings a member back to its node as a client does: again and again until it is there.
func reconnect(t *testing.T, m *harness.Member) {
	t.Helper()
	harness.Eventually(t, 30*time.Second, "reconnect to "+m.Node.Name, func() error {
		return m.TryReconnect(t, m.Node, harness.Opts{Home: true})
	})
}

// TestAllRestartTogether: all nodes are killed and start again at once.
func TestAllRestartTogether(t *testing.T) {
	t.Parallel()
	x := five(t)
	for _, n := range x.Nodes {
		n.Kill(t)
	}
	began := time.Now()
	for _, n := range x.Nodes {
		n.Start(t)
	}
	for _, m := range x.m {
		reconnect(t, m)
	}
	x.WaitMesh(t)
	x.flows(t, 30*time.Second, everyone)
	within(t, "all nodes restart together: converged", 15*time.Second, time.Since(began))
	x.quiet(t, everyone)
}

// TestOthersRestart: one node lives on while the other four are killed and start again, several times.
func TestOthersRestart(t *testing.T) {
	t.Parallel()
	x := five(t)
	rounds := 4
	if harness.Long() {
		rounds = 40
	}
	var first int64
	for i := range rounds {
		for _, n := range x.Nodes[1:] {
			n.Kill(t)
		}
		for _, n := range x.Nodes[1:] {
			n.Start(t)
		}
		for _, m := range x.m[1:] {
			reconnect(t, m)
		}
		x.WaitMesh(t)
		x.flows(t, 30*time.Second, everyone)
		if i == 0 {
			first = resident(t, x.Nodes[0])
		}
	}
	grown := resident(t, x.Nodes[0]) - first
	row(fmt.Sprintf("the others restart %d times more: memory of the one", rounds-1), "+ 2 MiB", fmt.Sprintf("%+d KiB", grown>>10))
	if grown > 4<<20 {
		t.Errorf("its memory grew by %d bytes", grown)
	}
	x.quiet(t, everyone)
}

// TestRollingRestart: each node in turn stops in order and starts again; its client comes back to it.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	x := five(t)
	var away time.Duration
	for i, n := range x.Nodes {
		in := x.at(i)
		x.tr.Mark()
		n.Stop(t)
		n.Start(t)
		reconnect(t, x.m[i])
		x.WaitMesh(t)
		x.flows(t, 20*time.Second, everyone)
		away = max(away, x.silence(in, true))
		if lost := x.lost(in); lost != 0 {
			t.Errorf("%s restarted and %d packets between others were lost", n.Name, lost)
		}
	}
	row("rolling restart of all nodes: lost between the others", "0", "0")
	row("rolling restart: own clients away", "", away.Round(time.Millisecond).String())
	x.quiet(t, everyone)
}

// known looks whether all nodes know of just so many keys; twice are nodes that have one of them which is elsewhere too.
func known(c *harness.Cluster, keys int, twice ...*harness.Node) error {
	for _, n := range c.Nodes {
		s, err := n.Status()
		if err != nil {
			return err
		}
		want := keys
		if slices.Contains(twice, n) {
			want++
		}
		if got := s.Clients.Keys + s.Mesh.RemoteKeys; got != want {
			return fmt.Errorf("%s knows %d keys here and %d elsewhere, want %d", n.Name, s.Clients.Keys, s.Mesh.RemoteKeys, want)
		}
	}
	return nil
}
