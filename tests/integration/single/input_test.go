package single

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"tailscale.com/net/stun"

	"derpmesh/tests/integration/harness"
)

// hello is a TLS ClientHello as bytes.
func hello(t *testing.T) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer client.Close()
	go tls.Client(client, &tls.Config{InsecureSkipVerify: true}).Handshake()
	buf := make([]byte, 4096)
	n, err := server.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	server.Close()
	return buf[:n]
}

// TestBadInput: what is no TLS, no HTTP or no DERP ends its own connection, in time, and nobody else's.  Many of
// each come at once.
func TestBadInput(t *testing.T) {
	ch := hello(t)
	upgrade := "GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n"
	table := []struct {
		name string
		tls  bool
		send []byte
	}{
		{"garbage instead of TLS", false, harness.Random(5000)},
		{"HTTP instead of TLS", false, []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")},
		{"nothing", false, nil},
		{"one byte of TLS", false, ch[:1]},
		{"half a TLS hello", false, ch[:len(ch)/2]},
		{"a TLS hello and no more", false, ch},
		{"a TLS hello and garbage", false, append(bytes.Clone(ch), harness.Random(3000)...)},
		{"a TLS record of 65535", false, append([]byte{0x16, 3, 1, 0xff, 0xff}, harness.Random(70000)...)},
		{"nothing in TLS", true, nil},
		{"garbage instead of HTTP", true, harness.Random(3000)},
		{"zeros instead of HTTP", true, make([]byte, 20000)},
		{"half a request line", true, []byte("GET /de")},
		{"half a head", true, []byte("GET /derp HTTP/1.1\r\nHost: x\r\nUpgr")},
		{"no such version", true, []byte("GET /derp HTTP/9.9\r\nHost: x\r\n\r\n")},
		{"no method", true, []byte(" /derp HTTP/1.1\r\nHost: x\r\n\r\n")},
		{"a header without a colon", true, []byte("GET /derp HTTP/1.1\r\nHost x\r\n\r\n")},
		{"a control character", true, []byte("GET /derp HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n")},
		{"a long line", true, []byte("GET /" + strings.Repeat("a", 2<<20) + " HTTP/1.1\r\nHost: x\r\n\r\n")},
		{"a long head", true, []byte("GET / HTTP/1.1\r\n" + strings.Repeat("A: "+strings.Repeat("b", 1000)+"\r\n", 2100) + "\r\n")},
		{"many short headers", true, []byte("GET / HTTP/1.1\r\n" + strings.Repeat("A:b\r\n", 500000) + "\r\n")},
		{"HTTP/2", true, []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")},
		{"upgrade, then nothing", true, []byte(upgrade)},
		{"upgrade, then garbage", true, append([]byte(upgrade), harness.Random(5000)...)},
		{"upgrade, then a frame of 4 GiB", true, []byte(upgrade + "\x02\xff\xff\xff\xffabc")},
		{"upgrade, then half a login", true, []byte(upgrade + "\x02\x00\x00\x00\x80abc")},
	}
	harness.Each(t, func(t *testing.T, k harness.Kind) {
		n := one(t, k, harness.CertCA)
		a, b := n.Connect(t, harness.Opts{}), n.Connect(t, harness.Opts{})
		var wg sync.WaitGroup
		for _, tc := range table {
			for range 2 { // all stay below 64, derpmesh's limit per address before the login
				var conn net.Conn
				if tc.tls {
					conn = n.TLS(t).Conn
				} else {
					conn = n.TCP(t)
				}
				go conn.Write(tc.send) // blocks where the other side does not read
				wg.Go(func() {
					// derper gives a connection without a login 30 s and 10 s, derpmesh 20 s in all.
					if got, closed := harness.WaitClosed(conn, 45*time.Second); !closed {
						t.Errorf("%s: still open; it said %.200q", tc.name, got)
					}
					conn.Close()
				})
			}
		}
		during := harness.Random(1400)
		a.MustSend(t, b.Pub, during)
		b.WaitPacket(t, a.Pub, during)
		wg.Wait()
		// The node goes on, for those who were there and for new ones.
		p := harness.Random(1400)
		a.MustSend(t, b.Pub, p)
		b.WaitPacket(t, a.Pub, p)
		n.Connect(t, harness.Opts{}).Alive(t)
		if err := a.Lost(); err != nil {
			t.Error(err)
		}
	})
}

// TestPages compares what a browser or a monitor sees; derper is the measure.
func TestPages(t *testing.T) {
	const noUpgrade = 426
	table := []struct {
		method, path string
		header       [2]string
		status       int
		want         map[string]string // headers
	}{
		{"GET", "/derp", [2]string{}, noUpgrade, nil},
		{"GET", "/derp", [2]string{"Upgrade", "h2c"}, noUpgrade, nil},
		{"GET", "/derp/probe", [2]string{}, 200, map[string]string{"Access-Control-Allow-Origin": "*"}},
		{"HEAD", "/derp/probe", [2]string{}, 200, map[string]string{"Access-Control-Allow-Origin": "*"}},
		{"POST", "/derp/probe", [2]string{}, 405, map[string]string{"Access-Control-Allow-Origin": ""}},
		{"GET", "/derp/latency-check", [2]string{}, 200, map[string]string{"Access-Control-Allow-Origin": "*"}},
		{"GET", "/generate_204", [2]string{}, 204, map[string]string{"X-Tailscale-Response": "",
			"Cache-Control": "no-cache, no-store, must-revalidate, no-transform, max-age=0"}},
		{"GET", "/generate_204", [2]string{"X-Tailscale-Challenge", "ts_derp.example:1-2"}, 204,
			map[string]string{"X-Tailscale-Response": "response ts_derp.example:1-2"}},
		{"GET", "/generate_204", [2]string{"X-Tailscale-Challenge", "two words"}, 204,
			map[string]string{"X-Tailscale-Response": ""}},
		{"GET", "/generate_204", [2]string{"X-Tailscale-Challenge", strings.Repeat("a", 65)}, 204,
			map[string]string{"X-Tailscale-Response": ""}},
		{"GET", "/", [2]string{}, 200, map[string]string{"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY"}},
		{"GET", "/no/such/page", [2]string{}, 200, nil},
		{"GET", "/robots.txt", [2]string{}, 200, nil},
	}
	for _, cert := range []harness.CertKind{harness.CertCA, harness.CertNone} {
		t.Run(string(cert), func(t *testing.T) {
			harness.Each(t, func(t *testing.T, k harness.Kind) {
				n := one(t, k, cert)
				for _, tc := range table {
					resp := request(t, n, tc.method, tc.path, tc.header)
					if resp.StatusCode != tc.status {
						t.Errorf("%s %s: %s, want %d", tc.method, tc.path, resp.Status, tc.status)
					}
					for name, want := range tc.want {
						if got := resp.Header.Get(name); got != want {
							t.Errorf("%s %s: %s is %q, want %q", tc.method, tc.path, name, got, want)
						}
					}
				}
			})
		})
	}
}

func request(t *testing.T, n *harness.Node, method, path string, header [2]string) *http.Response {
	t.Helper()
	r := n.TLS(t)
	req, err := http.NewRequest(method, "http://"+n.HostName+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if header[0] != "" {
		req.Header.Set(header[0], header[1])
	}
	r.SetDeadline(time.Now().Add(harness.Scaled(10 * time.Second)))
	if err := req.Write(r); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(r.R, req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Errorf("%s %s: the body: %v", method, path, err)
	}
	return resp
}

// TestUpgradeAnswer compares the heads of the answers to an upgrade.
func TestUpgradeAnswer(t *testing.T) {
	for _, method := range []string{"GET", "POST"} {
		for _, upgrade := range []string{"DERP", "derp", "websocket"} {
			t.Run(method+" "+upgrade, func(t *testing.T) {
				harness.Each(t, func(t *testing.T, k harness.Kind) {
					n := one(t, k, harness.CertCA)
					r := n.TLS(t)
					fmt.Fprintf(r, "%s /derp HTTP/1.1\r\nHost: x\r\nUpgrade: %s\r\n\r\n", method, upgrade)
					r.SetDeadline(time.Now().Add(harness.Scaled(10 * time.Second)))
					resp, err := http.ReadResponse(bufio.NewReader(r), nil)
					if err != nil {
						t.Fatal(err)
					}
					key := n.Connect(t, harness.Opts{}).ServerPublicKey().UntypedHexString()
					for name, want := range map[string]string{"Upgrade": "DERP", "Connection": "Upgrade",
						"Derp-Version": "2", "Derp-Public-Key": key} {
						if got := resp.Header.Get(name); got != want || resp.StatusCode != 101 {
							t.Errorf("%s: %s is %q, want %q", resp.Status, name, got, want)
						}
					}
				})
			})
		}
	}
}

// TestSTUN: the answer is for Tailscale's own requests; all else is met with silence.
func TestSTUN(t *testing.T) {
	tx := stun.NewTxID()
	good := stun.Request(tx)
	flip := func(i int) []byte {
		b := bytes.Clone(good)
		b[i] ^= 1
		return b
	}
	table := []struct {
		name string
		send []byte
		want bool
	}{
		{"as it should be", good, true},
		{"empty", nil, false},
		{"garbage", harness.Random(100), false},
		{"cut short", good[:len(good)-1], false},
		{"head only", good[:20], false},
		{"wrong cookie", flip(4), false},
		{"wrong fingerprint", flip(len(good) - 1), false},
		{"an answer", stun.Response(tx, netip.MustParseAddrPort("127.0.0.1:1")), false},
	}
	harness.Each(t, func(t *testing.T, k harness.Kind) {
		n := one(t, k, harness.CertCA)
		for _, tc := range table {
			conn, err := net.Dial("udp", net.JoinHostPort(n.Addr, fmt.Sprint(n.STUNPort)))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			wait := 300 * time.Millisecond
			if tc.want {
				wait = harness.Scaled(5 * time.Second)
			}
			conn.Write(tc.send)
			conn.SetReadDeadline(time.Now().Add(wait))
			buf := make([]byte, 1500)
			size, err := conn.Read(buf)
			if (err == nil) != tc.want {
				t.Errorf("%s: answered %v, want %v (%v)", tc.name, err == nil, tc.want, err)
			}
			if err != nil || !tc.want {
				continue
			}
			gotTx, addr, err := stun.ParseResponse(buf[:size])
			if err != nil || gotTx != tx || addr.String() != conn.LocalAddr().String() {
				t.Errorf("%s: answer %v %v %v, want %v", tc.name, gotTx, addr, err, conn.LocalAddr())
			}
		}
	})
}
