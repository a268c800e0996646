// Package probe runs Tailscale's own measuring tools against the nodes: netcheck, as it is in every client, and
// derpprobe, which Tailscale watches its relays with.
package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"tailscale.com/net/netcheck"
	"tailscale.com/net/netmon"
	"tailscale.com/tailcfg"

	"derpmesh/tests/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// TestNetcheck: a client's netcheck measures every region by STUN and chooses one as home.
func TestNetcheck(t *testing.T) {
	harness.Each(t, func(t *testing.T, k harness.Kind) {
		c := harness.New(t, harness.Spec{Kind: k, Regions: []int{1, 1, 1}, Cert: harness.CertPin, NoStart: true})
		for _, n := range c.Nodes {
			n.Start(t)
			n.WaitReady(t)
		}
		report := netcheckReport(t, c.Map())
		if !report.UDP || !report.IPv4 || !report.IPv4CanSend || !report.GlobalV4.IsValid() {
			t.Errorf("UDP %v, IPv4 %v, can send %v, own address %v", report.UDP, report.IPv4, report.IPv4CanSend, report.GlobalV4)
		}
		if report.GlobalV4.IsValid() && !report.GlobalV4.Addr().IsLoopback() {
			t.Errorf("own address %v: all this is on loopback", report.GlobalV4)
		}
		if report.MappingVariesByDestIP.EqualBool(true) {
			t.Error("the nodes tell one socket different addresses")
		}
		for id := range c.Map().Regions {
			if _, ok := report.RegionV4Latency[id]; !ok {
				t.Errorf("region %d was not measured: %v", id, report.RegionLatency)
			}
		}
		if len(report.RegionLatency) != 3 || c.Map().Regions[report.PreferredDERP] == nil {
			t.Errorf("measured %v, chose %d", report.RegionLatency, report.PreferredDERP)
		}
	})
}

func netcheckReport(t *testing.T, m *tailcfg.DERPMap) *netcheck.Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Scaled(20*time.Second))
	defer cancel()
	c := &netcheck.Client{NetMon: netmon.NewStatic(), Logf: t.Logf, SkipExternalNetwork: true}
	if err := c.Standalone(ctx, "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	report, err := c.GetReport(ctx, m, nil)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// TestNetcheckHTTPS: where UDP is blocked the client measures by HTTPS.
func TestNetcheckHTTPS(t *testing.T) {
	harness.Each(t, func(t *testing.T, k harness.Kind) {
		c := harness.New(t, harness.Spec{Kind: k, Regions: []int{1, 1, 1}, Cert: harness.CertPin, NoStart: true})
		for _, n := range c.Nodes {
			n.Start(t)
			n.WaitReady(t)
		}
		m := c.Map()
		for _, r := range m.Regions {
			for _, n := range r.Nodes {
				n.STUNPort = -1
			}
		}
		report := netcheckReport(t, m)
		if len(report.RegionLatency) != 3 {
			t.Errorf("measured %v", report.RegionLatency)
		}
	})
}

// TestDerpprobe: all probes of derpprobe -once are good, for three regions of a node each, and for three nodes
// in one region, where each pair's packets cross the mesh.
func TestDerpprobe(t *testing.T) {
	for _, tc := range []struct {
		name    string
		regions []int
		probes  int
	}{
		// Of each node TLS and STUN; of each pair in a region, itself included, mesh and bandwidth; and the map.
		{"three regions", []int{1, 1, 1}, 3*2 + 3*2 + 1},
		{"one region", []int{3}, 3*2 + 9*2 + 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			harness.EachInTurn(t, func(t *testing.T, k harness.Kind) {
				c := harness.New(t, harness.Spec{Kind: k, Regions: tc.regions})
				// It gives a mesh 100 ms to tell a new client's key, and a busy machine may need longer.
				const attempts = 3
				for i := 1; ; i++ {
					good, bad, out := derpprobe(t, c)
					if good == tc.probes && bad == 0 {
						return
					}
					t.Logf("attempt %d: %d good and %d bad, want %d good:\n%s", i, good, bad, tc.probes, out)
					if i == attempts {
						t.Fatal("no attempt was all good")
					}
				}
			})
		})
	}
}

var verdict = regexp.MustCompile(`(?m)^\S+ \S+ (good|bad): .*$`)

// derpprobe runs the real one.  It insists on names that it can resolve: an /etc/hosts of its own in a mount
// namespace of its own gives it those.
func derpprobe(t *testing.T, c *harness.Cluster) (good, bad int, out string) {
	t.Helper()
	program := harness.Program(t, "DERPPROBE_BIN")
	hosts := filepath.Join(c.Dir, "hosts")
	var b bytes.Buffer
	fmt.Fprintln(&b, "127.0.0.1 localhost")
	for _, n := range c.Nodes {
		fmt.Fprintln(&b, n.Addr, n.HostName)
	}
	if err := os.WriteFile(hosts, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	// derpprobe knows no "none": it would send STUN there.
	m := c.Map()
	for _, r := range m.Regions {
		for _, n := range r.Nodes {
			n.IPv6 = ""
		}
	}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	mapFile := filepath.Join(c.Dir, "derpprobe.json")
	if err := os.WriteFile(mapFile, text, 0o644); err != nil {
		t.Fatal(err)
	}
	namespace := "-m"
	if os.Getuid() != 0 {
		namespace = "-rm"
	}
	ctx, cancel := context.WithTimeout(t.Context(), harness.Scaled(90*time.Second))
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", namespace, "sh", "-ec", `
		mount --make-rprivate /
		mount --bind "$HOSTS" /etc/hosts
		exec "$@"`, "sh",
		program, "-once", "-derp-map", "file://"+mapFile, "-spread=false", "-interval", "10s",
		"-bw-interval", "10s", "-bw-probe-size-bytes", "4000000")
	cmd.Env = append(os.Environ(), "HOSTS="+hosts, "SSL_CERT_FILE="+c.CAFile(), "HOME="+c.Dir)
	raw, err := cmd.CombinedOutput()
	out = string(raw)
	if ctx.Err() != nil {
		t.Fatalf("derpprobe did not end:\n%s", out)
	}
	var exit *exec.ExitError // how it says that a probe was bad
	if err != nil && !errors.As(err, &exit) {
		t.Errorf("derpprobe: %v", err)
	}
	for _, v := range verdict.FindAllStringSubmatch(out, -1) {
		if v[1] == "good" {
			good++
		} else {
			bad++
		}
	}
	return good, bad, strings.TrimSpace(out)
}
