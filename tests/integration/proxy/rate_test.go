package proxy

import (
	"encoding/json"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"

	"derpmesh/tests/integration/harness"
)

const (
	clientRate  = 200_000
	clientBurst = 100_000
	packet      = 10_000 // and 32 bytes of key, which count too
)

// limitedNode starts a node with a rate limit for clients; set changes it while it runs.
func limitedNode(t *testing.T, k harness.Kind) (n *harness.Node, set func(rate int)) {
	t.Helper()
	c := harness.New(t, harness.Spec{Kind: k, Regions: []int{1}, Cert: harness.CertCA, NoStart: true})
	n = c.Nodes[0]
	file := filepath.Join(c.Dir, "limits")
	write := func(rate int) {
		if k == harness.Derper {
			b, err := json.Marshal(map[string]int{"PerClientRateLimitBytesPerSec": rate, "PerClientRateBurstBytes": clientBurst})
			must(t, err)
			harness.WriteFile(t, file, b)
			return
		}
		harness.WriteFile(t, file, []byte("client_rate: "+strconv.Itoa(rate)+"\nclient_burst: "+strconv.Itoa(clientBurst)+"\n"))
	}
	write(clientRate)
	if k == harness.Derper {
		c.Args = []string{"-rate-config", file}
	} else {
		c.Args = []string{"--config", file}
	}
	c.StartAll(t)
	return n, func(rate int) {
		write(rate)
		n.Hup(t)
		time.Sleep(harness.Scaled(500 * time.Millisecond))
	}
}

// carry sends packets and returns how long the last one took.
func carry(t *testing.T, from, to *harness.Client, count int) time.Duration {
	t.Helper()
	data := harness.Random(packet)
	before := to.Packets(data)
	start := time.Now()
	for range count {
		from.MustSend(t, to.Pub, data)
	}
	harness.Eventually(t, 30*time.Second, "all packets", func() error {
		if got := to.Packets(data) - before; got < count {
			return errMissing(count - got)
		}
		return nil
	})
	return time.Since(start)
}

type errMissing int

func (e errMissing) Error() string { return strconv.Itoa(int(e)) + " are missing" }

// TestClientRate: what a client sends beyond its burst comes at its rate and no faster, nothing of it is lost, others are
// not slowed, and a reload reaches those who are connected.
func TestClientRate(t *testing.T) {
	harness.Each(t, func(t *testing.T, k harness.Kind) {
		n, set := limitedNode(t, k)
		a, b, c := n.Connect(t, harness.Opts{}), n.Connect(t, harness.Opts{}), n.Connect(t, harness.Opts{})
		const count = 30 // fits into derper's queue of 32
		least := time.Duration(float64(count*(packet+32)-clientBurst-packet-32) / clientRate * float64(time.Second))
		// One read may come through beyond the burst: at most a quarter of the burst.
		least -= time.Duration(float64(clientBurst) / 4 / clientRate * float64(time.Second))

		done := make(chan time.Duration, 1)
		go func() { done <- carry(t, a, b, count) }()
		time.Sleep(200 * time.Millisecond)
		other := harness.Random(packet)
		c.MustSend(t, b.Pub, other) // from its own bucket
		b.WaitPacket(t, c.Pub, other)
		select {
		case took := <-done:
			t.Fatalf("the limited flow was over (in %v) before another client's packet arrived", took)
		default:
		}
		if took := <-done; took < least {
			t.Errorf("%d packets in %v, at least %v expected", count, took, least)
		}
		set(0)
		if took := carry(t, a, b, count); took > least {
			t.Errorf("%d packets in %v without a limit", count, took)
		}
		set(clientRate)
		if took := carry(t, a, b, count); took < least {
			t.Errorf("%d packets in %v after the limit came back, at least %v expected", count, took, least)
		}
		for _, cl := range []*harness.Client{a, b, c} {
			if err := cl.Lost(); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestClientRatePaused: one who is paused for long still gets packets, and a faster rate wakes it.
func TestClientRatePaused(t *testing.T) {
	t.Parallel()
	n, set := limitedNode(t, harness.Derpmesh)
	set(1000)
	a, b := n.Connect(t, harness.Opts{}), n.Connect(t, harness.Opts{})
	unknown := key.NewNode().Public()
	for range 14 { // a debt of half a minute
		a.MustSend(t, unknown, harness.Random(packet))
	}
	time.Sleep(200 * time.Millisecond)
	late := harness.Random(100)
	a.MustSend(t, b.Pub, late)
	data := harness.Random(packet)
	b.MustSend(t, a.Pub, data)
	a.WaitPacket(t, b.Pub, data)
	time.Sleep(time.Second)
	if b.Packets(late) != 0 {
		t.Error("a client that owes half a minute was read")
	}
	set(1_000_000)
	if _, ok := b.Wait(5*time.Second, func(e harness.Event) bool {
		p, ok := e.Msg.(derp.ReceivedPacket)
		return ok && p.Source == a.Pub
	}); !ok {
		t.Errorf("still paused after the reload; %s", b.Summary())
	}
}
