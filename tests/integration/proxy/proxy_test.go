// Package proxy asks whether what stands between clients and a node changes anything for them: WebSocket, nginx with
// the tutorial's configuration, Caddy, HAProxy.  A real derper in the node's place shows what is to be expected.
package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"tailscale.com/derp"
	"tailscale.com/net/wsconn"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"derpmesh/tests/integration/harness"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// place is where clients connect: the node itself, or a proxy before it.
type place struct {
	*harness.Cluster
	Node *harness.Node
	host string // of URL, SNI and Host
	addr string // what is dialled
	port int
	tls  bool
}

func direct(c *harness.Cluster) *place {
	n := c.Nodes[0]
	return &place{c, n, n.HostName, n.Addr, n.DERPPort, c.Cert != harness.CertNone}
}

func (p *place) where() string { return net.JoinHostPort(p.addr, fmt.Sprint(p.port)) }

// dial connects from an address of 127/8 ("": any).
func (p *place) dial(t testing.TB, from string) net.Conn {
	t.Helper()
	d := net.Dialer{Timeout: harness.Scaled(5 * time.Second)}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	conn, err := d.Dial("tcp", p.where())
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	if p.tls {
		conn = tls.Client(conn, &tls.Config{ServerName: p.host, RootCAs: p.CA.Pool})
	}
	return conn
}

// connect is a stock client at that place.
func (p *place) connect(t testing.TB) *harness.Client {
	t.Helper()
	if !p.tls {
		return p.Node.Connect(t, harness.Opts{})
	}
	return p.Node.Connect(t, harness.Opts{Node: &tailcfg.DERPNode{
		Name: p.Node.Name, RegionID: p.Node.RegionID, HostName: p.host, IPv4: p.addr, IPv6: "none", DERPPort: p.port,
	}})
}

// wsClient is Tailscale's DERP client as it runs in a browser: over a WebSocket, whose library closes on messages of
// more than 32,768 bytes.
type wsClient struct {
	*derp.Client
	pub  key.NodePublic
	conn net.Conn
	got  chan derp.ReceivedPacket
	end  chan error
}

func (p *place) websocket(t testing.TB) *wsClient {
	t.Helper()
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, p.where())
		},
		TLSClientConfig: &tls.Config{RootCAs: p.CA.Pool},
	}
	scheme := "ws"
	if p.tls {
		scheme = "wss"
	}
	ctx, cancel := context.WithTimeout(context.Background(), harness.Scaled(10*time.Second))
	defer cancel()
	ws, _, err := websocket.Dial(ctx, fmt.Sprintf("%s://%s:%d/derp", scheme, p.host, p.port), &websocket.DialOptions{
		HTTPClient:   &http.Client{Transport: transport},
		HTTPHeader:   http.Header{"Origin": {"https://elsewhere.example"}},
		Subprotocols: []string{"derp"},
	})
	must(t, err)
	if ws.Subprotocol() != "derp" {
		t.Fatalf("subprotocol %q", ws.Subprotocol())
	}
	nc := wsconn.NetConn(context.Background(), ws, websocket.MessageBinary, "")
	priv := key.NewNode()
	brw := bufio.NewReadWriter(bufio.NewReader(nc), bufio.NewWriter(nc))
	dc, err := derp.NewClient(priv, nc, brw, func(string, ...any) {})
	must(t, err)
	c := &wsClient{dc, priv.Public(), nc, make(chan derp.ReceivedPacket, 100), make(chan error, 1)}
	t.Cleanup(func() { nc.Close() })
	m, err := dc.Recv()
	must(t, err)
	if _, ok := m.(derp.ServerInfoMessage); !ok {
		t.Fatalf("%T instead of the ServerInfo", m)
	}
	go func() {
		for {
			m, err := dc.Recv()
			if err != nil {
				c.end <- err
				return
			}
			if p, ok := m.(derp.ReceivedPacket); ok {
				p.Data = bytes.Clone(p.Data)
				c.got <- p
			}
		}
	}()
	return c
}

