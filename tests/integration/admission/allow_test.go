// Package admission asks who may use a node, and who may not.
package admission

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tailscale.com/types/key"

	"derpmesh/tests/integration/harness"
)

func lines(keys ...key.NodePublic) []byte {
	var b strings.Builder
	b.WriteString("# who may use this relay\n\n")
	for i, k := range keys {
		fmt.Fprintf(&b, "%s  # number %d\n", k, i)
	}
	return []byte(b.String())
}

func fresh(n int) (keys []key.NodePrivate) {
	for range n {
		keys = append(keys, key.NewNode())
	}
	return keys
}

// TestOpen guards the others: without admission a stranger is let in, and the node says so.
func TestOpen(t *testing.T) {
	t.Parallel()
	n := node(t)
	n.Connect(t, harness.Opts{})
	s := status(t, n)
	if !s.OpenToAnyone || s.Admission.Asked != 0 {
		t.Errorf("open: %v, asked: %d", s.OpenToAnyone, s.Admission.Asked)
	}
	log, _ := os.ReadFile(n.Log)
	for what, text := range map[string]string{"log": string(log), "status": problems(t, n)} {
		if !strings.Contains(text, "anyone may use this relay") || !strings.Contains(text, "--allow FILE") {
			t.Errorf("%s does not say that anyone may use the node: %s", what, text)
		}
	}
}

// TestAllow: only who is in the file; one line for each other, from which the file's line can be copied.
func TestAllow(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "allow.txt")
	k := fresh(4)
	harness.WriteFile(t, file, lines(k[0].Public(), k[1].Public()))
	n := node(t, "--allow", file)
	a, b := n.Connect(t, harness.Opts{Key: k[0]}), n.Connect(t, harness.Opts{Key: k[1]})
	a.MustSend(t, b.Pub, []byte("hello"))
	b.WaitPacket(t, a.Pub, []byte("hello"))
	mark := n.LogSize(t)
	for range 3 {
		refused(t, n, k[2], "refused_allow")
	}
	s := status(t, n)
	if s.OpenToAnyone || s.Admission.Allow == nil || s.Admission.Allow.Keys != 2 || s.Admission.Refused != 3 ||
		s.Admission.Admitted != 2 || s.Admission.Mode != "all" {
		t.Errorf("status says %+v", s.Admission)
	}
	said := n.Complaints(t, mark)
	if len(said) != 1 || !strings.Contains(said[0], "admit refused key="+k[2].Public().String()+" from=127.") ||
		!strings.Contains(said[0], fmt.Sprintf(`fix="add this line to %s: %s"`, file, k[2].Public())) {
		t.Errorf("three refusals of one key give: %q", said)
	}
	if strings.Contains(problems(t, n), "anyone") {
		t.Errorf("problems: %s", problems(t, n))
	}
}

// TestAllowChanges: an added key is admitted, a removed one closed, whichever way the file is written.
func TestAllowChanges(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "allow.txt")
	k := fresh(4)
	ways := map[string]func(text []byte){
		"rename": func(text []byte) {
			harness.WriteFile(t, file+".new", text)
			if err := os.Rename(file+".new", file); err != nil {
				t.Error(err)
			}
		},
		"in place": func(text []byte) {
			if err := os.WriteFile(file, text, 0o600); err != nil {
				t.Error(err)
			}
		},
		"symlink": func(text []byte) { // as Kubernetes and certbot do
			real := filepath.Join(dir, fmt.Sprintf("data-%d", time.Now().UnixNano()))
			harness.WriteFile(t, real, text)
			os.Remove(file + ".link")
			if err := os.Symlink(real, file+".link"); err != nil {
				t.Error(err)
			}
			if err := os.Rename(file+".link", file); err != nil {
				t.Error(err)
			}
		},
	}
	ways["rename"](lines(k[0].Public()))
	n := node(t, "--allow", file)
	stays := n.Connect(t, harness.Opts{Key: k[0]})
	for name, write := range ways {
		refused(t, n, k[1], "refused_allow")
		write(lines(k[0].Public(), k[1].Public()))
		var c *harness.Client
		start := time.Now()
		harness.Eventually(t, 2*time.Second, name+": added key is admitted", func() (err error) {
			c, err = n.TryConnect(t, harness.Opts{Key: k[1]})
			return err
		})
		t.Logf("%s: admitted after %v", name, time.Since(start))
		start = time.Now()
		write(lines(k[0].Public()))
		goneWithin(t, c, 2*time.Second)
		t.Logf("%s: closed after %v", name, time.Since(start))
	}
	stays.Alive(t)
	if got := count(t, n, "closed_unwelcome"); got != len(ways) {
		t.Errorf("closed_unwelcome: %d, want %d", got, len(ways))
	}
}

