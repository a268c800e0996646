package harness

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Headscale is a real one (HEADSCALE_BIN) with one user; its clients get the derpMap of a file.
type Headscale struct {
	URL     string
	Dir     string
	MapFile string // derp.paths

	spot Spot
	conf string
	proc *Proc
}

// HeadscaleSpec is what tests want to have otherwise.
type HeadscaleSpec struct {
	Spot
	Map        []byte // derp.yaml
	Domain     string // base_domain: Headscale shuffles the nodes of regions by it
	Policy     string // "": everything may
	Derp       string // the part derp of its settings, instead of our own; its paths become MapFile
	AutoUpdate string // how often the map is read again; "": never
}

// StartHeadscale starts one and waits until it serves; it ends with the test.
func StartHeadscale(t testing.TB, spec HeadscaleSpec) *Headscale {
	t.Helper()
	dir, err := os.MkdirTemp("", "hs")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	listen := FreeAddr(t)
	if spec.Net != nil {
		listen = net.JoinHostPort(spec.Net.Addr(spec.Name), "8080")
	}
	h := &Headscale{
		URL:     "http://" + listen,
		Dir:     dir,
		MapFile: filepath.Join(dir, "derp.yaml"),
		spot:    spec.Spot,
		conf:    filepath.Join(dir, "config.yaml"),
	}
	update := "auto_update_enabled: false"
	if spec.AutoUpdate != "" {
		update = "auto_update_enabled: true\n  update_frequency: " + spec.AutoUpdate
	}
	derp := fmt.Sprintf("derp:\n  server:\n    enabled: false\n  urls: []\n  paths:\n    - %s\n  %s\n", h.MapFile, update)
	if spec.Derp != "" {
		derp = strings.ReplaceAll(spec.Derp, "/etc/headscale/derp.yaml", h.MapFile)
	}
	WriteFile(t, h.MapFile, spec.Map)
	policy := `path: ""`
	if spec.Policy != "" {
		policy = "path: " + filepath.Join(dir, "policy.json")
		WriteFile(t, filepath.Join(dir, "policy.json"), []byte(spec.Policy))
	}
	WriteFile(t, h.conf, []byte(fmt.Sprintf(`server_url: %[1]s
listen_addr: %[2]s
metrics_listen_addr: 127.0.0.1:0
grpc_listen_addr: 127.0.0.1:0
unix_socket: %[3]s/headscale.sock
noise:
  private_key_path: %[3]s/noise.key
database:
  type: sqlite
  sqlite:
    path: %[3]s/db.sqlite
prefixes:
  v4: 100.64.0.0/10
  v6: fd7a:115c:a1e0::/48
%[4]sdns:
  magic_dns: false
  override_local_dns: false
  base_domain: %[5]s
policy:
  mode: file
  %[6]s
disable_check_updates: true
logtail:
  enabled: false
log:
  level: debug
`, h.URL, listen, dir, derp, cmp.Or(spec.Domain, "tailnet.test"), policy)))
	h.start(t)
	t.Cleanup(func() {
		h.proc.kill(t)
		if t.Failed() {
			printLog(t, "headscale", h.log())
		}
	})
	h.cli(t, "users", "create", "somebody")
	return h
}

func (h *Headscale) log() string { return filepath.Join(h.Dir, "headscale.log") }

func (h *Headscale) start(t testing.TB) {
	t.Helper()
	program, args := h.spot.line(Program(t, "HEADSCALE_BIN"), "serve", "-c", h.conf)
	h.proc = startProc(t, "headscale", h.log(), []string{"HOME=" + h.Dir}, program, args...)
	Eventually(t, 30*time.Second, "headscale ready", func() error {
		if h.proc.ended() {
			printLog(t, "headscale", h.log())
			t.Fatalf("headscale ended while starting: %v", h.proc.err)
		}
		return h.try("health")
	})
}

// Stop ends it; Start brings it back with what it knew.
func (h *Headscale) Stop(t testing.TB)  { t.Helper(); h.proc.kill(t) }
func (h *Headscale) Start(t testing.TB) { t.Helper(); h.start(t) }

// try runs headscale's own command line and says whether it went well.
func (h *Headscale) try(args ...string) error {
	cmd := exec.Command(os.Getenv("HEADSCALE_BIN"), append([]string{"-c", h.conf, "-o", "json"}, args...)...)
	cmd.Env = append(cleanEnv(), "HOME="+h.Dir)
	return cmd.Run()
}

// cli runs headscale's own command line; what it prints as JSON.
func (h *Headscale) cli(t testing.TB, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(Program(t, "HEADSCALE_BIN"), append([]string{"-c", h.conf, "-o", "json"}, args...)...)
	cmd.Env = append(cleanEnv(), "HOME="+h.Dir)
	out, err := cmd.Output()
	if err != nil {
		stderr := ""
		if exit, ok := err.(*exec.ExitError); ok {
			stderr = string(exit.Stderr)
		}
		t.Fatalf("headscale %s: %v: %s%s", strings.Join(args, " "), err, out, stderr)
	}
	return out
}

// AuthKey lets one more machine in.
func (h *Headscale) AuthKey(t testing.TB) string {
	t.Helper()
	var k struct {
		Key string `json:"key"`
	}
	out := h.cli(t, "preauthkeys", "create", "--user", "1", "--reusable")
	must(t, json.Unmarshal(out, &k))
	if k.Key == "" {
		t.Fatalf("no key in %s", out)
	}
	return k.Key
}

// Remove takes a machine out of the tailnet by its node key.
func (h *Headscale) Remove(t testing.TB, nodeKey string) {
	t.Helper()
	var nodes []struct {
		ID      json.Number `json:"id"`
		NodeKey string      `json:"node_key"`
	}
	out := h.cli(t, "nodes", "list")
	must(t, json.Unmarshal(out, &nodes))
	for _, n := range nodes {
		if n.NodeKey == nodeKey {
			h.cli(t, "nodes", "delete", "--identifier", n.ID.String(), "--force")
			return
		}
	}
	t.Fatalf("headscale knows no %s: %s", nodeKey, out)
}
