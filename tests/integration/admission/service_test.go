package admission

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"derpmesh/tests/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// service is a verify URL: it admits the keys that it was told, and can be made to answer badly.
type service struct {
	*httptest.Server
	mu      sync.Mutex
	known   map[key.NodePublic]bool
	asked   map[key.NodePublic]int
	source  map[key.NodePublic]netip.Addr
	bad     http.HandlerFunc // instead of an answer
	running int              // questions under way now, and at most
	most    int
}

// newService starts one.  An empty pair: plain HTTP.
func newService(t *testing.T, pair *harness.Pair) *service {
	s := &service{
		known:  map[key.NodePublic]bool{},
		asked:  map[key.NodePublic]int{},
		source: map[key.NodePublic]netip.Addr{},
	}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	if pair != nil {
		cert, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
		if err != nil {
			t.Fatal(err)
		}
		s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func (s *service) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	bad := s.bad
	s.running++
	s.most = max(s.most, s.running)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.running--
		s.mu.Unlock()
	}()
	if bad != nil {
		bad(w, r)
		return
	}
	s.answer(w, r)
}

// answer is what a good service does, read by Tailscale's own types.
func (s *service) answer(w http.ResponseWriter, r *http.Request) {
	var req tailcfg.DERPAdmitClientRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil || r.Method != http.MethodPost {
		http.Error(w, fmt.Sprintf("%s: %v", r.Method, err), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	allow := s.known[req.NodePublic]
	s.asked[req.NodePublic]++
	s.source[req.NodePublic] = req.Source
	s.mu.Unlock()
	json.NewEncoder(w).Encode(tailcfg.DERPAdmitClientResponse{Allow: allow})
}

func (s *service) know(keys ...key.NodePublic) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range keys {
		s.known[k] = true
	}
}

func (s *service) be(bad http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bad = bad
}

func (s *service) times(k key.NodePublic) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[k]
}

// localAPI is tailscaled's, as far as a relay asks it.
type localAPI struct {
	path string
	mu   sync.Mutex
	know map[key.NodePublic]bool
	bad  http.HandlerFunc
	conn int // connections taken
	srv  *http.Server
}

func (l *localAPI) start(t *testing.T) {
	t.Helper()
	ln, err := net.Listen("unix", l.path)
	if err != nil {
		t.Fatal(err)
	}
	l.srv = &http.Server{
		Handler: http.HandlerFunc(l.serve),
		ConnState: func(_ net.Conn, st http.ConnState) {
			if st == http.StateNew {
				l.mu.Lock()
				l.conn++
				l.mu.Unlock()
			}
		},
	}
	go l.srv.Serve(ln)
	t.Cleanup(func() { l.srv.Close() })
}

// stop leaves the stale socket file behind, as a killed tailscaled does.
func (l *localAPI) stop() { l.srv.Close() }

func (l *localAPI) restart(t *testing.T) {
	t.Helper()
	os.Remove(l.path)
	l.start(t)
}

func (l *localAPI) serve(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bad != nil {
		l.bad(w, r)
		return
	}
	// As tailscaled: the host it knows, no Referer or Origin.
	if r.Host != "local-tailscaled.sock" || r.Header.Get("Origin") != "" || r.URL.Path != "/localapi/v0/whois" {
		http.Error(w, "invalid localapi request", http.StatusForbidden)
		return
	}
	var k key.NodePublic
	if err := k.UnmarshalText([]byte(r.FormValue("addr"))); err != nil {
		http.Error(w, "invalid 'addr' parameter", http.StatusBadRequest)
		return
	}
	if !l.know[k] {
		http.Error(w, "no match for IP:port", http.StatusNotFound)
		return
	}
	fmt.Fprint(w, `{"Node":{"Name":"`+strings.Repeat("x", 4000)+`"}}`)
}

func (l *localAPI) set(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

// ---- what tests look at ----

// node starts one with these flags.
func node(t *testing.T, args ...string) *harness.Node {
	t.Helper()
	c := harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: []int{1}, Args: args})
	return c.Nodes[0]
}

func status(t *testing.T, n *harness.Node) *harness.Status {
	t.Helper()
	s, err := n.Status()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func count(t *testing.T, n *harness.Node, name string) int {
	t.Helper()
	v, ok := status(t, n).Traffic[name]
	if !ok {
		t.Fatalf("status has no counter %s", name)
	}
	return int(v)
}

// refused fails the test unless the node closes this key's login, and counts it under that name.
func refused(t *testing.T, n *harness.Node, k key.NodePrivate, counter string) {
	t.Helper()
	before := count(t, n, counter)
	if _, err := n.TryConnect(t, harness.Opts{Key: k}); err == nil {
		t.Fatalf("%s was let in", k.Public())
	}
	if got := count(t, n, counter); got != before+1 {
		t.Errorf("%s: %d, was %d before one was refused", counter, got, before)
	}
}

func problems(t *testing.T, n *harness.Node) string {
	t.Helper()
	var b strings.Builder
	for _, p := range status(t, n).Problems {
		fmt.Fprintf(&b, "%s\n", p)
	}
	return b.String()
}

// goneWithin waits until the client's connection has ended.
func goneWithin(t *testing.T, c *harness.Client, limit time.Duration) {
	t.Helper()
	if _, ok := c.Wait(limit, func(e harness.Event) bool { _, ok := e.Msg.(harness.Closed); return ok }); !ok {
		t.Fatalf("still connected after %v", limit)
	}
}

// relisten serves again at the address where the service was.
func relisten(t *testing.T, s *service, addr string) net.Listener {
	t.Helper()
	var ln net.Listener
	harness.Eventually(t, 5*time.Second, "listen again", func() (err error) {
		ln, err = net.Listen("tcp", addr)
		return err
	})
	go http.Serve(tls.NewListener(ln, s.TLS), http.HandlerFunc(s.serve))
	return ln
}