// wait returns what is wrong with the next packet, or with the connection.
func (c *wsClient) wait(from key.NodePublic, data []byte) error {
	select {
	case p := <-c.got:
		if p.Source != from || !bytes.Equal(p.Data, data) {
			return fmt.Errorf("got %d other bytes", len(p.Data))
		}
		return nil
	case err := <-c.end:
		return fmt.Errorf("connection ended: %w", err)
	case <-time.After(harness.Scaled(10 * time.Second)):
		return errors.New("nothing came")
	}
}

// exchange sends packets of the size from a WebSocket client to a stock one and back.
func exchange(t testing.TB, w *wsClient, c *harness.Client, size int) error {
	t.Helper()
	there, back := harness.Random(size), harness.Random(size)
	if err := w.Send(c.Pub, there); err != nil {
		return err
	}
	c.WaitPacket(t, w.pub, there)
	c.MustSend(t, w.pub, back)
	return w.wait(c.Pub, back)
}

// TestWebSocket: browsers' clients, beside stock ones, in TLS and in plain text.
func TestWebSocket(t *testing.T) {
	for _, cert := range []harness.CertKind{harness.CertCA, harness.CertNone} {
		t.Run(string(cert), func(t *testing.T) {
			harness.Each(t, func(t *testing.T, k harness.Kind) {
				p := direct(harness.New(t, harness.Spec{Kind: k, Regions: []int{1}, Cert: cert}))
				w, c := p.websocket(t), p.connect(t)
				sizes := []int{0, 1, 90, 121, 122, 1400, 16000, 32000}
				if k == harness.Derpmesh {
					sizes = append(sizes, 32768, 65536)
				}
				for _, size := range sizes {
					if err := exchange(t, w, c, size); err != nil {
						t.Fatalf("%d bytes: %v", size, err)
					}
				}
				// Many at once, so that frames lie across messages.
				for i := range 30 { // derper queues 32
					c.MustSend(t, w.pub, bytes.Repeat([]byte{byte(i)}, 1000+i))
				}
				for i := range 30 { // derper queues 32
					if err := w.wait(c.Pub, bytes.Repeat([]byte{byte(i)}, 1000+i)); err != nil {
						t.Fatalf("packet %d: %v", i, err)
					}
				}
				other := p.websocket(t)
				must(t, other.Send(w.pub, []byte("from browser to browser")))
				must(t, w.wait(other.pub, []byte("from browser to browser")))
			})
		})
	}
}

// TestWebSocketLargeMessage shows that the clients of TestWebSocket do end on large messages: derper's.
func TestWebSocketLargeMessage(t *testing.T) {
	t.Parallel()
	p := direct(harness.New(t, harness.Spec{Kind: harness.Derper, Regions: []int{1}, Cert: harness.CertNone}))
	w, c := p.websocket(t), p.connect(t)
	c.MustSend(t, w.pub, harness.Random(65536))
	if err := w.wait(c.Pub, nil); err == nil || !strings.Contains(err.Error(), "read limited") {
		t.Errorf("a message of more than 64 KiB: %v", err)
	}
}

// A frame of a client, masked unless told.
func frame(head byte, payload string) string {
	mask := []byte{1, 2, 3, 4}
	b := append([]byte{head, 0x80 | byte(len(payload))}, mask...)
	for i := range payload {
		b = append(b, payload[i]^mask[i%4])
	}
	return string(b)
}

// What differs from derper on purpose, by the row's name.
var differs = map[string]string{
	"a bad Origin":      "any Origin is taken, also one that is no URL",
	"an unusual key":    "what is unusual is not sent back in the reply's body",
	"no mask":           "1002 with the reason, not 1000 (RFC 6455, 5.1)",
	"a short close":     "the reason is shorter",
	"a bad close code":  "the reason is shorter",
	"reserved bits":     "the reason is shorter",
	"an unknown opcode": "the reason is shorter",
	"a fragmented ping": "the reason is shorter",
}

