package admission

import (
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tailscale.com/types/key"

	"derpmesh/tests/integration/harness"
)

// TestStrangers: a stranger who comes again and again, each time with another key.  All are refused and counted, the
// log stays short, and clients beside it lose nothing.
func TestStrangers(t *testing.T) {
	t.Parallel()
	const tries = 10000
	file := filepath.Join(t.TempDir(), "allow.txt")
	harness.WriteFile(t, file, lines(key.NewNode().Public()))
	c := harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: []int{1}, Args: []string{"--allow", file}, NoStart: true})
	tr := harness.NewTraffic()
	tr.OnKeys = func(keys []key.NodePublic) {
		harness.WriteFile(t, file, lines(keys...))
		c.StartAll(t)
	}
	n := c.Nodes[0]
	tr.Join(t, n, n, n)
	stop := tr.Run(t, 10*time.Millisecond, 300)
	mark := n.LogSize(t)
	var wg sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(tries))
	for range 8 {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if _, err := n.TryConnect(t, harness.Opts{}); err == nil {
					t.Error("a stranger was let in")
					return
				}
			}
		})
	}
	wg.Wait()
	stop()
	if got := count(t, n, "refused_allow"); got != tries {
		t.Errorf("refused_allow: %d, want %d", got, tries)
	}
	if st := status(t, n).Admission; st.Refused != tries || st.Outages != 0 {
		t.Errorf("status says %+v", st)
	}
	if said := n.Complaints(t, mark); len(said) < 20 || len(said) > 200 {
		t.Errorf("%d lines for %d refusals", len(said), tries)
	}
}

// TestRefusalCost: what a refused login costs beyond the handshake: the box is opened, the engine asked, the connection
// closed.  Compared with connections that go as far as the ServerKey and no further, and with logins that are let in;
// the least of several rounds in turn, as others' work on this machine only ever adds.  600 µs are the aim on a quiet
// machine, which is printed, not required.
func TestRefusalCost(t *testing.T) {
	file := filepath.Join(t.TempDir(), "allow.txt")
	friend := key.NewNode()
	harness.WriteFile(t, file, lines(friend.Public()))
	n := node(t, "--allow", file)
	const tries, rounds = 100, 5
	least := make(map[string]time.Duration)
	measure := func(name string, f func()) {
		before := n.CPU(t)
		for range tries {
			f()
		}
		time.Sleep(100 * time.Millisecond)
		if spent := (n.CPU(t) - before) / tries; least[name] == 0 || spent < least[name] {
			least[name] = spent
		}
	}
	for range rounds {
		measure("handshake", func() {
			r := n.TLS(t)
			r.Upgrade(t, true)
			r.Close()
		})
		measure("refused", func() {
			if n.LoginRefused(t) == nil {
				t.Fatal("a stranger was let in")
			}
		})
		measure("welcome", func() {
			r := n.TLS(t)
			r.Priv, r.Pub = friend, friend.Public()
			r.Login(t)
			r.Close()
		})
	}
	refused, welcome := least["refused"]-least["handshake"], least["welcome"]-least["handshake"]
	t.Logf("CPU: handshake %v; beyond it a refused login %v (aim: 600µs), one that is let in %v", least["handshake"], refused, welcome)
	if refused > 2*max(welcome, least["handshake"]/4) {
		t.Errorf("a refusal costs %v of CPU beyond the handshake, a login that is let in %v", refused, welcome)
	}
}
