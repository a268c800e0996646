package harness

import (
	"testing"
	"time"

	"tailscale.com/types/key"
)

// PairStats is what became of the traffic from one member to another since the last Mark, to this moment; Silence is the
// longest time without a packet.
type PairStats struct {
	Sent, Lost, Late int // packets: sent (ever), not come so far, come after later ones
	Silence          time.Duration
}

// RunLossy sends as Run does; a member whose connection has ended sends nothing until it has another one (Reconnect).
// stop waits until nothing more comes, and fails the test if a packet was damaged, misdelivered or came twice.
func (tr *Traffic) RunLossy(t testing.TB, interval time.Duration, size int) (stop func()) {
	tr.Lossy = true
	tr.Mark()
	end := tr.start(t, interval, size)
	return func() {
		t.Helper()
		end()
		for before := -1; before != tr.Received(); time.Sleep(time.Second) {
			before = tr.Received()
		}
		for _, f := range tr.Faults() {
			t.Error(f)
		}
	}
}

// Mark begins the measurement anew.
func (tr *Traffic) Mark() {
	now := time.Now()
	for _, m := range tr.members {
		m.recvMu.Lock()
		for i := range m.from {
			in := &m.from[i]
			in.last, in.silence = now, 0
			in.lostBefore, in.lateBefore = len(in.missing), in.late
		}
		m.recvMu.Unlock()
	}
}

// Pair counts for the traffic from a to b.
func (tr *Traffic) Pair(a, b *Member) (p PairStats) {
	a.sendMu.Lock()
	sent := a.sent[b.self]
	a.sendMu.Unlock()
	b.recvMu.Lock()
	defer b.recvMu.Unlock()
	in := &b.from[a.self]
	p.Sent, p.Late = int(sent), in.late-in.lateBefore
	p.Lost = max(len(in.missing)-in.lostBefore, 0) + int(sent-min(in.next, sent))
	p.Silence = max(in.silence, time.Since(in.last))
	return p
}

// Reconnect gives a member another connection with its key, at a node; the one it has is left as it is.
func (m *Member) Reconnect(t testing.TB, n *Node, o Opts) {
	t.Helper()
	if err := m.TryReconnect(t, n, o); err != nil {
		t.Fatalf("member %d to %s: %v", m.self, n.Name, err)
	}
}

// TryReconnect is Reconnect for connections that may fail.
func (m *Member) TryReconnect(t testing.TB, n *Node, o Opts) error {
	t.Helper()
	o.Key, o.OnPacket = m.priv, m.receive
	c, err := n.TryConnect(t, o)
	if err != nil {
		return err
	}
	m.sendMu.Lock()
	defer m.sendMu.Unlock()
	m.Client = c
	return nil
}

// Key is the member's public key.
func (m *Member) Key() key.NodePublic { return m.priv.Public() }

// Forgive forgets the faults so far: for tests that send the members what is not numbered.
func (tr *Traffic) Forgive() {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.bad = nil
}
