// Package reload shows that reading the files again disturbs nobody, whatever the files hold.
package reload

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"derpmesh/tests/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

func three(t *testing.T) *harness.Cluster {
	t.Helper()
	return harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: []int{1, 1, 1}})
}

// newCerts gives each node a new certificate of the same authority.
func newCerts(t *testing.T, c *harness.Cluster) map[*harness.Node]string {
	serial := map[*harness.Node]string{}
	for _, n := range c.Nodes {
		pair := c.CA.Issue(t, n.HostName, time.Now().AddDate(0, 3, 0))
		pair.Write(t, n.CertDir, n.HostName)
		serial[n] = pair.Cert.SerialNumber.String()
	}
	return serial
}

// TestUnderTraffic: a hundred SIGHUPs to each node while map, certificates and mesh keys change: not a frame is
// lost, doubled or late out of order, no connection ends, and the last state of the files is what counts.
func TestUnderTraffic(t *testing.T) {
	t.Parallel()
	c := three(t)
	keyA, keyB := harness.NewMeshKey(), harness.NewMeshKey()
	first := strings.TrimSpace(read(t, c.KeyFile))
	pids := pids(c)
	stop := harness.Flow(t, c.Nodes...)

	var serial map[*harness.Node]string
	var phantom *harness.Node
	good := read(t, c.MapFile)
	for i := range 100 {
		switch i % 6 {
		case 0: // one more node, which does not run
			phantom = c.AddNode(t, 903)
			c.WriteMap(t)
		case 1:
			serial = newCerts(t, c)
		case 2: // a key more, and another order of the rest
			c.SetMeshKeys(t, first, keyA, keyB)
		case 3: // without it
			c.RemoveNode(phantom)
			c.WriteMap(t)
		case 4: // the same, spelled otherwise
			harness.WriteFile(t, c.MapFile, []byte("// a comment\n"+strings.ReplaceAll(good, "\n", "\r\n")))
			c.SetMeshKeys(t, first, keyB)
		case 5: // nothing but names that people read
			harness.WriteFile(t, c.MapFile, []byte(strings.ReplaceAll(good, `"Region `, fmt.Sprintf(`"No. %d `, i))))
		}
		c.Hup(t)
		time.Sleep(150 * time.Millisecond)
	}
	for range 100 { // faster than one can be worked off
		c.Hup(t)
	}

	for _, n := range c.Nodes {
		harness.Eventually(t, 10*time.Second, n.Name+" shows its last certificate", func() error {
			if got := n.ServedCert(t).SerialNumber.String(); got != serial[n] {
				return fmt.Errorf("serial %s, want %s", got, serial[n])
			}
			return nil
		})
	}
	c.WriteMap(t)
	c.Hup(t)
	c.WaitMesh(t)
	stop()
	for n, pid := range pids {
		if !n.Running() || n.PID() != pid {
			t.Errorf("%s is not the program that it was", n.Name)
		}
	}
	a, b := c.Nodes[0].Connect(t, harness.Opts{}), c.Nodes[2].Connect(t, harness.Opts{})
	c.WaitRoutes(t, a, b)
}