// TestWebSocketBytes sends the same handshakes and frames, good and bad, to both programs: what comes back is the same.
func TestWebSocketBytes(t *testing.T) {
	t.Parallel()
	const (
		host    = "GET /derp HTTP/1.1\r\nHost: x\r\n"
		up      = "Upgrade: websocket\r\nConnection: Upgrade\r\n"
		sub     = "Sec-WebSocket-Protocol: derp\r\n"
		version = "Sec-WebSocket-Version: 13\r\n"
		wsKey   = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
		rest    = sub + version + wsKey
		open    = host + up + rest + "\r\n"
	)
	table := []struct{ name, send string }{
		{"good", open},
		{"other spelling", "GET /derp HTTP/1.1\r\nhost: x\r\nUPGRADE: WebSocket\r\nconnection: keep-alive, upgrade\r\n" + rest + "\r\n"},
		{"extensions and fast start", host + up + rest + "Sec-WebSocket-Extensions: permessage-deflate\r\nDerp-Fast-Start: 1\r\n\r\n"},
		{"any Origin", host + up + rest + "Origin: https://elsewhere.example\r\n\r\n"},
		{"null Origin", host + up + rest + "Origin: null\r\n\r\n"},
		{"a bad Origin", host + up + rest + "Origin: http://[::1\r\n\r\n"},
		{"several subprotocols", host + up + "Sec-WebSocket-Protocol: foo, derp\r\n" + version + wsKey + "\r\n"},
		{"derp in a second header", host + up + "Sec-WebSocket-Protocol: foo\r\n" + rest + "\r\n"},
		{"derpx", host + up + "Sec-WebSocket-Protocol: derpx\r\n" + version + wsKey + "\r\n"},
		{"Derp before derp", host + up + "Sec-WebSocket-Protocol: Derp, derp\r\n" + version + wsKey + "\r\n"},
		{"no Connection", host + "Upgrade: websocket\r\n" + rest + "\r\n"},
		{"another Connection", host + "Upgrade: websocket\r\nConnection: keep-alive\r\n" + rest + "\r\n"},
		{"HTTP/1.0", "GET /derp HTTP/1.0\r\n" + up + rest + "\r\n"},
		{"POST", "POST /derp HTTP/1.1\r\nHost: x\r\n" + up + rest + "\r\n"},
		{"no version", host + up + sub + wsKey + "\r\n"},
		{"version 12", host + up + sub + wsKey + "Sec-WebSocket-Version: 12\r\n\r\n"},
		{"no key", host + up + sub + version + "\r\n"},
		{"two keys", host + up + rest + wsKey + "\r\n"},
		{"a short key", host + up + sub + version + "Sec-WebSocket-Key: abc\r\n\r\n"},
		{"an unusual key", host + up + sub + version + "Sec-WebSocket-Key: <b>\\\"\r\n\r\n"},
		{"spaces and loose bits in the key", host + up + sub + version + "Sec-WebSocket-Key:   dGhlIHNhbXBsZSBub25jZR==  \r\n\r\n"},
		{"close", open + frame(0x88, "\x03\xe8bye")},
		{"close without a code", open + frame(0x88, "")},
		{"a short close", open + frame(0x88, "a")},
		{"a bad close code", open + frame(0x88, "\x00\x01")},
		{"text", open + frame(0x81, "hi")},
		{"no mask", open + "\x82\x02hi"},
		{"reserved bits", open + frame(0xc2, "a")},
		{"an unknown opcode", open + frame(0x83, "a")},
		{"a continuation of nothing", open + frame(0x80, "a")},
		{"a message within a message", open + frame(0x02, "\x02\x00\x00\x01\x00a") + frame(0x82, "b")},
		{"a fragmented ping", open + frame(0x09, "a")},
	}
	places := map[harness.Kind]*place{}
	for _, k := range []harness.Kind{harness.Derper, harness.Derpmesh} {
		places[k] = direct(harness.New(t, harness.Spec{Kind: k, Regions: []int{1}, Cert: harness.CertNone}))
	}
	for _, tc := range table {
		t.Run(tc.name, func(t *testing.T) {
			var said [2]string
			for i, k := range []harness.Kind{harness.Derper, harness.Derpmesh} {
				conn := places[k].dial(t, "")
				_, err := io.WriteString(conn, tc.send)
				must(t, err)
				said[i] = canonical(answer(conn))
			}
			_, known := differs[tc.name]
			if (said[0] == said[1]) == known {
				t.Errorf("difference expected: %v\nderper   %q\nderpmesh %q", known, said[0], said[1])
			}
			// The close code and the status are the same even then, but for the two of another kind.
			if known && tc.name != "a bad Origin" && tc.name != "no mask" && kind(said[0]) != kind(said[1]) {
				t.Errorf("another kind of answer\nderper   %q\nderpmesh %q", said[0], said[1])
			}
		})
	}
}

