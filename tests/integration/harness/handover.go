package harness

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var (
	adopt    sync.Once
	heirLine = regexp.MustCompile(`process (\d+) is ready to take over`)
)

// HandOver has the node start a new process that takes its place, and waits until the old one has ended.  A node whose
// new process does not start goes on, and HandOver returns what it says.
func (n *Node) HandOver(t testing.TB) error {
	t.Helper()
	// The new process is a child of the old one, and ours when that one is gone.
	adopt.Do(func() { must(t, unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)) })
	mark := n.LogSize(t)
	out, err := exec.Command(os.Getenv("DERPMESH_BIN"), "handover", "--admin", n.Admin).CombinedOutput()
	if err != nil {
		return fmt.Errorf("handover of %s: %w: %s", n.Name, err, out)
	}
	select {
	case <-n.proc.done:
	case <-time.After(Scaled(20 * time.Second)):
		t.Fatalf("%s: the old process is still there", n.Name)
	}
	if n.proc.err != nil {
		t.Errorf("%s: the old process ended badly: %v", n.Name, n.proc.err)
	}
	text, err := os.ReadFile(n.Log)
	must(t, err)
	m := heirLine.FindSubmatch(text[mark:])
	if m == nil {
		t.Fatalf("%s: the log does not name the new process:\n%s", n.Name, text[mark:])
	}
	pid, err := strconv.Atoi(string(m[1]))
	must(t, err)
	process, err := os.FindProcess(pid)
	must(t, err)
	p := &Proc{name: n.Name, cmd: &exec.Cmd{Process: process}, log: n.Log, done: make(chan struct{})}
	go func() {
		state, err := process.Wait()
		if err == nil && !state.Success() {
			err = fmt.Errorf("%s", state)
		}
		p.err = err
		close(p.done)
	}()
	n.proc = p
	return nil
}
