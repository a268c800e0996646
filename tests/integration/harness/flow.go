package harness

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"sync"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// Traffic is a set of clients between which numbered packets go; each client checks all that it gets: made for
// it, from whom it says, whole, and the next one of its pair.
type Traffic struct {
	OnKeys func([]key.NodePublic) // called with the keys of members before they connect
	// Lossy: packets may be lost, and come late where their way has changed; each is counted.  Still none may come twice.
	Lossy bool

	members []*Member
	index   map[key.NodePublic]int
	mu      sync.Mutex
	bad     []string
}

// Member is one client of a Traffic.
type Member struct {
	*Client
	tr   *Traffic
	self int
	priv key.NodePrivate

	sendMu sync.Mutex
	sent   []uint32 // to each member: packets sent
	recvMu sync.Mutex
	from   []inbound // from each member
	total  int
}

// inbound is what a member has got from another one.
type inbound struct {
	next    uint32              // the number expected
	missing map[uint32]struct{} // numbers passed over, in lossy traffic
	late    int                 // came after a higher number
	last    time.Time           // when one came
	silence time.Duration       // the longest time without, from the mark on

	lostBefore, lateBefore int // at the mark
}

// NewTraffic makes an empty set.
func NewTraffic() *Traffic { return &Traffic{index: map[key.NodePublic]int{}} }

// Join connects one client more at each of the nodes; all members join before the first packet.
func (tr *Traffic) Join(t testing.TB, nodes ...*Node) []*Member {
	t.Helper()
	first := len(tr.members)
	privs := make([]key.NodePrivate, len(nodes))
	for i := range nodes {
		privs[i] = key.NewNode()
		tr.index[privs[i].Public()] = first + i
		tr.members = append(tr.members, &Member{tr: tr, self: first + i, priv: privs[i]})
	}
	if tr.OnKeys != nil {
		pubs := make([]key.NodePublic, len(privs))
		for i, p := range privs {
			pubs[i] = p.Public()
		}
		tr.OnKeys(pubs)
	}
	for _, m := range tr.members {
		m.sent = make([]uint32, len(tr.members))
		m.from = make([]inbound, len(tr.members))
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16) // logins at a time
	for i, n := range nodes {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			m := tr.members[first+i]
			c, err := n.TryConnect(t, Opts{Key: privs[i], OnPacket: m.receive})
			if err != nil {
				t.Errorf("member %d at %s: %v", m.self, n.Name, err)
				return
			}
			m.Client = c
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return tr.members[first:]
}

func (tr *Traffic) fault(format string, args ...any) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if len(tr.bad) < 20 {
		tr.bad = append(tr.bad, fmt.Sprintf(format, args...))
	}
}

// Faults is what went wrong so far: packets misdelivered, damaged, doubled, out of order or skipped.
func (tr *Traffic) Faults() []string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return append([]string(nil), tr.bad...)
}

// A packet: source, destination, number in the pair, length, filler, CRC.
const packetMin = 20

func packet(from, to int, seq uint32, size int) []byte {
	b := make([]byte, max(size, packetMin))
	binary.BigEndian.PutUint32(b[0:], uint32(from))
	binary.BigEndian.PutUint32(b[4:], uint32(to))
	binary.BigEndian.PutUint32(b[8:], seq)
	binary.BigEndian.PutUint32(b[12:], uint32(len(b)))
	for i := 16; i < len(b)-4; i++ {
		b[i] = byte(i) ^ byte(seq)
	}
	binary.BigEndian.PutUint32(b[len(b)-4:], crc32.ChecksumIEEE(b[:len(b)-4]))
	return b
}

// SendTo sends the pair's next packet, of the given size.
func (m *Member) SendTo(o *Member, size int) error {
	m.sendMu.Lock()
	defer m.sendMu.Unlock()
	b := packet(m.self, o.self, m.sent[o.self], size)
	if err := m.Send(o.priv.Public(), b); err != nil {
		return err
	}
	m.sent[o.self]++
	return nil
}

func (m *Member) receive(p derp.ReceivedPacket) {
	b := p.Data
	if len(b) < packetMin || crc32.ChecksumIEEE(b[:len(b)-4]) != binary.BigEndian.Uint32(b[len(b)-4:]) {
		m.tr.fault("member %d got %d bytes that nobody sent so", m.self, len(b))
		return
	}
	src, dst := int(binary.BigEndian.Uint32(b)), int(binary.BigEndian.Uint32(b[4:]))
	seq := binary.BigEndian.Uint32(b[8:])
	if dst != m.self {
		m.tr.fault("member %d got a packet from %d for %d", m.self, src, dst)
		return
	}
	if i, ok := m.tr.index[p.Source]; !ok || i != src {
		m.tr.fault("member %d got a packet of %d under the key of %d", m.self, src, i)
		return
	}
	m.recvMu.Lock()
	defer m.recvMu.Unlock()
	m.total++
	in := &m.from[src]
	now := time.Now()
	in.silence, in.last = max(in.silence, now.Sub(in.last)), now
	if seq != in.next {
		m.unexpected(in, src, seq)
	}
	in.next = max(seq+1, in.next)
}

