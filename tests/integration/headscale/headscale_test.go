// Package headscale puts a real Headscale and real clients beside our nodes: admission by its /verify and by tailscaled's
// LocalAPI, and maps that it reads.
package headscale

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"derpmesh/tests/integration/harness"
)

func TestMain(m *testing.M) { harness.MainInNetwork(m) }

// export is the map as `map export --to headscale` writes it.
func export(t testing.TB, file string) []byte {
	t.Helper()
	out, err := exec.Command(harness.Program(t, "DERPMESH_BIN"), "map", "export", "--to", "headscale", file).Output()
	if err != nil {
		t.Fatalf("map export %s: %v", file, err)
	}
	return out
}

// admitted says whether the key can log in now.
func admitted(t testing.TB, n *harness.Node, k key.NodePrivate) bool {
	t.Helper()
	c, err := n.TryConnect(t, harness.Opts{Key: k})
	if err == nil {
		c.Close()
	}
	return err == nil
}

func status(t testing.TB, n *harness.Node) *harness.Status {
	t.Helper()
	s, err := n.Status()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestVerify: Headscale's /verify decides.  Its client is let in and uses the relay; a stranger is not; while Headscale is
// away, who was admitted a moment ago still is; a machine that was removed is closed.
func TestVerify(t *testing.T) {
	t.Parallel()
	c := harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: []int{1}, Cert: harness.CertPin, NoStart: true})
	n := c.Nodes[0]
	hs := harness.StartHeadscale(t, harness.HeadscaleSpec{Map: export(t, c.MapFile)})
	conf := filepath.Join(c.Dir, "settings.yaml")
	harness.WriteFile(t, conf, []byte("verify_url: "+hs.URL+"/verify\n"))
	n.Args = []string{"--config", conf}
	c.StartAll(t)
	ts := harness.StartTailscaled(t, harness.Spot{})
	ts.Up(t, hs, "one")
	known, stranger := ts.NodeKey(t), key.NewNode()
	harness.Eventually(t, 30*time.Second, "tailscaled's own connection", func() error {
		if st := status(t, n); st.Clients.Home != 1 {
			return fmt.Errorf("clients: %+v", st.Clients)
		}
		return nil
	})
	if admitted(t, n, stranger) {
		t.Error("a stranger was let in")
	}
	if got := status(t, n).Traffic["refused_url"]; got != 1 {
		t.Errorf("refused_url: %d", got)
	}

	hs.Stop(t)
	if admitted(t, n, key.NewNode()) {
		t.Error("a stranger was let in while Headscale was away")
	}
	if got := status(t, n).Traffic["refused_outage"]; got != 1 {
		t.Errorf("refused_outage: %d", got)
	}
	if !admitted(t, n, known) {
		t.Error("admitted a moment ago, refused while Headscale is away")
	}
	hs.Start(t)
	if admitted(t, n, stranger) {
		t.Error("a stranger was let in after Headscale's return")
	}

	k := harness.StartTailscaled(t, harness.Spot{})
	k.Up(t, hs, "two")
	second := k.NodeKey(t)
	k.Kill(t) // or it would come again under the same key
	conn := n.Connect(t, harness.Opts{Key: second})
	hs.Remove(t, second.Public().String())
	// Clients are asked about again every five minutes, and soon after a change of settings.
	harness.WriteFile(t, conf, []byte("verify_url: "+hs.URL+"/verify?again\n"))
	n.Hup(t)
	if _, ok := conn.Wait(30*time.Second, func(e harness.Event) bool { _, ok := e.Msg.(harness.Closed); return ok }); !ok {
		t.Error("the client of a removed machine is still connected")
	}
	if got := status(t, n).Traffic["closed_unwelcome"]; got != 1 {
		t.Errorf("closed_unwelcome: %d", got)
	}
	if st := status(t, n); st.Clients.Home != 1 {
		t.Errorf("the other client did not stay: %+v", st.Clients)
	}
}

// TestSocket: the LocalAPI of a real tailscaled decides, whatever becomes of its socket.
func TestSocket(t *testing.T) {
	t.Parallel()
	c := harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: []int{1}, Cert: harness.CertPin, NoStart: true})
	n := c.Nodes[0]
	hs := harness.StartHeadscale(t, harness.HeadscaleSpec{Map: export(t, c.MapFile)})
	beside, other := harness.StartTailscaled(t, harness.Spot{}), harness.StartTailscaled(t, harness.Spot{})
	n.Args = []string{"--verify-socket", beside.Socket}
	c.StartAll(t)
	beside.Up(t, hs, "beside")
	other.Up(t, hs, "other")
	know := func() {
		t.Helper()
		harness.Eventually(t, 20*time.Second, "the other machine is known and let in", func() error {
			if !admitted(t, n, other.NodeKey(t)) {
				return errors.New("refused")
			}
			return nil
		})
		if admitted(t, n, key.NewNode()) {
			t.Error("a stranger was let in")
		}
	}
	know()
	beside.Kill(t) // its socket stays there
	if _, err := os.Stat(beside.Socket); err != nil {
		t.Fatal(err)
	}
	before := status(t, n).Traffic["refused_outage"]
	if admitted(t, n, key.NewNode()) {
		t.Error("a stranger was let in while tailscaled was away")
	}
	if got := status(t, n).Traffic["refused_outage"]; got != before+1 {
		t.Errorf("refused_outage: %d, was %d", got, before)
	}
	if !admitted(t, n, other.NodeKey(t)) {
		t.Error("admitted a moment ago, refused while tailscaled is away")
	}
	beside.Start(t)
	beside.WaitRunning(t)
	know()
}

