// Package certs shows that certificate files are watched: what is renewed is served without a reload and without
// disturbing anybody, what is no good never.
package certs

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"derpmesh/tests/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// A new certificate must be seen by new connections this soon; the look is made twice, and every minute at least.
const soon = 10 * time.Second

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func one(t *testing.T, spec harness.Spec) (*harness.Cluster, *harness.Node) {
	t.Helper()
	spec.Kind, spec.Regions = harness.Derpmesh, []int{1}
	c := harness.New(t, spec)
	return c, c.Nodes[0]
}

func months(n int) time.Time { return time.Now().AddDate(0, n, 0) }

// asked is the certificate that the node shows to who asks for this name; "" asks for none.
func asked(t testing.TB, n *harness.Node, name string) *x509.Certificate {
	t.Helper()
	where := net.JoinHostPort(n.Addr, fmt.Sprint(n.DERPPort))
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: harness.Scaled(5 * time.Second)}, "tcp", where,
		&tls.Config{ServerName: name, InsecureSkipVerify: true})
	must(t, err)
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0]
}

func shows(t testing.TB, n *harness.Node, name string, want *x509.Certificate) {
	t.Helper()
	harness.Eventually(t, soon, fmt.Sprintf("certificate for %q", name), func() error {
		if got := asked(t, n, name); !got.Equal(want) {
			return fmt.Errorf("serial %s until %s, want %s", got.SerialNumber, got.NotAfter, want.SerialNumber)
		}
		return nil
	})
}

// ring connects so many clients, each of which sends to the next.  stop fails the test if a packet was lost, doubled
// or out of order, or a connection ended.
func ring(t *testing.T, n *harness.Node, count int) (stop func()) {
	t.Helper()
	tr := harness.NewTraffic()
	members := tr.Join(t, slices.Repeat([]*harness.Node{n}, count)...)
	time.Sleep(harness.Scaled(500 * time.Millisecond))
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
			}
			for i, m := range members {
				if err := m.SendTo(members[(i+1)%count], 300); err != nil {
					t.Errorf("member %d cannot send: %v", i, err)
					return
				}
			}
		}
	})
	var once sync.Once
	end := func() { once.Do(func() { close(quit); wg.Wait() }) }
	t.Cleanup(end)
	return func() {
		t.Helper()
		end()
		if tr.Sent() < count {
			t.Errorf("only %d packets were sent", tr.Sent())
		}
		tr.Settle(t)
		for _, m := range members {
			if m.AllGone() != 0 {
				t.Errorf("PeerGone for a peer that was there all the time: %s", m.Summary())
			}
		}
	}
}

// freeAddr is a place on loopback where nobody listens.
func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

func naming(lines []string, name string) (found []string) {
	for _, l := range lines {
		if strings.Contains(l, name) {
			found = append(found, l)
		}
	}
	return found
}

// problems is what status says is wrong.
func problems(t testing.TB, n *harness.Node) string {
	t.Helper()
	s, err := n.Status()
	must(t, err)
	b, err := json.Marshal(s.Problems)
	must(t, err)
	return string(b)
}

// TestRenewedUnderLoad: the certificate changes, again and again, under two hundred clients and their traffic.
func TestRenewedUnderLoad(t *testing.T) {
	c, n := one(t, harness.Spec{})
	pid := n.PID()
	stop := ring(t, n, 200)
	mark := n.LogSize(t)
	for range 5 {
		pair := c.CA.Issue(t, n.HostName, months(3))
		pair.Write(t, n.CertDir, n.HostName)
		shows(t, n, n.HostName, pair.Cert)
	}
	n.Connect(t, harness.Opts{}).Alive(t)
	stop()
	if n.PID() != pid || !n.Running() {
		t.Error("it is not the program that it was")
	}
	if lines := n.Complaints(t, mark); len(lines) != 0 {
		t.Errorf("complaints about good files: %q", lines)
	}
}

