// Package single shows that one derpmesh node is to Tailscale's client what derper is: every test runs against
// derper first and then, with the same expectations, against derpmesh.
package single

import (
	"crypto/tls"
	"fmt"
	"strings"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/derp/derpconst"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"derpmesh/tests/integration/harness"
)

// one starts a single node.
func one(t *testing.T, k harness.Kind, cert harness.CertKind) *harness.Node {
	t.Helper()
	return harness.New(t, harness.Spec{Kind: k, Regions: []int{1}, Cert: cert}).Nodes[0]
}

var sizes = []int{0, 1, 1400, 65536}

// TestSameNode sends packets of all sizes both ways over every transport and every way to trust a certificate.
func TestSameNode(t *testing.T) {
	for _, tc := range []struct {
		name string
		cert harness.CertKind
		opts harness.Opts
		tls  uint16
	}{
		{"ca tls1.3", harness.CertCA, harness.Opts{}, tls.VersionTLS13},
		{"ca tls1.2", harness.CertCA, harness.Opts{MaxTLS: tls.VersionTLS12}, tls.VersionTLS12},
		{"ca url", harness.CertCA, harness.Opts{URL: true}, tls.VersionTLS13},
		{"pin tls1.3", harness.CertPin, harness.Opts{}, tls.VersionTLS13},
		{"pin tls1.2", harness.CertPin, harness.Opts{MaxTLS: tls.VersionTLS12}, tls.VersionTLS12},
		{"made", harness.CertMade, harness.Opts{}, tls.VersionTLS13},
		{"insecure", harness.CertInsecure, harness.Opts{}, tls.VersionTLS13},
		{"plain", harness.CertNone, harness.Opts{}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			harness.Each(t, func(t *testing.T, k harness.Kind) {
				n := one(t, k, tc.cert)
				a, b := n.Connect(t, tc.opts), n.Connect(t, tc.opts)
				checkTLS(t, a, tc.tls)
				for _, size := range sizes {
					there, back := harness.Random(size), harness.Random(size)
					a.MustSend(t, b.Pub, there)
					b.WaitPacket(t, a.Pub, there)
					b.MustSend(t, a.Pub, back)
					a.WaitPacket(t, b.Pub, back)
				}
				// To itself, as a client does that finds its own address.
				self := harness.Random(100)
				a.MustSend(t, a.Pub, self)
				a.WaitPacket(t, a.Pub, self)
				if a.AllGone()+b.AllGone() != 0 {
					t.Errorf("PeerGone out of nowhere: %s / %s", a.Summary(), b.Summary())
				}
			})
		})
	}
}

// TestAtOnce: who has got the ServerInfo can be reached: the next packet of anyone at the node arrives.  derpprobe
// sends such packets and never repeats them.
func TestAtOnce(t *testing.T) {
	harness.Each(t, func(t *testing.T, k harness.Kind) {
		n := one(t, k, harness.CertCA)
		for i := range 60 {
			a, b := n.Connect(t, harness.Opts{}), n.Connect(t, harness.Opts{})
			p := []byte(fmt.Sprintf("pair %d", i))
			a.MustSend(t, b.Pub, p)
			b.WaitPacket(t, a.Pub, p)
			a.Close()
			b.Close()
		}
	})
}

// checkTLS looks at the version, and that the chain ends with the certificate that names the server's key:
// with it a TLS 1.3 client has logged in without waiting for an HTTP answer.
func checkTLS(t *testing.T, c *harness.Client, version uint16) {
	t.Helper()
	cs, ok := c.TLSConnectionState()
	if !ok {
		if version != 0 {
			t.Fatal("no TLS")
		}
		return
	}
	if cs.Version != version {
		t.Errorf("TLS version %#x, want %#x", cs.Version, version)
	}
	last := cs.PeerCertificates[len(cs.PeerCertificates)-1]
	want := derpconst.MetaCertCommonNamePrefix + c.ServerPublicKey().UntypedHexString()
	if last.Subject.CommonName != want || last.SerialNumber.Int64() != derp.ProtocolVersion {
		t.Errorf("the chain ends with %q serial %v, want %q serial %d",
			last.Subject.CommonName, last.SerialNumber, want, derp.ProtocolVersion)
	}
}

