package admission

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"

	"derpmesh/tests/integration/harness"
)

// withService starts a verify service with a certificate of the node's authority, and the node that asks it.
func withService(t *testing.T, args ...string) (*harness.Node, *service) {
	t.Helper()
	c := harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: []int{1}, NoStart: true})
	pair := c.CA.Issue(t, "127.0.0.1", time.Now().AddDate(0, 3, 0))
	s := newService(t, &pair)
	c.Args = append([]string{"--verify-url", s.URL + "/verify?token=secret"}, args...)
	c.StartAll(t)
	return c.Nodes[0], s
}

// hang gives no answer as long as the node waits.
func hang(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body) // only then is it noticed that the other side has gone
	<-r.Context().Done()
}

// TestURL: the service decides; its yes and its no are remembered as long as they should be.
func TestURL(t *testing.T) {
	t.Parallel()
	n, s := withService(t)
	k := fresh(2)
	s.know(k[0].Public())
	for range 3 {
		n.Connect(t, harness.Opts{Key: k[0]}).Close()
	}
	if got := s.times(k[0].Public()); got != 1 {
		t.Errorf("the service was asked %d times for one admitted key", got)
	}
	s.mu.Lock()
	from := s.source[k[0].Public()]
	s.mu.Unlock()
	if !from.IsLoopback() {
		t.Errorf("the client's address was told as %v", from)
	}
	refused(t, n, k[1], "refused_url")
	refused(t, n, k[1], "refused_url")
	if got := s.times(k[1].Public()); got > 2 {
		t.Errorf("the service was asked %d times for two refusals", got)
	}
	// Admitted there now: a no is remembered for moments only.
	s.know(k[1].Public())
	harness.Eventually(t, 10*time.Second, "admitted after a no", func() error {
		_, err := n.TryConnect(t, harness.Opts{Key: k[1]})
		return err
	})
	st := status(t, n)
	if st.Admission.URL == nil || st.Admission.URL.Out || st.Admission.URL.URL != s.URL+"/verify" {
		t.Errorf("status says %+v", st.Admission.URL)
	}
	if log, _ := os.ReadFile(n.Log); strings.Contains(strings.SplitN(string(log), "\n", 2)[1], "token=") {
		t.Error("the log holds what may be a secret of the URL")
	}
}

// TestURLOneQuestion: logins of one key at the same time are one question.
func TestURLOneQuestion(t *testing.T) {
	t.Parallel()
	n, s := withService(t)
	k := key.NewNode()
	s.know(k.Public())
	s.be(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(time.Second)
		s.answer(w, r)
	})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := n.TryConnect(t, harness.Opts{Key: k}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := s.times(k.Public()); got != 1 {
		t.Errorf("the service was asked %d times", got)
	}
}

