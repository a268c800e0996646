package compose

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"derpmesh/tests/integration/harness"
)

const (
	internet = "derpmesh-vps" // the network that joins the VPSes; no way out of it
	block    = "198.18.91."
)

// docker runs it and gives back what it prints.
func docker(args ...string) (string, error) {
	var out, errs bytes.Buffer
	cmd := exec.Command("docker", args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("docker %s: %v: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return strings.TrimSpace(out.String()), err
}

func mustDocker(t testing.TB, args ...string) string {
	t.Helper()
	out, err := docker(args...)
	must(t, err)
	return out
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// makeInternet makes the network; what an earlier run may have left goes first.
func makeInternet(t testing.TB) {
	t.Helper()
	docker("network", "rm", internet)
	mustDocker(t, "network", "create", "--internal", "--subnet", block+"0/25", internet)
	t.Cleanup(func() { docker("network", "rm", internet) })
}

// host is a VPS: a compose project with conf/ and .env of its own, in a directory of its own.
type host struct {
	name, file string // of the node; of the compose file
	dir        string
	number     int
	services   string // more of the override file, indented as below "services:"
	args       []string
}

func (h *host) addr() string    { return fmt.Sprintf("%s%d", block, 10+h.number) }
func (h *host) conf() string    { return filepath.Join(h.dir, "conf") }
func (h *host) project() string { return "derpmesh-vps-" + h.name }

// give puts a file into conf/, by rename, as the container's user may read it.
func (h *host) give(t testing.TB, name string, content []byte) {
	t.Helper()
	path := filepath.Join(h.conf(), name)
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	harness.WriteFile(t, path, content)
	must(t, os.Chown(path, 0, 65532))
	must(t, os.Chmod(path, 0o640))
}

// compose runs docker compose (v2 where it is, else 1.29) on the VPS.
func (h *host) compose(args ...string) (string, error) {
	name, all := "docker-compose", []string(nil)
	if exec.Command("docker", "compose", "version").Run() == nil {
		name, all = "docker", []string{"compose"}
	}
	all = append(all, "-p", h.project(), "--env-file", filepath.Join(h.dir, ".env"), "-f", h.file,
		"-f", filepath.Join(h.dir, "override.yaml"))
	cmd := exec.Command(name, append(all, args...)...)
	cmd.Env = append(os.Environ(), "DERPMESH_NODE=", "DERPMESH_ADMISSION=") // what .env says must count
	cmd.Env = slices.DeleteFunc(cmd.Env, func(s string) bool {
		return strings.HasPrefix(s, "DERPMESH_") && !strings.HasPrefix(s, "DERPMESH_IMAGE=")
	})
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("compose %s on %s: %v: %s", strings.Join(args, " "), h.name, err, out)
	}
	return string(out), err
}

func (h *host) must(t testing.TB, args ...string) string {
	t.Helper()
	out, err := h.compose(args...)
	must(t, err)
	return out
}

// prepare writes .env and the override that joins the VPS to the others; both are gone with the test, and so is all that ran.
func (h *host) prepare(t testing.TB, env ...string) {
	t.Helper()
	image := os.Getenv("DERPMESH_IMAGE")
	if image == "" {
		t.Fatal("DERPMESH_IMAGE is not set: it must name the built image")
	}
	must(t, os.MkdirAll(h.conf(), 0o755))
	must(t, os.Chown(h.conf(), 0, 65532))
	must(t, os.Chmod(h.conf(), 0o750))
	env = append(env, "DERPMESH_NODE="+h.name, "DERPMESH_CONF="+h.conf(), fmt.Sprintf("DERPMESH_BIND=127.91.0.%d", h.number))
	must(t, os.WriteFile(filepath.Join(h.dir, ".env"), []byte(strings.Join(env, "\n")+"\n"), 0o600))
	override := fmt.Sprintf(`services:
  derpmesh:
    environment:
      SSL_CERT_FILE: /etc/derpmesh/ca.pem
    healthcheck:
      interval: 1s
      timeout: 15s
      retries: 2
      start_period: 0s
%s
networks:
  internet:
    external: true
    name: %s
`, h.services, internet)
	must(t, os.WriteFile(filepath.Join(h.dir, "override.yaml"), []byte(override), 0o600))
	down := func() { h.compose("down", "-v", "-t", "1", "--remove-orphans") }
	down()
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := h.compose("logs", "--no-color", "--tail=60")
			t.Logf("--- %s\n%s", h.name, out)
		}
		down()
	})
}

func (h *host) up(t testing.TB, args ...string) {
	t.Helper()
	h.must(t, append([]string{"up", "-d", "--no-build"}, args...)...)
}

// id is the container of the node.
func (h *host) id(t testing.TB) string {
	t.Helper()
	id := strings.TrimSpace(h.must(t, "ps", "-q", "derpmesh"))
	if id == "" {
		t.Fatalf("%s has no container", h.name)
	}
	return id
}

// waitHealth waits until the engine calls the container healthy, or unhealthy; the last answer of the check.
func (h *host) waitHealth(t testing.TB, want string) string {
	t.Helper()
	var last string
	harness.Eventually(t, 60*time.Second, h.name+" is "+want, func() error {
		out, err := docker("inspect", "-f", "{{.State.Health.Status}}{{range .State.Health.Log}}\n{{.Output}}{{end}}", h.id(t))
		if err != nil {
			return err
		}
		status, said, _ := strings.Cut(out, "\n")
		last = said
		if status != want {
			return errors.New(out)
		}
		return nil
	})
	return last
}

type status struct {
	PublicKey   string `json:"public_key"`
	Certificate struct{ Pin string }
	Clients     struct{ Connections int }
	Mesh        struct {
		Peers []struct {
			Name, State string
			Synced      bool
		}
	}
	Problems []string
}

func (h *host) status(t testing.TB) (*status, error) {
	out, err := docker("exec", h.id(t), "derpmesh", "status", "--json")
	s := new(status)
	if err == nil {
		err = json.Unmarshal([]byte(out), s)
	}
	return s, err
}

func (h *host) mustStatus(t testing.TB) *status {
	t.Helper()
	s, err := h.status(t)
	must(t, err)
	return s
}

// waitLinks waits until the node has a link to that many others.
func (h *host) waitLinks(t testing.TB, n int) {
	t.Helper()
	harness.Eventually(t, 60*time.Second, fmt.Sprintf("%s: %d links", h.name, n), func() error {
		s, err := h.status(t)
		if err != nil {
			return err
		}
		up := 0
		for _, p := range s.Mesh.Peers {
			if p.State == "up" && p.Synced {
				up++
			}
		}
		if up != n {
			return fmt.Errorf("%+v", s.Mesh.Peers)
		}
		return nil
	})
}
