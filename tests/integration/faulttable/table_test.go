// Package faulttable breaks one thing at a time in a mesh of five nodes in three regions, each node a process in a
// network namespace of its own, while numbered packets go from each client to each other one (Tailscale's own client code).
// Nothing may be misdelivered or come twice, whatever breaks; how long packets did not come is measured and printed as a
// table beside what is required (docs/faults.md).
//
// A machine that is busy makes everything later: a row fails when it took more than three times what is required and a
// second; what is between is marked in the table.
package faulttable

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"derpmesh/tests/integration/harness"
)

var table struct {
	sync.Mutex
	lines []string
}

func TestMain(m *testing.M) {
	harness.Then(func() {
		for _, l := range table.lines {
			fmt.Println(l)
		}
	})
	flag.Set("side-by-side", "3") // each keeps a core busy now and then, and it is times that are measured
	harness.Main(m)
}

// row puts one line into the table.
func row(fault, required, measured string) {
	table.Lock()
	defer table.Unlock()
	table.lines = append(table.lines, fmt.Sprintf("| %-64s | %-16s | %s |", fault, required, measured))
}

// within is a row for a time, and fails the test if it was far too long.
func within(t *testing.T, fault string, required, measured time.Duration) {
	t.Helper()
	mark := ""
	if measured > required {
		mark = " (!)"
	}
	row(fault, "≤ "+required.String(), measured.Round(time.Millisecond).String()+mark)
	if measured > harness.Scaled(3*required+time.Second) {
		t.Errorf("%s: %v, required is %v", fault, measured.Round(time.Millisecond), required)
	}
}

// mesh is five nodes with a member of the traffic at each.
type mesh struct {
	*harness.Cluster
	tr   *harness.Traffic
	m    []*harness.Member
	stop func()
}

const interval = 20 * time.Millisecond

func five(t *testing.T, args ...string) *mesh {
	t.Helper()
	return start(t, harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: []int{2, 2, 1}, Namespaces: true, Args: args}))
}

// start connects one member at each of these nodes, by default at each of the cluster, and lets the traffic run.
func start(t *testing.T, c *harness.Cluster, nodes ...*harness.Node) *mesh {
	t.Helper()
	x := &mesh{Cluster: c, tr: harness.NewTraffic()}
	if len(nodes) == 0 {
		nodes = c.Nodes
	}
	x.m = x.tr.Join(t, nodes...)
	for _, m := range x.m {
		m.NotePreferred(true)
	}
	time.Sleep(harness.Scaled(500 * time.Millisecond)) // what is sent before the announcements are out is lost, and rightly
	x.direct(t)
	x.stop = x.tr.RunLossy(t, interval, 300)
	time.Sleep(time.Second)
	if lost := x.lost(nil); lost != 0 {
		t.Fatalf("%d packets were lost before anything was broken", lost)
	}
	x.tr.Mark()
	return x
}

// direct waits until no packets go over a third node, which a busy machine makes seem the better way now and then: else what is
// broken touches other ways than the test thinks.
func (x *mesh) direct(t *testing.T) {
	t.Helper()
	for _, n := range x.Nodes {
		if err := harness.Poll(20*time.Second, n.Direct); err != nil {
			t.Log(err)
		}
	}
}

// touched says whether the fault may be felt between a and b.
type touched func(a, b *harness.Member) bool

// between is the two ways between the members at these nodes.
func (x *mesh) between(i, j int) touched {
	return func(a, b *harness.Member) bool {
		return (a == x.m[i] && b == x.m[j]) || (a == x.m[j] && b == x.m[i])
	}
}

// at is all ways from and to the member at a node.
func (x *mesh) at(i int) touched {
	return func(a, b *harness.Member) bool { return a == x.m[i] || b == x.m[i] }
}

// each calls f for each ordered pair.
func (x *mesh) each(f func(a, b *harness.Member)) {
	for _, a := range x.m {
		for _, b := range x.m {
			if a != b {
				f(a, b)
			}
		}
	}
}

// silence is the longest time without a packet among the touched ways, or the others.
func (x *mesh) silence(in touched, want bool) (longest time.Duration) {
	x.each(func(a, b *harness.Member) {
		if in(a, b) == want {
			longest = max(longest, x.tr.Pair(a, b).Silence)
		}
	})
	return longest
}

// lost counts the packets that did not come on ways that are not touched; those of the last moment are under way.
func (x *mesh) lost(in touched) (lost int) {
	x.each(func(a, b *harness.Member) {
		if in != nil && in(a, b) {
			return
		}
		harness.Poll(2*time.Second, func() error {
			// Packets come in order here: what is not lost comes soon.
			if n := x.tr.Pair(a, b).Lost; n > underWay {
				return errors.New("not yet")
			}
			return nil
		})
		if n := x.tr.Pair(a, b).Lost; n > underWay {
			lost += n
		}
	})
	return lost
}

const underWay = 10

// quiet ends the traffic and fails the test if packets were lost, or someone was called gone, where nothing was touched.
func (x *mesh) quiet(t *testing.T, in touched) {
	t.Helper()
	x.stop()
	x.each(func(a, b *harness.Member) {
		p := x.tr.Pair(a, b)
		if in != nil && in(a, b) {
			if p.Lost+p.Late > 0 {
				t.Logf("%s -> %s: of %d packets %d lost, %d late", a.Node.Name, b.Node.Name, p.Sent, p.Lost, p.Late)
			}
			return
		}
		// A busy machine makes a link look suspect; then packets may go round it, and be late, but come.
		if p.Late != 0 {
			t.Logf("%s -> %s has nothing to do with it: of %d packets %d late", a.Node.Name, b.Node.Name, p.Sent, p.Late)
		}
		if p.Lost != 0 {
			t.Errorf("%s -> %s has nothing to do with it, but of %d packets %d were lost", a.Node.Name, b.Node.Name, p.Sent, p.Lost)
		}
		if n := b.Gone(a.Key()); n != 0 {
			t.Errorf("at %s the member at %s was called gone %d times", b.Node.Name, a.Node.Name, n)
		}
	})
}

// flows waits until a packet has come on each of the ways since now; how long that took.
func (x *mesh) flows(t *testing.T, limit time.Duration, in touched) time.Duration {
	t.Helper()
	began := time.Now()
	before := map[string]int{}
	count := func(a, b *harness.Member) (string, int) {
		p := x.tr.Pair(a, b)
		return a.Node.Name + ">" + b.Node.Name, p.Sent - p.Lost
	}
	x.each(func(a, b *harness.Member) { k, n := count(a, b); before[k] = n })
	harness.Eventually(t, limit, "packets on all ways", func() error {
		var silent []string
		x.each(func(a, b *harness.Member) {
			if k, n := count(a, b); in(a, b) && n <= before[k] {
				silent = append(silent, k)
			}
		})
		if len(silent) > 0 {
			return fmt.Errorf("none on %s", strings.Join(silent, " "))
		}
		return nil
	})
	return time.Since(began)
}

func everyone(a, b *harness.Member) bool { return true }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// counter is one of the counters of `status`.
func counter(t *testing.T, n *harness.Node, name string) int64 {
	t.Helper()
	s, err := n.Status()
	must(t, err)
	v, ok := s.Traffic[name]
	if !ok {
		t.Fatalf("status of %s has no counter %s", n.Name, name)
	}
	return v
}

// resident is the memory that the node has in use.
func resident(t *testing.T, n *harness.Node) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", n.PID()))
	must(t, err)
	var size, rss int64
	_, err = fmt.Sscan(string(b), &size, &rss)
	must(t, err)
	return rss * int64(os.Getpagesize())
}
