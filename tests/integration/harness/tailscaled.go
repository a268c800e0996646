package harness

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// Tailscaled is a real client (TAILSCALED_BIN, TAILSCALE_BIN), with a state of its own.
type Tailscaled struct {
	Dir, Socket string

	spot Spot
	env  []string
	proc *Proc
}

// StartTailscaled starts one in a namespace, with a TUN device there, or here without one.  It ends with the test.
func StartTailscaled(t testing.TB, spot Spot, env ...string) *Tailscaled {
	t.Helper()
	dir, err := os.MkdirTemp("", "ts")
	must(t, err)
	d := &Tailscaled{Dir: dir, Socket: filepath.Join(dir, "run", "tailscaled.sock"), spot: spot, env: env}
	must(t, os.Mkdir(filepath.Join(dir, "run"), 0o755))
	t.Cleanup(func() {
		d.proc.kill(t)
		if t.Failed() {
			printLog(t, "tailscaled", d.log())
		}
		os.RemoveAll(dir)
	})
	d.Start(t)
	return d
}

func (d *Tailscaled) log() string { return filepath.Join(d.Dir, "tailscaled.log") }

// Start runs it (again) and waits for its socket.
func (d *Tailscaled) Start(t testing.TB) {
	t.Helper()
	args := []string{"--statedir", d.Dir, "--socket", d.Socket, "--port", "0", "--no-logs-no-support"}
	if d.spot.Net == nil {
		args = append(args, "--tun", "userspace-networking")
	} else {
		args = append(args, "--tun", "ts0")
	}
	program, args := d.spot.line(Program(t, "TAILSCALED_BIN"), args...)
	env := append([]string{"HOME=" + d.Dir, "TS_LOGS_DIR=" + d.Dir, "TS_DEBUG_FIREWALL_MODE=nftables"}, d.env...)
	d.proc = startProc(t, "tailscaled", d.log(), env, program, args...)
	Eventually(t, 20*time.Second, "tailscaled's socket", func() error {
		_, err := d.CLI(t, "status", "--json")
		return err
	})
}

// Kill ends it at once; its socket stays.
func (d *Tailscaled) Kill(t testing.TB) { t.Helper(); d.proc.kill(t) }

// CLI runs tailscale against it.
func (d *Tailscaled) CLI(t testing.TB, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Scaled(60*time.Second))
	defer cancel()
	cmd := exec.CommandContext(ctx, Program(t, "TAILSCALE_BIN"), append([]string{"--socket", d.Socket}, args...)...)
	cmd.Env = append(cleanEnv(), "HOME="+d.Dir)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Up joins the tailnet and waits until it runs.
func (d *Tailscaled) Up(t testing.TB, h *Headscale, name string) {
	t.Helper()
	out, err := d.CLI(t, "up", "--login-server", h.URL, "--authkey", h.AuthKey(t), "--hostname", name,
		"--accept-dns=false", "--netfilter-mode=off", "--timeout", "50s")
	if err != nil {
		t.Fatalf("tailscale up: %v: %s", err, out)
	}
	d.WaitRunning(t)
}

// WaitRunning waits until it is in the tailnet.
func (d *Tailscaled) WaitRunning(t testing.TB) {
	t.Helper()
	Eventually(t, 40*time.Second, "tailscaled running", func() error {
		if st := d.Status(t); st.BackendState != "Running" {
			return fmt.Errorf("state %s", st.BackendState)
		}
		return nil
	})
}

// TailscaledStatus is the part of `tailscale status --json` that tests look at.
type TailscaledStatus struct {
	BackendState string
	Self         TailscaledPeer
	Peer         map[string]TailscaledPeer
}

// TailscaledPeer is a machine as a tailscaled sees it.
type TailscaledPeer struct {
	HostName     string
	PublicKey    key.NodePublic
	TailscaleIPs []string
	Relay        string // the code of its home region
	CurAddr      string // "" without a direct path
	CapMap       map[string]any
}

// Status is what it says of itself and its peers.
func (d *Tailscaled) Status(t testing.TB) *TailscaledStatus {
	t.Helper()
	st := new(TailscaledStatus)
	d.ask(t, st, "status", "--json")
	return st
}

// DERPMap is what the control server gave it.
func (d *Tailscaled) DERPMap(t testing.TB) *tailcfg.DERPMap {
	t.Helper()
	m := new(tailcfg.DERPMap)
	d.ask(t, m, "debug", "derp-map")
	return m
}

// Home makes a region its home for as long as the region answers, and waits until it is.
func (d *Tailscaled) Home(t testing.TB, region int) {
	t.Helper()
	if out, err := d.CLI(t, "debug", "force-prefer-derp", fmt.Sprint(region)); err != nil {
		t.Fatalf("force-prefer-derp: %v: %s", err, out)
	}
	want := d.DERPMap(t).Regions[region].RegionCode
	Eventually(t, 60*time.Second, "home in "+want, func() error {
		if got := d.Status(t).Self.Relay; got != want {
			d.CLI(t, "netcheck") // no more than a nudge
			return fmt.Errorf("home is %q", got)
		}
		return nil
	})
}

func (d *Tailscaled) ask(t testing.TB, answer any, args ...string) {
	t.Helper()
	out, err := d.CLI(t, args...)
	if err != nil {
		t.Fatalf("tailscale %v: %v: %s", args, err, out)
	}
	must(t, json.Unmarshal([]byte(out), answer))
}

// NodeKey is its private node key, out of its state.
func (d *Tailscaled) NodeKey(t testing.TB) key.NodePrivate {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(d.Dir, "tailscaled.state"))
	must(t, err)
	var state map[string]string
	must(t, json.Unmarshal(b, &state))
	for _, v := range state {
		raw, err := base64.StdEncoding.DecodeString(v)
		if err != nil {
			continue
		}
		var prefs struct {
			Config struct{ PrivateNodeKey key.NodePrivate }
		}
		if json.Unmarshal(raw, &prefs) == nil && !prefs.Config.PrivateNodeKey.IsZero() {
			return prefs.Config.PrivateNodeKey
		}
	}
	t.Fatal("no private node key in tailscaled's state")
	return key.NodePrivate{}
}