// answer is what comes until nothing comes for a while.
func answer(conn net.Conn) string {
	var b bytes.Buffer
	buf := make([]byte, 4096)
	for {
		conn.SetReadDeadline(time.Now().Add(harness.Scaled(400 * time.Millisecond)))
		n, err := conn.Read(buf)
		b.Write(buf[:n])
		if err != nil {
			return b.String()
		}
	}
}

// canonical takes out what is each program's own: the date, its key.
func canonical(s string) string {
	head, body, ok := strings.Cut(s, "\r\n\r\n")
	if !ok {
		return s
	}
	var lines []string
	for _, l := range strings.Split(head, "\r\n") {
		if !strings.HasPrefix(l, "Date: ") {
			lines = append(lines, strings.Replace(l, "Derp-Public-Key: ", "Derp-Public-Key", 1))
		}
	}
	for i, l := range lines {
		if strings.HasPrefix(l, "Derp-Public-Key") {
			lines[i] = "Derp-Public-Key"
		}
	}
	if i := strings.Index(body, derp.Magic); i >= 0 && len(body) >= i+40 {
		body = body[:i] + "MAGIC and key" + body[i+40:]
	}
	return strings.Join(lines, "\n") + "\n\n" + body
}

// kind is the status line, and the code of the close frame at the end.
func kind(s string) string {
	status, rest, _ := strings.Cut(s, "\n")
	if i := strings.LastIndex(rest, "\x88"); i >= 0 && len(rest) >= i+4 {
		return fmt.Sprintf("%s close %x", status, rest[i+2:i+4])
	}
	return status
}

// TestWebSocketPing: a ping is answered, also in the middle of a message.
func TestWebSocketPing(t *testing.T) {
	harness.Each(t, func(t *testing.T, k harness.Kind) {
		p := direct(harness.New(t, harness.Spec{Kind: k, Regions: []int{1}, Cert: harness.CertCA}))
		conn := p.dial(t, "")
		io.WriteString(conn, "GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
			"Sec-WebSocket-Protocol: derp\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
		if got := answer(conn); !strings.Contains(got, derp.Magic) {
			t.Fatalf("upgrade: %q", got)
		}
		io.WriteString(conn, frame(0x02, "\x02\x00\x00\x01\x00half")+frame(0x89, "are you there"))
		if got := answer(conn); got != "\x8a\x0dare you there" {
			t.Errorf("answer to a ping: %q", got)
		}
	})
}

// ---- proxies ----

// seed is the tutorial's file with each of old replaced by the string after it; all of them must be there.
func seed(t testing.TB, name string, replace ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "seed", name))
	must(t, err)
	s := string(b)
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(s, replace[i]) {
			t.Fatalf("%s: no %q in it any more", name, replace[i])
		}
		s = strings.ReplaceAll(s, replace[i], replace[i+1])
	}
	return s
}

