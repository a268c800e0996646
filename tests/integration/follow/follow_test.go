// Package follow asks whether `derpmesh follow` keeps a control server's map in step with which nodes live: never more than the
// mesh agrees on, never a smaller map, and nothing when it is itself the one that is cut off.
package follow

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tailscale.com/tailcfg"

	"derpmesh/tests/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// observer is one `derpmesh follow` with a file for Headscale.
type observer struct {
	c    *harness.Cluster
	file string
	proc *harness.Proc
	dir  string
}

var counter int

// observe starts one more for the cluster.
func observe(t testing.TB, c *harness.Cluster, args ...string) *observer {
	t.Helper()
	counter++
	dir := filepath.Join(c.Dir, fmt.Sprintf("observer-%d", counter))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	o := &observer{c: c, dir: dir, file: filepath.Join(dir, "derp.yaml")}
	all := append([]string{"follow", "--map", c.MapFile, "--headscale", o.file}, args...)
	o.proc = harness.RunProgram(t, dir, harness.Program(t, "DERPMESH_BIN"), []string{"SSL_CERT_FILE=" + c.CAFile()}, all...)
	return o
}

// reads is the file as our own parser reads it: the node that each region lists.
func (o *observer) reads(t testing.TB) (map[int]tailcfg.DERPNode, error) {
	t.Helper()
	out, err := exec.Command(harness.Program(t, "DERPMESH_BIN"), "map", "export", "--to", "json", o.file).Output()
	if err != nil {
		return nil, err
	}
	var m tailcfg.DERPMap
	if err := json.Unmarshal(out, &m); err != nil {
		return nil, err
	}
	got := map[int]tailcfg.DERPNode{}
	for id, r := range m.Regions {
		if len(r.Nodes) != 1 || r.Nodes[0].RegionID != id {
			return nil, fmt.Errorf("region %d lists %d nodes", id, len(r.Nodes))
		}
		got[id] = *r.Nodes[0]
	}
	if len(got) != len(o.c.Map().Regions) {
		return nil, fmt.Errorf("%d regions", len(got))
	}
	return got, nil
}

// points says which node each region points at, by its port, which is unique.
func (o *observer) points(t testing.TB) string {
	t.Helper()
	got, err := o.reads(t)
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for id := 900; id < 900+len(got); id++ {
		for i, n := range o.c.Nodes {
			if n.DERPPort == got[id].DERPPort && n.HostName == got[id].HostName {
				fmt.Fprintf(&b, "%d=n%d ", id, i+1)
				if got[id].STUNPort != n.STUNPort {
					fmt.Fprintf(&b, "(STUN %d) ", got[id].STUNPort)
				}
			}
		}
	}
	return strings.TrimSpace(b.String())
}

// wait waits until the regions point so.
func (o *observer) wait(t testing.TB, limit time.Duration, want string) time.Duration {
	t.Helper()
	start := time.Now()
	harness.Eventually(t, limit, want, func() error {
		if got := o.points(t); got != want {
			return fmt.Errorf("points at %s", got)
		}
		return nil
	})
	return time.Since(start)
}

// stays fails if the regions point elsewhere within that time.
func (o *observer) stays(t testing.TB, d time.Duration, want string) {
	t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if got := o.points(t); got != want {
			t.Fatalf("points at %s, want %s", got, want)
		}
	}
}

func (o *observer) says(t testing.TB, words ...string) {
	t.Helper()
	log, err := os.ReadFile(o.proc.Log())
	if err != nil {
		t.Fatal(err)
	}
lines:
	for line := range strings.Lines(string(log)) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue lines
			}
		}
		return
	}
	t.Errorf("the log has no line with %q:\n%s", words, log)
}

// freeze stops a node as a cut cable does: nothing answers, nothing is closed.
func freeze(t testing.TB, n *harness.Node) {
	t.Helper()
	syscall.Kill(n.PID(), syscall.SIGSTOP)
	t.Cleanup(func() { syscall.Kill(n.PID(), syscall.SIGCONT) })
}

func thaw(n *harness.Node) { syscall.Kill(n.PID(), syscall.SIGCONT) }

func cluster(t testing.TB, regions ...int) *harness.Cluster {
	t.Helper()
	return harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: regions, Cert: harness.CertPin})
}

// TestDeath: killed, silent, back; two observers and a restarted one see the same.
func TestDeath(t *testing.T) {
	t.Parallel()
	c := cluster(t, 1, 1, 1)
	all, two := "900=n1 901=n2 902=n3", "900=n1 901=n1 902=n3"
	a, b := observe(t, c), observe(t, c)
	a.wait(t, 15*time.Second, all)
	b.wait(t, 15*time.Second, all)

	freeze(t, c.Nodes[1])
	t.Logf("silent: the map follows after %v", a.wait(t, 20*time.Second, two))
	b.wait(t, 10*time.Second, two)
	a.says(t, "warn", "n2 of region 901 is dead", "n1", "n3", " do not hear it") // whoever answered first comes first
	late := observe(t, c)                                                        // one that begins now
	late.wait(t, 30*time.Second, two)
	thaw(c.Nodes[1])
	t.Logf("back: after %v", a.wait(t, 60*time.Second, all))
	b.wait(t, 30*time.Second, all)
	late.wait(t, 30*time.Second, all)
	a.says(t, "n2 of region 901 is back")

	c.Nodes[2].Kill(t)
	t.Logf("killed: the map follows after %v", a.wait(t, 20*time.Second, "900=n1 901=n2 902=n1"))
	b.wait(t, 10*time.Second, "900=n1 901=n2 902=n1")
	x, _ := os.ReadFile(a.file)
	y, _ := os.ReadFile(b.file)
	if string(x) != string(y) {
		t.Errorf("two observers write\n%s\nand\n%s", x, y)
	}
	c.Nodes[2].Start(t)
	a.wait(t, 60*time.Second, all)
}

