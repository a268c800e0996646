package faulttable

import (
	"fmt"
	"testing"
	"time"

	"derpmesh/tests/integration/harness"
)

// TestKeyRotation: a second mesh key is added, becomes the first, and the old one goes, everywhere and while all runs.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	x := five(t)
	before, after := harness.NewMeshKey(), harness.NewMeshKey()
	step := 3 * time.Second
	if harness.Long() {
		step = 70 * time.Second // links with a removed key end within 60 s
	}
	for _, keys := range [][]string{{x.MeshKey(), after}, {after, x.MeshKey()}, {after}, {after, before}, {after}} {
		x.SetMeshKeys(t, keys...)
		for _, n := range x.Nodes { // not at once: there is no moment when all have the same
			n.Hup(t)
			time.Sleep(harness.Scaled(100 * time.Millisecond))
		}
		time.Sleep(step)
	}
	x.WaitMesh(t)
	x.flows(t, 10*time.Second, everyone)
	lost := x.lost(nil)
	row("mesh key rotation: lost", "0", fmt.Sprint(lost))
	x.quiet(t, nil)
}