// before is a place of a proxy's own with a certificate, in front of the cluster's node.
func before(t testing.TB, c *harness.Cluster) (p *place, crt, key string) {
	t.Helper()
	addr, port := c.Beside(t, 100)
	p = &place{c, c.Nodes[0], "proxy.derpmesh.test", addr, port, true}
	c.CA.Issue(t, p.host, time.Now().AddDate(0, 3, 0)).Write(t, c.Dir, p.host)
	return p, filepath.Join(c.Dir, p.host+".crt"), filepath.Join(c.Dir, p.host+".key")
}

func (p *place) waitUp(t testing.TB) {
	t.Helper()
	harness.Eventually(t, 10*time.Second, "proxy ready", func() error {
		conn, err := net.Dial("tcp", p.where())
		if err == nil {
			conn.Close()
		}
		return err
	})
}

// nginx runs it with the tutorial's configuration in front of a node that serves plain HTTP.
func nginx(t testing.TB, c *harness.Cluster) *place {
	t.Helper()
	p, crt, key := before(t, c)
	n := c.Nodes[0]
	runNginx(t, c, p.where(), p.host, crt, key, net.JoinHostPort(n.Addr, fmt.Sprint(n.DERPPort)))
	p.waitUp(t)
	return p
}

// runNginx listens at where for host and passes all to a node's plain port.
func runNginx(t testing.TB, c *harness.Cluster, where, host, crt, key, node string) {
	t.Helper()
	server := seed(t, "nginx-derper.conf",
		"listen 443 ssl;", fmt.Sprintf("listen %s ssl;", where),
		"/etc/letsencrypt/live/域名/fullchain.pem", crt,
		"/etc/letsencrypt/live/域名/privkey.pem", key,
		"域名", host,
		"http://127.0.0.1:81;", fmt.Sprintf("http://%s;", node))
	conf := filepath.Join(c.Dir, "nginx.conf")
	harness.WriteFile(t, conf, []byte(fmt.Sprintf(`daemon off; master_process off; pid %[1]s/nginx.pid; error_log stderr;
events {}
http { access_log off; client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c;
uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
%[2]s
}
`, c.Dir, server)))
	harness.Run(t, c.Dir, "nginx", "-c", conf, "-p", c.Dir, "-e", "stderr")
}

// plain starts a node behind a proxy.
func plain(t testing.TB, k harness.Kind, args ...string) *harness.Cluster {
	t.Helper()
	return harness.New(t, harness.Spec{Kind: k, Regions: []int{1}, Cert: harness.CertNone, Args: args})
}

// works exchanges packets between clients of all kinds.
func works(t testing.TB, p *place) {
	t.Helper()
	w, a, b := p.websocket(t), p.connect(t), p.connect(t)
	for _, size := range []int{1, 1400, 30000} {
		must(t, exchange(t, w, a, size))
		data := harness.Random(size)
		a.MustSend(t, b.Pub, data)
		b.WaitPacket(t, a.Pub, data)
	}
	a.Alive(t)
}

// TestNginx: the tutorial's configuration passes DERP and WebSocket.
func TestNginx(t *testing.T) {
	harness.Each(t, func(t *testing.T, k harness.Kind) {
		p := nginx(t, plain(t, k))
		works(t, p)
		if k == harness.Derpmesh {
			data := harness.Random(65536)
			w, c := p.websocket(t), p.connect(t)
			c.MustSend(t, w.pub, data)
			must(t, w.wait(c.Pub, data))
		}
	})
}

// behindNginx lays out four regions, the first node serving plain HTTP with nginx in front of it.
func behindNginx(t testing.TB, args ...string) *harness.Cluster {
	t.Helper()
	c := harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: []int{1, 1, 1, 1}, Args: args, NoStart: true})
	n := c.Nodes[0]
	addr, port := c.Beside(t, 101)
	plain := net.JoinHostPort(addr, fmt.Sprint(port))
	n.Args = []string{"--tls", "off", "--listen", plain}
	runNginx(t, c, net.JoinHostPort(n.Addr, fmt.Sprint(n.DERPPort)), n.HostName,
		filepath.Join(n.CertDir, n.HostName+".crt"), filepath.Join(n.CertDir, n.HostName+".key"), plain)
	return c
}