// TestBadFiles: what is no good gives one line that names the file, a problem in status and a metric, and changes
// nothing; and the next good one is served.
func TestBadFiles(t *testing.T) {
	t.Parallel()
	where := freeAddr(t)
	c, n := one(t, harness.Spec{Args: []string{"--metrics", where}})
	crt, key := filepath.Join(n.CertDir, n.HostName+".crt"), filepath.Join(n.CertDir, n.HostName+".key")
	good := c.CA.Issue(t, n.HostName, months(3))
	good.Write(t, n.CertDir, n.HostName)
	shows(t, n, n.HostName, good.Cert)
	other := c.CA.Issue(t, n.HostName, months(3))
	expired := c.CA.Issue(t, n.HostName, time.Now().Add(-24*time.Hour))
	elsewhere := c.CA.Issue(t, "elsewhere.derpmesh.test", months(3))

	stop := ring(t, n, 10)
	for _, tc := range []struct {
		name     string
		crt, key []byte // nil: the file is missing
		file     string // the line names it
		kind     string // of the metric
		what     string // the line says
	}{
		{"garbage", []byte("garbage"), good.KeyPEM, crt, "damaged", "put a good one"},
		{"empty", []byte{}, good.KeyPEM, crt, "damaged", "put a good one"},
		{"half", good.CertPEM[:200], good.KeyPEM, crt, "damaged", "put a good one"},
		{"garbage as key", good.CertPEM, []byte("garbage"), key, "damaged", "put a good one"},
		{"another's key", good.CertPEM, other.KeyPEM, key, "mismatch", "different pairs"},
		{"expired", expired.CertPEM, expired.KeyPEM, crt, "expired", "renewed"},
		{"another's name", elsewhere.CertPEM, elsewhere.KeyPEM, crt, "name", "elsewhere.derpmesh.test"},
		{"missing", nil, good.KeyPEM, crt, "missing", "missing"},
	} {
		mark := n.LogSize(t)
		put(t, crt, tc.crt)
		put(t, key, tc.key)
		harness.Eventually(t, 15*time.Second, tc.name+": a line", func() error {
			if len(n.Complaints(t, mark)) == 0 {
				return fmt.Errorf("no word about it")
			}
			return nil
		})
		time.Sleep(time.Second)
		lines := n.Complaints(t, mark)
		if len(lines) != 1 || !strings.Contains(lines[0], tc.file) || !strings.Contains(lines[0], tc.what) {
			t.Errorf("%s: want one line with %s and %q: %q", tc.name, tc.file, tc.what, lines)
		}
		if got := asked(t, n, n.HostName); !got.Equal(good.Cert) {
			t.Errorf("%s: another certificate is served", tc.name)
		}
		if p := problems(t, n); !strings.Contains(p, filepath.Base(tc.file)) {
			t.Errorf("%s: not in the status: %s", tc.name, p)
		}
		if m := metrics(t, where); !strings.Contains(m, fmt.Sprintf("derpmesh_certificate_fault{kind=%q} 1\n", tc.kind)) {
			t.Errorf("%s: kind %q is not in the metrics", tc.name, tc.kind)
		}
		t.Logf("%s: %s", tc.name, lines)

		good.Write(t, n.CertDir, n.HostName)
		harness.Eventually(t, soon, tc.name+": all right again", func() error {
			if p := problems(t, n); strings.Contains(p, "not taken over") {
				return fmt.Errorf("status says %s", p)
			}
			return nil
		})
		if m := metrics(t, where); strings.Contains(m, "certificate_fault{kind=\""+tc.kind+"\"} 1") {
			t.Errorf("%s: the metric stays", tc.name)
		}
	}
	other.Write(t, n.CertDir, n.HostName)
	shows(t, n, n.HostName, other.Cert)
	stop()
}

// put writes in place, as an editor or cp does; nil removes.
func put(t testing.TB, path string, content []byte) {
	t.Helper()
	if content == nil {
		must(t, os.Remove(path))
		return
	}
	must(t, os.WriteFile(path, content, 0o600))
}

func metrics(t testing.TB, where string) string {
	t.Helper()
	r, err := http.Get("http://" + where + "/metrics")
	must(t, err)
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	must(t, err)
	return string(b)
}

// TestWrittenInPieces: half-written files are waited for, not complained about.
func TestWrittenInPieces(t *testing.T) {
	t.Parallel()
	c, n := one(t, harness.Spec{})
	crt, key := filepath.Join(n.CertDir, n.HostName+".crt"), filepath.Join(n.CertDir, n.HostName+".key")
	before := asked(t, n, n.HostName)
	pair := c.CA.Issue(t, n.HostName, months(3))
	mark := n.LogSize(t)
	f, err := os.Create(crt)
	must(t, err)
	defer f.Close()
	for at := 0; at < len(pair.CertPEM); at += 400 {
		_, err := f.Write(pair.CertPEM[at:min(at+400, len(pair.CertPEM))])
		must(t, err)
		time.Sleep(400 * time.Millisecond)
		if got := asked(t, n, n.HostName); !got.Equal(before) {
			t.Fatal("served before its key was there")
		}
	}
	put(t, key, pair.KeyPEM)
	shows(t, n, n.HostName, pair.Cert)
	time.Sleep(7 * time.Second) // longer than a fault is left unsaid
	if lines := n.Complaints(t, mark); len(lines) != 0 {
		t.Errorf("complaints: %q", lines)
	}
}

