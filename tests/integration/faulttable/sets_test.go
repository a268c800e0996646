package faulttable

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"tailscale.com/types/key"

	"derpmesh/tests/integration/harness"
)

// connectMany logs in fresh clients, some at a time.
func connectMany(t *testing.T, n *harness.Node, count int) []*harness.Client {
	t.Helper()
	clients := make([]*harness.Client, count)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	for i := range clients {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			c, err := n.TryConnect(t, harness.Opts{})
			if err != nil {
				t.Errorf("client %d at %s: %v", i, n.Name, err)
				return
			}
			clients[i] = c
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return clients
}

// TestPartition: {n1, n2} and {n3, n4, n5} cannot reach each other.  On both sides clients come and go, and one key is there
// twice; then the network is whole again.
func TestPartition(t *testing.T) {
	t.Parallel()
	x := five(t)
	away := 12 * time.Second
	if harness.Long() {
		away = time.Minute
	}
	left, right := x.Nodes[0], x.Nodes[3]
	leaveLeft, leaveRight := connectMany(t, left, 20), connectMany(t, right, 20)
	stayLeft, stayRight := connectMany(t, left, 80), connectMany(t, right, 80)
	all := len(x.m) + 200
	harness.Eventually(t, 20*time.Second, "all keys known", func() error { return known(x.Cluster, all) })
	side := func(m *harness.Member) bool { return m == x.m[0] || m == x.m[1] }
	across := func(a, b *harness.Member) bool { return side(a) != side(b) }

	x.direct(t)
	x.tr.Mark()
	x.Net.Partition(t, []string{"n1", "n2"}, []string{"n3", "n4", "n5"})
	began := time.Now()
	for _, c := range append(leaveLeft, leaveRight...) {
		c.Close()
	}
	connectMany(t, left, 30)
	connectMany(t, right, 30)
	twice := key.NewNode()
	left.Connect(t, harness.Opts{Key: twice, Home: true})
	time.Sleep(time.Second)
	right.Connect(t, harness.Opts{Key: twice, Home: true})
	time.Sleep(away - time.Since(began))
	if lost := x.lost(across); lost != 0 {
		t.Errorf("%d packets were lost inside the sides", lost)
	}
	x.Net.Heal(t)
	healed := time.Now()
	all += 2*10 + 1
	harness.Eventually(t, 60*time.Second, "sets equal", func() error { return known(x.Cluster, all, left, right) })
	within(t, fmt.Sprintf("partition of %v: sets equal, no ghost, after", away), 5*time.Second, time.Since(healed))
	x.flows(t, 30*time.Second, everyone)
	within(t, fmt.Sprintf("partition of %v: packets across again after", away), 5*time.Second, time.Since(healed))
	x.WaitMesh(t)
	sameWinner(t, x.Cluster, twice.Public())
	for _, c := range append(leaveLeft, leaveRight...) {
		for _, n := range x.Nodes {
			if places, err := n.Where(c.Pub); err != nil || len(places) != 0 {
				t.Fatalf("a client that left is still known at %s: %v %v", n.Name, places, err)
			}
		}
	}
	row("partition: lost inside each side", "0", "0")
	if a, b := stayLeft[0], stayRight[0]; true {
		x.WaitRoutes(t, a, b)
	}
	x.quiet(t, across)
}

// sameWinner waits until all nodes name the same best place of a key that is on two.
func sameWinner(t *testing.T, c *harness.Cluster, k key.NodePublic) {
	t.Helper()
	harness.Eventually(t, 10*time.Second, "the same best place of the doubled key everywhere", func() error {
		var best []string
		for _, n := range c.Nodes {
			places, err := n.Where(k)
			if err != nil {
				return err
			}
			// On a node that has it, its own comes first.
			switch {
			case len(places) == 0:
				return fmt.Errorf("%s knows no place", n.Name)
			case !places[0].Local:
				best = append(best, places[0].Node)
			}
		}
		for _, b := range best {
			if b != best[0] {
				return fmt.Errorf("the best places are %s", strings.Join(best, " "))
			}
		}
		return nil
	})
	row("partition: winner of a doubled key", "same everywhere", "same everywhere")
}

// TestBadLink: 200 ms and 10 % loss on all ways of a node, so that there is no better one.
func TestBadLink(t *testing.T) {
	t.Parallel()
	x := five(t)
	in := x.at(2)
	// Connections: tunnels come and go with what looks suspect, and are counted as links too.
	closed := func() (n int64) {
		for _, node := range x.Nodes {
			log, err := os.ReadFile(node.Log)
			must(t, err)
			n += counter(t, node, "mesh_links_closed") - int64(bytes.Count(log, []byte("mesh tunnel ended")))
		}
		return n
	}
	runs := 25 * time.Second
	if harness.Long() {
		runs = 10 * time.Minute
	}
	before, memory := closed(), resident(t, x.Nodes[2])
	x.Net.Do(t, "delay n3-* 100")
	x.Net.Do(t, "loss n3-* 0.1")
	suspects := 0
	var worst int64
	for until := time.Now().Add(runs); time.Now().Before(until); time.Sleep(500 * time.Millisecond) {
		if s, err := x.Nodes[0].Peer(x.Nodes[2]); err == nil && s != "up" {
			suspects++
		}
		worst = max(worst, resident(t, x.Nodes[2])-memory)
	}
	what := fmt.Sprintf("200 ms and 10 %% loss for %v: ", runs)
	row(what+"links closed", "0", fmt.Sprint(closed()-before))
	row(what+"memory", "bounded", fmt.Sprintf("%+d KiB", worst>>10))
	row(what+"longest silence", "", x.silence(in, true).Round(time.Millisecond).String())
	t.Logf("not \"up\" in %d looks", suspects)
	if n := closed() - before; n != 0 {
		t.Errorf("%d links were closed", n)
	}
	if worst > 16<<20 {
		t.Errorf("its memory grew by %d bytes", worst)
	}
	x.Net.Do(t, "delay n3-* 0")
	x.Net.Do(t, "loss n3-* 0")
	x.flows(t, 20*time.Second, everyone)
	x.quiet(t, in)
}

// TestManyClients: a node with many clients, whom others have heard, is killed.
func TestManyClients(t *testing.T) {
	count := 1500
	if harness.Long() {
		count = 8000 // the descriptors of the node and of this process are 20,000
	}
	x := five(t)
	dead, others := x.Nodes[4], x.Nodes[:4]
	in := x.at(4)
	clients := connectMany(t, dead, count)
	harness.Eventually(t, 60*time.Second, "all keys known", func() error { return known(x.Cluster, count+len(x.m)) })
	listener := others[0].Connect(t, harness.Opts{})
	for _, c := range clients {
		for _, m := range x.m[:2] {
			c.MustSend(t, m.Key(), []byte("so that it has heard of me"))
		}
		c.MustSend(t, listener.Pub, []byte("and this one too"))
	}
	time.Sleep(2 * time.Second)
	// What the stray packets did to the members is no fault of the mesh: they expect numbered ones.
	x.tr.Forgive()
	x.tr.Mark()
	cpu := make([]time.Duration, len(others))
	for i, n := range others {
		cpu[i] = n.CPU(t)
	}
	dead.Kill(t)
	const watched = 25 * time.Second
	time.Sleep(watched)
	var used, most time.Duration
	for i, n := range others {
		d := n.CPU(t) - cpu[i]
		used, most = used+d, max(most, d)
	}
	gone := listener.AllGone()
	what := fmt.Sprintf("a node with %d clients dies: ", count)
	row(what+"CPU of another, share of a core", "bounded", fmt.Sprintf("%.1f %%", 100*most.Seconds()/watched.Seconds()))
	row(what+"PeerGone to one that heard of all", "≤ 256", fmt.Sprint(gone))
	row(what+"longest silence elsewhere", "", x.silence(in, false).Round(time.Millisecond).String())
	if gone == 0 || gone > 256 {
		t.Errorf("%d PeerGones to a client that heard from %d", gone, count)
	}
	if first := firstGone(listener); first < 5*time.Second {
		t.Errorf("the first PeerGone came %v after the kill", first)
	}
	if most > watched/2 {
		t.Errorf("a node used %v in %v", most, watched)
	}
	if lost := x.lost(in); lost != 0 {
		t.Errorf("%d packets between others were lost", lost)
	}
	// It comes back, and its clients with it: all are reached again.
	began := time.Now()
	dead.Start(t)
	dead.WaitReady(t)
	x.WaitMesh(t)
	reconnect(t, x.m[4])
	back := connectMany(t, dead, count)
	harness.Eventually(t, 60*time.Second, "all keys known", func() error { return known(x.Cluster, count+len(x.m)+1) })
	row(what+"all back and known everywhere after", "", time.Since(began).Round(time.Millisecond).String())
	x.WaitRoutes(t, back[0], listener)
	x.quiet(t, in)
}

// firstGone is when the first PeerGone came, after the last packet.
func firstGone(c *harness.Client) time.Duration {
	var last time.Time
	for _, e := range c.Events() {
		if strings.Contains(fmt.Sprintf("%T", e.Msg), "PeerGone") {
			return e.At.Sub(last)
		}
		last = e.At
	}
	return 0
}
