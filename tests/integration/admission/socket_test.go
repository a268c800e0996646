package admission

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tailscale.com/types/key"

	"derpmesh/tests/integration/harness"
)

// TestSocket: tailscaled's answer decides, over a connection of its own for each question, so that a restart, which
// leaves a stale socket for a moment and makes another one, needs nothing to be done here.
func TestSocket(t *testing.T) {
	t.Parallel()
	api := &localAPI{path: filepath.Join(t.TempDir(), "tailscaled.sock"), know: map[key.NodePublic]bool{}}
	api.start(t)
	n := node(t, "--verify-socket", api.path)
	k := fresh(4)
	for _, known := range k[:3] {
		api.know[known.Public()] = true
	}
	a := n.Connect(t, harness.Opts{Key: k[0]})
	refused(t, n, k[3], "refused_socket")
	if api.set(func() {}); api.conn != 2 {
		t.Errorf("two questions took %d connections", api.conn)
	}
	api.stop() // the file stays
	refused(t, n, k[1], "refused_outage")
	a.Alive(t)
	n.Connect(t, harness.Opts{Key: k[0]}).Close()
	if p := problems(t, n); !strings.Contains(p, api.path) {
		t.Errorf("problems: %s", p)
	}
	api.restart(t)
	n.Connect(t, harness.Opts{Key: k[2]})
	harness.Eventually(t, 10*time.Second, "admitted after tailscaled's restart", func() error {
		_, err := n.TryConnect(t, harness.Opts{Key: k[1]})
		return err
	})
	a.Alive(t)
	if strings.Contains(problems(t, n), api.path) {
		t.Errorf("problems: %s", problems(t, n))
	}
}

// TestSocketBad: answers that are neither yes nor no.
func TestSocketBad(t *testing.T) {
	t.Parallel()
	api := &localAPI{path: filepath.Join(t.TempDir(), "tailscaled.sock"), know: map[key.NodePublic]bool{}}
	api.start(t)
	n := node(t, "--verify-socket", api.path)
	k := key.NewNode()
	api.know[k.Public()] = true
	a := n.Connect(t, harness.Opts{Key: k})
	raw := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			c, _, _ := w.(http.Hijacker).Hijack()
			fmt.Fprint(c, text)
			c.Close()
		}
	}
	table := []struct {
		name string
		bad  http.HandlerFunc
		says string
	}{
		{"403", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(403) }, "answered 403"},
		{"too old", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(400) }, "too old"},
		{"500", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) }, "answered 500"},
		{"another protocol", raw("SSH-2.0-OpenSSH_9.2\r\n"), "not tailscaled"},
		{"closed at once", raw(""), "closed without"},
		{"half a line", raw("HTTP/1.1 2"), "closed without"},
		{"hanging", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "no answer in time"},
	}
	for _, tc := range table {
		api.set(func() { api.bad = tc.bad })
		refused(t, n, key.NewNode(), "refused_outage")
		if e := status(t, n).Admission.Socket.Error; !strings.Contains(e, tc.says) {
			t.Errorf("%s: status says %q", tc.name, e)
		}
		a.Alive(t)
		n.Connect(t, harness.Opts{Key: k}).Close()
	}
}