// TestWrongCertificate shows that the clients of TestSameNode really check what they are given.
func TestWrongCertificate(t *testing.T) {
	harness.Each(t, func(t *testing.T, k harness.Kind) {
		n := one(t, k, harness.CertPin)
		for name, entry := range map[string]tailcfg.DERPNode{
			"no pin":    {CertName: ""},
			"wrong pin": {CertName: "sha256-raw:" + strings.Repeat("0", 64)},
		} {
			node := *n.DERPNode
			node.CertName = entry.CertName
			if c, err := n.TryConnect(t, harness.Opts{Node: &node}); err == nil {
				c.Close()
				t.Errorf("%s: the client accepted the certificate", name)
			}
		}
	})
}

// TestFastStart logs in without and with Derp-Fast-Start, in TLS and in plain text: with it there is no HTTP
// answer before the server's key.
func TestFastStart(t *testing.T) {
	for _, cert := range []harness.CertKind{harness.CertCA, harness.CertNone} {
		t.Run(string(cert), func(t *testing.T) {
			harness.Each(t, func(t *testing.T, k harness.Kind) {
				n := one(t, k, cert)
				slow, fast := n.TLS(t), n.TLS(t)
				if a, b := slow.Upgrade(t, false), fast.Upgrade(t, true); a != b || a.IsZero() {
					t.Errorf("server keys differ: %v, %v", a, b)
				}
			})
		})
	}
}

// TestPeerGone: who leaves is told to those who have heard from it, once, and to no one else.
func TestPeerGone(t *testing.T) {
	harness.Each(t, func(t *testing.T, k harness.Kind) {
		n := one(t, k, harness.CertCA)
		leaver := n.Connect(t, harness.Opts{})
		heard1 := n.Connect(t, harness.Opts{})
		priv := key.NewNode() // has two connections, of which the newer one gets the packets
		twin := n.Connect(t, harness.Opts{Key: priv})
		heard2 := n.Connect(t, harness.Opts{Key: priv})
		spoke, stranger := n.Connect(t, harness.Opts{}), n.Connect(t, harness.Opts{})
		for _, c := range []*harness.Client{heard1, heard2} {
			for i := range 3 {
				p := []byte(fmt.Sprintf("hello %d", i))
				leaver.MustSend(t, c.Pub, p)
				c.WaitPacket(t, leaver.Pub, p)
			}
		}
		spoke.MustSend(t, leaver.Pub, []byte("to you"))
		leaver.WaitPacket(t, spoke.Pub, []byte("to you"))
		stranger.MustSend(t, heard1.Pub, []byte("between others"))
		heard1.WaitPacket(t, stranger.Pub, []byte("between others"))

		leaver.Close()
		heard1.WaitGone(t, 10*time.Second, leaver.Pub, derp.PeerGoneReasonDisconnected)
		heard2.WaitGone(t, 10*time.Second, leaver.Pub, derp.PeerGoneReasonDisconnected)
		time.Sleep(2 * time.Second)
		for _, c := range []*harness.Client{heard1, heard2} {
			if c.Gone(leaver.Pub) != 1 || c.AllGone() != 1 {
				t.Errorf("one PeerGone expected: %s", c.Summary())
			}
		}
		for _, c := range []*harness.Client{spoke, stranger, twin} {
			if c.AllGone() != 0 {
				t.Errorf("PeerGone on a connection that got no packet of it: %s", c.Summary())
			}
		}
		heard1.Alive(t)
		stranger.Alive(t)
	})
}

// TestTwoConnections: of several connections with one key the newest is active, then the one that spoke last;
// the key is gone when the last one goes.
func TestTwoConnections(t *testing.T) {
	harness.Each(t, func(t *testing.T, k harness.Kind) {
		n := one(t, k, harness.CertCA)
		peer := n.Connect(t, harness.Opts{})
		priv := key.NewNode()
		first := n.Connect(t, harness.Opts{Key: priv})
		step := 0
		expect := func(at, not *harness.Client) {
			t.Helper()
			step++
			time.Sleep(harness.Scaled(200 * time.Millisecond)) // to change the active one may take a moment
			p := []byte(fmt.Sprintf("step %d", step))
			peer.MustSend(t, priv.Public(), p)
			at.WaitPacket(t, peer.Pub, p)
			if not != nil && not.Packets(p) != 0 {
				t.Errorf("step %d: the other connection got it", step)
			}
		}
		expect(first, nil)
		second := n.Connect(t, harness.Opts{Key: priv})
		expect(second, first)
		first.Alive(t) // a Ping is a frame: the first one is active again
		expect(first, second)
		second.MustSend(t, peer.Pub, []byte("from the second"))
		peer.WaitPacket(t, priv.Public(), []byte("from the second"))
		expect(second, first)
		third := n.Connect(t, harness.Opts{Key: priv})
		expect(third, second)

		third.Close()
		harness.Eventually(t, 5*time.Second, "one of the others takes over", func() error {
			p := []byte(fmt.Sprintf("after the third %d", time.Now().UnixNano()))
			peer.MustSend(t, priv.Public(), p)
			time.Sleep(100 * time.Millisecond)
			if first.Packets(p)+second.Packets(p) != 1 {
				return fmt.Errorf("%d copies arrived", first.Packets(p)+second.Packets(p))
			}
			return nil
		})
		second.Close()
		harness.Eventually(t, 5*time.Second, "the first takes over", func() error {
			p := []byte(fmt.Sprintf("after the second %d", time.Now().UnixNano()))
			peer.MustSend(t, priv.Public(), p)
			time.Sleep(100 * time.Millisecond)
			if first.Packets(p) != 1 {
				return fmt.Errorf("%d copies arrived", first.Packets(p))
			}
			return nil
		})
		if peer.AllGone() != 0 {
			t.Errorf("PeerGone while a connection was left: %s", peer.Summary())
		}
		first.Close()
		peer.WaitGone(t, 10*time.Second, priv.Public(), derp.PeerGoneReasonDisconnected)
		if peer.AllGone() != 1 {
			t.Errorf("one PeerGone expected: %s", peer.Summary())
		}
	})
}

