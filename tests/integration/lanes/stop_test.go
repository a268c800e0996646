package lanes

import (
	"testing"
	"time"

	"derpmesh/tests/integration/harness"

	"tailscale.com/derp"
)

// TestStopLeavesData: what waits for a slow line does not keep its node from ending.
func TestStopLeavesData(t *testing.T) {
	c := harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: []int{1, 1}, Namespaces: true})
	from, to := c.Nodes[0], c.Nodes[1]
	b := to.Connect(t, harness.Opts{Home: true, OnPacket: func(derp.ReceivedPacket) {}})
	time.Sleep(harness.Scaled(time.Second)) // the announcement is under way
	c.Net.Do(t, "rate %s>%s 400000 65536", from.Name, to.Name)
	for range 8 {
		a := from.Connect(t, harness.Opts{Home: true, OnPacket: func(derp.ReceivedPacket) {}})
		go func() {
			packet := harness.Random(size)
			for a.Send(b.Pub, packet) == nil {
				time.Sleep(time.Millisecond)
			}
		}()
	}
	time.Sleep(harness.Scaled(3 * time.Second))
	since := to.LogSize(t)
	start := time.Now()
	from.Stop(t)
	took := time.Since(start)
	t.Logf("stopped after %v", took.Round(time.Millisecond))
	if took > harness.Scaled(8*time.Second) {
		t.Errorf("the node took %v to stop", took)
	}
	for _, line := range to.Complaints(t, since) {
		t.Log(line)
	}
}
