// Package export asks whether what `map export` writes means to Tailscale's own code what the map meant.
package export

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/tailscale/hujson"
	"tailscale.com/tailcfg"

	"derpmesh/tests/integration/harness"
)

const full = `{
  "omitDefaultRegions": true,
  "HomeParams": {"RegionScore": {"901": 0.5}},
  "Regions": {
    "1": null,
    "900": {"RegionID": 900, "RegionCode": "fra", "RegionName": "Frankfurt am Main \"1\"", "Latitude": 50.1, "Longitude": 8.7,
      "Nodes": [
        {"Name": "fra-1", "RegionID": 900, "HostName": "fra-1.example.net", "IPv4": "192.0.2.1", "IPv6": "2001:db8::1",
         "DERPPort": 8443, "STUNPort": 3479, "CanPort80": true},
        {"Name": "fra-2", "RegionID": 900, "HostName": "192.0.2.2", "IPv4": "192.0.2.2", "IPv6": "none", "STUNPort": -1,
         "CertName": "sha256-raw:3f5a8e0b7c1d2e4f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7"}]},
    "901": {"RegionID": 901, "RegionCode": "hkg", "RegionName": "香港", "NoMeasureNoHome": true,
      "Nodes": [{"Name": "hkg-1", "RegionID": 901, "HostName": "hkg-1.example.net", "InsecureForTests": true}]}}}`

func export(t *testing.T, to, file string) []byte {
	t.Helper()
	out, err := exec.Command(harness.Program(t, "DERPMESH_BIN"), "map", "export", "--to", to, file).Output()
	if err != nil {
		t.Fatalf("map export --to %s %s: %v", to, file, err)
	}
	return out
}

// read takes HuJSON as the control server does.
func read(t *testing.T, text []byte) *tailcfg.DERPMap {
	t.Helper()
	std, err := hujson.Standardize(text)
	if err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	var m tailcfg.DERPMap
	if err := json.Unmarshal(std, &m); err != nil {
		t.Fatal(err)
	}
	return &m
}

// normal leaves out what may differ: ports written out or not, and names, which come out unique.
func normal(m *tailcfg.DERPMap, names bool) *tailcfg.DERPMap {
	m = m.Clone()
	for _, r := range m.Regions {
		if r == nil {
			continue
		}
		for _, n := range r.Nodes {
			if n.DERPPort == 443 {
				n.DERPPort = 0
			}
			if n.STUNPort == 3478 {
				n.STUNPort = 0
			}
			if !names {
				n.Name = ""
			}
		}
	}
	return m
}

func TestTailcfg(t *testing.T) {
	file := filepath.Join(t.TempDir(), "map.json")
	if err := os.WriteFile(file, []byte(full), 0o600); err != nil {
		t.Fatal(err)
	}
	want := normal(read(t, []byte(full)), true)
	for _, to := range []string{"tailscale", "json"} {
		if got := normal(read(t, export(t, to, file)), true); !reflect.DeepEqual(got, want) {
			t.Errorf("--to %s: Tailscale reads\n%s\nwant\n%s", to, js(got), js(want))
		}
	}
}

// TestSeeds: the tutorial's own policies, whose two regions use one name for their nodes.
func TestSeeds(t *testing.T) {
	files, err := filepath.Glob("../../seed/acl-*.hujson")
	if err != nil || len(files) != 2 {
		t.Fatalf("%v %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		std, err := hujson.Standardize(text)
		if err != nil {
			t.Fatal(err)
		}
		var policy struct {
			DERPMap *tailcfg.DERPMap `json:"derpMap"`
		}
		if err := json.Unmarshal(std, &policy); err != nil {
			t.Fatal(err)
		}
		want := normal(policy.DERPMap, false)
		got := read(t, export(t, "tailscale", file))
		if g := normal(got, false); !reflect.DeepEqual(g, want) {
			t.Errorf("%s: Tailscale reads\n%s\nwant\n%s", file, js(g), js(want))
		}
		seen := map[string]bool{}
		for _, r := range got.Regions {
			for _, n := range r.Nodes {
				if seen[n.Name] {
					t.Errorf("%s: the name %q comes twice", file, n.Name)
				}
				seen[n.Name] = true
			}
		}
	}
}

// TestHeadscaleKeys: Headscale reads lower-case keys and unquoted region numbers only.
func TestHeadscaleKeys(t *testing.T) {
	out := string(export(t, "headscale", "../../seed/headscale-derp.yaml"))
	for _, want := range []string{"regions:\n", "\n  900:\n", "regionid: 900", "hostname: 域名", "derpport: 443"} {
		if !strings.Contains(strings.ReplaceAll(out, `"`, ""), want) {
			t.Errorf("%q is missing in:\n%s", want, out)
		}
	}
	if strings.Contains(out, "RegionID") || strings.Contains(out, `"900"`) {
		t.Errorf("keys that Headscale ignores:\n%s", out)
	}
}

// TestDiff: what a reload with the second map would do, in any spelling.
func TestDiff(t *testing.T) {
	dir := t.TempDir()
	old, fresh := filepath.Join(dir, "old.json"), filepath.Join(dir, "new.json")
	harness.WriteFile(t, old, []byte(full))
	text := full
	for _, change := range [][2]string{
		{`"192.0.2.1"`, `"192.0.2.7"`}, {`"Name": "hkg-1"`, `"Name": "hkg-2"`}, {`"STUNPort": 3479`, `"STUNPort": -1`},
		{"香港", "Hong Kong"}, {`"omitDefaultRegions": true`, `"omitDefaultRegions": false`},
	} {
		if text = strings.Replace(text, change[0], change[1], 1); !strings.Contains(text, change[1]) {
			t.Fatalf("%q is not in the map", change[0])
		}
	}
	harness.WriteFile(t, fresh, []byte(text))
	diff := func(a, b string) string {
		out, err := exec.Command(harness.Program(t, "DERPMESH_BIN"), "map", "diff", a, b).Output()
		if err != nil {
			t.Fatalf("map diff %s %s: %v", a, b, err)
		}
		return string(out)
	}
	const want = `+ node hkg-2: region 901, hkg-1.example.net, DERP 443, STUN 3478
- node hkg-1: region 901, hkg-1.example.net, DERP 443, STUN 3478
~ node fra-1: IPv4 192.0.2.1 -> 192.0.2.7; STUNPort 3479 -> off
~ region 901: RegionName 香港 -> Hong Kong
~ map: OmitDefaultRegions yes -> no
mesh links: new to hkg-2; closed to hkg-1; dialled anew to fra-1, before the old ones go; the others stand
Clients have their map from the control server: give it the new one too.
`
	if got := diff(old, fresh); got != want {
		t.Errorf("map diff says\n%swant\n%s", got, want)
	}
	yaml := filepath.Join(dir, "derp.yaml")
	harness.WriteFile(t, yaml, export(t, "headscale", "../../seed/headscale-derp.yaml"))
	if got := diff(yaml, "../../seed/headscale-derp.yaml"); got != "the two maps say the same\n" {
		t.Errorf("a map and its export: %s", got)
	}
	if out, err := exec.Command(harness.Program(t, "DERPMESH_BIN"), "map", "diff", old, dir+"/none").CombinedOutput(); err == nil {
		t.Errorf("a file that is not there: %s", out)
	}
}

func js(m *tailcfg.DERPMap) string {
	b, _ := json.MarshalIndent(m, "", " ")
	return string(b)
}

func TestMain(m *testing.M) { harness.Main(m) }
