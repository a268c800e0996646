package mesh

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"derpmesh/tests/integration/harness"
)

// middle stands between two nodes: the first believes that the second is there.
type middle struct {
	to *harness.Node

	mu       sync.Mutex
	cert     *tls.Certificate // nil: bytes are passed on as they are
	conns    int
	recorded []byte // what the dialing node said inside TLS, on the last connection that ended
}

func (m *middle) set(cert *tls.Certificate) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cert = cert
}

func (m *middle) seen() (conns int, recorded []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.conns, m.recorded
}

func (m *middle) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go m.pass(conn)
	}
}

func (m *middle) pass(from net.Conn) {
	defer from.Close()
	m.mu.Lock()
	cert := m.cert
	m.conns++
	m.mu.Unlock()
	to, err := net.Dial("tcp", net.JoinHostPort(m.to.Addr, fmt.Sprint(m.to.DERPPort)))
	if err != nil {
		return
	}
	defer to.Close()
	if cert != nil {
		server := tls.Server(from, &tls.Config{Certificates: []tls.Certificate{*cert}})
		if server.Handshake() != nil {
			return
		}
		from, to = server, tls.Client(to, &tls.Config{InsecureSkipVerify: true})
	}
	go func() {
		io.Copy(from, to)
		from.Close()
	}()
	var said bytes.Buffer
	if cert == nil {
		io.Copy(to, from)
		return
	}
	io.Copy(to, io.TeeReader(from, &said))
	m.mu.Lock()
	m.recorded = said.Bytes()
	m.mu.Unlock()
}

// newMiddle starts two nodes whose only way to each other leads through the middle.
func newMiddle(t *testing.T, kind harness.CertKind) (a, b *harness.Node, m *middle) {
	t.Helper()
	c := harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: []int{1, 1}, Cert: kind, NoStart: true})
	a, b = c.Nodes[0], c.Nodes[1]
	addr, port := c.Beside(t, 200)
	_, closed := c.Beside(t, 201)
	l, err := net.Listen("tcp", net.JoinHostPort(addr, fmt.Sprint(port)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	// A certificate for the right name, of an authority that nobody knows.
	pair := harness.NewCA(t).Issue(t, b.HostName, time.Now().AddDate(0, 3, 0))
	cert, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	m = &middle{to: b, cert: &cert}
	// The first reads a map in which the second is where the middle listens, the second one in which the first is nowhere.
	realA, realB := *a.DERPNode, *b.DERPNode
	b.IPv4, b.DERPPort = addr, port
	if kind == harness.CertInsecure {
		b.HostName = addr
	}
	c.WriteMap(t)
	a.Start(t)
	a.WaitReady(t)
	*b.DERPNode = realB
	a.DERPPort = closed
	c.WriteMap(t)
	b.Start(t)
	b.WaitReady(t)
	*a.DERPNode = realA
	go m.serve(l)
	return a, b, m
}

// logged waits for a line of the node's log that holds all of these words.
func logged(t *testing.T, n *harness.Node, words ...string) {
	t.Helper()
	harness.Eventually(t, 60*time.Second, n.Name+" logs "+strings.Join(words, " … "), func() error {
		b, err := os.ReadFile(n.Log)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(b)) {
			all := true
			for _, w := range words {
				all = all && strings.Contains(line, w)
			}
			if all {
				return nil
			}
		}
		return fmt.Errorf("no such line")
	})
}

func notUp(t *testing.T, a, b *harness.Node) {
	t.Helper()
	for _, pair := range [][2]*harness.Node{{a, b}, {b, a}} {
		if state, err := pair[0].Peer(pair[1]); err != nil || state == "up" {
			t.Fatalf("%s has a link to %s through the middle: %q %v", pair[0].Name, pair[1].Name, state, err)
		}
	}
}

func waitUp(t *testing.T, a, b *harness.Node) {
	t.Helper()
	harness.Eventually(t, 60*time.Second, "link through a middle that only passes on", func() error {
		for _, pair := range [][2]*harness.Node{{a, b}, {b, a}} {
			if state, err := pair[0].Peer(pair[1]); err != nil || state != "up" {
				return fmt.Errorf("%s: %q %v", pair[0].Name, state, err)
			}
		}
		return nil
	})
}

// TestManInTheMiddle: where certificates are not checked, somebody with two TLS connections gets through TLS but not
// through AUTH, which covers the exporter; and what it has heard is of no use to it later.
func TestManInTheMiddle(t *testing.T) {
	a, b, m := newMiddle(t, harness.CertInsecure)
	logged(t, b, "link refused", "the proof is wrong")
	notUp(t, a, b)
	var recorded []byte
	harness.Eventually(t, 30*time.Second, "a connection that ended", func() error {
		if _, recorded = m.seen(); len(recorded) == 0 {
			return fmt.Errorf("none yet")
		}
		return nil
	})
	if !bytes.Contains(recorded, []byte("Upgrade: derpmesh/1")) || !bytes.Contains(recorded, []byte(a.Name)) {
		t.Fatalf("the middle did not get as far as HELLO: %q", recorded)
	}
	// All that the first node said, once more, as whoever heard it could.
	r := b.TLS(t)
	if _, err := r.Write(recorded); err != nil {
		t.Fatal(err)
	}
	if got, closed := harness.WaitClosed(r, 15*time.Second); !closed {
		t.Errorf("replayed HELLO and AUTH: not closed after %d bytes", len(got))
	}
	logged(t, b, "link refused", "used before")
	notUp(t, a, b)
	m.set(nil)
	waitUp(t, a, b)
}

// TestCertificateSwapped: where certificates are checked, a node says nothing to whoever shows another one.
func TestCertificateSwapped(t *testing.T) {
	a, b, m := newMiddle(t, harness.CertCA)
	harness.Eventually(t, 60*time.Second, "dials at the middle", func() error {
		if conns, _ := m.seen(); conns < 2 {
			return fmt.Errorf("%d connections", conns)
		}
		return nil
	})
	logged(t, a, "cannot connect", "certificate")
	if _, recorded := m.seen(); len(recorded) != 0 {
		t.Errorf("the node said %d bytes to the holder of another certificate", len(recorded))
	}
	notUp(t, a, b)
	m.set(nil)
	waitUp(t, a, b)
}