// unexpected takes a number that is not the next one.
func (m *Member) unexpected(in *inbound, src int, seq uint32) {
	what := "lost or out of order"
	if m.tr.Lossy && seq > in.next {
		if in.missing == nil {
			in.missing = map[uint32]struct{}{}
		}
		for i := in.next; i < seq; i++ {
			in.missing[i] = struct{}{}
		}
		return
	}
	if seq < in.next {
		what = "doubled or out of order"
		if _, ok := in.missing[seq]; ok {
			delete(in.missing, seq)
			in.late++
			return
		}
	}
	m.tr.fault("pair %d->%d (%s->%s): number %d, expected %d: %s", src, m.self,
		m.tr.members[src].Node.Name, m.Node.Name, seq, in.next, what)
}

// Received counts all packets that the members got.
func (tr *Traffic) Received() (n int) {
	for _, m := range tr.members {
		m.recvMu.Lock()
		n += m.total
		m.recvMu.Unlock()
	}
	return n
}

// Sent counts all packets that the members sent.
func (tr *Traffic) Sent() (n int) {
	for _, m := range tr.members {
		m.sendMu.Lock()
		for _, s := range m.sent {
			n += int(s)
		}
		m.sendMu.Unlock()
	}
	return n
}

// Settle waits until all that was sent has arrived and fails the test if it does not, or if anything was wrong.
func (tr *Traffic) Settle(t testing.TB) {
	t.Helper()
	err := Poll(15*time.Second, func() error {
		if s, r := tr.Sent(), tr.Received(); s != r {
			return fmt.Errorf("sent %d, received %d", s, r)
		}
		return nil
	})
	if err != nil {
		t.Errorf("traffic: %v", err)
		tr.tellMissing(t)
	}
	for _, f := range tr.Faults() {
		t.Error(f)
	}
	for _, m := range tr.members {
		if err := m.Lost(); err != nil {
			t.Errorf("member %d at %s lost its connection: %v", m.self, m.Node.Name, err)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
}

func (tr *Traffic) tellMissing(t testing.TB) {
	lines := 0
	for _, from := range tr.members {
		for _, to := range tr.members {
			from.sendMu.Lock()
			sent := from.sent[to.self]
			from.sendMu.Unlock()
			to.recvMu.Lock()
			got := to.from[from.self].next
			to.recvMu.Unlock()
			if sent != got && lines < 10 {
				t.Errorf("pair %d->%d (%s->%s): sent %d, the last number that came is %d",
					from.self, to.self, from.Node.Name, to.Node.Name, sent, int(got)-1)
				lines++
			}
		}
	}
}

// Run sends one packet of the size from each member to each other, once every interval, until stop is called;
// stop waits until all has arrived and checks it.  Sending stays below what any queue holds.
func (tr *Traffic) Run(t testing.TB, interval time.Duration, size int) (stop func()) {
	end := tr.start(t, interval, size)
	return func() {
		t.Helper()
		end()
		tr.Settle(t)
	}
}

func (tr *Traffic) start(t testing.TB, interval time.Duration, size int) (end func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
			}
			for _, a := range tr.members {
				for _, b := range tr.members {
					if a == b {
						continue
					}
					if err := a.SendTo(b, size); err != nil && !tr.Lossy {
						tr.fault("member %d at %s cannot send: %v", a.self, a.Node.Name, err)
						return
					}
				}
			}
		}
	}()
	var once sync.Once
	end = func() { once.Do(func() { close(quit); <-done }) }
	t.Cleanup(end)
	return end
}

// Flow starts traffic between two clients at each of the nodes, each to each.  stop ends it and fails the test if a
// frame was lost, doubled or out of order, if a connection ended, or if someone was called gone.
func Flow(t testing.TB, nodes ...*Node) (stop func()) {
	t.Helper()
	tr := NewTraffic()
	members := tr.Join(t, slices.Concat(nodes, nodes)...)
	// What is sent before the announcements are out is lost, and rightly.
	time.Sleep(Scaled(time.Second))
	end := tr.Run(t, 20*time.Millisecond, 400)
	return func() {
		t.Helper()
		end()
		for _, m := range members {
			if m.AllGone() != 0 {
				t.Errorf("at %s: PeerGone for a peer that was there all the time: %s", m.Node.Name, m.Summary())
			}
		}
	}
}