// certbot writes the nth generation of the host as it does: files in archive/, then the four symlinks one by one.
func certbot(t testing.TB, dir, host string, generation int, pair harness.Pair, pause time.Duration) {
	t.Helper()
	archive, live := filepath.Join(dir, "archive", host), filepath.Join(dir, "live", host)
	must(t, os.MkdirAll(archive, 0o700))
	must(t, os.MkdirAll(live, 0o700))
	for _, f := range []struct {
		name    string
		content []byte
	}{{"privkey", pair.KeyPEM}, {"cert", pair.CertPEM}, {"chain", pair.CertPEM}, {"fullchain", pair.CertPEM}} {
		must(t, os.WriteFile(filepath.Join(archive, fmt.Sprintf("%s%d.pem", f.name, generation)), f.content, 0o600))
	}
	for _, name := range []string{"cert", "privkey", "chain", "fullchain"} {
		link := filepath.Join(live, name+".pem")
		os.Remove(link) // certbot: unlink, then symlink
		must(t, os.Symlink(fmt.Sprintf("../../archive/%s/%s%d.pem", host, name, generation), link))
		time.Sleep(pause)
	}
}

// TestCertbot: its layout, renewed by other symlinks, slowly; and for one more host that is served by its name.
func TestCertbot(t *testing.T) {
	t.Parallel()
	c := harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: []int{1}, NoStart: true})
	n := c.Nodes[0]
	must(t, os.RemoveAll(n.CertDir))
	const beside = "beside.derpmesh.test"
	certbot(t, n.CertDir, n.HostName, 1, c.CA.Issue(t, n.HostName, months(1)), 0)
	side := c.CA.Issue(t, beside, months(1))
	certbot(t, n.CertDir, beside, 1, side, 0)
	c.StartAll(t)
	shows(t, n, beside, side.Cert)
	stop := ring(t, n, 20)
	mark := n.LogSize(t)
	for i := range 2 {
		pair, side := c.CA.Issue(t, n.HostName, months(2+i)), c.CA.Issue(t, beside, months(2+i))
		certbot(t, n.CertDir, n.HostName, 2+i, pair, 300*time.Millisecond)
		shows(t, n, n.HostName, pair.Cert)
		shows(t, n, "", pair.Cert)
		certbot(t, n.CertDir, beside, 2+i, side, 300*time.Millisecond)
		shows(t, n, beside, side.Cert)
	}
	n.Connect(t, harness.Opts{}).Alive(t)
	stop()
	if lines := n.Complaints(t, mark); len(lines) != 0 {
		t.Errorf("complaints: %q", lines)
	}
}

// TestExpiring: a certificate that ends in five days is a warning at the start, a problem in status, and a metric.
func TestExpiring(t *testing.T) {
	t.Parallel()
	where := freeAddr(t)
	c := harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: []int{1}, NoStart: true,
		Args: []string{"--metrics", where}})
	n := c.Nodes[0]
	long := func(until time.Time) harness.Pair {
		return c.CA.IssueFrom(t, n.HostName, time.Now().AddDate(0, -2, 0), until)
	}
	pair := long(time.Now().AddDate(0, 0, 5).Add(time.Hour))
	pair.Write(t, n.CertDir, n.HostName)
	c.StartAll(t)
	if lines := naming(n.Complaints(t, 0), n.HostName+".crt expires on"); len(lines) != 1 {
		t.Errorf("at the start: %q", n.Complaints(t, 0))
	}
	if p := problems(t, n); !strings.Contains(p, n.HostName+".crt expires in 5 days") {
		t.Errorf("status: %s", p)
	}
	m := metrics(t, where)
	for _, want := range []string{`derpmesh_certificate_fault{kind="expiring"} 1`, `derpmesh_certificate_fault{kind="expired"} 0`,
		fmt.Sprintf("derpmesh_certificate_expiry_seconds %d\n", pair.Cert.NotAfter.Unix())} {
		if !strings.Contains(m, want) {
			t.Errorf("metrics: no %s", want)
		}
	}
	out, err := exec.Command(harness.Program(t, "DERPMESH_BIN"), "status", "--admin", n.Admin).CombinedOutput()
	if !strings.Contains(string(out), "expires in 5 days") {
		t.Errorf("derpmesh status (%v): %s", err, out)
	}

	pair = long(months(3))
	pair.Write(t, n.CertDir, n.HostName)
	shows(t, n, n.HostName, pair.Cert)
	if p := problems(t, n); strings.Contains(p, "expires") {
		t.Errorf("after the renewal: %s", p)
	}
	// Six days are the whole life of some: no alarm before the last three.
	brief := c.CA.IssueFrom(t, n.HostName, time.Now().AddDate(0, 0, -1), time.Now().AddDate(0, 0, 5))
	brief.Write(t, n.CertDir, n.HostName)
	shows(t, n, n.HostName, brief.Cert)
	if p := problems(t, n); strings.Contains(p, "expires") {
		t.Errorf("a short-lived one: %s", p)
	}
}

