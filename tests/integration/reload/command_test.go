package reload

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"tailscale.com/types/key"

	"derpmesh/tests/integration/harness"
)

// command runs the program; its exit code and all that it prints.
func command(t *testing.T, args ...string) (code int, out string) {
	t.Helper()
	cmd := exec.Command(harness.Program(t, "DERPMESH_BIN"), args...)
	text, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(text)
}

func expect(t *testing.T, code int, says string, args ...string) {
	t.Helper()
	if got, out := command(t, args...); got != code || !strings.Contains(out, says) {
		t.Errorf("%s: exit code %d, want %d, and %q in:\n%s", strings.Join(args, " "), got, code, says, out)
	}
}

// TestReloadCommand: it says what has changed, or why nothing has; the node goes on either way.
func TestReloadCommand(t *testing.T) {
	t.Parallel()
	c := three(t)
	n := c.Nodes[0]
	client := n.Connect(t, harness.Opts{})
	expect(t, 0, "reloaded: nothing\n", "reload", "--admin", n.Admin)
	more := c.AddNode(t, 904)
	c.WriteMap(t)
	expect(t, 0, "nodes added="+more.Name, "reload", "--admin", n.Admin)
	good := read(t, c.MapFile)
	harness.WriteFile(t, c.MapFile, []byte("{"))
	expect(t, 1, c.MapFile+":1:2:", "reload", "--admin", n.Admin)
	harness.WriteFile(t, c.MapFile, []byte(good))
	expect(t, 0, "reloaded: nothing\n", "reload", "--admin", n.Admin)
	expect(t, 3, "no node answers", "reload", "--admin", n.Admin+".not")
	expect(t, 2, "unknown", "reload", "--admim", n.Admin)
	if _, ok := client.Wait(time.Millisecond, func(e harness.Event) bool { _, closed := e.Msg.(harness.Closed); return closed }); ok {
		t.Error("a reload has closed a client")
	}
}

// TestKick: the client's connections to this node are closed, and nobody else's; it may come back.
func TestKick(t *testing.T) {
	t.Parallel()
	c := three(t)
	n, other := c.Nodes[0], c.Nodes[1]
	client, beside := n.Connect(t, harness.Opts{}), n.Connect(t, harness.Opts{})
	twin := n.Connect(t, harness.Opts{Key: client.Key})
	away := other.Connect(t, harness.Opts{Home: true})
	closed := func(e harness.Event) bool { _, is := e.Msg.(harness.Closed); return is }

	expect(t, 0, "2 connections closed", "kick", client.Pub.String(), "--admin", n.Admin)
	for _, gone := range []*harness.Client{client, twin} {
		if _, ok := gone.Wait(10*time.Second, closed); !ok {
			t.Error("a connection of the kicked client is still open")
		}
	}
	s, err := n.Status()
	if err != nil {
		t.Fatal(err)
	}
	if s.Traffic["closed_kicked"] != 2 {
		t.Errorf("closed_kicked: %d, want 2", s.Traffic["closed_kicked"])
	}
	n.Connect(t, harness.Opts{Key: client.Key})

	harness.Eventually(t, 10*time.Second, "kick names the other node", func() error {
		if code, out := command(t, "kick", away.Pub.String(), "--admin", n.Admin); code != 1 || !strings.Contains(out, "it is at "+other.Name) {
			return fmt.Errorf("exit code %d: %s", code, out)
		}
		return nil
	})
	expect(t, 1, "is not connected here\n", "kick", key.NewNode().Public().String(), "--admin", n.Admin)
	expect(t, 2, "nodekey:<64 hex digits>", "kick", "nodekey:12", "--admin", n.Admin)
	expect(t, 3, "no node answers", "kick", client.Pub.String(), "--admin", n.Admin+".not")
	for _, stays := range []*harness.Client{beside, away} {
		if _, ok := stays.Wait(time.Millisecond, closed); ok {
			t.Error("kick closed somebody else")
		}
	}
}
