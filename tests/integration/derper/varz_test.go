package derper

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/net/netmon"
	"tailscale.com/net/stun"
	"tailscale.com/types/key"

	"derpmesh/tests/integration/harness"
)

// Names that a real derper has and we do not, and why.
var missing = []struct {
	name *regexp.Regexp
	why  string
}{
	{regexp.MustCompile(`^(go_.*|goroutines|memstats_.*|derp_memstats_sys0)$`), "of a Go program's insides"},
	{regexp.MustCompile(`^(node_boot_time_seconds|process_network_.*|process_virtual_memory.*)$`), "of the machine; node exporters have it"},
	{regexp.MustCompile(`^derper_tls_active_version$`), "requests that are being answered: none is ever seen here"},
}

// Names that we have and a real derper without TLS does not.
var more = regexp.MustCompile(`^(tls_listener_.*|derper_tls_request_version)$`)

// varz are the values by name with labels, and the bare names.
func (r *relay) varz(t *testing.T) (values map[string]float64, names map[string]bool) {
	t.Helper()
	conn := r.dial(t, r.addr)
	defer conn.Close()
	io.WriteString(conn, get("/debug/varz"))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("/debug/varz: %s, %v", resp.Status, err)
	}
	values, names = map[string]float64{}, map[string]bool{}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		if i < 0 {
			t.Fatalf("no value: %q", line)
		}
		v, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		values[line[:i]] = v
		name, _, _ := strings.Cut(line[:i], "{")
		names[name] = true
	}
	return values, names
}

// TestVarzNames: every metric of a real derper is there, but for those of the list; and none besides.
func TestVarzNames(t *testing.T) {
	for _, tls := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls %v", tls), func(t *testing.T) {
			_, theirs := start(t, harness.Derper, tls).varz(t)
			_, ours := start(t, harness.Derpmesh, tls).varz(t)
			if len(theirs) < 50 {
				t.Fatalf("derper has only %v", theirs)
			}
		names:
			for name := range theirs {
				if ours[name] {
					continue
				}
				for _, m := range missing {
					if m.name.MatchString(name) {
						continue names
					}
				}
				t.Errorf("%s is missing", name)
			}
			for name := range ours {
				if !theirs[name] && !(more.MatchString(name) && !tls) {
					t.Errorf("%s is none of derper's", name)
				}
			}
		})
	}
}

// TestVarzValues: after the same traffic the counters that people look at say the same.
func TestVarzValues(t *testing.T) {
	results := map[harness.Kind]map[string]float64{}
	for _, k := range []harness.Kind{harness.Derper, harness.Derpmesh} {
		r := start(t, k, false)
		traffic(t, r)
		var v map[string]float64
		harness.Eventually(t, 10*time.Second, "counters", func() error {
			v, _ = r.varz(t)
			if v["derp_packets_sent"] < 5 || v["derp_clients_local"] != 2 || v["derp_current_dup_client_keys"] != 1 || v[`stun_requests{disposition="success"}`] != 1 {
				return fmt.Errorf("not counted yet: %v", v)
			}
			return nil
		})
		results[k] = v
	}
	for _, name := range []string{"derp_accepts", "derp_bytes_received", "derp_bytes_sent", "derp_packets_received",
		"derp_packets_sent", `derp_packets_received_kind{kind="other"}`, `derp_packets_received_kind{kind="disco"}`,
		"derp_current_connections", "derp_current_home_connections", "derp_home_moves_in", "derp_home_moves_out",
		"derp_clients_local", "derp_clients_total", "derp_clients_remote", "derp_current_dup_client_keys",
		"derp_current_dup_client_conns", "derp_total_dup_client_conns", "derp_current_notideal_connections", "derp_watchers",
		"derp_got_ping", "derp_sent_pong", `derp_packets_dropped{reason="unknown_dest",kind="other"}`,
		`stun_requests{disposition="success"}`, `stun_addrfamily{family="ipv4"}`, `stun_addrfamily{family="ipv6"}`,
		"bootstrap_dns_requests", "version{binary}"} {
		if a, b := results[harness.Derper][name], results[harness.Derpmesh][name]; a != b {
			t.Errorf("%s: derper %v, derpmesh %v", name, a, b)
		}
	}
}

// traffic is what both are asked to count: three connections of two keys, five packets, one to nobody, a ping, a STUN
// request.
func traffic(t *testing.T, r *relay) {
	t.Helper()
	a, b := key.NewNode(), key.NewNode()
	connect := func(k key.NodePrivate) *derphttp.Client {
		c, err := derphttp.NewClient(k, "http://"+r.addr+"/derp", t.Logf, netmon.NewStatic())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), harness.Scaled(10*time.Second))
		defer cancel()
		if err := c.Connect(ctx); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		// What never comes must not be waited for.
		end := time.AfterFunc(harness.Scaled(20*time.Second), func() { c.Close() })
		t.Cleanup(func() { end.Stop() })
		if m, err := c.Recv(); err != nil { // the ServerInfo: from now on it can be reached
			t.Fatal(m, err)
		}
		return c
	}
	ca := connect(a)
	cb := connect(b)
	ca.NotePreferred(true)
	cb.NotePreferred(true)
	cb.NotePreferred(false)
	for range 5 {
		if err := ca.Send(b.Public(), make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	ca.Send(key.NewNode().Public(), make([]byte, 50))
	for got := 0; got < 5; {
		m, err := cb.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := m.(derp.ReceivedPacket); ok {
			got++
		}
	}
	if err := ca.SendPing([8]byte{1}); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := ca.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := m.(derp.PongMessage); ok {
			break
		}
	}
	connect(b)
	u, err := net.Dial("udp", r.stun)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	u.SetDeadline(time.Now().Add(harness.Scaled(5 * time.Second)))
	u.Write(stun.Request(stun.NewTxID()))
	if _, err := u.Read(make([]byte, 200)); err != nil {
		t.Fatal(err)
	}
}