func pids(c *harness.Cluster) map[*harness.Node]int {
	m := map[*harness.Node]int{}
	for _, n := range c.Nodes {
		m[n] = n.PID()
	}
	return m
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestMapTakesEffect: a node that comes into the map, or goes from it, comes and goes in the status.
func TestMapTakesEffect(t *testing.T) {
	t.Parallel()
	c := three(t)
	n := c.Nodes[0]
	extra := c.AddNode(t, 903)
	see := func(want bool) {
		t.Helper()
		c.WriteMap(t)
		c.Hup(t)
		harness.Eventually(t, 10*time.Second, fmt.Sprintf("%s listed: %v", extra.Name, want), func() error {
			state, err := n.Peer(extra)
			if err == nil && (state != "") != want {
				err = fmt.Errorf("it is %q", state)
			}
			return err
		})
	}
	see(true)
	c.RemoveNode(extra)
	see(false)
	c.WaitMesh(t)
}

// TestMeshKeyRotation: the new key beside the old one, then in front of it, then alone, and no frame is lost as
// long as both are there.  A node that knows only the new key is linked in the end.
func TestMeshKeyRotation(t *testing.T) {
	t.Parallel()
	c := three(t)
	older, newer := strings.TrimSpace(read(t, c.KeyFile)), harness.NewMeshKey()
	stop := harness.Flow(t, c.Nodes...)
	for _, keys := range [][]string{{older, newer}, {newer, older}} {
		c.SetMeshKeys(t, keys...)
		for _, n := range c.Nodes { // one after the other, as a playbook does it
			n.Hup(t)
			time.Sleep(300 * time.Millisecond)
		}
		c.WaitMesh(t)
	}
	stop()
	c.SetMeshKeys(t, newer)
	c.Hup(t)
	late := c.AddNode(t, 903)
	c.WriteMap(t)
	c.Hup(t)
	late.Start(t)
	late.WaitReady(t)
	c.WaitMesh(t)
	a, b, d := c.Nodes[0].Connect(t, harness.Opts{}), c.Nodes[1].Connect(t, harness.Opts{}), late.Connect(t, harness.Opts{})
	c.WaitRoutes(t, a, b, d)
}

// TestWrongMeshKey guards the test above: a node with another key is not linked.
func TestWrongMeshKey(t *testing.T) {
	t.Parallel()
	c := harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: []int{1, 1}, NoStart: true})
	c.Nodes[0].Start(t)
	c.Nodes[0].WaitReady(t)
	c.SetMeshKeys(t, harness.NewMeshKey())
	c.Nodes[1].Start(t)
	c.Nodes[1].WaitReady(t)
	a, b := c.Nodes[0].Connect(t, harness.Opts{}), c.Nodes[1].Connect(t, harness.Opts{})
	for range 20 {
		a.MustSend(t, b.Pub, []byte("must not arrive"))
		time.Sleep(200 * time.Millisecond)
	}
	if n := b.Packets([]byte("must not arrive")); n != 0 {
		t.Errorf("%d packets crossed between nodes with different mesh keys", n)
	}
	for i, n := range c.Nodes {
		if state, err := n.Peer(c.Nodes[1-i]); err != nil || state == "up" {
			t.Errorf("%s says of its link: %q, %v", n.Name, state, err)
		}
		if len(n.Complaints(t, 0)) == 0 {
			t.Errorf("%s says nothing of the wrong key", n.Name)
		}
	}
}