// TestURLBad: whatever is wrong with the service, strangers stay out, who was admitted goes on and may come back,
// traffic beside it is not disturbed, and all is well again when the service is.
func TestURLBad(t *testing.T) {
	t.Parallel()
	n, s := withService(t)
	plain := newService(t, nil)
	plain.be(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{"Allow":true}`) })
	text := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			io.WriteString(w, body)
		}
	}
	yes := `{"Allow":true}`
	table := []struct {
		name string
		bad  http.HandlerFunc
		says string
	}{
		{"status 500", text(500, yes), "status 500"},
		{"status 204", text(204, ""), "status 204"},
		{"status 403", text(403, yes), "status 403"},
		{"no JSON", text(200, "yes"), "its answer is not"},
		{"JSON of something else", text(200, `{"allow_me":true}`), "its answer is not"},
		{"a text for a bool", text(200, `{"Allow":"true"}`), "its answer is not"},
		{"half an answer", text(200, `{"Allow":true`), "its answer is not"},
		{"two answers", text(200, yes+yes), "its answer is not"},
		{"nothing", text(200, ""), "its answer is not"},
		{"a huge answer", text(200, `{"Allow":true,"x":"`+strings.Repeat("x", 1<<20)+`"}`), "too long"},
		{"endless headers", func(w http.ResponseWriter, r *http.Request) {
			c, b, _ := w.(http.Hijacker).Hijack()
			defer c.Close()
			b.WriteString("HTTP/1.1 200 OK\r\n")
			for range 1 << 16 {
				fmt.Fprintf(b, "X-Filler: %s\r\n", strings.Repeat("x", 200))
			}
			b.Flush()
		}, "too long"},
		{"a redirect to plain HTTP", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, plain.URL, http.StatusTemporaryRedirect)
		}, "rotocol"},
		{"redirects in a circle", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, s.URL, http.StatusTemporaryRedirect)
		}, "redirects"},
		{"cut off", func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, ""},
		{"hanging", hang, "timed out"},
		{"an answer that drips", func(w http.ResponseWriter, r *http.Request) {
			for {
				if _, err := io.WriteString(w, " "); err != nil {
					return
				}
				w.(http.Flusher).Flush()
				time.Sleep(300 * time.Millisecond)
			}
		}, "timed out"},
	}
	k := key.NewNode()
	s.know(k.Public())
	tr := harness.NewTraffic()
	tr.OnKeys = func(keys []key.NodePublic) { s.know(keys...) }
	tr.Join(t, n, n, n)
	a := n.Connect(t, harness.Opts{Key: k})
	stop := tr.Run(t, 10*time.Millisecond, 300)
	var wg sync.WaitGroup
	for _, tc := range table {
		s.be(tc.bad)
		outages := status(t, n).Admission.Outages
		before := count(t, n, "refused_outage")
		for range 5 {
			wg.Go(func() {
				if _, err := n.TryConnect(t, harness.Opts{}); err == nil {
					t.Errorf("%s: a stranger was let in", tc.name)
				}
			})
		}
		wg.Wait()
		if got := count(t, n, "refused_outage"); got != before+5 {
			t.Errorf("%s: refused_outage is %d, was %d before five were refused", tc.name, got, before)
		}
		st := status(t, n).Admission
		if !st.URL.Out || !strings.Contains(st.URL.Error, tc.says) || st.Outages != outages+5 {
			t.Errorf("%s: status says %+v, %d outages, want %q, %d", tc.name, st.URL, st.Outages, tc.says, outages+5)
		}
		if p := problems(t, n); !strings.Contains(p, "no usable answer") || strings.Contains(p, "secret") {
			t.Errorf("%s: problems: %s", tc.name, p)
		}
		a.Alive(t)
		n.Connect(t, harness.Opts{Key: k}).Close()
		t.Logf("%s: %s", tc.name, st.URL.Error)

		s.be(nil)
		fine := key.NewNode()
		s.know(fine.Public())
		n.Connect(t, harness.Opts{Key: fine}).Close()
		if st := status(t, n).Admission; st.URL.Out {
			t.Errorf("%s: still out after a good answer: %+v", tc.name, st.URL)
		}
	}
	stop()
}

// TestURLDown: nobody listens there; then it comes back.
func TestURLDown(t *testing.T) {
	t.Parallel()
	n, s := withService(t)
	k := fresh(2)
	s.know(k[0].Public(), k[1].Public())
	a := n.Connect(t, harness.Opts{Key: k[0]})
	addr := s.Listener.Addr().String()
	s.Listener.Close()
	s.CloseClientConnections()
	refused(t, n, k[1], "refused_outage")
	a.Alive(t)
	n.Connect(t, harness.Opts{Key: k[0]}).Close()
	back := relisten(t, s, addr)
	defer back.Close()
	harness.Eventually(t, 10*time.Second, "admitted when the service is back", func() error {
		_, err := n.TryConnect(t, harness.Opts{Key: k[1]})
		return err
	})
}

// TestURLFailOpen: what cannot be reached admits, what answers wrongly does not.
func TestURLFailOpen(t *testing.T) {
	t.Parallel()
	n, s := withService(t, "--verify-fail-open", "true")
	refused(t, n, key.NewNode(), "refused_url")
	s.be(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) })
	refused(t, n, key.NewNode(), "refused_outage")
	s.Listener.Close()
	s.CloseClientConnections()
	n.Connect(t, harness.Opts{})
	if p := problems(t, n); !strings.Contains(p, "clients are admitted while it cannot be reached") {
		t.Errorf("problems: %s", p)
	}
}

// TestURLCertificate: an answer over a certificate that does not verify is none.
func TestURLCertificate(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"self-signed", "another name", "expired"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: []int{1}, NoStart: true})
			ca, host, until := c.CA, "127.0.0.1", time.Now().AddDate(0, 1, 0)
			switch name {
			case "self-signed":
				ca = nil
			case "another name":
				host = "elsewhere.test"
			case "expired":
				until = time.Now().Add(-time.Hour)
			}
			pair := ca.Issue(t, host, until)
			s := newService(t, &pair)
			s.be(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{"Allow":true}`) })
			c.Args = []string{"--verify-url", s.URL}
			c.StartAll(t)
			refused(t, c.Nodes[0], key.NewNode(), "refused_outage")
			if e := status(t, c.Nodes[0]).Admission.URL.Error; !strings.Contains(strings.ToLower(e), "certificate") {
				t.Errorf("status says %q", e)
			} else {
				t.Log(e)
			}
		})
	}
}

