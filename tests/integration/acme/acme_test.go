// Package acme asks whether `tls: acme` gets, serves and renews certificates of a real authority (pebble, PEBBLE_BIN), and what a
// node does while it gets none.
package acme

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
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

	"derpmesh/tests/integration/harness"
)

func TestMain(m *testing.M) { harness.MainInNetwork(m) }

const httpPort = 5002 // where pebble asks

// authority is a pebble.
type authority struct {
	dir, conf, url, manage string
	proc                   *harness.Proc
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	dir := t.TempDir()
	ca := harness.NewCA(t)
	ca.Trust(t)
	ca.Issue(t, "127.0.0.1", time.Now().AddDate(0, 3, 0)).Write(t, dir, "pebble")
	a := &authority{dir: dir, conf: filepath.Join(dir, "pebble.json")}
	listen, manage := harness.FreeAddr(t), harness.FreeAddr(t)
	a.url, a.manage = "https://"+listen+"/dir", "https://"+manage
	conf, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": listen, "managementListenAddress": manage,
		"certificate": filepath.Join(dir, "pebble.crt"), "privateKey": filepath.Join(dir, "pebble.key"),
		"httpPort": httpPort, "tlsPort": 5001, "keyAlgorithm": "ecdsa",
		"retryAfter": map[string]int{"authz": 1, "order": 1},
		"profiles":   map[string]any{"default": map[string]any{"description": "a test's", "validityPeriod": 7776000}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	harness.WriteFile(t, a.conf, conf)
	return a
}

func (a *authority) start(t *testing.T) {
	t.Helper()
	a.proc = harness.RunProgram(t, a.dir, harness.Program(t, "PEBBLE_BIN"),
		[]string{"PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0"}, "-config", a.conf)
	harness.Eventually(t, 20*time.Second, "pebble ready", func() error { _, err := a.root(); return err })
}

// root is the certificate by which what it issues is trusted.
func (a *authority) root() (*x509.CertPool, error) {
	c := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, Timeout: 5 * time.Second}
	resp, err := c.Get(a.manage + "/roots/0")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	pem, err := io.ReadAll(resp.Body)
	pool := x509.NewCertPool()
	if err == nil && !pool.AppendCertsFromPEM(pem) {
		err = errors.New("no certificate in the answer")
	}
	return pool, err
}

// node lays one out that asks this authority; the test starts it.
func node(t *testing.T, a *authority) *harness.Node {
	t.Helper()
	c := harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: []int{1}, NoStart: true})
	n := c.Nodes[0]
	harness.AddHost(t, n.HostName, n.Addr)
	n.Args = []string{"--tls", "acme", "--acme-url", a.url, "--acme-email", "who@derpmesh.test",
		"--listen-http", net.JoinHostPort(n.Addr, fmt.Sprint(httpPort))}
	return n
}

func forget(t *testing.T, n *harness.Node) {
	t.Helper()
	for _, end := range []string{".crt", ".key"} {
		if err := os.Remove(filepath.Join(n.CertDir, n.HostName+end)); err != nil {
			t.Fatal(err)
		}
	}
}

// served waits until the node shows a certificate that the authority's root vouches for.
func served(t *testing.T, a *authority, n *harness.Node) *x509.Certificate {
	t.Helper()
	root, err := a.root()
	if err != nil {
		t.Fatal(err)
	}
	var cert *x509.Certificate
	harness.Eventually(t, 90*time.Second, "a certificate of the authority", func() error {
		r := n.TLS(t)
		defer r.Close()
		chain := r.Conn.(*tls.Conn).ConnectionState().PeerCertificates
		between := x509.NewCertPool()
		for _, c := range chain[1:] {
			between.AddCert(c)
		}
		cert = chain[0]
		_, err := cert.Verify(x509.VerifyOptions{DNSName: n.HostName, Roots: root, Intermediates: between})
		return err
	})
	return cert
}

func problems(t *testing.T, n *harness.Node) string {
	t.Helper()
	s, err := n.Status()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s", s.Problems)
}

// TestFirst: a node without a certificate makes one for the meantime, gets the authority's, keeps it over a restart.
func TestFirst(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	a.start(t)
	n := node(t, a)
	forget(t, n)
	n.Start(t)
	n.WaitReady(t)
	cert := served(t, a, n)
	if p := problems(t, n); strings.Contains(p, "authority") {
		t.Errorf("problems: %s", p)
	}
	for _, file := range []string{"acme/challenges", "acme/private"} {
		st, err := os.Stat(filepath.Join(n.CertDir, file))
		if err != nil || st.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v %v", file, st, err)
		}
	}
	n.Stop(t)
	n.Start(t)
	n.WaitReady(t)
	time.Sleep(3 * time.Second)
	if got := n.ServedCert(t); !got.Equal(cert) {
		t.Error("another certificate after a restart")
	}
}

// TestRenewal: one that has less than a third of its life left is renewed while clients stay; one that has more is left alone.
func TestRenewal(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	a.start(t)
	fresh := node(t, a)
	fresh.Start(t)
	fresh.WaitReady(t)
	before := fresh.ServedCert(t)

	old := node(t, a)
	ca := harness.NewCA(t)
	ca.IssueFrom(t, old.HostName, time.Now().AddDate(0, 0, -70), time.Now().AddDate(0, 0, 20)).Write(t, old.CertDir, old.HostName)
	old.Start(t)
	old.WaitReady(t)
	r := old.Login(t)
	served(t, a, old)
	if got := r.Outcome(); got != "open" {
		t.Errorf("the client's connection is %s after the renewal", got)
	}
	if got := fresh.ServedCert(t); !got.Equal(before) {
		t.Error("a certificate that was good was replaced")
	}
}

// TestNone: while the authority is away, or uacme is, the node says so and serves what it has; then all is well by itself.
func TestNone(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	n := node(t, a)
	ca := harness.NewCA(t)
	ca.IssueFrom(t, n.HostName, time.Now().AddDate(0, 0, -70), time.Now().AddDate(0, 0, 20)).Write(t, n.CertDir, n.HostName)
	n.Start(t)
	n.WaitReady(t)
	before := n.ServedCert(t)
	harness.Eventually(t, 20*time.Second, "the problem in status", func() error {
		if p := problems(t, n); !strings.Contains(p, "no new certificate from the certificate authority") || !strings.Contains(p, "uacme ended with code") {
			return errors.New(p)
		}
		return nil
	})
	if !n.ServedCert(t).Equal(before) {
		t.Error("the certificate before does not go on")
	}
	bare := node(t, a)
	bare.Env = []string{"PATH=/nowhere"}
	bare.Start(t)
	bare.WaitReady(t)
	if p := problems(t, bare); strings.Contains(p, "uacme") {
		t.Errorf("nothing is due, but: %s", p)
	}
	bare.Stop(t)
	forget(t, bare)
	bare.Start(t)
	bare.WaitReady(t)
	harness.Eventually(t, 20*time.Second, "what is missing", func() error {
		if p := problems(t, bare); !strings.Contains(p, "uacme, which does it, is not installed") {
			return errors.New(p)
		}
		return nil
	})
	a.start(t)
	served(t, a, n)
	harness.Eventually(t, 10*time.Second, "no problem any more", func() error {
		if p := problems(t, n); strings.Contains(p, "authority") {
			return errors.New(p)
		}
		return nil
	})
}
