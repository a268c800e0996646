package derper

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/net/netmon"
	"tailscale.com/net/stun"
	"tailscale.com/types/key"

	"derpmesh/tests/integration/harness"
)

// TestSupervisor: the tutorial's program section under a real supervisord, with only its paths and its ports moved;
// reached by Tailscale's client over plain HTTP and by STUN, restarted when it is killed, stopped in order.
func TestSupervisor(t *testing.T) {
	supervisord, err := exec.LookPath("supervisord")
	if err != nil {
		t.Fatal(err) // scripts/install-deps.sh installs it
	}
	section, err := os.ReadFile("../../seed/supervisor-derper.conf")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	where, stunWhere := port(t), port(t)
	conf := string(section)
	for _, change := range []struct{ old, new string }{
		{"/usr/local/gopath/bin/derper", program(t, harness.Derpmesh)},
		{"-a :81", "-a :" + portOf(where) + " -stun-port " + portOf(stunWhere)},
		{"/var/log/supervisor/", dir + "/"},
	} {
		if !strings.Contains(conf, change.old) {
			t.Fatalf("the section has no %q", change.old)
		}
		conf = strings.ReplaceAll(conf, change.old, change.new)
	}
	if os.Getuid() != 0 {
		conf = strings.Replace(conf, "user=root\n", "", 1)
	}
	file, pidFile := filepath.Join(dir, "supervisord.conf"), filepath.Join(dir, "pid")
	head := "[supervisord]\nnodaemon=true\nlogfile=" + dir + "/supervisord.log\npidfile=" + pidFile + "\n" +
		"environment=DERPMESH_ADMIN=\"off\"\n\n"
	if err := os.WriteFile(file, []byte(head+conf), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(supervisord, "-c", file)
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "DERPMESH_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string { b, _ := os.ReadFile(filepath.Join(dir, name)); return string(b) }
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		if t.Failed() {
			t.Logf("supervisord:\n%s\nderper:\n%s", read("supervisord.log"), read("derper.log"))
		}
	}
	t.Cleanup(stop)

	serverKey := reach(t, where, stunWhere)
	if text := read("derper.log"); !strings.Contains(text, "no shell has put a value there") {
		t.Error("the log does not say that $HOME was taken as it stands")
	}
	if _, err := os.Stat(filepath.Join(dir, "$HOME", "derper.conf")); err != nil {
		t.Error(err) // where a real derper makes it too: supervisor knows no such variable
	}

	// autorestart
	m := regexp.MustCompile(`spawned: 'derper' with pid (\d+)`).FindStringSubmatch(read("supervisord.log"))
	if m == nil {
		t.Fatal("supervisord did not say which process it started")
	}
	exec.Command("kill", "-9", m[1]).Run()
	harness.Eventually(t, 20*time.Second, "started again", func() error {
		if strings.Count(read("supervisord.log"), "spawned: 'derper'") < 2 {
			return os.ErrNotExist
		}
		return nil
	})
	if again := reach(t, where, stunWhere); again != serverKey {
		t.Errorf("the relay's key was %v, after the restart it is %v", serverKey, again)
	}
	stop()
	if text := read("supervisord.log"); !strings.Contains(text, "stopped: derper (exit status 0)") {
		t.Error("derper did not end in order")
	}
}

// reach logs in, sends itself a packet, asks STUN; the relay's key.
func reach(t *testing.T, where, stunWhere string) key.NodePublic {
	t.Helper()
	var c *derphttp.Client
	harness.Eventually(t, 20*time.Second, "a client logs in", func() error {
		priv := key.NewNode()
		dc, err := derphttp.NewClient(priv, "http://"+where+"/derp", func(string, ...any) {}, netmon.NewStatic())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), harness.Scaled(5*time.Second))
		defer cancel()
		if err := dc.Connect(ctx); err != nil {
			dc.Close()
			return err
		}
		c = dc
		return nil
	})
	defer c.Close()
	end := time.AfterFunc(harness.Scaled(20*time.Second), func() { c.Close() })
	defer end.Stop()
	if _, err := c.Recv(); err != nil {
		t.Fatal(err)
	}
	if err := c.Send(c.SelfPublicKey(), []byte("to myself")); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := c.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if p, ok := m.(derp.ReceivedPacket); ok && string(p.Data) == "to myself" {
			break
		}
	}
	u, err := net.Dial("udp", stunWhere)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	u.SetDeadline(time.Now().Add(harness.Scaled(5 * time.Second)))
	u.Write(stun.Request(stun.NewTxID()))
	if _, err := u.Read(make([]byte, 200)); err != nil {
		t.Errorf("STUN: %v", err)
	}
	return c.ServerPublicKey()
}