// TestURLCrowd: more strangers than may be asked about at once, on a service that hangs.  All are refused, no more
// than 64 questions are under way, and pings of an admitted client do not wait for them: they take as long as those to
// a node beside it that nobody asks anything.
func TestURLCrowd(t *testing.T) {
	t.Parallel()
	n, s := withService(t, "--login-limit-ip", "1000")
	k := key.NewNode()
	s.know(k.Public())
	here, beside := n.Connect(t, harness.Opts{Key: k}), node(t).Connect(t, harness.Opts{})
	s.be(hang)
	const crowd = 150
	done := make(chan struct{})
	go func() {
		defer close(done)
		var wg sync.WaitGroup
		for range crowd {
			wg.Go(func() {
				if _, err := n.TryConnect(t, harness.Opts{}); err == nil {
					t.Error("a stranger was let in")
				}
			})
		}
		wg.Wait()
	}()
	slowest := func(c *harness.Client) (worst time.Duration) {
		for {
			start := time.Now()
			ctx, cancel := context.WithTimeout(context.Background(), harness.Scaled(20*time.Second))
			if err := c.Ping(ctx); err != nil {
				t.Errorf("ping: %v", err)
			}
			cancel()
			worst = max(worst, time.Since(start))
			select {
			case <-done:
				return worst
			default:
				time.Sleep(5 * time.Millisecond)
			}
		}
	}
	var mine, other time.Duration
	var wg sync.WaitGroup
	wg.Go(func() { mine = slowest(here) })
	wg.Go(func() { other = slowest(beside) })
	wg.Wait()
	t.Logf("the slowest ping took %v, to the node beside %v", mine, other)
	// A loop that waits for an answer stands still for five seconds.
	if mine > 3*other+2*time.Second {
		t.Errorf("the slowest ping took %v, to the node beside %v", mine, other)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.most > 64 || s.most < 32 {
		t.Errorf("%d questions were under way at a time", s.most)
	}
	c := status(t, n).Traffic
	if got := c["refused_outage"] + c["closed_login_timeout"] + c["closed_peer"]; got < crowd || c["refused_outage"] < 64 {
		t.Errorf("of %d: %v", crowd, c)
	}
}

// TestCombined: all of those configured must admit, or any of them.
func TestCombined(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"all", "any"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			file := filepath.Join(dir, "allow.txt")
			api := &localAPI{path: filepath.Join(dir, "tailscaled.sock"), know: map[key.NodePublic]bool{}}
			api.start(t)
			k := fresh(8) // bit 0: in the file, bit 1: known to the service, bit 2: to tailscaled
			var in []key.NodePublic
			for i := range k {
				if i&1 != 0 {
					in = append(in, k[i].Public())
				}
				api.know[k[i].Public()] = i&4 != 0
			}
			harness.WriteFile(t, file, lines(in...))
			n, s := withService(t, "--allow", file, "--verify-socket", api.path, "--admit", mode)
			for i := range k {
				if i&2 != 0 {
					s.know(k[i].Public())
				}
			}
			for i := range k {
				want := i == 7 || mode == "any" && i != 0
				if _, err := n.TryConnect(t, harness.Opts{Key: k[i]}); (err == nil) != want {
					t.Errorf("%03b: let in: %v (%v), want %v", i, err == nil, err, want)
				}
			}
			if mode == "all" {
				// What the file refuses is not asked elsewhere.
				if got := s.times(k[6].Public()); got != 0 {
					t.Errorf("the service was asked %d times for a key that is not in the file", got)
				}
				return
			}
			// An outage of one does not shut out whom another admits.
			s.be(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) })
			late := fresh(2)
			api.set(func() { api.know[late[0].Public()] = true })
			n.Connect(t, harness.Opts{Key: late[0]})
			refused(t, n, late[1], "refused_outage")
		})
	}
}

