package derper

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
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