// TestMap: what `map export --to headscale` writes, Headscale hands to its clients as it was meant; the tutorial's file too.
func TestMap(t *testing.T) {
	t.Parallel()
	c := harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: []int{1, 2, 1}, Cert: harness.CertPin})
	c.Nodes[1].CanPort80 = true
	c.Nodes[2].STUNPort = -1
	c.Nodes[3].IPv6 = "2001:db8::4"
	c.WriteMap(t)
	hs := harness.StartHeadscale(t, harness.HeadscaleSpec{Map: export(t, c.MapFile)})
	ts := harness.StartTailscaled(t, harness.Spot{})
	ts.Up(t, hs, "reader")
	same(t, c.Map(), ts.DERPMap(t))

	seed := export(t, "../../seed/headscale-derp.yaml")
	hs = harness.StartHeadscale(t, harness.HeadscaleSpec{Map: seed})
	ts = harness.StartTailscaled(t, harness.Spot{})
	ts.Up(t, hs, "reader")
	same(t, &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{900: {
		RegionID: 900, RegionCode: "ahk", RegionName: "AliHongkong",
		Nodes: []*tailcfg.DERPNode{{Name: "900a", RegionID: 900, HostName: "域名", STUNPort: 3478, DERPPort: 443}},
	}}}, ts.DERPMap(t))
}

// documented are the parts of docs/headscale.md in a language.
func documented(t *testing.T, language string) []string {
	t.Helper()
	b, err := os.ReadFile("../../../docs/headscale.md")
	if err != nil {
		t.Fatal(err)
	}
	var parts []string
	for _, p := range strings.Split(string(b), "```"+language+"\n")[1:] {
		text, _, _ := strings.Cut(p, "```")
		parts = append(parts, text)
	}
	return parts
}

// TestDocumented: the settings and the policy in docs/headscale.md are such as Headscale takes, and do what is said there.
func TestDocumented(t *testing.T) {
	t.Parallel()
	settings, policies := documented(t, "yaml"), documented(t, "json")
	if len(settings) != 1 || len(policies) != 1 {
		t.Fatalf("%d settings, %d policies", len(settings), len(policies))
	}
	for _, line := range []string{"auto_update_enabled: true", "update_frequency: 2s"} {
		if !strings.Contains(settings[0], line) {
			t.Errorf("%q is not documented", line)
		}
	}
	c := harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: []int{1, 1}, Cert: harness.CertPin})
	hs := harness.StartHeadscale(t, harness.HeadscaleSpec{Map: export(t, c.MapFile), Derp: settings[0], Policy: policies[0]})
	ts := harness.StartTailscaled(t, harness.Spot{})
	ts.Up(t, hs, "documented")
	if _, ok := ts.Status(t).Self.CapMap["debug-always-stun"]; !ok {
		t.Errorf("the policy gives %v", ts.Status(t).Self.CapMap)
	}
	same(t, c.Map(), ts.DERPMap(t))
	c.Nodes[1].STUNPort++ // nobody looks at it here
	c.WriteMap(t)
	harness.WriteFile(t, hs.MapFile, export(t, c.MapFile))
	harness.Eventually(t, 30*time.Second, "the new map at the client", func() error {
		if got := ts.DERPMap(t).Regions[901].Nodes[0].STUNPort; got != c.Nodes[1].STUNPort {
			return fmt.Errorf("STUNPort %d", got)
		}
		return nil
	})
}

// same compares two maps; Headscale shuffles a region's nodes, and knows nothing of OmitDefaultRegions.
func same(t *testing.T, want, got *tailcfg.DERPMap) {
	t.Helper()
	if len(want.Regions) != len(got.Regions) {
		t.Fatalf("%d regions, want %d", len(got.Regions), len(want.Regions))
	}
	for id, w := range want.Regions {
		g := got.Regions[id]
		if g == nil {
			t.Errorf("region %d is missing", id)
			continue
		}
		nodes := map[string]*tailcfg.DERPNode{}
		for _, n := range g.Nodes {
			nodes[n.Name] = n
		}
		if len(nodes) != len(w.Nodes) {
			t.Errorf("region %d: %d nodes, want %d", id, len(nodes), len(w.Nodes))
		}
		for _, n := range w.Nodes {
			if !reflect.DeepEqual(n, nodes[n.Name]) {
				t.Errorf("region %d, node %s: %+v, want %+v", id, n.Name, nodes[n.Name], n)
			}
		}
		if g.RegionID != w.RegionID || g.RegionCode != w.RegionCode || g.RegionName != w.RegionName {
			t.Errorf("region %d: %+v, want %+v", id, g, w)
		}
	}
}
