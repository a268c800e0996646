package harness

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tailscale.com/types/key"
)

// Start runs the node; it does not wait.
func (n *Node) Start(t testing.TB) {
	t.Helper()
	env := append([]string{"SSL_CERT_FILE=" + n.c.caFile, "HOME=" + n.Dir}, n.Env...)
	if n.Kind == Renamed {
		env = append(env, "DERPMESH_ADMIN=off")
	}
	line := append(append(slices.Clone(n.Wrap), n.Kind.program(t)), n.args()...)
	if n.c.Net != nil {
		line = n.c.Net.Enter(n.Name, line[0], line[1:]...)
	}
	n.proc = startProc(t, n.Name, n.Log, env, line[0], line[1:]...)
}

// dial connects to the node's DERP port, from its own namespace unless from names another.
func (n *Node) dial(ctx context.Context, from string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, Scaled(10*time.Second)) // a cut way would hold it for two minutes
	defer cancel()
	where := net.JoinHostPort(n.Addr, fmt.Sprint(n.DERPPort))
	if n.c.Net == nil {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", where)
	}
	if from == "" {
		from = n.Name
	}
	return n.c.Net.Dial(ctx, from, "tcp", where)
}

func (n *Node) dialFor(limit time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return n.dial(ctx, "")
}

func (n *Node) args() []string {
	where := net.JoinHostPort(n.Addr, fmt.Sprint(n.DERPPort))
	if n.Kind != Derpmesh {
		args := []string{"-a", where, "-http-port", "-1", "-stun-port", fmt.Sprint(n.STUNPort),
			"-c", filepath.Join(n.Dir, "derper.key"), "-mesh-psk-file", n.c.DerperKeyFile}
		if n.c.Cert != CertNone {
			args = append(args, "-certmode", "manual", "-certdir", n.CertDir, "-hostname", n.HostName)
		}
		var peers []string
		for _, p := range n.c.Nodes {
			if p != n && (n.c.Kinds == nil || p.RegionID == n.RegionID) {
				peers = append(peers, fmt.Sprintf("%s:%d/%s", p.HostName, p.DERPPort, p.Addr))
			}
		}
		if len(peers) > 0 {
			args = append(args, "-mesh-with", strings.Join(peers, ","))
		}
		return append(args, n.c.Args...)
	}
	// The default key file is this one too, but where the machine has a derper's key it would be that.
	args := []string{"serve", "--map", n.c.MapFile, "--node", n.Name, "--state", n.Dir, "--key-file", filepath.Join(n.Dir, "node.key"),
		"--mesh-key-file", n.c.KeyFile, "--admin", n.Admin, "--metrics", "off", "--listen-http", "off"}
	switch n.c.Cert {
	case CertNone:
		args = append(args, "--tls", "off")
	case CertCA, CertPin:
		args = append(args, "--cert-dir", n.CertDir)
	}
	if n.c.Kinds != nil {
		args = append(args, "--derper-mesh-key-file", n.c.DerperKeyFile)
		if key := filepath.Join(n.Dir, "derper.key"); exists(key) {
			args = append(args, "--key-file", key)
		}
	}
	if derpers := n.c.derpers(); len(derpers) > 0 && n.c.Kinds != nil {
		args = append(args, "--derper-peers", strings.Join(derpers, ","))
	}
	args = append(append(args, n.c.Args...), n.Args...)
	if !slices.Contains(args, "--drain-timeout") {
		args = append(args, "--drain-timeout", "0s") // a test ends at once
	}
	return args
}

// Running says whether the program is there.
func (n *Node) Running() bool { return n.proc != nil && !n.proc.ended() }

// PID of the running program.
func (n *Node) PID() int { return n.proc.cmd.Process.Pid }

// Hup makes the node read its files again.
func (n *Node) Hup(t testing.TB) { t.Helper(); n.proc.signal(t, syscall.SIGHUP) }

// Kill ends the node as kill -9 does.
func (n *Node) Kill(t testing.TB) { t.Helper(); n.proc.kill(t) }

// Stop ends the node in order.
func (n *Node) Stop(t testing.TB) { t.Helper(); n.proc.stop(t) }

// Replace ends the node and starts one of another kind in its place: same name, addresses, certificate and node key.
func (n *Node) Replace(t testing.TB, k Kind) {
	t.Helper()
	n.Stop(t)
	n.Kind = k
	n.Start(t)
	n.WaitReady(t)
}

// WaitReady waits until the node takes connections and, derpmesh, answers `status`.
func (n *Node) WaitReady(t testing.TB) {
	t.Helper()
	Eventually(t, 20*time.Second, n.Name+" ready", func() error {
		if n.proc.ended() {
			t.Fatalf("%s ended while starting: %v", n.Name, n.proc.err)
		}
		conn, err := n.dialFor(time.Second)
		if err != nil {
			return err
		}
		conn.Close()
		if n.Kind != Derpmesh {
			return nil
		}
		_, err = n.Status()
		return err
	})
}

// AdmissionSource is what a node says of the service that it asks who may use it.
type AdmissionSource struct {
	URL   string `json:"url"`
	Path  string `json:"path"`
	Out   bool   `json:"out"`
	Error string `json:"error"`
}

