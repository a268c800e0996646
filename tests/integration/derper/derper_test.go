// Package derper shows that the program under the name derper is what derper is: the same flags, the same answers to
// the same requests, the same names of metrics.  The real derper is asked beside it, and is right but where a list in
// the test says why not.
package derper

import (
	"bytes"
	"crypto/tls"
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

	"derpmesh/tests/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// program is a derper: the real one, or ours under its name.
func program(t testing.TB, k harness.Kind) string {
	t.Helper()
	if k == harness.Derper {
		return harness.Program(t, "DERPER_BIN")
	}
	link := filepath.Join(t.TempDir(), "derper")
	if err := os.Symlink(harness.Program(t, "DERPMESH_BIN"), link); err != nil {
		t.Fatal(err)
	}
	return link
}

// relay is a running derper.
type relay struct {
	dir              string
	addr, http, stun string // "" for what it does not serve
	tls              bool
	process          *os.Process
	log              bytes.Buffer
}

var next = 21000

func port(t testing.TB) string {
	t.Helper()
	for ; next < 29000; next++ {
		where := fmt.Sprintf("127.0.0.1:%d", next)
		l, err := net.Listen("tcp", where)
		if err != nil {
			continue
		}
		l.Close()
		u, err := net.ListenPacket("udp", where)
		if err != nil {
			continue
		}
		u.Close()
		next++
		return where
	}
	t.Fatal("no free port")
	return ""
}

func portOf(where string) string {
	_, p, _ := net.SplitHostPort(where)
	return p
}

// start runs a derper on loopback with these flags besides those for its places, until the test ends.
func start(t testing.TB, k harness.Kind, withTLS bool, flags ...string) *relay {
	t.Helper()
	r := &relay{dir: t.TempDir(), addr: port(t), stun: port(t), tls: withTLS}
	args := []string{"-a", r.addr, "-c", filepath.Join(r.dir, "k", "derper.key"), "-stun-port", portOf(r.stun)}
	if withTLS {
		r.http = port(t)
		args = append(args, "-certmode", "manual", "-hostname", "127.0.0.1", "-certdir", r.dir, "-http-port", portOf(r.http))
	} else {
		args = append(args, "-http-port", "-1")
	}
	cmd := exec.Command(program(t, k), append(args, flags...)...)
	cmd.Stdout, cmd.Stderr = &r.log, &r.log
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "DERPMESH_") }),
		"DERPMESH_ADMIN="+filepath.Join(r.dir, "admin.sock"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.process = cmd.Process
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-done:
			if err != nil && k == harness.Derpmesh {
				t.Errorf("ended badly: %v", err)
			}
		case <-time.After(harness.Scaled(30 * time.Second)):
			t.Error("still there after SIGTERM")
			cmd.Process.Kill()
			<-done
		}
		for _, bad := range []string{"Sanitizer", "runtime error:"} {
			if k == harness.Derpmesh && bytes.Contains(r.log.Bytes(), []byte(bad)) {
				t.Errorf("its log holds %q", bad)
			}
		}
		if t.Failed() {
			t.Logf("----- log of %s -----\n%s-----", k, r.log.String())
		}
	})
	harness.Eventually(t, 20*time.Second, string(k)+" ready", func() error {
		if len(done) > 0 {
			t.Fatalf("%s ended while starting", k)
		}
		for _, where := range []string{r.addr, r.http} {
			if where == "" {
				continue
			}
			c, err := net.DialTimeout("tcp", where, time.Second)
			if err != nil {
				return err
			}
			c.Close()
		}
		return nil
	})
	return r
}

func (r *relay) signal(t testing.TB, sig os.Signal) {
	t.Helper()
	if err := r.process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// dial opens a connection to one of its ports; TLS on the main one where it has it.
func (r *relay) dial(t testing.TB, where string) net.Conn {
	t.Helper()
	c, err := net.DialTimeout("tcp", where, harness.Scaled(5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if where == r.addr && r.tls {
		c = tls.Client(c, &tls.Config{InsecureSkipVerify: true})
	}
	c.SetDeadline(time.Now().Add(harness.Scaled(10 * time.Second)))
	return c
}
