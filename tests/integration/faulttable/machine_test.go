package faulttable

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"derpmesh/tests/integration/harness"
)

// shim is the file that tells tests/tools/shim.c what to do, one for each node.
type shim struct {
	t    *testing.T
	file *os.File
}

func (s *shim) set(slot int, v int64) {
	s.t.Helper()
	_, err := s.file.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(v)), int64(slot*8))
	must(s.t, err)
}

func (s *shim) get(slot int) uint64 {
	var b [8]byte
	s.file.ReadAt(b[:], int64(slot*8))
	return binary.NativeEndian.Uint64(b[:])
}

const (
	shimWall, shimFailSize, shimFailEvery, shimFailed = 0, 1, 2, 3
)

// shimmed is a mesh whose nodes run with the library.
func shimmed(t *testing.T) (*mesh, []*shim) {
	t.Helper()
	c := harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: []int{2, 2, 1}, Namespaces: true, NoStart: true})
	lib := harness.Program(t, "SHIM_LIB")
	var shims []*shim
	for _, n := range c.Nodes {
		path := filepath.Join(c.Dir, n.Name+".shim")
		must(t, os.WriteFile(path, make([]byte, 64), 0o600))
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		must(t, err)
		t.Cleanup(func() { f.Close() })
		shims = append(shims, &shim{t, f})
		n.Wrap = []string{"env", "LD_PRELOAD=" + lib, "SHIM_FILE=" + path}
	}
	c.StartAll(t)
	return start(t, c), shims
}

// TestWallClock: the wall clock of one node jumps a day ahead, then of all, then two days back.
func TestWallClock(t *testing.T) {
	t.Parallel()
	x, shims := shimmed(t)
	const day = int64(24 * time.Hour)
	closed := func() (n int64) {
		for _, node := range x.Nodes {
			n += counter(t, node, "mesh_links_closed")
		}
		return n
	}
	before := closed()
	shims[0].set(shimWall, day)
	time.Sleep(3 * time.Second)
	for _, jump := range []int64{day, -day} {
		for _, s := range shims {
			s.set(shimWall, jump)
		}
		time.Sleep(4 * time.Second)
	}
	after := closed()
	for _, m := range x.m {
		m.Alive(t)
	}
	row("wall clock jumps a day ahead, two back: disconnects", "0", fmt.Sprint(after-before))
	if after != before {
		t.Errorf("%d links were closed", after-before)
	}
	x.quiet(t, nil)
}

// login connects once at the node; it says how long that took, and how it ended.
func login(t *testing.T, n *harness.Node) (time.Duration, error) {
	t.Helper()
	began := time.Now()
	c, err := n.TryConnect(t, harness.Opts{})
	if err == nil {
		c.Close()
	}
	return time.Since(began), err
}

// complains fails the test if the node's log holds no warning since then that a person would find the reason in.
func complains(t *testing.T, n *harness.Node, since int64) {
	t.Helper()
	lines := n.Complaints(t, since)
	if len(lines) == 0 {
		t.Errorf("%s says nothing about it in its log", n.Name)
	}
	for _, l := range lines[:min(3, len(lines))] {
		t.Log(l)
	}
}

// TestDiskFull: the file system that holds STATE is full while the map is reloaded, and at a restart.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	c := harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: []int{2, 2, 1}, Namespaces: true, NoStart: true})
	n := c.Nodes[2]
	n.Admin = filepath.Join(c.Dir, n.Name+".sock") // not on the small disk, which only the node sees
	n.Wrap = []string{"unshare", "--mount", "sh", "-ec", `d=$1; shift
		cp -a "$d" "$d.copy"; mount -t tmpfs -o size=256k none "$d"; cp -a "$d.copy/." "$d"; exec "$@"`, "sh", n.Dir}
	c.StartAll(t)
	x := start(t, c)
	disk := func(path string) string { return fmt.Sprintf("/proc/%d/root%s/%s", n.PID(), n.Dir, path) }
	fill := func() {
		t.Helper()
		f, err := os.Create(disk("filler"))
		must(t, err)
		defer f.Close()
		for b := make([]byte, 4096); ; {
			if _, err := f.Write(b); err != nil {
				return
			}
		}
	}
	fill()
	since := n.LogSize(t)
	c.AddNode(t, 902)
	c.WriteMap(t)
	n.Hup(t)
	time.Sleep(time.Second)
	complains(t, n, since)
	_, err := login(t, n)
	row("disk full: login", "goes on", fmt.Sprint(map[bool]string{true: "goes on", false: "refused"}[err == nil]))
	if err != nil {
		t.Errorf("login with a full disk: %v", err)
	}
	must(t, os.Remove(disk("filler")))
	n.Hup(t)
	time.Sleep(time.Second)
	if s, err := n.Status(); err != nil || s.Node != n.Name {
		t.Errorf("status: %v", err)
	}
	row("disk full: established flows", "nothing lost", fmt.Sprintf("%d lost", x.lost(nil)))
	x.quiet(t, nil)
}
