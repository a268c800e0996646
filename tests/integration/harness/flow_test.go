package harness

import (
	"bytes"
	"strings"
	"testing"

	"tailscale.com/derp"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// TestTrafficSees feeds a member what a bad relay would deliver: the checks of Traffic can fail.
func TestTrafficSees(t *testing.T) {
	keys := []key.NodePublic{key.NewNode().Public(), key.NewNode().Public(), key.NewNode().Public()}
	for _, tc := range []struct {
		name string
		feed func(packet func(from, to, seq int) derp.ReceivedPacket, m *Member)
		want string // "": nothing is wrong
	}{
		{"all well", func(packet func(from, to, seq int) derp.ReceivedPacket, m *Member) {
			for seq := range 3 {
				m.receive(packet(0, 2, seq))
				m.receive(packet(1, 2, seq))
			}
		}, ""},
		{"lost", func(packet func(from, to, seq int) derp.ReceivedPacket, m *Member) {
			m.receive(packet(0, 2, 1))
		}, "lost or out of order"},
		{"doubled", func(packet func(from, to, seq int) derp.ReceivedPacket, m *Member) {
			m.receive(packet(0, 2, 0))
			m.receive(packet(0, 2, 0))
		}, "doubled or out of order"},
		{"reordered", func(packet func(from, to, seq int) derp.ReceivedPacket, m *Member) {
			m.receive(packet(0, 2, 0))
			m.receive(packet(0, 2, 2))
			m.receive(packet(0, 2, 1))
		}, "out of order"},
		{"misdelivered", func(packet func(from, to, seq int) derp.ReceivedPacket, m *Member) {
			m.receive(packet(0, 1, 0))
		}, "from 0 for 1"},
		{"under another's key", func(packet func(from, to, seq int) derp.ReceivedPacket, m *Member) {
			p := packet(0, 2, 0)
			p.Source = keys[1]
			m.receive(p)
		}, "under the key of 1"},
		{"damaged", func(packet func(from, to, seq int) derp.ReceivedPacket, m *Member) {
			p := packet(0, 2, 0)
			p.Data = bytes.Clone(p.Data)
			p.Data[18] ^= 1
			m.receive(p)
		}, "that nobody sent so"},
		{"cut", func(packet func(from, to, seq int) derp.ReceivedPacket, m *Member) {
			p := packet(0, 2, 0)
			p.Data = p.Data[:10]
			m.receive(p)
		}, "that nobody sent so"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tr := NewTraffic()
			for i, k := range keys {
				tr.index[k] = i
				tr.members = append(tr.members, &Member{Client: &Client{Pub: k, Node: &Node{DERPNode: &tailcfg.DERPNode{}}}, tr: tr, self: i, from: make([]inbound, 3)})
			}
			tc.feed(func(from, to, seq int) derp.ReceivedPacket {
				return derp.ReceivedPacket{Source: keys[from], Data: packet(from, to, uint32(seq), 40)}
			}, tr.members[2])
			got := strings.Join(tr.Faults(), "\n")
			if (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
				t.Errorf("told %q, want %q", got, tc.want)
			}
		})
	}
}

// TestLossyTrafficSees: what may be lost and late is counted, what comes twice is a fault all the same.
func TestLossyTrafficSees(t *testing.T) {
	keys := []key.NodePublic{key.NewNode().Public(), key.NewNode().Public()}
	for _, tc := range []struct {
		seqs       []uint32
		sent       uint32
		lost, late int
		fault      bool
	}{
		{[]uint32{0, 1, 2}, 3, 0, 0, false},
		{[]uint32{0, 3, 4}, 6, 3, 0, false},
		{[]uint32{0, 3, 1, 4}, 5, 1, 1, false},
		{[]uint32{}, 2, 2, 0, false},
		{[]uint32{0, 3, 1, 1}, 4, 1, 1, true},
		{[]uint32{0, 1, 1}, 2, 0, 0, true},
	} {
		tr := NewTraffic()
		tr.Lossy = true
		tr.index = map[key.NodePublic]int{keys[0]: 0, keys[1]: 1}
		for i := range keys {
			tr.members = append(tr.members, &Member{tr: tr, self: i, sent: make([]uint32, 2), from: make([]inbound, 2),
				Client: &Client{Node: &Node{DERPNode: &tailcfg.DERPNode{}}}})
		}
		a, b := tr.members[0], tr.members[1]
		a.sent[1] = tc.sent
		for _, seq := range tc.seqs {
			b.receive(derp.ReceivedPacket{Source: keys[0], Data: packet(0, 1, seq, 30)})
		}
		p := tr.Pair(a, b)
		if p.Lost != tc.lost || p.Late != tc.late || (len(tr.Faults()) > 0) != tc.fault {
			t.Errorf("%v of %d: %+v, faults %v", tc.seqs, tc.sent, p, tr.Faults())
		}
	}
}