// TestMeshBehindNginx: a node behind the tutorial's nginx (TLS 1.2) is a node of the mesh, dialled through nginx, where
// the others are told so; where they are not, the log says what is missing.
func TestMeshBehindNginx(t *testing.T) {
	t.Parallel()
	c := behindNginx(t, "--mesh-proxied", "n1")
	c.StartAll(t)
	a, b := c.Nodes[0].Connect(t, harness.Opts{}), c.Nodes[1].Connect(t, harness.Opts{})
	c.WaitRoutes(t, a, b, c.Nodes[2].Connect(t, harness.Opts{}), c.Nodes[3].Connect(t, harness.Opts{}))
	s, err := c.Nodes[0].Status()
	must(t, err)
	through := 0
	for _, p := range s.Mesh.Peers {
		if !p.DialedByUs {
			through++
		}
	}
	if through == 0 {
		t.Error("no link was dialled through nginx: the test shows nothing")
	}

	c = behindNginx(t)
	for _, n := range c.Nodes {
		n.Start(t)
	}
	harness.Eventually(t, 15*time.Second, "a complaint that names mesh_proxied", func() error {
		for _, n := range c.Nodes {
			for _, line := range n.Complaints(t, 0) {
				if strings.Contains(line, "mesh_proxied: n1") {
					return nil
				}
			}
		}
		return errors.New("none")
	})
}

// halfLogin upgrades and stays before the login.
func (p *place) halfLogin(t testing.TB, from string) (status string, conn net.Conn) {
	t.Helper()
	conn = p.dial(t, from)
	conn.SetDeadline(time.Now().Add(harness.Scaled(10 * time.Second)))
	io.WriteString(conn, "GET /derp HTTP/1.1\r\nHost: "+p.host+"\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n"+
		"X-Forwarded-For: 192.0.2.77\r\n\r\n") // what a client says of itself does not count
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return harness.Ended(err), conn
	}
	return r.Status[:3], conn
}

// limited opens half logins from one address until the node's limit of three refuses; another address is served.
func limited(t *testing.T, p *place) {
	t.Helper()
	const one, other = "127.0.0.201", "127.0.0.202"
	var held []net.Conn
	for i := range 4 {
		status, conn := p.halfLogin(t, one)
		held = append(held, conn)
		if (status == "101") != (i < 3) {
			t.Errorf("connection %d of one address: %s", i+1, status)
		}
	}
	if status, _ := p.halfLogin(t, other); status != "101" {
		t.Errorf("another address: %s", status)
	}
	for _, conn := range held {
		conn.Close()
	}
	harness.Eventually(t, 5*time.Second, "the address is served again", func() error {
		if status, _ := p.halfLogin(t, one); status != "101" {
			return errors.New(status)
		}
		return nil
	})
	logged(t, p.Node, "from="+one+":")
}

// inLog looks for all of the words in one line of the node's log.
func inLog(t testing.TB, n *harness.Node, words ...string) error {
	t.Helper()
	b, err := os.ReadFile(n.Log)
	must(t, err)
lines:
	for line := range strings.Lines(string(b)) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue lines
			}
		}
		return nil
	}
	return errors.New("not in the log")
}

func logged(t testing.TB, n *harness.Node, words ...string) {
	t.Helper()
	harness.Eventually(t, 5*time.Second, fmt.Sprint(words), func() error { return inLog(t, n, words...) })
}