// TestBadFiles: a file that is no good changes nothing and gives one clear line, under traffic too.
func TestBadFiles(t *testing.T) {
	t.Parallel()
	c := three(t)
	n := c.Nodes[0]
	crt, key := filepath.Join(n.CertDir, n.HostName+".crt"), filepath.Join(n.CertDir, n.HostName+".key")
	mapText := read(t, c.MapFile)
	other := c.CA.Issue(t, n.HostName, time.Now().AddDate(0, 3, 0))
	expired := c.CA.Issue(t, n.HostName, time.Now().Add(-24*time.Hour))
	elsewhere := c.CA.Issue(t, "elsewhere.derpmesh.test", time.Now().AddDate(0, 3, 0))
	text := func(s string) *string { return &s }
	own := fmt.Sprintf(`"Name": "%s"`, n.Name)
	port := fmt.Sprintf(`"DERPPort": %d`, n.DERPPort)
	if !strings.Contains(mapText, own) || !strings.Contains(mapText, port) {
		t.Fatalf("cannot spoil this map:\n%s", mapText)
	}
	meshKey := strings.TrimSpace(read(t, c.KeyFile))

	table := []struct {
		name  string
		files map[string]*string // nil: the file is missing
		names string             // what the line must name: the file, or better
	}{
		{"map: half of it", map[string]*string{c.MapFile: text(mapText[:len(mapText)/2])}, c.MapFile},
		{"map: empty", map[string]*string{c.MapFile: text("")}, c.MapFile},
		{"map: no JSON", map[string]*string{c.MapFile: text("<html>502 Bad Gateway</html>")}, c.MapFile},
		{"map: deep", map[string]*string{c.MapFile: text(strings.Repeat("[", 100000))}, c.MapFile},
		{"map: missing", map[string]*string{c.MapFile: nil}, c.MapFile},
		{"map: without this node", map[string]*string{c.MapFile: text(strings.ReplaceAll(mapText, own, `"Name": "renamed"`))}, "not in the map"},
		{"map: port out of range", map[string]*string{c.MapFile: text(strings.ReplaceAll(mapText, port, `"DERPPort": 99999`))}, c.MapFile},
		{"map: wrong RegionID", map[string]*string{c.MapFile: text(strings.Replace(mapText, `"RegionID": 901`, `"RegionID": 905`, 1))}, c.MapFile},
		{"certificate: garbage", map[string]*string{crt: text("garbage")}, n.HostName},
		{"certificate: empty", map[string]*string{crt: text("")}, n.HostName},
		{"certificate: missing", map[string]*string{crt: nil}, n.HostName},
		{"certificate: another's key", map[string]*string{key: text(string(other.KeyPEM))}, n.HostName},
		{"certificate: expired", map[string]*string{crt: text(string(expired.CertPEM)), key: text(string(expired.KeyPEM))}, n.HostName},
		{"certificate: another's name", map[string]*string{crt: text(string(elsewhere.CertPEM)), key: text(string(elsewhere.KeyPEM))}, n.HostName},
		{"key: garbage", map[string]*string{key: text("garbage")}, n.HostName},
		{"mesh keys: no hex", map[string]*string{c.KeyFile: text("not a key\n")}, c.KeyFile},
		{"mesh keys: short", map[string]*string{c.KeyFile: text(meshKey[:63] + "\n")}, c.KeyFile},
		{"mesh keys: second one bad", map[string]*string{c.KeyFile: text(meshKey + "\nxyz\n")}, c.KeyFile},
		{"mesh keys: five", map[string]*string{c.KeyFile: text(strings.Repeat(meshKey+"\n", 5))}, c.KeyFile},
		{"mesh keys: empty", map[string]*string{c.KeyFile: text("")}, c.KeyFile},
		{"mesh keys: missing", map[string]*string{c.KeyFile: nil}, c.KeyFile},
	}
	stop := harness.Flow(t, c.Nodes...)
	serial := n.ServedCert(t).SerialNumber
	for _, tc := range table {
		saved := map[string]string{}
		for path, content := range tc.files {
			saved[path] = read(t, path)
			if content == nil {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			} else {
				harness.WriteFile(t, path, []byte(*content))
			}
		}
		mark := n.LogSize(t)
		n.Hup(t)
		complaint(t, tc.name, n, mark, tc.names)
		if got := n.ServedCert(t).SerialNumber; got.Cmp(serial) != 0 {
			t.Errorf("%s: another certificate is served", tc.name)
		}
		for _, o := range c.Nodes[1:] {
			if state, err := n.Peer(o); err != nil || state != "up" {
				t.Errorf("%s: the link to %s is %q (%v)", tc.name, o.Name, state, err)
			}
		}
		for path, content := range saved {
			harness.WriteFile(t, path, []byte(content))
		}
		mark = n.LogSize(t)
		n.Hup(t)
		time.Sleep(200 * time.Millisecond)
		if lines := naming(n.Complaints(t, mark), tc.names); len(lines) != 0 {
			t.Errorf("%s: complaints about the good file: %q", tc.name, lines)
		}
	}
	c.WaitMesh(t)
	stop()
}

// complaint waits for the one line of level warn or error that names the file, and shows it.
func complaint(t *testing.T, what string, n *harness.Node, mark int64, name string) {
	t.Helper()
	name = filepath.Base(name)
	var lines []string
	deadline := time.Now().Add(harness.Scaled(5 * time.Second))
	for len(lines) == 0 && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
		lines = naming(n.Complaints(t, mark), name)
	}
	time.Sleep(200 * time.Millisecond)
	lines = naming(n.Complaints(t, mark), name)
	if len(lines) != 1 {
		t.Errorf("%s: %d lines name %s, want one: %q; all complaints: %q", what, len(lines), name, lines, n.Complaints(t, mark))
		return
	}
	t.Logf("%s: %s", what, lines[0])
}

func naming(lines []string, name string) (found []string) {
	name = filepath.Base(name)
	for _, l := range lines {
		if strings.Contains(l, name) {
			found = append(found, l)
		}
	}
	return found
}
