package faulttable

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"derpmesh/tests/integration/harness"
)

// recovers waits until a login succeeds again.
func recovers(t *testing.T, fault string, n *harness.Node) {
	t.Helper()
	began := time.Now()
	harness.Eventually(t, 20*time.Second, "logins again at "+n.Name, func() error {
		_, err := login(t, n)
		return err
	})
	within(t, fault+": logins again after", time.Second, time.Since(began))
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// TestDescriptors: no descriptor is left (EMFILE).  Who is connected notices nothing.
func TestDescriptors(t *testing.T) {
	t.Parallel()
	x := five(t)
	n := x.Nodes[2]
	since := n.LogSize(t)
	limit := func(soft int) {
		t.Helper()
		out, err := exec.Command("prlimit", "--pid", fmt.Sprint(n.PID()), fmt.Sprintf("--nofile=%d:", soft)).CombinedOutput()
		if err != nil {
			t.Fatalf("prlimit: %v: %s", err, out)
		}
	}
	// The limit is on the number of the next one, which is the lowest that is free.
	free := 3
	for ; exists(fmt.Sprintf("/proc/%d/fd/%d", n.PID(), free)); free++ {
	}
	limit(free)
	for range 3 {
		took, err := login(t, n)
		if err == nil {
			t.Errorf("logged in without a descriptor")
		}
		t.Logf("a login meets %v after %v", err, took.Round(time.Millisecond))
	}
	time.Sleep(2 * time.Second)
	limit(4096)
	recovers(t, "EMFILE", n)
	if counter(t, n, "no_descriptor") == 0 {
		t.Error("it was not counted")
	}
	complains(t, n, since)
	row("EMFILE: established flows", "nothing lost", fmt.Sprintf("%d lost", x.lost(nil)))
	x.quiet(t, nil)
}

// TestMalloc: every allocation fails for some seconds.
func TestMalloc(t *testing.T) {
	t.Parallel()
	x, shims := shimmed(t)
	n, s := x.Nodes[2], shims[2]
	since := n.LogSize(t)
	for _, how := range []struct {
		what        string
		size, every int64
	}{{"each of 4 KiB and more fails", 4096, 1}, {"one in ten fails", 1, 10}, {"all fail", 1, 1}} {
		s.set(shimFailEvery, how.every)
		s.set(shimFailSize, how.size)
		until := time.Now().Add(3 * time.Second)
		refused := 0
		for time.Now().Before(until) {
			if _, err := login(t, n); err != nil {
				refused++
			}
			if !n.Running() {
				t.Fatalf("%s: the node has ended", how.what)
			}
		}
		s.set(shimFailSize, 0)
		t.Logf("%s: %d allocations failed, %d logins refused", how.what, s.get(shimFailed), refused)
		recovers(t, "malloc, "+how.what, n)
	}
	complains(t, n, since)
	for _, m := range x.m {
		m.Alive(t)
	}
	row("malloc fails: established flows", "nothing lost", fmt.Sprintf("%d lost", x.lost(nil)))
	x.quiet(t, nil)
}

// dataSize is how much memory of its own the process has, in bytes.
func dataSize(t *testing.T, n *harness.Node) (kib int64) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.PID()))
	must(t, err)
	_, rest, _ := strings.Cut(string(b), "VmData:")
	_, err = fmt.Sscan(rest, &kib)
	must(t, err)
	return kib << 10
}

// TestMemoryCap: the process may have no more memory than it has, and clients come until it is used up.
func TestMemoryCap(t *testing.T) {
	t.Parallel()
	x := five(t)
	n := x.Nodes[2]
	cap := func(bytes string) {
		t.Helper()
		out, err := exec.Command("prlimit", "--pid", fmt.Sprint(n.PID()), "--data="+bytes+":").CombinedOutput()
		if err != nil {
			t.Fatalf("prlimit: %v: %s", err, out)
		}
	}
	since := n.LogSize(t)
	cap(fmt.Sprint(dataSize(t, n)))
	var held []*harness.Client
	refused := 0
	for until := time.Now().Add(20 * time.Second); time.Now().Before(until) && refused < 20; {
		c, err := n.TryConnect(t, harness.Opts{})
		if err != nil {
			refused++
			if refused == 1 {
				t.Logf("login %d meets %v", len(held)+1, err)
			}
			time.Sleep(100 * time.Millisecond)
			continue
		}
		held = append(held, c)
	}
	t.Logf("%d logins within the cap, %d refused", len(held), refused)
	cap("unlimited")
	for _, c := range held {
		c.Close()
	}
	if refused == 0 {
		t.Error("no login was refused")
	}
	recovers(t, "memory cap", n)
	if counted := counter(t, n, "refused_memory"); counted < int64(refused) {
		t.Errorf("%d refused, %d counted", refused, counted)
	}
	complains(t, n, since)
	row("memory cap: established flows", "nothing lost", fmt.Sprintf("%d lost", x.lost(nil)))
	x.quiet(t, nil)
}