// TestForwardedLimits: behind nginx the client's address counts, as nginx tells it; not when nginx is no trusted proxy.
func TestForwardedLimits(t *testing.T) {
	t.Parallel()
	limited(t, nginx(t, plain(t, harness.Derpmesh, "--login-limit-ip", "3")))
	p := nginx(t, plain(t, harness.Derpmesh, "--login-limit-ip", "3", "--trusted-proxies", "none"))
	for i := range 4 {
		status, _ := p.halfLogin(t, fmt.Sprintf("127.0.0.%d", 210+i))
		if (status == "101") != (i < 3) {
			t.Errorf("connection %d through a proxy that is not trusted: %s", i+1, status)
		}
	}
}

// TestIdle: idle clients stay behind nginx with its default of 60 s without a byte; derper's are cut.
func TestIdle(t *testing.T) {
	harness.Each(t, func(t *testing.T, k harness.Kind) {
		p := nginx(t, plain(t, k))
		c, w := p.connect(t), p.websocket(t)
		time.Sleep(130 * time.Second) // a client that hears nothing for 120 s gives up by itself
		var ended error
		select {
		case ended = <-w.end:
		default:
		}
		cut := c.Lost() != nil && ended != nil
		if want := k == harness.Derper; cut != want || (!want && (c.Lost() != nil || ended != nil)) {
			t.Errorf("cut: %v, want %v; stock client: %v, WebSocket: %v", cut, want, c.Lost(), ended)
		}
		if k == harness.Derpmesh {
			must(t, exchange(t, w, c, 1000))
		}
	})
}

// caddy runs it as a reverse proxy in front of a node that serves plain HTTP.
func caddy(t testing.TB, c *harness.Cluster) *place {
	t.Helper()
	p, crt, key := before(t, c)
	n := c.Nodes[0]
	conf := filepath.Join(c.Dir, "Caddyfile")
	harness.WriteFile(t, conf, []byte(fmt.Sprintf(`{
	admin off
	auto_https off
}
https://%s:%d {
	bind %s
	tls %s %s
	reverse_proxy %s:%d
}
`, p.host, p.port, p.addr, crt, key, n.Addr, n.DERPPort)))
	harness.Run(t, c.Dir, "caddy", "run", "--config", conf, "--adapter", "caddyfile")
	p.waitUp(t)
	return p
}

// TestCaddy: its reverse_proxy passes DERP and WebSocket, and the client's address.
func TestCaddy(t *testing.T) {
	harness.Each(t, func(t *testing.T, k harness.Kind) {
		if k == harness.Derper {
			works(t, caddy(t, plain(t, k)))
			return
		}
		p := caddy(t, plain(t, k, "--login-limit-ip", "3"))
		works(t, p)
		limited(t, p)
	})
}

// haproxy runs it in TCP mode; option says how it tells the client's address.
func haproxy(t testing.TB, c *harness.Cluster, option string) *place {
	t.Helper()
	n := c.Nodes[0]
	p := direct(c)
	p.addr, p.port = c.Beside(t, 101)
	conf := filepath.Join(c.Dir, "haproxy.cfg")
	harness.WriteFile(t, conf, []byte(fmt.Sprintf(`global
	maxconn 1000
defaults
	mode tcp
	timeout connect 5s
	timeout client 5m
	timeout server 5m
listen derp
	bind %s
	server node %s:%d %s
`, p.where(), n.Addr, n.DERPPort, option)))
	harness.Run(t, c.Dir, "haproxy", "-db", "-f", conf)
	p.waitUp(t)
	return p
}

// login goes through the DERP login from an address, and asks for a Pong.
func (p *place) login(t testing.TB, from string) {
	t.Helper()
	priv := key.NewNode()
	conn := p.dial(t, from)
	r := &harness.Raw{Conn: conn, R: bufio.NewReader(conn), W: bufio.NewWriter(conn), Priv: priv, Pub: priv.Public()}
	r.Login(t)
	if got := r.Outcome(); got != "open" {
		t.Errorf("after the login: %s", got)
	}
}

