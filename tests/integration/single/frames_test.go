package single

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"

	"derpmesh/tests/integration/harness"
)

// TestFrames writes single frames after the login and looks at what becomes of the connection.  The expectation
// is what derper does; derper runs the same table.
func TestFrames(t *testing.T) {
	peer := key.NewNode().Public()
	with := func(k key.NodePublic, rest ...byte) []byte { return append(k.AppendTo(nil), rest...) }
	table := []struct {
		name string
		ft   derp.FrameType
		body []byte
		want string
	}{
		{"send 65536", derp.FrameSendPacket, with(peer, make([]byte, 65536)...), "open"},
		{"send 65537", derp.FrameSendPacket, with(peer, make([]byte, 65537)...), "closed"},
		{"send without a payload", derp.FrameSendPacket, with(peer), "open"},
		{"send with half a key", derp.FrameSendPacket, make([]byte, 31), "closed"},
		{"send nothing", derp.FrameSendPacket, nil, "closed"},
		{"send to the zero key", derp.FrameSendPacket, make([]byte, 40), "open"},

		{"ping of 7", derp.FramePing, make([]byte, 7), "closed"},
		{"ping of nothing", derp.FramePing, nil, "closed"},
		{"ping of 1001", derp.FramePing, make([]byte, 1001), "closed"},

		{"home", derp.FrameNotePreferred, []byte{1}, "open"},
		{"home, odd value", derp.FrameNotePreferred, []byte{7}, "open"},
		{"home, empty", derp.FrameNotePreferred, nil, "closed"},
		{"home, long", derp.FrameNotePreferred, []byte{1, 0}, "closed"},

		{"watch without a mesh key", derp.FrameWatchConns, nil, "closed"},
		{"watch, wrong size", derp.FrameWatchConns, []byte{1}, "closed"},
		{"forward without a mesh key", derp.FrameForwardPacket, with(peer, make([]byte, 40)...), "closed"},
		{"forward, short", derp.FrameForwardPacket, make([]byte, 3), "closed"},
		{"close peer without a mesh key", derp.FrameClosePeer, with(peer), "closed"},
		{"close peer, wrong size", derp.FrameClosePeer, make([]byte, 31), "closed"},

		{"pong", derp.FramePong, make([]byte, 8), "open"},
		{"keep-alive", derp.FrameKeepAlive, nil, "open"},
		{"receive packet", derp.FrameRecvPacket, with(peer, 1, 2, 3), "open"},
		{"peer gone", derp.FramePeerGone, with(peer, 0), "open"},
		{"peer present", derp.FramePeerPresent, with(peer), "open"},
		{"health", derp.FrameHealth, []byte("fine"), "open"},
		{"restarting", derp.FrameRestarting, make([]byte, 8), "open"},
		{"second login", derp.FrameClientInfo, make([]byte, 100), "open"},
		{"server key", derp.FrameServerKey, make([]byte, 40), "open"},
		{"type 0", 0, []byte{1, 2}, "open"},
		{"type 0x60", 0x60, make([]byte, 300), "open"},
		{"type 0x61", 0x61, make([]byte, 300), "open"},
		{"type 0xff, empty", 0xff, nil, "open"},
		{"type 0xff, 1 MB", 0xff, make([]byte, 1<<20), "open"},
	}
	harness.Each(t, func(t *testing.T, k harness.Kind) {
		n := one(t, k, harness.CertCA)
		for _, tc := range table {
			t.Run(tc.name, func(t *testing.T) {
				t.Parallel()
				r := n.Login(t)
				r.WriteFrame(t, tc.ft, tc.body)
				if got := r.Outcome(); got != tc.want {
					t.Errorf("the connection is %s, want %s", got, tc.want)
				}
			})
		}
	})
}

// TestSlowFrames sends each byte alone: frames may be split anywhere.
func TestSlowFrames(t *testing.T) {
	harness.Each(t, func(t *testing.T, k harness.Kind) {
		n := one(t, k, harness.CertCA)
		r, peer := n.Login(t), n.Connect(t, harness.Opts{})
		data := []byte("one byte at a time")
		frame := binary.BigEndian.AppendUint32([]byte{byte(derp.FrameSendPacket)}, uint32(32+len(data)))
		frame = append(peer.Pub.AppendTo(frame), data...)
		frame = append(frame, 0x77, 0, 0, 0, 2, 9, 9) // and an unknown one
		for i := range frame {
			if _, err := r.Write(frame[i : i+1]); err != nil {
				t.Fatal(err)
			}
		}
		peer.WaitPacket(t, r.Pub, data)
		if got := r.Outcome(); got != "open" {
			t.Errorf("the connection is %s", got)
		}
	})
}

// TestTooLongIsNotDelivered: of a frame that is too long nothing arrives, and others are not disturbed.
func TestTooLongIsNotDelivered(t *testing.T) {
	harness.Each(t, func(t *testing.T, k harness.Kind) {
		n := one(t, k, harness.CertCA)
		r, dst, other := n.Login(t), n.Connect(t, harness.Opts{}), n.Connect(t, harness.Opts{})
		r.SendPacket(t, dst.Pub, harness.Random(65537))
		if got := r.Outcome(); got != "closed" {
			t.Errorf("the sender's connection is %s", got)
		}
		other.MustSend(t, dst.Pub, []byte("after"))
		dst.WaitPacket(t, other.Pub, []byte("after"))
		for _, e := range dst.Events() {
			if p, ok := e.Msg.(derp.ReceivedPacket); ok && p.Source == r.Pub {
				t.Errorf("%d bytes of the over-long packet arrived", len(p.Data))
			}
		}
	})
}

