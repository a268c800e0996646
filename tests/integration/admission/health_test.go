package admission

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tailscale.com/types/key"

	"derpmesh/tests/integration/harness"
)

// health asks as an image's health check does: the exit code, and all that is said.
func health(t *testing.T, admin, ca string) (code int, said string) {
	t.Helper()
	cmd := exec.Command(os.Getenv("DERPMESH_BIN"), "health", "--admin", admin, "--timeout", "20")
	cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+ca)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

func mustHealth(t *testing.T, admin, ca string, want int, says string) {
	t.Helper()
	if code, said := health(t, admin, ca); code != want || !strings.Contains(said, says) {
		t.Errorf("exit code %d, not %d with %q: %s", code, want, says, said)
	}
}

// TestHealth: the check uses the node as clients do, though it is nobody that the node knows; with a certificate that clients
// would refuse the answer is no.
func TestHealth(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, ca := filepath.Join(dir, "allow.txt"), filepath.Join(dir, "ca.pem")
	harness.WriteFile(t, file, lines(key.NewNode().Public()))
	c := harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: []int{1}, Args: []string{"--allow", file}})
	n := c.Nodes[0]
	harness.WriteFile(t, ca, c.CA.PEM)
	mustHealth(t, n.Admin, ca, 0, "well: ")
	s := status(t, n)
	if s.Admission.Admitted != 2 || s.Admission.Refused != 0 {
		t.Errorf("admitted %d, refused %d: there were two clients", s.Admission.Admitted, s.Admission.Refused)
	}
	if _, err := n.TryConnect(t, harness.Opts{}); err == nil {
		t.Error("a stranger is let in")
	}
	harness.Eventually(t, 10*time.Second, "the check's clients have left", func() error {
		if got := status(t, n).Clients.Connections; got != 0 {
			return errors.New("still there")
		}
		return nil
	})

	mustHealth(t, n.Admin, harness.Program(t, "DERPMESH_BIN"), 1, "not well: ") // no authority is known: clients trust nothing
	if out, err := exec.Command(os.Getenv("DERPMESH_BIN"), "drain", "--admin", n.Admin).CombinedOutput(); err != nil {
		t.Fatalf("drain: %v: %s", err, out)
	}
	mustHealth(t, n.Admin, ca, 0, "draining")
	if out, err := exec.Command(os.Getenv("DERPMESH_BIN"), "undrain", "--admin", n.Admin).CombinedOutput(); err != nil {
		t.Fatalf("undrain: %v: %s", err, out)
	}
	n.Signal(t, syscall.SIGSTOP)
	mustHealth(t, n.Admin, ca, 3, "does not answer")
	n.Signal(t, syscall.SIGCONT)
	mustHealth(t, n.Admin, ca, 0, "well: ")
	n.Kill(t)
	mustHealth(t, n.Admin, ca, 3, "no node answers")
}

// TestHealthPlain: behind a proxy, where the node speaks plain HTTP.
func TestHealthPlain(t *testing.T) {
	t.Parallel()
	c := harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: []int{1}, Cert: harness.CertNone})
	mustHealth(t, c.Nodes[0].Admin, "", 0, "well: ")
}
