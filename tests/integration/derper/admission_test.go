package derper

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/net/netmon"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"derpmesh/tests/integration/harness"
)

// welcome says whether a client with this key gets its ServerInfo.
func welcome(t *testing.T, r *relay, priv key.NodePrivate) bool {
	t.Helper()
	c, err := derphttp.NewClient(priv, "http://"+r.addr+"/derp", func(string, ...any) {}, netmon.NewStatic())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), harness.Scaled(10*time.Second))
	defer cancel()
	if err := c.Connect(ctx); err != nil {
		return false
	}
	end := time.AfterFunc(harness.Scaled(20*time.Second), func() { c.Close() })
	defer end.Stop()
	m, err := c.Recv()
	_, ok := m.(derp.ServerInfoMessage)
	return err == nil && ok
}

// TestAdmission: the service behind -verify-client-url decides, and while it is out, the flag for that.
func TestAdmission(t *testing.T) {
	friend, stranger := key.NewNode(), key.NewNode()
	for _, k := range []harness.Kind{harness.Derper, harness.Derpmesh} {
		for _, open := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s fail-open %v", k, open), func(t *testing.T) {
				service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					var q tailcfg.DERPAdmitClientRequest
					if err := json.NewDecoder(req.Body).Decode(&q); err != nil {
						t.Errorf("the question: %v", err)
					}
					json.NewEncoder(w).Encode(tailcfg.DERPAdmitClientResponse{Allow: q.NodePublic == friend.Public()})
				}))
				defer service.Close()
				flags := []string{"-verify-client-url", service.URL}
				if !open {
					flags = append(flags, "-verify-client-url-fail-open=false")
				}
				r := start(t, k, false, flags...)
				if !welcome(t, r, friend) || welcome(t, r, stranger) {
					t.Error("the service does not decide")
				}
				service.Close()
				if got := welcome(t, r, key.NewNode()); got != open {
					t.Errorf("with the service out a new client is welcome: %v", got)
				}
			})
		}
	}
}

// TestStatus: what derpmesh's own commands say of a node under the name derper; the image's health check is one of them.
func TestStatus(t *testing.T) {
	r := start(t, harness.Derpmesh, true)
	out, err := exec.Command(os.Getenv("DERPMESH_BIN"), "status", "--json", "--admin", filepath.Join(r.dir, "admin.sock")).CombinedOutput()
	var status struct {
		Node      string `json:"node"`
		PublicKey string `json:"public_key"`
	}
	if err != nil || json.Unmarshal(out, &status) != nil || status.Node != "derper" || status.PublicKey == "" {
		t.Errorf("status: %v: %s", err, out)
	}
}

// TestReload: SIGHUP reads the rates and the names anew; a file that is no good changes nothing.
func TestReload(t *testing.T) {
	rates := filepath.Join(t.TempDir(), "rates.json")
	write := func(text string) {
		if err := os.WriteFile(rates, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"PerClientRateLimitBytesPerSec": 100000}`)
	for _, k := range []harness.Kind{harness.Derper, harness.Derpmesh} {
		t.Run(string(k), func(t *testing.T) {
			write(`{"PerClientRateLimitBytesPerSec": 100000}`)
			r := start(t, k, false, "-rate-config", rates)
			expect := func(rate, burst float64) {
				t.Helper()
				harness.Eventually(t, 10*time.Second, "rates", func() error {
					v, _ := r.varz(t)
					a, b := v["derp_rate_limit_per_client_bytes_per_second"], v["derp_rate_limit_per_client_burst_bytes"]
					if a != rate || b != burst {
						return fmt.Errorf("rate %v, burst %v", a, b)
					}
					return nil
				})
			}
			expect(100000, 65568)
			write(`{"PerClientRateLimitBytesPerSec": 5000000, "PerClientRateBurstBytes": 90000}`)
			r.signal(t, syscall.SIGHUP)
			expect(5000000, 90000)
			write(`{"PerClientRateLimitBytesPerSec": no`)
			r.signal(t, syscall.SIGHUP)
			time.Sleep(200 * time.Millisecond)
			expect(5000000, 90000)
			write(`{}`)
			r.signal(t, syscall.SIGHUP)
			expect(0, 0)
		})
	}
}

// TestAcceptLimit: connections above the limit wait; derper ends itself at the first one, so it is not asked.
func TestAcceptLimit(t *testing.T) {
	r := start(t, harness.Derpmesh, true, "-accept-connection-limit", "4", "-accept-connection-burst", "2")
	begin := time.Now()
	const n = 10
	answers := make(chan error, n)
	for range n {
		go func() {
			c, err := net.Dial("tcp", r.addr)
			if err == nil {
				c.Close()
			}
			a := r.ask(t, r.addr, get("/derp/probe"))
			if a.status != "HTTP/1.1 200 OK" {
				err = fmt.Errorf("%s", a)
			}
			answers <- err
		}()
	}
	for range n {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	// 20 connections and that of the readiness check, two at once and four a second.
	if took := time.Since(begin); took < 4*time.Second {
		t.Errorf("all were served within %v: there is no limit", took)
	}
}