// TestAllowBad: a file that is no good changes nothing, gives one line with its place, and is a problem as long as
// it stands there.
func TestAllowBad(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "allow.txt")
	k := fresh(2)
	good := lines(k[0].Public())
	harness.WriteFile(t, file, good)
	n := node(t, "--allow", file)
	a := n.Connect(t, harness.Opts{Key: k[0]})
	table := []struct {
		name string
		text []byte // nil: the file is taken away
		says string
	}{
		{"a short key", append([]byte(k[1].Public().String()+"\n"), []byte("  nodekey:abc\n")...), "allow.txt:2:11: "},
		{"another text", []byte("<html>502</html>\n"), "allow.txt:1:1: "},
		{"a private key", []byte("privkey:" + strings.Repeat("ab", 32) + "\n"), "allow.txt:1:1: "},
		{"empty", []byte(""), "allow.txt: "},
		{"comments only", []byte("# nobody\n"), "allow.txt: "},
		{"missing", nil, "allow.txt: "},
	}
	for _, tc := range table {
		mark := n.LogSize(t)
		if tc.text == nil {
			os.Remove(file)
		} else {
			harness.WriteFile(t, file+".new", tc.text)
			os.Rename(file+".new", file)
		}
		var said []string
		harness.Eventually(t, 10*time.Second, tc.name+": a line in the log", func() error {
			if said = n.Complaints(t, mark); len(said) == 0 {
				return fmt.Errorf("nothing is said")
			}
			return nil
		})
		if len(said) != 1 || !strings.Contains(said[0], tc.says) || strings.Contains(said[0], "abab") {
			t.Errorf("%s: %q, want one line with %q", tc.name, said, tc.says)
		}
		if p := problems(t, n); !strings.Contains(p, tc.says) {
			t.Errorf("%s: problems: %s", tc.name, p)
		}
		a.Alive(t)
		n.Connect(t, harness.Opts{Key: k[0]}).Close()
		refused(t, n, k[1], "refused_allow")
		harness.WriteFile(t, file+".new", good)
		os.Rename(file+".new", file)
		harness.Eventually(t, 10*time.Second, tc.name+": no problem any more", func() error {
			if p := problems(t, n); strings.Contains(p, "allow file") {
				return fmt.Errorf("%s", p)
			}
			return nil
		})
	}
	a.Alive(t)
}

// TestAllowAtStart: a file that is no good is an error at the start and at a reload.
func TestAllowAtStart(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "allow.txt")
	for _, text := range []string{"", "nodekey:xyz\n", "\x00missing"} {
		if strings.HasPrefix(text, "\x00") {
			os.Remove(file)
		} else {
			harness.WriteFile(t, file, []byte(text))
		}
		c := harness.New(t, harness.Spec{Kind: harness.Derpmesh, Regions: []int{1}, NoStart: true,
			Args: []string{"--allow", file}})
		out, err := c.Nodes[0].Check()
		if err == nil || !strings.Contains(out, "allow.txt") {
			t.Errorf("%q: %v: %s", text, err, out)
		}
	}
}

// TestAdmissionByReload: rules that come by SIGHUP hold for those who are connected already.
func TestAdmissionByReload(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, conf := filepath.Join(dir, "allow.txt"), filepath.Join(dir, "derpmesh.yaml")
	k := fresh(2)
	harness.WriteFile(t, file, lines(k[0].Public()))
	harness.WriteFile(t, conf, []byte("transit: on\n"))
	n := node(t, "--config", conf)
	a, b := n.Connect(t, harness.Opts{Key: k[0]}), n.Connect(t, harness.Opts{Key: k[1]})
	harness.WriteFile(t, conf, []byte("allow: "+file+"\n"))
	n.Hup(t)
	goneWithin(t, b, 5*time.Second)
	a.Alive(t)
	refused(t, n, k[1], "refused_allow")
	harness.WriteFile(t, conf, []byte("transit: on\n"))
	n.Hup(t)
	harness.Eventually(t, 5*time.Second, "open again", func() error {
		_, err := n.TryConnect(t, harness.Opts{Key: k[1]})
		return err
	})
	a.Alive(t)
}