// TestPing: the first 8 bytes come back, from 8 to 1000.
func TestPing(t *testing.T) {
	harness.Each(t, func(t *testing.T, k harness.Kind) {
		n := one(t, k, harness.CertCA)
		n.Connect(t, harness.Opts{}).Alive(t)
		for _, size := range []int{8, 9, 1000} {
			r := n.Login(t)
			body := harness.Random(size)
			r.WriteFrame(t, derp.FramePing, body)
			r.SetReadDeadline(time.Now().Add(harness.Scaled(5 * time.Second)))
			f, err := r.ReadFrame()
			if err != nil {
				t.Fatalf("ping of %d: %v", size, err)
			}
			if f.Type != derp.FramePong || !bytes.Equal(f.Body, body[:8]) {
				t.Errorf("ping of %d: answer %#x %x, want the first 8 of %x", size, f.Type, f.Body, body[:8])
			}
		}
	})
}

// TestLogin tries logins that are not as they should be.
func TestLogin(t *testing.T) {
	info := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	good := info(derp.ClientInfo{Version: derp.ProtocolVersion})
	stranger := key.NewNode()
	table := []struct {
		name string
		want string // "open" or "closed"
		send func(r *harness.Raw, server key.NodePublic) []byte
	}{
		{"as it should be", "open", func(r *harness.Raw, s key.NodePublic) []byte {
			return append(r.Pub.AppendTo(nil), r.Priv.SealTo(s, good)...)
		}},
		{"unknown fields", "open", func(r *harness.Raw, s key.NodePublic) []byte {
			return append(r.Pub.AppendTo(nil), r.Priv.SealTo(s, []byte(`{"version":2,"x":{"y":[1,null]},"CanAckPings":true}`))...)
		}},
		{"empty object", "open", func(r *harness.Raw, s key.NodePublic) []byte {
			return append(r.Pub.AppendTo(nil), r.Priv.SealTo(s, []byte(`{}`))...)
		}},
		{"later version", "open", func(r *harness.Raw, s key.NodePublic) []byte {
			return append(r.Pub.AppendTo(nil), r.Priv.SealTo(s, []byte(`{"version":77}`))...)
		}},
		{"prober with a name", "open", func(r *harness.Raw, s key.NodePublic) []byte {
			return append(r.Pub.AppendTo(nil), r.Priv.SealTo(s, info(derp.ClientInfo{Version: 2, IsProber: true, AppName: "x"}))...)
		}},
		{"not JSON", "closed", func(r *harness.Raw, s key.NodePublic) []byte {
			return append(r.Pub.AppendTo(nil), r.Priv.SealTo(s, []byte("hello"))...)
		}},
		{"half an object", "closed", func(r *harness.Raw, s key.NodePublic) []byte {
			return append(r.Pub.AppendTo(nil), r.Priv.SealTo(s, []byte(`{"version":`))...)
		}},
		{"empty box", "closed", func(r *harness.Raw, s key.NodePublic) []byte {
			return append(r.Pub.AppendTo(nil), r.Priv.SealTo(s, nil)...)
		}},
		{"someone else's key", "closed", func(r *harness.Raw, s key.NodePublic) []byte {
			return append(stranger.Public().AppendTo(nil), r.Priv.SealTo(s, good)...)
		}},
		{"for another server", "closed", func(r *harness.Raw, s key.NodePublic) []byte {
			return append(r.Pub.AppendTo(nil), r.Priv.SealTo(stranger.Public(), good)...)
		}},
		{"zero key", "closed", func(r *harness.Raw, s key.NodePublic) []byte { return make([]byte, 120) }},
		{"short", "closed", func(r *harness.Raw, s key.NodePublic) []byte { return make([]byte, 55) }},
		{"nothing", "closed", func(r *harness.Raw, s key.NodePublic) []byte { return nil }},
		{"300 KiB", "closed", func(r *harness.Raw, s key.NodePublic) []byte {
			big := append(bytes.Clone(good), bytes.Repeat([]byte{' '}, 300<<10)...)
			return append(r.Pub.AppendTo(nil), r.Priv.SealTo(s, big)...)
		}},
	}
	harness.Each(t, func(t *testing.T, k harness.Kind) {
		n := one(t, k, harness.CertCA)
		for _, tc := range table {
			t.Run(tc.name, func(t *testing.T) {
				t.Parallel()
				r := n.TLS(t)
				server := r.Upgrade(t, false)
				r.WriteFrame(t, derp.FrameClientInfo, tc.send(r, server))
				if got := r.Outcome(); got != tc.want {
					t.Errorf("the connection is %s, want %s", got, tc.want)
				}
			})
		}
	})
}

// TestFrameInsteadOfLogin: nothing but the ClientInfo is taken before the login.
func TestFrameInsteadOfLogin(t *testing.T) {
	harness.Each(t, func(t *testing.T, k harness.Kind) {
		n := one(t, k, harness.CertCA)
		for _, ft := range []derp.FrameType{derp.FrameSendPacket, derp.FramePing, 0x60, 0xff} {
			r := n.TLS(t)
			r.Upgrade(t, false)
			r.WriteFrame(t, ft, make([]byte, 64))
			if got := r.Outcome(); got != "closed" {
				t.Errorf("frame %#x instead of the login: the connection is %s", ft, got)
			}
		}
	})
}
