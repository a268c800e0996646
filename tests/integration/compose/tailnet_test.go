package compose

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"derpmesh/tests/integration/harness"
)

// machine is a container with a real Tailscale client, as in compose.demo.yaml.
type machine string

func (m machine) tailscale(args ...string) (string, error) {
	return docker(append([]string{"exec", string(m), "tailscale"}, args...)...)
}

// self is its own part of `tailscale status`.
func (m machine) self() (s struct {
	BackendState string
	Self         struct{ PublicKey, Relay string }
}, err error) {
	out, err := m.tailscale("status", "--json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &s)
	}
	return s, err
}

// start runs one of demo/'s scripts in a container of the tailnet's image, at an address of the VPSes' network.
func start(t *testing.T, dir, name, addr string, command ...string) machine {
	t.Helper()
	image := os.Getenv("TAILNET_IMAGE")
	if image == "" {
		t.Fatal("TAILNET_IMAGE is not set: it must name the built image (deploy/docker/demo/tailnet.sh)")
	}
	id := "derpmesh-vps-" + name
	docker("rm", "-f", id)
	args := []string{"run", "-d", "--name", id, "--network", internet, "--ip", addr, "-v", dir + ":/demo:ro", "-v", dir + ":/shared",
		"-v", "/var/lib/headscale", "-e", "TS_DEBUG_ALWAYS_USE_DERP=1", "-e", "SSL_CERT_FILE=/demo/ca.pem", "--entrypoint", "sh", image}
	mustDocker(t, append(args, command...)...)
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := exec.Command("docker", "logs", "--tail", "60", id).CombinedOutput()
			t.Logf("--- %s\n%s", name, out)
		}
		docker("rm", "-f", "-v", id)
	})
	return machine(id)
}

// demoFiles is a copy of demo/ for the network and the map of the test.
func demoFiles(t *testing.T, w *world) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	for _, name := range []string{"headscale.sh", "headscale.yaml", "client.sh"} {
		text, err := os.ReadFile(filepath.Join(deploy(t), "demo", name))
		must(t, err)
		text = []byte(strings.ReplaceAll(string(text), "198.18.90.", block))
		must(t, os.WriteFile(filepath.Join(dir, name), text, 0o644))
	}
	out, err := exec.Command(harness.Program(t, "DERPMESH_BIN"), "map", "export", "--to", "headscale",
		filepath.Join(w.a.conf(), "derpmap.json")).Output()
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "derp.yaml"), out, 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "ca.pem"), w.ca.PEM, 0o644))
	return dir
}

var pong = regexp.MustCompile(`via DERP\((\w+)\)`)

// ping sends Tailscale's own pings to another machine until one comes back over that relay: the other's home.
func (m machine) ping(t *testing.T, to, relay string, limit time.Duration) {
	t.Helper()
	harness.Eventually(t, limit, string(m)+" pings "+to+" over "+relay, func() error {
		out, err := m.tailscale("ping", "--until-direct=false", "-c", "1", "--timeout", "3s", to)
		if err != nil {
			return err
		}
		if found := pong.FindStringSubmatch(out); found == nil || found[1] != relay {
			return errors.New(out)
		}
		return nil
	})
}

// A real Headscale has the map as we export it; two real clients with homes on different VPSes talk over them, also after the relay
// of one was made anew.
func testTailnet(t *testing.T, w *world) {
	dir := demoFiles(t, w)
	start(t, dir, "headscale", block+"5", "/demo/headscale.sh")
	machines := []machine{start(t, dir, "alice", block+"21", "/demo/client.sh", "alice"), start(t, dir, "bob", block+"22", "/demo/client.sh", "bob")}
	var keys []string
	for _, m := range machines {
		harness.Eventually(t, 90*time.Second, string(m)+" is in the tailnet", func() error {
			s, err := m.self()
			if err == nil && s.BackendState != "Running" {
				err = errors.New(s.BackendState)
			}
			return err
		})
		s, err := m.self()
		must(t, err)
		keys = append(keys, s.Self.PublicKey)
	}
	w.allow(t, keys...)
	for i, region := range []string{"900", "901"} {
		want := []string{"fra", "hkg"}[i]
		harness.Eventually(t, 60*time.Second, string(machines[i])+" has its home in "+want, func() error {
			if out, err := machines[i].tailscale("debug", "force-prefer-derp", region); err != nil {
				return errors.New(out + err.Error())
			}
			s, err := machines[i].self()
			if err == nil && s.Self.Relay != want {
				machines[i].tailscale("netcheck") // no more than a nudge
				err = errors.New("home is " + s.Self.Relay)
			}
			return err
		})
	}
	machines[0].ping(t, "bob", "hkg", 60*time.Second)
	machines[1].ping(t, "alice", "fra", 60*time.Second)
	since := time.Now()
	w.a.up(t, "--force-recreate")
	up := time.Since(since)
	machines[1].ping(t, "alice", "fra", 90*time.Second)
	t.Logf("| %s: alice's relay is made anew in %v, and bob reaches alice over it %v after it was asked for", t.Name(),
		up.Round(100*time.Millisecond), time.Since(since).Round(100*time.Millisecond))
	w.a.waitHealth(t, "healthy")
	for _, h := range w.hosts {
		h.waitLinks(t, 2)
	}
	everyPair(t, w.clients)
}