// TestMadeOnesStay: ten years, and the same after a second start.
func TestMadeOnesStay(t *testing.T) {
	t.Parallel()
	_, n := one(t, harness.Spec{Cert: harness.CertMade})
	first := asked(t, n, "")
	if left := time.Until(first.NotAfter).Hours() / 24; left < 3650 {
		t.Errorf("it lasts %.0f days only", left)
	}
	n.Stop(t)
	n.Start(t)
	n.WaitReady(t)
	if !asked(t, n, "").Equal(first) {
		t.Error("the second start made another certificate")
	}
	n.Connect(t, harness.Opts{}).Alive(t) // by the pin
}

// TestMadeOnesGone: no other is made while it runs: clients that pin it would be lost.
func TestMadeOnesGone(t *testing.T) {
	t.Parallel()
	_, n := one(t, harness.Spec{Cert: harness.CertInsecure}) // made, but not in the map
	first := asked(t, n, "")
	mark := n.LogSize(t)
	files, err := filepath.Glob(filepath.Join(n.CertDir, n.HostName+".*"))
	must(t, err)
	for _, f := range files {
		must(t, os.Rename(f, f+".away"))
	}
	harness.Eventually(t, 15*time.Second, "an alarm", func() error {
		if len(naming(n.Complaints(t, mark), "no certificate for")) != 1 {
			return fmt.Errorf("complaints: %q", n.Complaints(t, mark))
		}
		return nil
	})
	for _, f := range files {
		if _, err := os.Stat(f); err == nil {
			t.Errorf("%s was made anew", f)
		}
		must(t, os.Rename(f+".away", f))
	}
	if !asked(t, n, "").Equal(first) {
		t.Error("another certificate is served")
	}
}

// TestNextGeneration: a pinned certificate is replaced while clients with the old derpMap and with the new one come
// and go.
func TestNextGeneration(t *testing.T) {
	t.Parallel()
	c, n := one(t, harness.Spec{Cert: harness.CertPin})
	old := *n.DERPNode
	stop := ring(t, n, 10)

	const name = "next.derpmesh.test"
	out, err := exec.Command(harness.Program(t, "DERPMESH_BIN"), "keygen", "cert", name, n.CertDir).Output()
	must(t, err)
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	next := old
	must(t, json.Unmarshal([]byte("{"+lines[len(lines)-1]+"}"), &next))
	if next.HostName != name || !strings.HasPrefix(next.CertName, "sha256-raw:") || next.CertName == old.CertName {
		t.Fatalf("not the lines for the derpMap: %q", lines)
	}
	harness.Eventually(t, soon, "served by its name", func() error {
		if got := harness.Pin(asked(t, n, name)); got != next.CertName {
			return fmt.Errorf("pin %s", got)
		}
		return nil
	})
	if log, err := os.ReadFile(n.Log); err != nil || !strings.Contains(string(log), lines[len(lines)-1]) {
		t.Errorf("the log does not show %s (%v)", lines[len(lines)-1], err)
	}
	both := func(when string) {
		t.Helper()
		for what, entry := range map[string]harness.Opts{"old": {Node: &old}, "new": {Node: &next}} {
			cl, err := n.TryConnect(t, entry)
			if err != nil {
				t.Errorf("%s: a client with the %s map: %v", when, what, err)
				continue
			}
			cl.Alive(t)
		}
	}
	both("before the map changes")

	*n.DERPNode = next
	c.WriteMap(t)
	mark := n.LogSize(t)
	n.Hup(t)
	harness.Eventually(t, soon, "the new map", func() error {
		b, err := os.ReadFile(n.Log)
		if err == nil && !strings.Contains(string(b[mark:]), "nodes changed") {
			err = fmt.Errorf("not yet reloaded")
		}
		return err
	})
	both("after the map has changed")

	for _, end := range []string{".crt", ".key"} {
		must(t, os.Remove(filepath.Join(n.CertDir, old.HostName+end)))
	}
	harness.Eventually(t, soon, "the old one is gone", func() error {
		if got := harness.Pin(asked(t, n, "")); got != next.CertName {
			return fmt.Errorf("pin %s", got)
		}
		return nil
	})
	if _, err := n.TryConnect(t, harness.Opts{Node: &old}); err == nil {
		t.Error("a client with the old map still comes in")
	}
	if _, err := n.TryConnect(t, harness.Opts{Node: &next}); err != nil {
		t.Errorf("a client with the new map: %v", err)
	}
	stop()
}
