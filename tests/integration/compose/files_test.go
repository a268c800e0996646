// Package compose runs deploy/docker on the real engine: three "VPSes", each a compose project with networks of its own, and
// clients of Tailscale's own code against them.
//
// DERPMESH_IMAGE and TAILNET_IMAGE name images that are built before (scripts/test.sh, stage docker).  The addresses of the
// network between the VPSes are fixed (198.18.91.0/24), so two runs cannot stand beside each other.
package compose

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"

	"derpmesh/tests/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// deploy is the folder of the image and the compose files.
func deploy(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs("../../../deploy/docker")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// load reads a file as docker compose v2 does: this is its own loader.
func load(t testing.TB, file string, env ...string) (*types.Project, error) {
	t.Helper()
	o, err := cli.NewProjectOptions([]string{filepath.Join(deploy(t), file)}, cli.WithEnv(env), cli.WithName("test"))
	if err != nil {
		t.Fatal(err)
	}
	return o.LoadProject(context.Background())
}

var chosen = []string{"DERPMESH_NODE=fra-1", "DERPMESH_ADMISSION=open", "DERPMESH_DOMAIN=relay.test"}

// Compose v2 takes all three files; that 1.29 does is for those tests to say that run them.
func TestFiles(t *testing.T) {
	for _, file := range []string{"compose.yaml", "compose.behind-nginx.yaml", "compose.demo.yaml"} {
		p, err := load(t, file, chosen...)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		text, err := os.ReadFile(filepath.Join(deploy(t), file))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains("\n"+string(text), "\nname:") {
			t.Errorf("%s: compose 1.29 refuses a name at the top", file)
		}
		for name, s := range p.Services {
			hardened(t, file+": "+name, s)
		}
	}
}

// hardened is what every service that listens has.
func hardened(t *testing.T, where string, s types.ServiceConfig) {
	t.Helper()
	if len(s.Networks) == 0 || s.NetworkMode == "none" {
		return
	}
	if !slices.Contains(s.CapDrop, "ALL") || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
		t.Errorf("%s keeps privileges: drops %v, %v", where, s.CapDrop, s.SecurityOpt)
	}
	if s.Image != "derpmesh" {
		return
	}
	if !s.ReadOnly || !slices.Equal(s.CapAdd, []string{"NET_BIND_SERVICE"}) {
		t.Errorf("%s: its root can be written, or it has more capabilities than one: %v", where, s.CapAdd)
	}
	if strings.Contains(where, "demo") {
		return
	}
	if s.MemLimit == 0 || s.PidsLimit == 0 || s.Logging == nil || s.Logging.Options["max-size"] == "" || s.Restart != "unless-stopped" {
		t.Errorf("%s: no limit of memory, processes or logs, or no restart", where)
	}
}

// Nobody runs an open relay by accident, nor a node without a name.
func TestChoice(t *testing.T) {
	for _, file := range []string{"compose.yaml", "compose.behind-nginx.yaml"} {
		for _, missing := range []string{"DERPMESH_NODE", "DERPMESH_ADMISSION"} {
			env := slices.DeleteFunc(slices.Clone(chosen), func(s string) bool { return strings.HasPrefix(s, missing) })
			for _, e := range [][]string{env, append(slices.Clone(env), missing+"=")} {
				_, err := load(t, file, e...)
				if err == nil || !strings.Contains(err.Error(), "required variable "+missing+" is missing a value") {
					t.Errorf("%s without %s: %v", file, missing, err)
				}
			}
		}
	}
}

// The same file on every VPS: what a node is told comes from these variables alone.
func TestSettings(t *testing.T) {
	p, err := load(t, "compose.yaml", "DERPMESH_NODE=hkg-1", "DERPMESH_ADMISSION=/var/run/tailscale/tailscaled.sock",
		"DERPMESH_TAILSCALE_DIR=/var/run/tailscale", "DERPMESH_MESH_KEY_FILE=", "DERPMESH_BIND=[::]", "DERPMESH_MEMORY=512m")
	if err != nil {
		t.Fatal(err)
	}
	s := p.Services["derpmesh"]
	want := map[string]string{"DERPMESH_NODE": "hkg-1", "DERPMESH_ADMISSION": "/var/run/tailscale/tailscaled.sock", "DERPMESH_MESH_KEY_FILE": ""}
	for k, v := range want {
		if s.Environment[k] == nil || *s.Environment[k] != v {
			t.Errorf("%s: %v", k, s.Environment[k])
		}
	}
	if !slices.ContainsFunc(s.Volumes, func(v types.ServiceVolumeConfig) bool {
		return v.Type == "bind" && v.Source == "/var/run/tailscale" && v.Target == "/var/run/tailscale" && v.ReadOnly
	}) {
		t.Errorf("tailscaled's directory is not mounted: %v", s.Volumes)
	}
	if s.MemLimit != 512<<20 || len(s.Ports) != 3 || s.Ports[0].HostIP != "::" {
		t.Errorf("memory %d, ports %v", s.MemLimit, s.Ports)
	}
}
