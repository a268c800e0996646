package compose

import (
	"encoding/binary"
	"sync"
	"testing"
	"time"

	"derpmesh/tests/integration/harness"
)

// Every container is made anew, one after the other, while clients talk; two of the three VPSes are one region.  What was lost and how
// long somebody heard nothing is told; what must hold is that everyone reaches everyone in the end.
func TestRolling(t *testing.T) {
	harness.SkipUnlessLong(t)
	w := newWorld(t, false, 900, 900, 901)
	testStart(t, w)
	w.connect(t)
	everyPair(t, w.clients)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i, c := range w.clients {
		to := w.clients[(i+1)%len(w.clients)] // mostly in another region
		wg.Go(func() { c.talk(to, stop) })
	}
	since := time.Now()
	for _, h := range w.hosts {
		h.up(t, "--force-recreate")
		h.waitHealth(t, "healthy")
		for _, o := range w.hosts {
			o.waitLinks(t, len(w.hosts)-1)
		}
	}
	took := time.Since(since)
	time.Sleep(time.Second) // what is under way comes
	close(stop)
	wg.Wait()
	sent, came := 0, 0
	var worst time.Duration
	for i, c := range w.clients {
		to := w.clients[(i+1)%len(w.clients)]
		n, gap := to.heard(c)
		sent, came, worst = sent+c.said(), came+n, max(worst, gap)
	}
	t.Logf("| %d clients, three containers made anew in %v: %d packets sent, %d lost, the longest silence of a pair %v", len(w.clients),
		took.Round(time.Second), sent, sent-came, worst.Round(10*time.Millisecond))
	if came < sent/2 {
		t.Errorf("%d of %d packets came", came, sent)
	}
	everyPair(t, w.clients)
}

const talking = 20 * time.Millisecond

// talk sends a packet every so often.
func (c *client) talk(to *client, stop chan struct{}) {
	tick := time.NewTicker(talking)
	defer tick.Stop()
	for n := uint32(1 << 31); ; n++ {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], n)
		c.Send(to.key.Public(), b[:])
		c.mu.Lock()
		c.talked++
		c.mu.Unlock()
	}
}

func (c *client) said() int { c.mu.Lock(); defer c.mu.Unlock(); return c.talked }

// heard is how many of those packets came, and the longest time between two.
func (c *client) heard(from *client) (n int, longest time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var last time.Time
	for _, at := range c.at[from.key.Public()] {
		if !last.IsZero() {
			longest = max(longest, at.Sub(last))
		}
		last = at
		n++
	}
	return n, longest
}