// TestNotHere: a disco packet for a key that nobody knows is answered, at most three at once and one a second;
// other packets are not.
func TestNotHere(t *testing.T) {
	harness.Each(t, func(t *testing.T, k harness.Kind) {
		n := one(t, k, harness.CertCA)
		a, b := n.Connect(t, harness.Opts{}), n.Connect(t, harness.Opts{})
		unknown := key.NewNode().Public()
		for _, p := range [][]byte{nil, harness.Random(1), harness.Random(1400), harness.Disco(61), []byte("TS\xf0\x9f\x92\xac")} {
			a.MustSend(t, unknown, p)
		}
		a.Alive(t)
		time.Sleep(500 * time.Millisecond)
		if a.AllGone() != 0 {
			t.Errorf("answered though no packet was disco: %s", a.Summary())
		}
		a.MustSend(t, unknown, harness.Disco(62))
		a.WaitGone(t, 5*time.Second, unknown, derp.PeerGoneReasonNotHere)
		// Five seconds fill the bucket again, whatever its start was.
		time.Sleep(5 * time.Second)
		start, before := time.Now(), a.AllGone()
		for range 20 {
			a.MustSend(t, unknown, harness.Disco(100))
		}
		a.Alive(t)
		time.Sleep(200 * time.Millisecond)
		got, most := a.AllGone()-before, 3+int(time.Since(start)/time.Second)+1
		if got < 1 || got > most {
			t.Errorf("20 disco packets gave %d answers, want 1 to %d", got, most)
		}
		// The limit is that connection's own.
		b.MustSend(t, unknown, harness.Disco(62))
		b.WaitGone(t, 5*time.Second, unknown, derp.PeerGoneReasonNotHere)
		// A disco packet for someone who is here is just delivered.
		p := harness.Disco(200)
		b.MustSend(t, a.Pub, p)
		a.WaitPacket(t, b.Pub, p)
	})
}

// TestKeepAlive waits for the frame that keeps a connection alive through proxies.
func TestKeepAlive(t *testing.T) {
	harness.SkipUnlessLong(t)
	for k, limit := range map[harness.Kind]time.Duration{
		harness.Derper:   70 * time.Second, // 60 s and up to 5 s of jitter
		harness.Derpmesh: 50 * time.Second, // 25 to 45 s: under the 60 s of common proxies
	} {
		t.Run(string(k), func(t *testing.T) {
			t.Parallel()
			n := one(t, k, harness.CertCA)
			idle, busy := n.Connect(t, harness.Opts{}), n.Connect(t, harness.Opts{})
			quit := make(chan struct{})
			defer close(quit)
			go func() {
				for i := 0; ; i++ {
					select {
					case <-quit:
						return
					case <-time.After(200 * time.Millisecond):
						busy.Send(busy.Pub, []byte{byte(i)})
					}
				}
			}()
			for name, c := range map[string]*harness.Client{"idle": idle, "busy": busy} {
				if _, ok := c.Wait(limit, func(e harness.Event) bool {
					_, ok := e.Msg.(derp.KeepAliveMessage)
					return ok
				}); !ok {
					t.Errorf("%s connection: no KeepAlive within %v", name, limit)
				}
			}
		})
	}
}

func TestMain(m *testing.M) { harness.Main(m) }