// Status is the part of `derpmesh status --json` that tests look at.
type Status struct {
	Version   string `json:"version"`
	Node      string `json:"node"`
	PublicKey string `json:"public_key"`
	Gate      string `json:"gate"` // open, full or draining
	Clients   struct {
		Connections int `json:"connections"`
		Keys        int `json:"keys"`
		Home        int `json:"home"`
	} `json:"clients"`
	Mesh struct {
		Enabled    bool `json:"enabled"`
		RemoteKeys int  `json:"remote_keys"`
		Peers      []struct {
			Name       string  `json:"name"`
			State      string  `json:"state"`
			DialedByUs bool    `json:"dialed_by_us"`
			RTT        float64 `json:"rtt_ms"`
			Keys       int     `json:"keys"`
			Synced     bool    `json:"synced"`
			// The nodes that data for it goes over, itself the last; none: it cannot be reached.
			Path   []string `json:"path"`
			Derper bool     `json:"derper"`
			Error  string   `json:"error"`
		} `json:"peers"`
	} `json:"mesh"`
	OpenToAnyone bool `json:"open_to_anyone"`
	Admission    struct {
		Allow *struct {
			File  string `json:"file"`
			Keys  int    `json:"keys"`
			Error string `json:"error"`
		} `json:"allow"`
		URL       *AdmissionSource `json:"verify_url"`
		Socket    *AdmissionSource `json:"verify_socket"`
		Mode      string           `json:"mode"`
		Asked     int              `json:"asked"`
		Admitted  int              `json:"admitted"`
		Refused   int              `json:"refused"`
		Closed    int              `json:"closed"`
		Questions int              `json:"questions"`
		Outages   int              `json:"outages"`
	} `json:"admission"`
	Traffic  map[string]int64  `json:"traffic"`
	Problems []json.RawMessage `json:"problems"`
}

// Status asks the node (derpmesh only) over its admin socket.
func (n *Node) Status() (*Status, error) {
	cmd := exec.Command(os.Getenv("DERPMESH_BIN"), "status", "--admin", n.Admin, "--json")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return nil, fmt.Errorf("status of %s: %w", n.Name, err)
	}
	s := new(Status)
	if err := json.Unmarshal(out, s); err != nil {
		return nil, fmt.Errorf("status of %s: %w in %s", n.Name, err, out)
	}
	return s, nil
}

// ServedCert is the certificate that the node shows to a new connection.
func (n *Node) ServedCert(t testing.TB) *x509.Certificate {
	t.Helper()
	r := n.TLS(t)
	defer r.Close()
	return r.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
}

// Peer is what the node says of its link to the other: "up" and so on, "" if it knows no such node.
func (n *Node) Peer(other *Node) (string, error) {
	s, err := n.Status()
	if err != nil {
		return "", err
	}
	for _, p := range s.Mesh.Peers {
		if p.Name == other.Name {
			return p.State, nil
		}
	}
	return "", nil
}

// Place is one location of a client's key, as `where` says it.
type Place struct {
	Node    string `json:"node"`
	Local   bool   `json:"local"`
	Home    bool   `json:"home"`
	Gleaned bool   `json:"gleaned"`
}

// Where asks the node where the client is, best place first.
func (n *Node) Where(k key.NodePublic) ([]Place, error) {
	out, err := exec.Command(os.Getenv("DERPMESH_BIN"), "where", k.String(), "--admin", n.Admin, "--json").Output()
	var exit *exec.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 1) {
		return nil, fmt.Errorf("where at %s: %w", n.Name, err)
	}
	var w struct {
		Locations []Place `json:"locations"`
	}
	if err := json.Unmarshal(out, &w); err != nil {
		return nil, fmt.Errorf("where at %s: %w in %s", n.Name, err, out)
	}
	return w.Locations, nil
}

// Direct is nil if packets for each other node go there directly.
func (n *Node) Direct() error {
	s, err := n.Status()
	if err != nil {
		return err
	}
	for _, p := range s.Mesh.Peers {
		if len(p.Path) > 1 {
			return fmt.Errorf("from %s to %s over %s", n.Name, p.Name, p.Path[0])
		}
	}
	return nil
}

// Signal sends one to the node's process.
func (n *Node) Signal(t testing.TB, sig syscall.Signal) { t.Helper(); n.proc.signal(t, sig) }

// LogSize marks a place in the node's log for LogSince.
func (n *Node) LogSize(t testing.TB) int64 {
	t.Helper()
	fi, err := os.Stat(n.Log)
	must(t, err)
	return fi.Size()
}

// Complaints are the lines of level warn or error that the node logged since then.
func (n *Node) Complaints(t testing.TB, since int64) (lines []string) {
	t.Helper()
	b, err := os.ReadFile(n.Log)
	must(t, err)
	for line := range strings.Lines(string(b[since:])) {
		if !strings.HasSuffix(line, "\n") {
			continue // still being written
		}
		// The level comes first, or after the time.
		for _, word := range strings.Fields(line)[:min(3, len(strings.Fields(line)))] {
			if word == "warn" || word == "error" {
				lines = append(lines, strings.TrimSpace(line))
				break
			}
		}
	}
	return lines
}
