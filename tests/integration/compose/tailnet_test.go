package compose

import (
	"context"
	"crypto/tls"
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

	"tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/net/netmon"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

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

// start runs one of demo/'s scripts in a container of the tailnet's image, at an address of the VPSes' network; the socket of its tailscaled
// lies in the directory run, if one is given.
func start(t *testing.T, dir, run, name, addr string, command ...string) machine {
	t.Helper()
	image := os.Getenv("TAILNET_IMAGE")
	if image == "" {
		t.Fatal("TAILNET_IMAGE is not set: it must name the built image (deploy/docker/demo/tailnet.sh)")
	}
	id := "derpmesh-vps-" + name
	docker("rm", "-f", id)
	args := []string{"run", "-d", "--name", id, "--network", internet, "--ip", addr, "-v", dir + ":/demo:ro", "-v", dir + ":/shared",
		"-v", "/var/lib/headscale", "-e", "TS_DEBUG_ALWAYS_USE_DERP=1", "-e", "SSL_CERT_FILE=/demo/ca.pem", "--entrypoint", "sh"}
	if run != "" {
		args = append(args, "-v", run+":/run/tailscale")
	}
	mustDocker(t, append(append(args, image), command...)...)
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
	start(t, dir, "", "headscale", block+"5", "/demo/headscale.sh")
	machines := []machine{start(t, dir, "", "alice", block+"21", "/demo/client.sh", "alice"), start(t, dir, "", "bob", block+"22", "/demo/client.sh", "bob")}
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
	testAdmission(t, w, dir, machines)
}

// testAdmission: one more VPS, which asks Headscale, and then the tailscaled that runs on it; that one's socket is a new one after
// each start, in a directory that is mounted.
func testAdmission(t *testing.T, w *world, dir string, machines []machine) {
	run := filepath.Join(dir, "run")
	must(t, os.Mkdir(run, 0o755))
	h := &host{name: "nrt-1", number: 4, file: filepath.Join(deploy(t), "compose.yaml"), dir: t.TempDir()}
	h.services = fmt.Sprintf(tiny, h.addr(), "")
	region := &tailcfg.DERPRegion{RegionID: 903, RegionCode: "nrt", Nodes: []*tailcfg.DERPNode{{Name: h.name, RegionID: 903,
		HostName: "relay-v.test", IPv4: h.addr(), IPv6: "none"}}}
	text, err := json.Marshal(&tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{903: region}})
	must(t, err)
	cert := w.ca.Issue(t, "relay-v.test", time.Now().AddDate(1, 0, 0))
	ask := func(who string) {
		t.Helper()
		h.prepare(t, "DERPMESH_ADMISSION="+who, "DERPMESH_TAILSCALE_DIR="+run, "DERPMESH_MESH_KEY_FILE=", "DERPMESH_CERT_DIR=/etc/derpmesh/certs")
		h.give(t, "derpmap.json", text)
		h.give(t, "ca.pem", w.ca.PEM)
		h.give(t, "derpmesh.yaml", []byte("listen: 0.0.0.0:443\nlisten_stun: 0.0.0.0:3478\ndrain_timeout: 1s\n"))
		h.give(t, "certs/relay-v.test.key", cert.KeyPEM)
		h.give(t, "certs/relay-v.test.crt", cert.CertPEM)
		h.up(t)
		h.waitHealth(t, "healthy")
	}
	// The machine on that VPS sees alice and bob.
	beside := start(t, dir, run, "beside", block+"23", "/demo/client.sh", "beside")
	up := func() error {
		s, err := beside.self()
		if err == nil && s.BackendState != "Running" {
			err = errors.New(s.BackendState)
		}
		return err
	}
	harness.Eventually(t, 60*time.Second, "a third machine", up)
	members := []key.NodePrivate{machines[0].nodeKey(t), machines[1].nodeKey(t)}
	ask("http://" + block + "5:8080/verify")
	admits(t, region, w, members[0], true)
	admits(t, region, w, w.keys[0], false)
	ask("/var/run/tailscale/tailscaled.sock")
	for i, k := range members { // not one key twice: a yes is believed for a minute
		admits(t, region, w, k, true)
		admits(t, region, w, w.keys[i], false)
		mustDocker(t, "restart", "-t", "1", string(beside))
		harness.Eventually(t, 60*time.Second, "tailscaled is back, with another socket", up)
	}
}

// nodeKey is its private node key, out of its state.
func (m machine) nodeKey(t *testing.T) key.NodePrivate {
	t.Helper()
	dir := t.TempDir()
	mustDocker(t, "cp", string(m)+":/var/lib/tailscale/tailscaled.state", dir)
	return (&harness.Tailscaled{Dir: dir}).NodeKey(t)
}

// admits waits until the region lets a key in, or refuses it.
func admits(t *testing.T, region *tailcfg.DERPRegion, w *world, k key.NodePrivate, want bool) {
	t.Helper()
	harness.Eventually(t, 30*time.Second, fmt.Sprintf("a login that is admitted: %v", want), func() error {
		c := derphttp.NewRegionClient(k, func(string, ...any) {}, netmon.NewStatic(), func() *tailcfg.DERPRegion { return region })
		c.TLSConfig = &tls.Config{RootCAs: w.ca.Pool}
		defer c.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := c.Connect(ctx); err != nil {
			return err
		}
		m, err := c.Recv()
		if _, in := m.(derp.ServerInfoMessage); in != want {
			return fmt.Errorf("%T, %v", m, err)
		}
		return nil
	})
}
