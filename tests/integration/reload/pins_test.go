package reload

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"derpmesh/tests/integration/harness"
)

// TestMeshPins: the key named for a node is the only one it may have; a reload with another one ends the link, a bad line
// changes nothing, and the right one brings the link back.
func TestMeshPins(t *testing.T) {
	t.Parallel()
	c := harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: []int{1, 1}})
	c.WaitMesh(t)
	n, other, file := c.Nodes[0], c.Nodes[1], filepath.Join(c.Nodes[0].Dir, "pins")
	right := strings.TrimSpace(read(t, filepath.Join(n.Dir, "peers"))) // what was seen first
	if !strings.HasPrefix(right, other.Name+" nodekey:") {
		t.Fatalf("%s has stored %q", n.Name, right)
	}
	name := func(text string) (since int64) {
		if err := os.WriteFile(file, []byte("# by hand\n"+text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		since = n.LogSize(t)
		if n.Running() {
			n.Hup(t)
		}
		return since
	}
	says := func(since int64, what string) {
		t.Helper()
		harness.Eventually(t, 30*time.Second, "a line with "+what, func() error {
			if lines := strings.Join(n.Complaints(t, since), "\n"); !strings.Contains(lines, what) {
				return errors.New(lines)
			}
			return nil
		})
	}
	n.Stop(t)
	name(right)
	n.Args = append(n.Args, "--mesh-pins", file)
	n.Start(t)
	n.WaitReady(t)
	c.WaitMesh(t)

	digit := "0"
	if strings.HasSuffix(right, digit) {
		digit = "1"
	}
	says(name(right[:len(right)-1]+digit), "change its line in the file of mesh_pins")
	for range 20 {
		if state, err := n.Peer(other); err != nil || state == "up" {
			t.Fatalf("%s says of its link with another key named: %q, %v", n.Name, state, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	name(right)
	c.WaitMesh(t)
	says(name(right+"\nanother nodekey:zz"), file+":3: ")
	c.WaitMesh(t)
}