// TestHAProxy: it passes TLS on as it is; with a PROXY header, of either version, the client's address counts and is
// in the log.
func TestHAProxy(t *testing.T) {
	for name, option := range map[string]string{"v1": "send-proxy", "v2": "send-proxy-v2"} {
		for _, cert := range []harness.CertKind{harness.CertCA, harness.CertNone} {
			t.Run(name+" "+string(cert), func(t *testing.T) {
				t.Parallel()
				// Only HAProxy's own address is trusted: the harness and the readiness check come from another.
				c := harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: []int{1}, Cert: cert, NoStart: true,
					Args: []string{"--proxy-protocol", "on", "--trusted-proxies", "127.0.0.61", "--login-limit-ip", "3",
						"--log-level", "debug"}})
				c.StartAll(t)
				p := haproxy(t, c, option+" source 127.0.0.61")
				p.login(t, "127.0.0.203")
				logged(t, p.Node, "login key=", "from=127.0.0.203:")
				w := p.websocket(t)
				other := p.websocket(t)
				data := harness.Random(65536)
				must(t, other.Send(w.pub, data))
				must(t, w.wait(other.pub, data))
				limited(t, p)
				// Others come without a header, and may not send one.
				direct(c).login(t, "127.0.0.204")
				logged(t, p.Node, "login key=", "from=127.0.0.204:")
				refused(t, direct(c), "127.0.0.204", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "not in trusted_proxies")
				inPieces(t, direct(c), "127.0.0.61")
				// The proxy must.
				refused(t, direct(c), "127.0.0.61", "\x16\x03\x01\x00\x05hello", "no PROXY header")
				refused(t, direct(c), "127.0.0.61", "PROXY TCP4 1.2.3.4 x 1 2\r\n", "malformed PROXY header")
			})
		}
	}
}

// inPieces is a proxy whose header comes byte by byte, the last ones together with what follows.
func inPieces(t testing.TB, p *place, from string) {
	t.Helper()
	const header = "PROXY TCP4 192.0.2.9 192.0.2.2 4321 443\r\n"
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := d.Dial("tcp", p.where())
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	for i := range len(header) - 3 {
		io.WriteString(conn, header[i:i+1])
		time.Sleep(time.Millisecond)
	}
	r := p.Node.Over(t, &prefixed{conn, []byte(header[len(header)-3:])})
	r.Login(t)
	if got := r.Outcome(); got != "open" {
		t.Errorf("after a header in pieces: %s", got)
	}
	logged(t, p.Node, "login key=", "from=192.0.2.9:4321")
}

// prefixed sends some bytes before the first.
type prefixed struct {
	net.Conn
	prefix []byte
}

func (p *prefixed) Write(b []byte) (int, error) {
	n, err := p.Conn.Write(append(p.prefix, b...))
	n -= len(p.prefix)
	p.prefix = nil
	return n, err
}

// refused sends bytes from an address; the node closes at once and its log says why.  Of such lines it writes one in five
// seconds, so the bytes are sent until theirs is there.
func refused(t testing.TB, p *place, from, send, why string) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	harness.Eventually(t, 20*time.Second, why, func() error {
		conn, err := d.Dial("tcp", p.where())
		must(t, err)
		defer conn.Close()
		io.WriteString(conn, send)
		if got, closed := harness.WaitClosed(conn, 3*time.Second); !closed || len(got) > 0 {
			t.Errorf("%q: closed %v, said %q", send, closed, got)
		}
		return inLog(t, p.Node, "from="+from, why)
	})
}

// TestWithoutProxyProtocol: where it is off, a PROXY header is no HTTP, whoever sends it.
func TestWithoutProxyProtocol(t *testing.T) {
	t.Parallel()
	p := direct(plain(t, harness.Derpmesh))
	conn := p.dial(t, "")
	io.WriteString(conn, "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n")
	if got, closed := harness.WaitClosed(conn, 5*time.Second); !closed || !strings.HasPrefix(string(got), "HTTP/1.1 400 ") {
		t.Errorf("closed %v, said %q", closed, got)
	}
}

func TestMain(m *testing.M) { harness.Main(m) }