// TestEarlyPackets: stock clients do not wait for the ServerInfo before they send.  What they sent while the service was
// asked arrives, whole and in order, once they are admitted.
func TestEarlyPackets(t *testing.T) {
	t.Parallel()
	n, s := withService(t)
	to := key.NewNode()
	s.know(to.Public())
	b := n.Connect(t, harness.Opts{Key: to})
	s.be(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(500 * time.Millisecond)
		s.answer(w, r)
	})
	// In one piece with the login, and nothing after it that would make the node look at the connection again.
	r := n.TLS(t)
	s.know(r.Pub)
	server := r.Upgrade(t, true)
	frame := func(ft derp.FrameType, body []byte) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{byte(ft)}, uint32(len(body))), body...)
	}
	info := append(r.Pub.AppendTo(nil), r.Priv.SealTo(server, []byte(`{"version":2}`))...)
	one := append(b.Pub.AppendTo(nil), "at once"...)
	if _, err := r.Write(append(frame(derp.FrameClientInfo, info), frame(derp.FrameSendPacket, one)...)); err != nil {
		t.Fatal(err)
	}
	b.WaitPacket(t, r.Pub, []byte("at once"))

	for _, size := range []int{1, 300, 1400, 20000, 65000} {
		r := n.TLS(t)
		s.know(r.Pub)
		server := r.Upgrade(t, true)
		r.SendClientInfo(t, server)
		packets := min(40, 200000/size) // more would not fit into a queue whose receiver is slow for a moment
		go func() {                     // some of it is read before the answer, the rest waits in the sockets
			for i := range packets {
				r.SendPacket(t, b.Pub, append([]byte{byte(i)}, make([]byte, size-1)...))
			}
		}()
		if f, err := r.ReadFrame(); err != nil || f.Type != derp.FrameServerInfo {
			t.Fatalf("size %d: frame %#x, %v instead of the ServerInfo", size, f.Type, err)
		}
		next := 0
		if _, ok := b.Wait(10*time.Second, func(e harness.Event) bool {
			p, ok := e.Msg.(derp.ReceivedPacket)
			if ok && p.Source == r.Pub {
				if len(p.Data) != size || int(p.Data[0]) != next {
					t.Errorf("size %d: packet %d of %d bytes, expected %d", size, p.Data[0], len(p.Data), next)
				}
				next++
			}
			return next == packets
		}); !ok {
			t.Errorf("size %d: %d of %d packets arrived", size, next, packets)
		}
		r.Close()
	}
}