// TestCutOff: an observer that hears only a minority is the one that is cut off, and changes nothing; one that begins so
// leaves what is there.
func TestCutOff(t *testing.T) {
	t.Parallel()
	c := cluster(t, 1, 1, 1, 1)
	all := "900=n1 901=n2 902=n3 903=n4"
	o := observe(t, c)
	o.wait(t, 15*time.Second, all)
	for _, n := range c.Nodes[:3] {
		freeze(t, n)
	}
	o.stays(t, 8*time.Second, all)
	o.says(t, "only 1 of 4 nodes answer here")
	for _, n := range c.Nodes[:3] {
		thaw(n)
	}
	c.WaitMesh(t)
	o.stays(t, 3*time.Second, all)
	o.says(t, "4 of 4 nodes answer here again")
}

// TestMeshDisagrees: a node that does not answer the observer, but others hear, lives.
func TestMeshDisagrees(t *testing.T) {
	t.Parallel()
	c := cluster(t, 1, 1, 1)
	m := c.Map()
	wrong := *m.Regions[901].Nodes[0]
	wrong.STUNPort = m.Regions[900].Nodes[0].STUNPort // nothing listens there
	m.Regions[901].Nodes[0] = &wrong
	text, _ := json.Marshal(m)
	other := filepath.Join(c.Dir, "other.json")
	harness.WriteFile(t, other, text)
	o := observe(t, c, "--map", other)
	harness.Eventually(t, 20*time.Second, "a map", func() error { _, err := o.reads(t); return err })
	time.Sleep(8 * time.Second)
	if got, err := o.reads(t); err != nil || got[901].HostName != c.Nodes[1].HostName {
		t.Errorf("%v %v", got, err)
	}
	o.says(t, "n2 does not answer here, but n", " hears it: nothing is changed")
}

// TestSecondNode: a region's second node takes over within it.  The map changes under way, and a bad one changes nothing.
func TestSecondNode(t *testing.T) {
	t.Parallel()
	c := cluster(t, 2, 1)
	o := observe(t, c)
	o.wait(t, 15*time.Second, "900=n1 901=n3")
	c.Nodes[0].Kill(t)
	o.wait(t, 20*time.Second, "900=n2 901=n3")
	harness.WriteFile(t, c.MapFile, []byte(`{"Regions": {`))
	o.stays(t, 4*time.Second, "900=n2 901=n3")
	o.says(t, "error", "the new map is not taken over")
	n := c.AddNode(t, 902)
	c.WriteMap(t)
	o.wait(t, 20*time.Second, "900=n2 901=n3 902=n4")
	n.Start(t)
	n.WaitReady(t)
	for _, n := range c.Nodes[1:3] {
		n.Hup(t)
	}
	c.WaitMesh(t)
	c.Nodes[2].Kill(t)
	o.wait(t, 20*time.Second, "900=n2 901=n2 902=n4")
}

// TestExec: a command gets the map, again when it failed; a dry run only says so.
func TestExec(t *testing.T) {
	t.Parallel()
	c := cluster(t, 1, 1, 1)
	got := filepath.Join(c.Dir, "got.json")
	dry := observe(t, c, "--dry-run", "--exec", "echo no >"+got)
	command := fmt.Sprintf("test -e %[1]s.tried || { touch %[1]s.tried; exit 3; }; cat >%[1]s.new && mv %[1]s.new %[1]s", got)
	o := observe(t, c, "--exec", command)
	read := func() (*tailcfg.DERPMap, error) {
		b, err := os.ReadFile(got)
		if err != nil {
			return nil, err
		}
		m := new(tailcfg.DERPMap)
		return m, json.Unmarshal(b, m)
	}
	harness.Eventually(t, 30*time.Second, "the map on standard input", func() error {
		m, err := read()
		if err == nil && len(m.Regions) != 3 {
			err = fmt.Errorf("%d regions", len(m.Regions))
		}
		return err
	})
	o.says(t, "the command failed (exit code 3)")
	c.Nodes[0].Kill(t)
	harness.Eventually(t, 30*time.Second, "the map after a death", func() error {
		m, err := read()
		if err == nil && m.Regions[900].Nodes[0].HostName == c.Nodes[0].HostName {
			err = fmt.Errorf("still lists %s", m.Regions[900].Nodes[0].HostName)
		}
		return err
	})
	if _, err := os.Stat(dry.file); err == nil {
		t.Error("a dry run wrote a file")
	}
	dry.says(t, "dry run: would write")
	dry.says(t, "dry run: would run")
}
