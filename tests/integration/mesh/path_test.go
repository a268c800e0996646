package mesh

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"derpmesh/tests/integration/harness"
)

// TestOverAnother: two nodes that refuse each other's connections (each believes the other behind a proxy, and finds that
// it is not) and a third: packets and announcements of the two go over it, and where and status say so.
func TestOverAnother(t *testing.T) {
	t.Parallel()
	c := harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: []int{1, 1, 1}, NoStart: true,
		Args: []string{"--mesh-proxied", "n1,n2"}})
	for _, n := range c.Nodes {
		n.Start(t)
	}
	for _, n := range c.Nodes {
		n.WaitReady(t)
	}
	a, b := c.Nodes[0].Connect(t, harness.Opts{Home: true}), c.Nodes[1].Connect(t, harness.Opts{Home: true})
	c.WaitRoutes(t, a, b)
	say := func(args ...string) (string, error) {
		out, err := exec.Command(os.Getenv("DERPMESH_BIN"), append(args, "--admin", c.Nodes[0].Admin)...).CombinedOutput()
		return string(out), err
	}
	harness.Eventually(t, 40*time.Second, "n1 hears n2 over n3", func() error {
		out, err := say("status", "--mesh", "--json")
		if err != nil {
			return err
		}
		var mesh struct {
			Peers []struct {
				Name, State, Why, Control string
				Synced                    bool
				Path                      []string
			}
		}
		if err := json.Unmarshal([]byte(out), &mesh); err != nil {
			return err
		}
		for _, p := range mesh.Peers {
			if p.Name == "n2" && p.Synced && p.Control == "n3" && strings.Join(p.Path, " ") == "n3 n2" && p.Why == "no direct link" {
				return nil
			}
		}
		return fmt.Errorf("peers: %v", mesh.Peers)
	})
	out, err := say("status", "--mesh")
	if err != nil || !strings.Contains(out, "control over n3") {
		t.Errorf("status --mesh: %v\n%s", err, out)
	}
	harness.Eventually(t, 10*time.Second, "where names the node between", func() error {
		out, err := say("where", b.Pub.String())
		if err != nil {
			return err
		}
		if !strings.Contains(out, "n2, home, via n3 (no direct link), ") {
			return errors.New(out)
		}
		return nil
	})
	// What comes and goes at n2 is heard of over n3.
	late := c.Nodes[1].Connect(t, harness.Opts{})
	c.WaitRoutes(t, a, late)
	late.Close()
	harness.Eventually(t, 10*time.Second, "n1 hears that a client has left n2", func() error {
		places, err := c.Nodes[0].Where(late.Pub)
		if err == nil && len(places) > 0 {
			err = fmt.Errorf("still there: %v", places)
		}
		return err
	})
	if a.AllGone()+b.AllGone() > 1 { // late's own, if it is that late
		t.Errorf("PeerGone out of nowhere: %s / %s", a.Summary(), b.Summary())
	}
}
